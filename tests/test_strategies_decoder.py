"""Methods inside the decoder, in float64 on the closed-form arrays: each rule again as a plain loop."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import closed_form
from closed_form import SYSTEM, TEXT_START, VISUAL
from strategies import sparsevlm
from strategies.budget import average_of_stages
from strategies.catalog import get
from strategies.decoder_evidence import LAYER_KEYS, NORMED_STATES, POSITION_PULL, STATES_BEFORE, TEXT_MASS
from strategies.evidence import EvidenceView
from strategies.stages import Stage

TEXT = closed_form.LENGTH - TEXT_START


def rows(count: int, width: int, turn: float) -> torch.Tensor:
    """(count, width) ``sin(0.37 (i + 1)(d + turn)) + 0.6 cos(0.21 i^2 + 0.9 d)``: no two alike."""
    i = torch.arange(count, dtype=torch.float64)[:, None]
    d = torch.arange(width, dtype=torch.float64)[None]
    return torch.sin(0.37 * (i + 1) * (d + turn)) + 0.6 * torch.cos(0.21 * i**2 + 0.9 * d)


@pytest.fixture
def view() -> EvidenceView:
    plain = closed_form.view()
    fields = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
    evidence = {
        LAYER_KEYS: rows(VISUAL + TEXT, 12, 1.7).unflatten(1, (3, 4)),
        NORMED_STATES: rows(VISUAL + TEXT, 16, 1.0),
        STATES_BEFORE: rows(VISUAL, 16, 2.3),
        TEXT_MASS: rows(TEXT, 1, 0.4)[:, 0].softmax(dim=0),
        POSITION_PULL: 2 + rows(TEXT, VISUAL, 0.9),
    }
    return EvidenceView(**fields, evidence=evidence)


def choose(view, name, keep, **params) -> list[int]:
    (kept,) = get(name).choose(view, [keep], params)
    return kept.tolist()


def falling(scores) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def cosine(left, right) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def pivots(view, image: int = 4, text: int = 4) -> tuple[list[int], list[int]]:
    """Their places among visual tokens and text, by falling norm."""
    norms = [float(np.abs(key).sum()) for key in view.evidence[LAYER_KEYS].numpy()]
    return falling(norms[:VISUAL])[:image], [VISUAL + place for place in falling(norms[VISUAL:])[:text]]


def darts(view, order, kept, shares) -> list[int]:
    state, kept = view.evidence[NORMED_STATES].numpy(), list(kept)
    for pivot, share in zip(order, shares, strict=True):
        left = [i for i in range(VISUAL) if i not in kept]
        kept += sorted(left, key=lambda i: cosine(state[pivot], state[i]))[:share]
    return sorted(kept)


@pytest.mark.parametrize("keep", [12, 15, 5, 4, 2, 23])
def test_dart(view, keep):
    image, text = pivots(view)
    share, more = divmod(max(keep - 4, 0), 8)
    shares = [share + (turn < more) for turn in range(8)]
    assert choose(view, "dart", keep) == darts(view, [*image, *text], image[:keep], shares)


@pytest.mark.parametrize(("asked", "keep"), [(8, 12), (16, 20)])
def test_dart_literal_is_the_authors_number_and_order(view, asked, keep):
    """Their pivots come out of a set of places in the sequence, and each takes a whole eighth of what was asked for."""
    image, text = pivots(view)
    order = [place - SYSTEM for place in set([SYSTEM + i for i in image] + [SYSTEM + i for i in text])]
    assert order != [*image, *text]
    expected = darts(view, order, image, [asked // 8] * 8)
    assert len(expected) == keep
    assert choose(view, "dart", keep, form="literal") == expected
    assert choose(view, "dart", keep) != expected


def test_dart_takes_other_numbers_of_pivots(view):
    image, text = pivots(view, 3, 2)
    expected = darts(view, [*image, *text], image, [2, 2, 1, 1, 1])
    assert choose(view, "dart", 10, image_pivots=3, text_pivots=2) == expected
    image, _ = pivots(view, 4, 0)
    assert choose(view, "dart", 9, text_pivots=0) == darts(view, image, image, [2, 1, 1, 1])


def test_v2drop_keeps_what_a_layer_has_changed_most(view):
    pairs = zip(view.hidden_states_VD.tolist(), view.evidence[STATES_BEFORE].tolist(), strict=True)
    change = [sum((now - before) ** 2 for now, before in zip(*pair, strict=True)) ** 0.5 for pair in pairs]
    for keep in (1, 7, 20):
        assert choose(view, "state_change", keep) == sorted(falling(change)[:keep])


@pytest.mark.parametrize(
    ("rank", "share", "second", "average"), [(288, 0.3, 86, 193), (161, 0.25, 40, 131), (28, 0.05, 1, 66)]
)
def test_v2drop_has_the_published_schedule(rank, share, second, average):
    """50, 70, 100 %; 72, 75, 100 %; 95, 95, 100 % of what is still there go: 192, 128 and 64 on average, about."""
    stages = get("v2drop").stages(3, rank, {"second_share": share})
    assert stages == tuple(Stage("state_change", *at) for at in ((3, rank), (17, second), (22, 0)))
    assert dict(get("v2drop").published)[rank] == (("second_share", share),)
    assert round(average_of_stages([(stage.layer, stage.rank) for stage in stages], 32, 576)) == average


def test_v2drop_literal_is_what_the_code_ships():
    half, last = int(576 * 0.5), max(1, int(int(576 * 0.5) * 0.5 * 0))
    stages = get("v2drop").stages(3, half, {"second_share": 0.5, "third_rank": last})
    assert [stage.rank for stage in stages] == [288, 144, 1]
    assert round(average_of_stages([(stage.layer, stage.rank) for stage in stages], 32, 576)) == 203


def rated(view, power: bool) -> np.ndarray:
    """(H, T, V) of the raters alone, divided by the pull of places or not."""
    mass = view.evidence[TEXT_MASS].numpy()
    attention = view.attention_HQV.numpy()[:, mass > mass.mean()]
    return attention / view.evidence[POSITION_PULL].numpy()[mass > mass.mean()] if power else attention


@pytest.mark.parametrize(("keep", "heads"), [(6, 3), (9, 8), (1, 14)])
def test_sparsevlm_plus(view, keep, heads):
    rated_HTV = rated(view, True)
    best = falling([float(of_head.sum()) for of_head in rated_HTV])[:heads]
    score = [np.mean([rated_HTV[h, t, i] for h in best for t in range(rated_HTV.shape[1])]) for i in range(VISUAL)]
    assert 1 < rated_HTV.shape[1] < TEXT
    assert choose(view, "sparsevlm_plus_stage", keep, heads=heads) == sorted(falling(score)[:keep])


def test_where_no_word_concerns_the_image_more_than_others_all_rate(view):
    """The authors' mean over no rater is not a number."""
    even = replace(view, evidence={**view.evidence, TEXT_MASS: torch.full((TEXT,), 1 / TEXT, dtype=torch.float64)})
    assert bool(sparsevlm.raters(even).all())
    assert int(sparsevlm.raters(view).sum()) < TEXT


