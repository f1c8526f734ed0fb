"""The contract of every strategy in the catalog: listed means tested."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from admitted import admitted
from strategies import source
from strategies.catalog import CATALOG, REQUIRED, Range, Strategy, UnknownStrategy, get
from strategies.decoder_evidence import LAYER_KEYS, NORMED_STATES, STATES_BEFORE
from strategies.evidence import CLASS_FEATURES, IMAGE_EMBEDDINGS, TOWER_FEATURES, TOWER_KEYS, EvidenceView
from strategies.listed import KEEP_NOTHING, PUBLISHED, STAGED
from strategies.scores import descending_order, top_k
from strategies.stages import Stage
from strategies.view import Evidence
from tower_evidence import projector, tower_evidence

HEADS, TEXT, SYSTEM = 4, 7, 3
WIDTH = 12
READ = frozenset[str]().union(*(strategy.needs for strategy in CATALOG.values()))
CHOOSING = sorted(name for name, strategy in CATALOG.items() if strategy.schedule is None)


def make_view(visual: int, distinct: int | None = None, seed: int = 0, text: int = TEXT) -> EvidenceView:
    """A view with all evidence; ``distinct`` below ``visual`` repeats tokens, so that scores tie."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.arange(visual) % (distinct or visual)
    attention = torch.rand(HEADS, text, distinct or visual, generator=generator)[:, :, origin] / (2 * visual)
    return EvidenceView(
        visual=visual,
        system=SYSTEM,
        text=text,
        seed=seed,
        device=torch.device("cpu"),
        attention_HQV=attention,
        text_attention_HTT=(torch.rand(HEADS, text, text, generator=generator) / (2 * text)).tril(),
        visual_attention_HVV=attention[:, -1:].expand(HEADS, visual, visual).tril(),
        hidden_states_VD=torch.randn(distinct or visual, WIDTH, generator=generator)[origin],
        evidence=tower_evidence(READ, visual, distinct, seed, text=text),
        project=lambda features_KC: features_KC @ projector(WIDTH).to(features_KC.dtype),
    )


def some_params(name: str) -> dict:
    """A value for each parameter that has no default."""
    given = {"heads_kept": 2, "left": "2"}
    return {parameter: given[parameter] for parameter, default in get(name).params.items() if default is REQUIRED}


def chosen_and_made(strategy: Strategy, view: EvidenceView, rank: int) -> None:
    """Choose, and where a choice looks at nothing make the rows too."""
    (kept,) = strategy.choose(view, [rank], some_params(strategy.name))
    if strategy.rows is not None:
        strategy.rows([view], kept[None])


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize(
    ("visual", "distinct", "keep"), [(1, 1, 1), (9, 9, 9), (9, 9, 0), (64, 1, 40), (64, 20, 40), (64, 64, 1)]
)
def test_keeps_exactly_k_distinct_ascending_tokens(name, visual, distinct, keep):
    strategy = get(name)
    keep = admitted(strategy, keep, visual) if strategy.fixed_rank is None else strategy.fixed_rank
    (kept,) = strategy.choose(make_view(visual, distinct), [keep], some_params(name))
    assert kept.dtype == torch.int64
    assert kept.shape == (keep,)
    places = kept.sort().values if strategy.fed else kept
    assert torch.equal(places, kept.unique())  # unique() sorts
    assert keep == 0 or 0 <= int(kept[0]) <= int(kept[-1]) < visual


@pytest.mark.parametrize("name", CHOOSING)
def test_is_pure_and_repeatable(name):
    strategy, view = get(name), make_view(36)
    fields = (view.attention_HQV, view.text_attention_HTT, view.visual_attention_HVV, view.hidden_states_VD)
    tensors = (*fields, *view.evidence.values())
    before = [tensor.clone() for tensor in tensors]
    torch.manual_seed(1)
    ranks = [admitted(strategy, rank, 36) for rank in (5, 9)]
    first = strategy.choose(view, ranks, some_params(name))
    torch.manual_seed(2)
    second = strategy.choose(view, ranks, some_params(name))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("name", CHOOSING)
