"""Methods before the decoder, in float64 on the closed-form arrays: golden values, and each rule as a plain loop."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import closed_form
from closed_form import GOLDEN, VISUAL
from strategies import cdpruner, prunesid, vscan
from strategies.catalog import get
from strategies.evidence import EvidenceView
from strategies.thinning import thinned
from strategies.trim import outliers
from tower_evidence import places

FEATURES = GOLDEN["features"]
WIDTH = 6  # of the image of 4 x 6 patches


def golden_view(**changed) -> EvidenceView:
    """The closed-form sample with a tower: attention of the last row, and its features for everything else."""
    attention_VH = closed_form.attention_HSS()[:, -1, closed_form.SYSTEM : closed_form.TEXT_START].T
    features_VC = closed_form.features_VD()
    turn_V = torch.arange(VISUAL, dtype=torch.float64)
    image_VE = torch.stack((torch.sin(0.9 * turn_V + 0.4), torch.cos(0.9 * turn_V + 0.4)), dim=1)
    evidence = {
        "class_attention": attention_VH,
        "class_attention@5/24": attention_VH.flip(dims=(0,)),
        "joined_class_attention@-1": attention_VH.mean(dim=1),
        "received_attention@8/24": attention_VH.roll(7, dims=0),
        "received_attention@-2": attention_VH,
        "tower_keys": features_VC[:, None],
        "tower_keys@-1": features_VC[:, None].roll(3, dims=0),
        "tower_features": features_VC,
        "class_features": torch.full((1, 16), 0.5, dtype=torch.float64).expand(VISUAL, -1),
        "loadings": loadings(features_VC),
        "places": places(VISUAL, WIDTH),
        "image_embeddings": image_VE,
        "question_embeddings": torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=torch.float64),
        "prompt_embedding": torch.tensor([[2.0, 1.0]], dtype=torch.float64),
    }
    return EvidenceView(
        visual=VISUAL,
        system=5,
        text=19,
        seed=3,
        device=torch.device("cpu"),
        hidden_states_VD=features_VC.roll(1, dims=1),
        evidence={**evidence, **changed},
        project=lambda rows_KC: 10 * rows_KC,
    )


def loadings(features_VC: torch.Tensor) -> torch.Tensor:
    """By the singular vectors themselves."""
    rows = features_VC.sigmoid()
    left = torch.linalg.svd(rows - rows.mean(dim=1, keepdim=True), full_matrices=True).U
    return left.abs()


@pytest.fixture
def view() -> EvidenceView:
    return golden_view()


def choose(view, name, keep, **params) -> list[int]:
    (kept,) = get(name).choose(view, [keep], params)
    return kept.tolist()


def rows(view, name, keep, **params) -> np.ndarray:
    (kept,) = get(name).choose(view, [keep], params)
    return get(name).rows([view], kept[None], **params)[0].numpy() / (1 if name == "holov" else 10)


def unit(matrix) -> np.ndarray:
    matrix = np.asarray(matrix)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def falling(scores) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def mean_attention(view) -> np.ndarray:
    return view.evidence["class_attention"].mean(dim=1).numpy()


def test_fastervlm(view):
    assert choose(view, "fastervlm", 6) == FEATURES["fasterVLM_style_topk_of_mean_row"]


def test_visionzip(view):
    expected = FEATURES["visionzip"]
    kept = choose(view, "visionzip", 8, contextual=3 / 8)
    remaining = [i for i in range(VISUAL) if i not in expected["dominant"]]
    targets = [remaining[place] for place in expected["targets"]] if 8 not in remaining else expected["targets"]
    spare = next(i for i in falling(mean_attention(view)) if i not in {*expected["dominant"], *expected["targets"]})
    assert kept == sorted([*expected["dominant"], *targets, spare])
    made = rows(view, "visionzip", 8, contextual=3 / 8)
    np.testing.assert_allclose(made[0], 0.5)
    np.testing.assert_allclose(made[1:5], view.evidence["tower_features"][expected["dominant"]])
    np.testing.assert_allclose(made[5:, :3], expected["contextual_first3dims"], atol=1e-8)


@pytest.mark.parametrize(("keep", "merged"), [(64, 10), (128, 20), (192, 30)])
def test_visionzip_has_the_published_numbers(keep, merged):
    """Rows in all: the class token, dominant patches, and so many merged ones."""
    from strategies.visionzip import SHARE, _roles

    dominant, target, rest = _roles(torch.randperm(576), keep, SHARE)
    assert (1 + len(dominant) + len(target), len(target), len(dominant) + len(rest)) == (keep, merged, 576)


def test_vispruner(view):
    expected = FEATURES["vispruner"]
    assert choose(view, "vispruner", expected["budget"], important=expected["important_ratio"]) == expected["kept"]
    assert choose(view, "vispruner", 9, important=1.0) == choose(view, "fastervlm", 9)
    for keep in range(VISUAL + 1):  # where the authors' code stops: odd lists, and fewer even places than are removed
        assert len(choose(view, "vispruner", keep, important=0.0)) == keep


def test_lists_of_several_lengths_are_thinned_as_each_alone():
    """Of images of which one has ends of rows; its list is as short as it has patches."""
    draw = torch.Generator().manual_seed(0)
    unit_BVC = torch.nn.functional.normalize(torch.randn(3, 40, 5, generator=draw), dim=2)
    likeness_BVV, list_BN = unit_BVC @ unit_BVC.mT, torch.arange(40).expand(3, 40)
    length_B = torch.tensor([40, 31, 7])
    left_BK = thinned(likeness_BVV, list_BN, length_B, 7, at_once=4)
    for image, own in enumerate(left_BK):
        alone = slice(image, image + 1)
        assert own.tolist() == thinned(likeness_BVV[alone], list_BN[alone], length_B[alone], 7, at_once=4)[0].tolist()
        assert len(own.unique()) == 7
        assert int(own.max()) < length_B[image]
    assert left_BK[2].tolist() == list(range(7))


def test_cdpruner(view):
    relevance = cdpruner.relevance(view, "truncate", "negative")
    np.testing.assert_allclose(relevance, FEATURES["cdpruner_relevance"], atol=1e-8)
    own = view.holding(closed_form.features_VD())
    assert cdpruner.cdpruner(own, 6).tolist() == FEATURES["cdpruner_order"]
    assert choose(own, "cdpruner", 6) == FEATURES["cdpruner_kept"]


def test_divprune_as_its_authors_feed_it(view):
    own = view.holding(closed_form.features_VD())
    assert choose(own, "divprune_unsorted", 6) == FEATURES["divprune_kept"]
    (made,) = get("divprune_unsorted").rows([own], torch.tensor([FEATURES["divprune_kept"]]))
    assert torch.equal(made, closed_form.features_VD()[FEATURES["divprune_order"]])


def test_cdpruner_is_the_greedy_largest_determinant(view):
    weight = cdpruner.relevance(view, "truncate", "negative").numpy()
    kernel = weight[:, None] * (unit(view.hidden_VD) @ unit(view.hidden_VD).T) * weight
    order: list[int] = []
    for _ in range(7):
        left = [j for j in range(VISUAL) if j not in order]
        order.append(max(left, key=lambda j: np.linalg.slogdet(kernel[np.ix_([*order, j], [*order, j])])[1]))
    assert cdpruner.cdpruner(view, 7).tolist() == order


def test_cdpruner_of_two_segments_and_of_the_other_sign(view):
    likeness = view.evidence["image_embeddings"].numpy()  # cosine to either axis
    both = -likeness.mean(axis=1)
    np.testing.assert_allclose(cdpruner.relevance(view, "segments", "negative"), scaled(both), atol=1e-9)
    np.testing.assert_allclose(cdpruner.relevance(view, "truncate", "positive"), scaled(likeness[:, 0]), atol=1e-9)


def scaled(values) -> np.ndarray:
    return (values - values.min() + 1e-6) / (values.max() - values.min())


def test_the_end_of_a_row_is_never_relevant(view):
    """Any-resolution marks it by a token that no patch stands behind."""
    image_VE = view.evidence["image_embeddings"].clone()
    image_VE[9] = 0
    blank = golden_view(image_embeddings=image_VE)
    assert float(cdpruner.relevance(blank, "truncate", "negative")[9]) == 0
    assert 9 not in choose(blank, "trim", VISUAL - 2)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_scope(view, alpha):
    weight = view.evidence["class_attention"].sum(dim=1).numpy() ** alpha
    likeness = unit(view.evidence["tower_features"]) @ unit(view.evidence["tower_features"]).T
    covered, order = np.zeros(VISUAL), []
    for _ in range(8):
        gain = [w * np.maximum(0, column - covered).sum() for w, column in zip(weight, likeness.T, strict=True)]
        order.append(max((j for j in range(VISUAL) if j not in order), key=lambda j: gain[j]))
        covered = np.maximum(covered, likeness[:, order[-1]])
    assert get("scope").function(view, 8, alpha=alpha).tolist() == order


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_trim(view, similarity):
    image, text = view.evidence["image_embeddings"].numpy(), np.array([2.0, 1.0])
    score = -(image @ text) if similarity == "dot" else -(unit(image) @ text / np.linalg.norm(text))
    order = falling(score)
    assert choose(view, "trim", 7, similarity=similarity) == sorted(order[:7])
    features = view.evidence["tower_features"].numpy()
    expected = [*features[sorted(order[:6])], features[order[6:]].mean(axis=0)]
    np.testing.assert_allclose(rows(view, "trim", 7, similarity=similarity), expected)


def test_outliers_are_those_of_numpy():
    values = torch.tensor([0.1, 0.2, 0.15, 0.12, 0.9, 0.11, 0.8, 0.13, 0.14], dtype=torch.float64)
    low, high = np.percentile(values, [25, 75])
    assert int(outliers(values)) == (values.numpy() > high + 1.5 * (high - low)).sum() == 2


def slow_prumerge(view, chosen: list[int]) -> list[np.ndarray]:
    attention = view.evidence["joined_class_attention@-1"].numpy()
    features, keys = view.evidence["tower_features"].numpy(), unit(view.evidence["tower_keys@-1"][:, 0])
    made = []
    for i in chosen:
        others = sorted((j for j in range(VISUAL) if j != i), key=lambda j: -(keys[i] @ keys[j]))[:32]
        made.append(features[i] + sum(attention[j] * features[j] for j in others))
    made.append(sum(attention[j] * features[j] for j in range(VISUAL) if j not in chosen))
    return made


def test_prumerge(view):
    chosen = falling(view.evidence["joined_class_attention@-1"])[:6]
    np.testing.assert_allclose(rows(view, "prumerge", 7), slow_prumerge(view, chosen))
    assert set(chosen) < set(choose(view, "prumerge", 7))


def test_prumerge_merges_with_the_nearest_alone(view, monkeypatch):
    """With 24 patches all are among the 32 nearest: here fewer are."""
    from strategies import prumerge

    monkeypatch.setattr(prumerge, "NEIGHBOURS", 3)
    keys, features = unit(view.evidence["tower_keys@-1"][:, 0]), view.evidence["tower_features"].numpy()
    attention = view.evidence["joined_class_attention@-1"].numpy()
    best = falling(attention)[0]
    near = [j for j in falling(keys @ keys[best]) if j != best][:3]
    np.testing.assert_allclose(rows(view, "prumerge", 3)[0], features[best] + attention[near] @ features[near])


def test_prumerge_plus_as_its_authors_count(view):
    """Two stand out of 24: their mean distance is 12, every fourth patch is sampled, and the last never is."""
    attention = torch.full((VISUAL,), 0.01, dtype=torch.float64)
    attention[8], attention[13] = 0.4, 0.3
    own = golden_view(**{"joined_class_attention@-1": attention})
    chosen = [8, 13, 0, 4, 12, 16, 20]
    np.testing.assert_allclose(rows(own, "prumerge_plus", 20, count="adaptive"), slow_prumerge(own, chosen))
    np.testing.assert_allclose(rows(own, "prumerge", 20, count="adaptive"), slow_prumerge(own, [8, 13]))
    assert choose(own, "prumerge_plus", 20, count="adaptive") == sorted([*chosen, 1])
    assert len(choose(view, "prumerge_plus", 9)) == 9


def slow_holov(view, keep: int, form: str) -> list[int | None]:
    """In the order they are fed; None is a row of zeros."""
    attention, features = 1e3 * mean_attention(view), unit(view.hidden_VD)
    runs = np.array_split(np.arange(VISUAL), 5)
    variety = np.zeros(VISUAL)
    for run in runs:
        likeness = features[run] @ features[run].T
        np.fill_diagonal(likeness, 0)
        for place, row in zip(run, likeness, strict=True):
            mean = row.sum() / (len(run) - 1)
            variety[place] = ((row - mean) ** 2).sum() / (len(run) - 1)
    score = attention + 0.09 * variety * attention.mean() / (variety.mean() + 1e-6)
    weight = np.array([score[run].mean() for run in runs])
    budgets = [math.floor(keep * one / weight.sum()) for one in weight]
    for i in falling(weight)[: keep - sum(budgets)]:
        budgets[i] += 1
    if form != "literal":
        while (spare := sum(max(0, b - len(run)) for b, run in zip(budgets, runs, strict=True))) > 0:
            budgets = [min(b, len(run)) for b, run in zip(budgets, runs, strict=True)]
            for i in falling(weight):
                if budgets[i] < len(runs[i]) and spare:
                    budgets[i], spare = budgets[i] + 1, spare - 1
    by = score if form == "paper" else attention
    fed: list[int | None] = []
    for run, budget in zip(runs, budgets, strict=True):
        fed += run.tolist() if budget >= len(run) else [int(run[i]) for i in falling(by[run])[:budget]]
    return [*fed, *[None] * (keep - len(fed))]


@pytest.mark.parametrize("form", ["redistributed", "literal", "paper"])
@pytest.mark.parametrize("keep", [7, 14, 20])
def test_holov(view, keep, form):
    fed = slow_holov(view, keep, form)
    features = view.hidden_VD.numpy()
    expected = [np.zeros(16) if i is None else features[i] for i in fed]
    np.testing.assert_allclose(rows(view, "holov", keep, form=form, stretches=5), expected)
    kept = choose(view, "holov", keep, form=form, stretches=5)
    assert {i for i in fed if i is not None} <= set(kept)
    if form != "literal":
        raster = rows(view, "holov", keep, form=form, stretches=5, fed="raster")
        np.testing.assert_allclose(raster, features[kept])


def test_holov_passes_on_what_a_stretch_cannot_take(view):
    assert None in slow_holov(view, 20, "literal")
    assert None not in slow_holov(view, 20, "redistributed")


@pytest.mark.parametrize("edges", ["clip", "drop"])
@pytest.mark.parametrize(("keep", "alpha"), [(6, 0.1), (12, 0.8), (20, 1.0), (4, 1.0)])
def test_hiprune(view, keep, alpha, edges):
    middle, deep = (view.evidence[f"received_attention@{at}"].mean(dim=1).numpy() for at in ("8/24", "-2"))
    anchors = falling(middle)[: min(round(keep * alpha / 5), keep // 5)]
    near = [a + step for a in anchors for step in (-1, 1, -WIDTH, WIDTH)]
    near = [min(max(i, 0), VISUAL - 1) for i in near] if edges == "clip" else [i for i in near if 0 <= i < VISUAL]
    first = {*anchors, *near}
    expected = [*first, *(i for i in falling(deep) if i not in first)][:keep]
    assert choose(view, "hiprune", keep, alpha=alpha, edges=edges) == sorted(expected)
    assert len(first) <= keep


def test_hiprune_stays_in_its_tile():
    """Two squares: the neighbours of the last patch of one are none of the other's."""
    place = places(VISUAL // 2, 4)
    both = torch.cat((place, place + torch.tensor([1.0, 0.0, 0.0])))
    middle, deep = torch.zeros(VISUAL, 1), torch.arange(VISUAL).float()[:, None].flip(dims=(0,))
    middle[11] = 1.0  # the last of the first square
    own = golden_view(**{"places": both, "received_attention@8/24": middle, "received_attention@-2": deep})
    assert choose(own, "hiprune", 5, alpha=1.0) == [0, 1, 7, 10, 11]  # its right and lower neighbours are itself


def test_vscan(view):
    deep, shallow = (view.evidence[name].mean(dim=1).numpy() for name in ("class_attention", "class_attention@5/24"))
    keep = 10
    chosen = falling(deep)[: keep // 2]
    windows: dict[tuple[int, int], list[int]] = {}
    for i in range(VISUAL):
        if i not in chosen:
            windows.setdefault((i // WIDTH * 4 // 4, i % WIDTH * 4 // 4), []).append(i)
    ranked = [
        (place, -shallow[i], i)
        for some in windows.values()
        for place, i in enumerate(sorted(some, key=lambda i: -shallow[i]))
    ]
    expected = sorted([*chosen, *(i for *_, i in sorted(ranked)[: keep - len(chosen)])])
    assert choose(view, "vscan_tower", keep) == expected


def test_vscan_averages_what_is_dropped_into_the_nearest(view):
    kept = [2, 9, 17]
    hidden = view.hidden_VD.numpy()
    likeness = unit(hidden) @ unit(hidden[kept]).T
    slot = [kept.index(i) if i in kept else int(likeness[i].argmax()) for i in range(VISUAL)]
    expected = [hidden[[i for i in range(VISUAL) if slot[i] == k]].mean(axis=0) for k in range(3)]
    np.testing.assert_allclose(vscan.vscan_rows([view], torch.tensor([kept]))[0], expected)


def test_vscan_is_two_stages():
    first, second = get("vscan").stages(0, 96, {})
    assert (first.strategy, first.layer, first.rank) == ("vscan_tower", 0, 96)
    assert (second.strategy, second.layer, second.rank) == ("fastv", 16, 32)  # 64 on average over 32 layers


def slow_prunesid(view, keep: int) -> list[int]:
    groups = view.evidence["loadings"][:, : keep // 4].argmax(dim=1).tolist()
    attention = view.evidence["class_attention"].sum(dim=1).numpy()
    likeness = unit(view.evidence["tower_features"]) @ unit(view.evidence["tower_features"]).T
    threshold = keep / 32 * likeness[np.triu_indices(VISUAL, 1)].mean()
    order, alive = {}, {}
    for g in range(keep // 4):
        members = [i for i in falling(attention) if groups[i] == g]
        picked: list[int] = []
        for i in members:
            if all(likeness[i, j] <= threshold for j in picked):
                picked.append(i)
        order[g], alive[g] = [*picked, *(i for i in members if i not in picked)], len(picked)
    sizes = [len(order[g]) for g in order]
    least = [min(1, size) for size in sizes]
    most = [min(5 * math.ceil(keep / 64), size, alive[g]) for g, size in enumerate(sizes)]
    while sum(most) < keep:
        most = [min(one + 1, size) for one, size in zip(most, sizes, strict=True)]
    others = keep - sum(least) - 1
    marks = np.round(np.cumsum([alive[g] / sum(alive.values()) for g in alive]) * others)
    budgets = [min(a + int(b), c) for a, b, c in zip(least, np.diff([0, *marks]), most, strict=True)]
    for g in falling([alive[g] for g in alive]):
        budgets[g] += min(most[g] - budgets[g], keep - 1 - sum(budgets))
    return [i for g, budget in enumerate(budgets) for i in order[g][:budget]]


@pytest.mark.parametrize("keep", [8, 12, 16, 20])
def test_prunesid(view, keep):
    fed = slow_prunesid(view, keep)
    assert len(fed) == keep - 1
    assert set(fed) < set(choose(view, "prunesid", keep))
    features = view.evidence["tower_features"].numpy()
    np.testing.assert_allclose(rows(view, "prunesid", keep), [np.full(16, 0.5), *features[fed]])


def test_prunesid_draws_from_the_seed(view):
    """A drawn subspace of as many dimensions as there are is the whole space."""
    np.testing.assert_allclose(prunesid._drawn(view, 16)[:, :9], view.evidence["loadings"][:, :9], atol=1e-7)
    drawn = choose(view, "prunesid_drawn", 12)
    assert drawn == choose(golden_view(), "prunesid_drawn", 12) != choose(view, "prunesid", 12)


def test_tower_methods_nest_in_their_neighbourhood(view):
    """Each rank is exact, from the least one on, at every number of patches."""
    for name in ("visionzip", "trim", "prumerge", "prumerge_plus", "holov", "hiprune", "prunesid", "vscan_tower"):
        sizes = [len(kept) for kept in get(name).choose(view, range(get(name).least, VISUAL), {})]
        assert all(b - a == 1 for a, b in pairwise(sizes)), name