@pytest.mark.parametrize("ranks", [(300, 200, 118), (238, 108, 60), (246, 54, 28), (66, 34, 20)])
def test_sparsevlm_plus_has_the_published_lists(ranks):
    params = dict(dict(get("sparsevlm_plus").published)[ranks[0]])
    stages = get("sparsevlm_plus").stages(3, ranks[0], params)
    assert [(stage.layer, stage.rank) for stage in stages] == list(zip((3, 7, 16), ranks, strict=True))
    assert {stage.params for stage in stages} == {(("heads", 14),)}


def recycled(view, keep: int, merged: int) -> tuple[list[int], np.ndarray]:
    """Places and rows by the authors' steps, one after the other: so many kept as they are, so many merged ones."""
    rated_HTV, state = rated(view, False), view.hidden_states_VD.numpy()
    order = falling(list(rated_HTV.mean(axis=(0, 1))))
    rest = order[keep:]
    pool = rest[: int(len(rest) * 0.3) + 1]
    assert int(len(pool) / 10) + 1 == merged
    apart = [[np.linalg.norm(state[i] - state[j]) / state.shape[1] ** 0.5 for j in pool] for i in pool]
    density = [np.exp(-np.mean([d**2 for d in sorted(row)[:merged]])) for row in apart]
    largest = max(max(row) for row in apart)
    gap = [
        min([apart[i][j] for j in range(len(pool)) if density[j] > density[i]], default=largest)
        for i in range(len(pool))
    ]
    centres = falling([g * d for g, d in zip(gap, density, strict=True)])[:merged]
    nearest = [
        centres.index(i) if i in centres else int(np.argmin([apart[i][c] for c in centres])) for i in range(len(pool))
    ]
    means = [state[[pool[i] for i in range(len(pool)) if nearest[i] == c]].mean(axis=0) for c in range(merged)]
    return [*sorted(order[:keep]), *(pool[c] for c in centres)], np.stack([*state[sorted(order[:keep])], *means])