def test_reads_only_the_evidence_it_declares(name):
    """Without the rest of the evidence the choice is the same; without the declared evidence it raises."""
    strategy, full = get(name), make_view(36)
    whole_text = strategy.needs & {Evidence.TEXT_ROWS, Evidence.TEXT_TO_TEXT}
    rows = full.attention_HQV if whole_text else full.attention_HQV[:, -1:]
    lean = EvidenceView(
        visual=36,
        system=SYSTEM,
        text=TEXT,
        seed=0,
        device=full.device,
        attention_HQV=rows if strategy.needs & {Evidence.LAST_ROW, Evidence.TEXT_ROWS} else None,
        text_attention_HTT=full.text_attention_HTT if Evidence.TEXT_TO_TEXT in strategy.needs else None,
        visual_attention_HVV=full.visual_attention_HVV if Evidence.VISUAL_ROWS in strategy.needs else None,
        hidden_states_VD=full.hidden_states_VD if Evidence.HIDDEN in strategy.needs else None,
        evidence={name: rows for name, rows in full.evidence.items() if name in strategy.needs},
    )
    rank = admitted(strategy, 6, 36)
    (kept,) = strategy.choose(lean, [rank], some_params(name))
    assert torch.equal(kept, strategy.choose(full, [rank], some_params(name))[0])
    bare = EvidenceView(visual=36, system=SYSTEM, text=TEXT, seed=0, device=full.device)
    if strategy.needs:
        with pytest.raises(ValueError, match="did not declare"):
            chosen_and_made(strategy, bare, rank)


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_documents_itself(name):
    strategy = get(name)
    assert strategy.source
    assert strategy.function.__doc__
    assert strategy.positions in ("keep", "compact")
    assert len(strategy.source_hash) == 16
    assert strategy.check(some_params(name)) is None
    assert hash(strategy) == hash(get(name))  # the engine groups by it


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_takes_a_half_precision_model(name, dtype):
    """Attention arrives in float32; hidden states come in the model's own type."""
    view = make_view(36)
    models = {TOWER_FEATURES, TOWER_KEYS, CLASS_FEATURES, IMAGE_EMBEDDINGS}  # the rest is made in float32
    models |= {STATES_BEFORE, LAYER_KEYS, NORMED_STATES}
    cut = {name: rows.to(dtype) for name, rows in view.evidence.items() if name.partition("@")[0] in models}
    half = dataclasses.replace(
        view, hidden_states_VD=view.hidden_states_VD.to(dtype), evidence={**view.evidence, **cut}
    )
    whole = {name: rows.float() for name, rows in half.evidence.items()}
    exact = dataclasses.replace(view, hidden_states_VD=half.hidden_states_VD.float(), evidence=whole)
    rank = admitted(get(name), 9, 36) if get(name).fixed_rank is None else 0
    (kept,) = get(name).choose(half, [rank], some_params(name))
    assert torch.equal(kept, get(name).choose(exact, [len(kept)], some_params(name))[0])
    if (rows := get(name).rows) is not None:
        made = rows([half], kept[None])
        assert made.dtype == dtype
        torch.testing.assert_close(made.float(), rows([exact], kept[None]), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", [name for name in CHOOSING if get(name).needs])
def test_refuses_nan(name):
    view = make_view(16)
    spoilt = {}
    for field in ("attention_HQV", "text_attention_HTT", "visual_attention_HVV", "hidden_states_VD"):
        spoilt[field] = getattr(view, field).clone()
        spoilt[field][..., -1, 0] = float("nan")
    evidence = {name: rows.clone() for name, rows in view.evidence.items()}
    for rows in evidence.values():
        rows[-1] = float("nan")
    spoilt["evidence"] = evidence
    with pytest.raises(ValueError, match="NaN"):
        chosen_and_made(get(name), dataclasses.replace(view, **spoilt), 4)


@pytest.mark.parametrize("name", [name for name in CHOOSING if get(name).score or get(name).order])
def test_ranks_of_one_score_or_order_nest(name):
    small, large = get(name).choose(make_view(36), [6, 17], some_params(name))
    assert set(small.tolist()) <= set(large.tolist())


@pytest.mark.parametrize("name", [name for name in CHOOSING if get(name).rows])
@pytest.mark.parametrize(("visual", "distinct", "keep"), [(9, 9, 5), (64, 1, 40), (64, 20, 40), (64, 64, 16)])
def test_rows_stand_for_exactly_the_kept_tokens(name, visual, distinct, keep):
    """As many as are kept, of the model's width and dtype, the same each time, and nothing is written to."""
    strategy, view = get(name), make_view(visual, distinct)
    keep = admitted(strategy, keep, visual)
    (kept,) = strategy.choose(view, [keep], {})
    before = [rows.clone() for rows in (view.hidden_states_VD, *view.evidence.values())]
    made = strategy.rows([view], kept[None])
    assert made.shape == (1, keep, WIDTH)
    assert made.isfinite().all()
    assert torch.equal(made, strategy.rows([view], kept[None]))
    assert all(torch.equal(a, b) for a, b in zip(before, (view.hidden_states_VD, *view.evidence.values()), strict=True))


@pytest.mark.parametrize("name", [name for name in CHOOSING if get(name).together])
def test_images_that_choose_together_choose_as_each_alone(name):
    strategy, ranks = get(name), [5, 17]
    params = {"alpha": 1.0} if name == "hiprune" else {}  # of its default share no anchor comes to so few

    def made(seed: int) -> EvidenceView:
        view = make_view(36, distinct=7 if seed == 2 else None, seed=seed)  # one with many ties
        view.evidence["places"][:, 0] += seed  # tiles are numbered through a batch of images
        if seed == 3:  # and one of two tiles, with ends of rows
            view.evidence["places"][18:, 0] += 1
            view.evidence["places"][5::12] = 0
        return view

    views = [made(seed) for seed in range(4)]
    strategy.prepare(views, ranks, params)
    for seed, view in enumerate(views):
        assert any(what[0] == "prepared" for what in view.made if isinstance(what, tuple))
        taken, alone = (strategy.choose(one, ranks, params) for one in (view, made(seed)))
        assert [kept.tolist() for kept in taken] == [kept.tolist() for kept in alone]


@pytest.mark.parametrize("name", [name for name in CHOOSING if get(name).rows])
def test_rows_of_several_images_are_those_of_each_alone(name):
    """To the last bit, but for the projector: it is one matrix product of all rows, whose sums a library orders."""
    strategy, visual, keep = get(name), 36, 9

    def made(seed: int) -> EvidenceView:
        return make_view(visual, distinct=7 if seed == 2 else None, seed=seed)

    kept = [strategy.choose(made(seed), [keep], {})[0] for seed in range(3)]
    projected: list[torch.Tensor] = []

    def project(features_KC: torch.Tensor) -> torch.Tensor:
        projected.append(features_KC)
        return features_KC @ projector(WIDTH)

    def rows(seeds: list[int]) -> list[torch.Tensor]:
        projected.clear()
        views = [dataclasses.replace(made(seed), project=project) for seed in seeds]
        rows_BKD = strategy.rows(views, torch.stack([kept[seed] for seed in seeds]))
        assert rows_BKD.shape == (len(seeds), keep, WIDTH)
        return [*(projected[0].unflatten(0, (len(seeds), keep)) if projected else rows_BKD)]

    together = rows([0, 1, 2])
    assert all(torch.equal(rows([seed])[0], together[seed]) for seed in range(3))
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("name", ["trim", "prumerge", "prumerge_plus"])
def test_an_adaptive_count_is_at_most_the_rank(name):
    strategy, view = get(name), make_view(64)
    view.evidence["joined_class_attention@-1"][[3, 40]] = 5.0  # two stand out
    own, most = strategy.choose(view, [60, 3], {"count": "adaptive"})
    assert 2 <= len(own) < 60
    assert len(most) == min(3, len(own))
    assert strategy.rows([view], own[None], count="adaptive").shape == (1, len(own), WIDTH)
    views = [make_view(64, seed=1), view]  # whose numbers are not the same
    strategy.prepare(views, [60], {"count": "adaptive"})
    other, again = (strategy.choose(one, [60], {"count": "adaptive"})[0] for one in views)
    assert len(other) != len(again)
    assert torch.equal(again, own)


def test_an_empty_list_of_ranks_is_answered_with_none():
    assert get("divprune").choose(make_view(8), [], {}) == []


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UnknownStrategy, match="Did you mean 'fastv'"):
        get("fastvv")
    assert "has no parameter 'alpha'" in get("fastv").check({"alpha": 0.5})


def test_parameter_limits():
    assert Range(0, 1).complaint(0.5) is None
    assert Range(0, 1).complaint(1.5) == "1.5 is outside 0..1"
    assert Range(1).complaint(0) == "0 is outside 1.."
    assert "not a number" in Range(0, 1).complaint("x")


def test_ties_go_to_the_lower_index():
    scores = torch.tensor([1.0, 3.0, 3.0, 0.0, 3.0])
    assert descending_order(scores).tolist() == [1, 2, 4, 0, 3]
    assert top_k(scores, 2).tolist() == [1, 2]
    assert top_k(torch.zeros(600), 5).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="NaN"):
        top_k(torch.tensor([0.0, float("nan")]), 1)
    with pytest.raises(ValueError, match="cannot keep 3 of 2"):
        top_k(torch.zeros(2), 3)


def test_fastv_is_the_mean_of_the_last_row():
    view = make_view(16)
    expected = view.attention_HQV[:, -1].mean(dim=0).sort(descending=True).indices[:4].sort().values
    assert torch.equal(get("fastv").choose(view, [4], {})[0], expected)


def test_random_covers_all_tokens_evenly_and_nests():
    counts = torch.zeros(16)
    for seed in range(800):
        small, large = get("random").choose(make_view(16, seed=seed), [4, 8], {})
        assert set(small.tolist()) <= set(large.tolist())
        counts[small] += 1
    assert counts.min() > 150  # 200 expected, standard deviation 12
    assert counts.max() < 250