@pytest.mark.parametrize(("keep", "merged"), [(10, 1), (18, 1), (1, 1)])
def test_sparsevlm(view, keep, merged):
    places, made = recycled(view, keep, merged)
    (kept,) = get("sparsevlm_stage").choose(view, [keep + merged], {})
    assert kept.tolist() == places
    np.testing.assert_allclose(get("sparsevlm_stage").rows([view], kept[None])[0].numpy(), made, atol=1e-12)


def test_sparsevlm_merges_into_several(view):
    """More than ten to be recycled: of an image of 60 tokens, two clusters."""
    attention_HQV = torch.cat((view.attention_HQV, 0.9 * view.attention_HQV, 0.8 * view.attention_HQV), dim=2)
    large = replace(view, visual=72, attention_HQV=attention_HQV, hidden_states_VD=rows(72, 16, 1.3))
    places, made = recycled(large, 20, 2)
    (kept,) = get("sparsevlm_stage").choose(large, [22], {})
    assert kept.tolist() == places
    np.testing.assert_allclose(get("sparsevlm_stage").rows([large], kept[None])[0].numpy(), made, atol=1e-12)


@pytest.mark.parametrize("lists", [(300, 200, 110), (303, 110, 36), (238, 48, 26), (66, 30, 17)])
def test_sparsevlm_has_the_published_lists(lists):
    """The ranks count the merged rows; the authors' lists are what is kept as it is."""
    visual, ranks = 576, []
    for kept in lists:
        pool = int((visual - kept) * 0.3) + 1
        visual, before = kept + int(pool / 10) + 1, visual
        ranks.append(visual)
        assert sparsevlm._kept_of(before, visual) == kept
    assert dict(get("sparsevlm").published)[ranks[0]] == (("second_rank", ranks[1]), ("third_rank", ranks[2]))


@pytest.mark.parametrize("visual", [1, 2, 24, 576])
def test_every_number_of_rows_can_be_had(visual):
    for rank in range(1, visual + 1):
        kept = sparsevlm._kept_of(visual, rank)
        merged = rank - kept
        pool = int((visual - kept) * 0.3) + 1
        assert 1 <= merged <= pool
        assert kept == 0 or merged == int(pool / 10) + 1


def test_fitprune_keeps_what_text_and_image_look_at(view):
    """Of each pair of tokens the largest of all heads; in float64, one after the other."""
    text_HTV, image_HVV = view.attention_HQV.numpy(), view.visual_attention_HVV.numpy()
    scores = []
    for token in range(VISUAL):
        crossing = sum(max(head[row, token] for head in text_HTV) for row in range(TEXT))
        inside = sum(max(head[row, token] for head in image_HVV) for row in range(VISUAL)) / VISUAL
        scores.append(crossing * inside)
    np.testing.assert_allclose(get("fitprune_stage").score(view).numpy(), scores, rtol=1e-12)
    assert choose(view, "fitprune_stage", 7) == sorted(falling(scores)[:7])


def test_fitprune_has_the_published_numbers():
    """By the authors' count of FLOPs each list saves what it is called by, or less: they round each layer's down."""

    def flop(before: int, after: int) -> int:
        return 3 * before * 4096**2 + 2 * before**2 * 4096 + after * 4096**2 + 3 * after * 11008 * 4096

    named = (10, 20, 30, 40, 50, 55, 60, 70, 80, 90)
    for percent, (rank, params) in zip(named, get("fitprune").published, strict=True):
        stages, left = get("fitprune").stages(1, rank, dict(params)), [576]
        for layer in range(1, 33):
            left.append(next((stage.rank for stage in stages if stage.layer == layer), left[-1]))
        assert left[:2] == [576, rank]
        assert {stage.strategy for stage in stages} == {"fitprune_stage"}
        saved = 1 - sum(flop(*pair) for pair in itertools.pairwise(left)) / (32 * flop(576, 576))
        assert percent - (5 if percent < 50 else 0.6) < 100 * saved <= percent


def test_fitprune_leaves_out_layers_in_which_nothing_goes():
    stages = get("fitprune").stages(2, 20, {"left": "20-18-18-7"})
    assert stages == tuple(Stage("fitprune_stage", *at) for at in ((2, 20), (4, 18), (6, 7)))