def test_controls_that_look_at_nothing():
    assert get("first_k").choose(make_view(9), [3], {})[0].tolist() == [0, 1, 2]
    assert get("evenly_spaced").choose(make_view(9), [3], {})[0].tolist() == [1, 4, 7]
    assert get("evenly_spaced").choose(make_view(576), [2], {})[0].tolist() == [144, 432]


@pytest.mark.parametrize("visual", range(1, 30))
def test_evenly_spaced_at_every_rank(visual):
    for keep, kept in enumerate(get("evenly_spaced").choose(make_view(visual), range(visual + 1), {})):
        gaps = kept.diff()
        assert len(kept.unique()) == keep
        assert keep < 2 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("name", "params", "place", "complaint"),
    [
        ("weighted_combination", {"alpha": 1.5}, {}, "alpha: 1.5 is outside 0..1"),
        ("weighted_combination", {"alpha": -0.1}, {}, "alpha: -0.1 is outside 0..1"),
        ("weighted_combination", {"alpha": float("nan")}, {}, "alpha: nan is not a number"),
        ("weighted_combination", {"alpha": True}, {}, "alpha: True is not a number"),
        ("weighted_combination", {"alpha": "half"}, {}, "alpha: 'half' is not a number"),
        (
            "weighted_combination",
            {"alhpa": 0.5},
            {},
            "strategy 'weighted_combination' has no parameter 'alhpa'. Did you mean 'alpha'? (parameters: alpha)",
        ),
        ("text_weighted", {"normalise_by_visible_queries": 1}, {}, "normalise_by_visible_queries: 1 is neither true"),
        ("ablation", {}, {}, "strategy 'ablation' needs the parameter 'heads_kept'"),
        ("ablation", {"heads_kept": 0}, {}, "heads_kept: 0 is outside 1.."),
        ("ablation", {"heads_kept": 8.0}, {}, "heads_kept: 8.0 is not a whole number"),
        ("ablation", {"heads_kept": 33}, {"heads": 32}, "heads_kept: 33 is above the model's 32 heads"),
        ("ablation", {"heads_kept": 8, "head": "varience"}, {}, "head: 'varience' is none of 'sum', 'variance'"),
        ("l2_norm", {}, {"layer": 2}, "layer: l2_norm chooses before the first decoder layer, so that layer is 0"),
        ("divprune", {}, {"layer": 1}, "layer: divprune chooses before the first decoder layer, so that layer is 0"),
        ("fps", {"start": "last"}, {}, "start: 'last' is none of 'first', 'drawn'"),
        ("himap", {}, {"layer": 8}, "second_layer: 8 is not above layer 8"),
        ("himap", {"second_layer": 2}, {"layer": 2}, "second_layer: 2 is not above layer 2"),
        ("himap", {}, {"layer": 2, "rank": 64}, "second_rank: 72 is above the first stage's rank 64"),
        ("himap", {"cutoff_layer": 5}, {"layer": 2}, "cutoff_layer: 5 is not above second_layer 8"),
        ("sparsevlm_plus", {}, {"layer": 7, "rank": 300}, "second_layer: layers 7, 7 and 16 do not rise"),
        ("fitprune", {}, {}, "strategy 'fitprune' needs the parameter 'left'; `saccade calibrate` finds them"),
        ("fitprune", {"left": 12}, {}, "left: 12 is not a text; put it in quotes"),
        ("fitprune", {"left": "12 9"}, {}, "left: '12 9' is no text of whole numbers such as '404-368-348'"),
        ("fitprune", {"left": "12-9-10"}, {}, "left: 10 is above the 9 before it"),
        ("fitprune", {"left": "12"}, {"layer": 1, "rank": 9}, "left: 12 is above the first stage's rank 9"),
        ("sparsevlm_plus", {}, {"layer": 3, "rank": 99}, "second_rank: 200 is above the first stage's rank 99"),
        (
            "sparsevlm_plus",
            {"second_rank": 9},
            {"layer": 3, "rank": 99},
            "third_rank: 118 is above the second stage's 9",
        ),
        ("v2drop", {}, {"layer": 17, "rank": 9}, "second_layer: 17 is not above layer 17"),
        ("v2drop", {"third_layer": 9}, {"layer": 3, "rank": 9}, "third_layer: 9 is not above second_layer 17"),
        ("v2drop", {"third_rank": 3}, {"layer": 3, "rank": 9}, "third_rank: 3 is above the second stage's 2"),
        ("pyramiddrop", {}, {"layer": 16}, "second_layer: layers 16, 16 and 24 do not rise"),
        ("pyramiddrop", {"third_layer": 9}, {"layer": 8}, "second_layer: layers 8, 16 and 9 do not rise"),
        ("pyramiddrop", {"second_share": 0.2}, {"layer": 8}, "third_share: 0.25 is above second_share 0.2"),
        (
            "pyramiddrop",
            {},
            {"layer": 2, "layers": 12},
            "strategy 'pyramiddrop' has a stage at layer 16, above the model's 12 layers",
        ),
        ("himap", {}, {"layer": 2, "layers": 6}, "strategy 'himap' has a stage at layer 8, above the model's 6 layers"),
        ("fastv", {}, {"layer": 33, "layers": 32}, "layer: 33 is above the model's 32 layers"),
    ],
)
def test_check_says_what_is_wrong_in_one_line(name, params, place, complaint):
    said = get(name).check(params, **place)
    assert said.startswith(complaint)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "params", "place"),
    [
        ("weighted_combination", {"alpha": 1}, {}),
        ("ablation", {"heads_kept": 32}, {"heads": 32, "layer": 2, "layers": 32, "rank": 64}),
        ("ablation", {"heads_kept": 32}, {}),
        ("l2_norm", {}, {"layer": 0}),
        ("himap", {"second_layer": 3, "second_rank": 4}, {"layer": 2, "rank": 4, "layers": 3}),
        ("himap", {}, {"layer": 2}),
        ("fastv", {}, {"layer": 32, "layers": 32}),
    ],
)
def test_check_is_content_with(name, params, place):
    assert get(name).check(params, **place) is None


def test_literals_get_a_suggestion():
    assert get("ablation").check({"heads_kept": 8, "head": "varience"}).endswith("Did you mean 'variance'?")


def test_notes():
    note = get("ablation").note
    assert "coincides with avg_all_heads" in note({"heads_kept": 32, "head": "entropy"}, 32)
    assert "mean over all heads of query=last_5_tokens" in note({"heads_kept": 32, "query": "last_5_tokens"}, 32)
    assert "text_tokens_only" in note({"heads_kept": 8, "query": "system_and_text"}, 32)
    assert "attention_weighted" in note({"heads_kept": 8, "query": "adaptive_by_length"}, 32)
    assert note({"heads_kept": 8}, 32) is None
    assert get("fastv").note({}, 32) is None


def test_what_is_known_by_name_alone_is_what_the_catalog_says():
    assert {name for name, strategy in CATALOG.items() if strategy.schedule is not None} == STAGED
    assert {name for name, strategy in CATALOG.items() if strategy.published} == PUBLISHED


def test_an_ordinary_strategy_is_one_stage():
    assert get("fastv").stages(2, 64, {}) == (Stage("fastv", 2, 64),)
    assert get("cutoff").stages(2, 64, {}) == (Stage("cutoff", 2, 0),)
    assert get("vtw").stages(15, 64, {}) == (Stage("vtw", 15, 0),)
    assert {name for name, strategy in CATALOG.items() if strategy.fixed_rank == 0} == KEEP_NOTHING
    alpha = get("weighted_combination").stages(2, 64, {"alpha": 0.3})
    assert alpha == (Stage("weighted_combination", 2, 64, (("alpha", 0.3),)),)


def test_himap_is_several_stages():
    first, second = Stage("text_sum", 2, 288), Stage("image_column_sum", 8, 72)
    assert get("himap").stages(2, 288, {}) == (first, second)
    assert get("himap").stages(2, 288, {"cutoff_layer": 20}) == (first, second, Stage("cutoff", 20, 0))
    assert all(get(stage.strategy).schedule is None for stage in get("himap").stages(2, 288, {"cutoff_layer": 20}))
    with pytest.raises(ValueError, match="not above layer"):
        get("himap").stages(9, 288, {})


def test_the_source_hash_covers_what_a_strategy_imports():
    """A correction in heads.py must give new cells of ``ablation``, and leave those of ``divprune`` alone."""
    names = {file.name for file in source._with_imports(source.FOLDER / "ablation.py")}
    assert names == {"ablation.py", "heads.py", "queries.py", "limits.py", "scores.py", "view.py"}
    hashes = [get(name).source_hash for name in ("fps", "fps_merged", "divprune", "max_head", "text_weighted")]
    assert len(set(hashes)) == len(hashes)
    assert get("fastv").source_hash == get("avg_all_heads").source_hash
    fps = get("fps")  # whose draw questions about an image once shared
    assert (
        fps.source_with({"start": "first"})
        == fps.source_with({})
        == fps.source_hash
        != fps.source_with({"start": "drawn"})
    )
