"""The shared forward against the naive one: kept sets equal, logits within 1e-4, decoded tokens equal."""

from __future__ import annotations

import threading
import weakref
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admitted import admitted
from examples import few
from naive import naive_answer, seeds_of
from small_clip import make_clip
from small_llava import make_checkpoint
from strategies.catalog import CATALOG
from strategies.heads import HeadProbability, HeadRule
from strategies.positions import Positions
from strategies.queries import QueryRule
from workers.encoding import encode_sample
from workers.engine import Engine
from workers.runnable import complaint
from workers.shown import Shown
from workers.work import DeviceLostError, EngineSpec, GridPoint, ModelSpec, TaskSpec, WorkUnit, unpruned_point

# Dropping and masking differ in the shapes of their reductions only; the weights are scaled up, so logits reach 1e2.
LOGIT_TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}


def make_engine(checkpoint, data, **changes) -> Engine:
    spec = EngineSpec(
        model=ModelSpec(path=str(checkpoint)), task=TaskSpec(name="scienceqa", data=str(data)), max_new_tokens=4
    )
    return Engine.load(replace(spec, **changes), device="cpu")


@pytest.fixture(scope="module")
def engine(small_checkpoint, small_scienceqa) -> Engine:
    return make_engine(small_checkpoint, small_scienceqa)


def naive_cell(engine: Engine, sample_id: str, point: GridPoint):
    sample = engine.samples[sample_id]
    prompt = encode_sample(engine.model, sample, engine.spec.task, engine.spec.model.image_mode, point=point)
    with torch.inference_mode():
        slow = naive_answer(engine.model, prompt, point, seeds_of(sample, engine.spec.seed), engine.spec.max_new_tokens)
    places_K = Shown.of(engine.model, prompt).places_K
    return slow if places_K is None else replace(slow, kept=places_K[slow.kept].tolist())


def assert_equals_naive(engine: Engine, ids, points) -> None:
    outcome = engine.run(WorkUnit(samples=tuple(ids), points=tuple(points)))
    assert outcome.failures == ()
    cells = {(cell.sample, cell.point): cell for cell in outcome.outcomes}
    assert len(cells) == len(ids) * len({point.key for point in points})
    for id in ids:
        for point in points:
            cell, slow = cells[id, point.key], naive_cell(engine, id, point)
            kept = np.flatnonzero(np.unpackbits(np.frombuffer(cell.kept_mask, np.uint8))[: cell.visual_tokens])
            assert kept.tolist() == slow.kept, point.label
            letters = engine.letter_tokens[: len(engine.samples[id].choices)]
            torch.testing.assert_close(
                torch.tensor(cell.option_logits), slow.first_logits[letters], **LOGIT_TOLERANCE, msg=point.label
            )
            assert cell.tokens_kept == len(slow.kept)
            highest = slow.first_logits.topk(2).values
            assert cell.margin == pytest.approx(float(highest[0] - highest[1]), abs=2e-4)
            answer = engine.model.tokenizer.decode(slow.tokens, skip_special_tokens=True).strip()
            assert (cell.answer, cell.first_token, cell.decoded_tokens) == (answer, slow.tokens[0], len(slow.tokens))


def every_point(layers: int, visual: int) -> list[GridPoint]:
    points = [unpruned_point(layers, visual)]
    for layer in range(layers + 1):
        points.append(GridPoint(strategy="cutoff", layer=layer, rank=0))
        for strategy in ("fastv", "random") if layer else ("random",):
            points += [GridPoint(strategy=strategy, layer=layer, rank=rank) for rank in (0, 1, 5, visual - 1, visual)]
    return points


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_whole_grid_equals_naive(engine, micro_batch):
    engine.micro_batch = micro_batch
    assert_equals_naive(engine, list(engine.samples), every_point(2, 16))


@pytest.mark.parametrize(
    ("layers", "heads", "kv_heads", "text_model"), [(3, 4, 4, "llama"), (4, 2, 1, "mistral"), (3, 8, 2, "qwen2")]
)
def test_other_shapes_equal_naive(tmp_path, small_scienceqa, layers, heads, kv_heads, text_model):
    checkpoint = make_checkpoint(
        tmp_path, seed=7, layers=layers, heads=heads, kv_heads=kv_heads, side=3, text_model=text_model
    )
    engine = make_engine(checkpoint, small_scienceqa)
    assert_equals_naive(engine, ["1", "2", "6"], every_point(layers, 9))


@st.composite
def any_point(draw, layers: int, visual: int, heads: int) -> GridPoint:
    """Any strategy of the catalog at any layer and rank that it admits, with drawn parameters."""
    strategy = CATALOG[draw(st.sampled_from(sorted(CATALOG)))]
    last = layers - {"himap": 1, "pyramiddrop": 2, "sparsevlm": 2, "sparsevlm_plus": 2, "v2drop": 1, "fitprune": 1}.get(
        strategy.name, 0
    )  # further stages need later layers
    first = 0 if complaint(strategy, {}, layer=0) is None else 1
    layer = 0 if strategy.layers == "input" else draw(st.integers(first, last))
    rank = draw(st.integers(0, visual)) if strategy.fixed_rank is None else strategy.fixed_rank
    rank = 0 if 0 < rank < strategy.least else admitted(strategy, rank, visual)
    params: dict = {}
    if strategy.name == "ablation":
        params = {
            "heads_kept": draw(st.integers(1, heads)),
            "query": draw(st.sampled_from(sorted(get_args(QueryRule)))),
            "head": draw(st.sampled_from(sorted(get_args(HeadRule)))),
            "head_probability": draw(st.sampled_from(sorted(get_args(HeadProbability)))),
        }
    elif strategy.name == "himap":
        params = {"second_layer": draw(st.integers(layer + 1, layers)), "second_rank": draw(st.integers(0, rank))}
    elif strategy.name in ("sparsevlm", "sparsevlm_plus"):
        second, kept = draw(st.integers(layer + 1, layers - 1)), draw(st.integers(0, rank))
        params = {"second_layer": second, "second_rank": kept, "third_layer": draw(st.integers(second + 1, layers))}
        params |= {"third_rank": draw(st.integers(0, kept))}
    elif strategy.name == "v2drop":
        params = {"second_layer": draw(st.integers(layer + 1, layers)), "second_share": draw(st.floats(0, 1))}
        params["third_layer"] = draw(st.sampled_from((0, *range(params["second_layer"] + 1, layers + 1))))
    elif strategy.name == "pyramiddrop":
        second = draw(st.integers(layer + 1, layers - 1))
        shares = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=2)))
        params = {"second_layer": second, "third_layer": draw(st.integers(second + 1, layers))}
        params |= {"second_share": shares[1], "third_share": shares[0]}
    elif strategy.name == "vscan":
        params = {"second_layer": draw(st.integers(1, layers)), "second_share": draw(st.floats(0, 1))}
    elif strategy.name == "fitprune":
        left = draw(st.lists(st.integers(0, rank), min_size=1, max_size=layers - layer))
        params = {"left": "-".join(map(str, sorted(left, reverse=True)))}
    elif "start" in strategy.params:
        params = {"start": draw(st.sampled_from(("first", "drawn")))}
    elif "alpha" in strategy.params:
        params = {"alpha": draw(st.floats(0, 1))}
    elif "normalise_by_visible_queries" in strategy.params:
        params = {"normalise_by_visible_queries": draw(st.booleans())}
    positions = draw(st.sampled_from([None, *get_args(Positions)]))
    if complaint(strategy, params, layer=layer, rank=rank, positions=positions):
        positions = None
    return GridPoint(strategy=strategy.name, layer=layer, rank=rank, params=tuple(params.items()), positions=positions)


@pytest.fixture(scope="module")
def deeper_engine(tmp_path_factory, small_scienceqa) -> Engine:
    """Four layers, so that a method of two stages has room."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("deeper"), seed=5, layers=4)
    clip = make_clip(tmp_path_factory.mktemp("clip"), seed=5)
    return make_engine(checkpoint, small_scienceqa, model=ModelSpec(path=str(checkpoint), text_tower=str(clip)))


@settings(max_examples=few(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mix_of_points_equals_naive(deeper_engine, data):
    """Every strategy x layer x rank, in any company."""
    engine = deeper_engine
    engine.micro_batch = data.draw(st.integers(1, 3), label="micro batch")
    points = data.draw(st.lists(any_point(4, 16, 4), min_size=1, max_size=4, unique_by=lambda p: p.key), label="points")
    ids = data.draw(st.lists(st.sampled_from(list(engine.samples)), min_size=1, max_size=2, unique=True), label="ids")
    assert_equals_naive(engine, ids, points)


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_strategy_equals_naive(deeper_engine, name):
    """Each at two layers and three ranks, so that none depends on Hypothesis' luck."""
    strategy = CATALOG[name]
    deeper_engine.micro_batch = 2
    params = {
        "ablation": {"heads_kept": 2},
        "himap": {"second_layer": 3, "second_rank": 2},
        "pyramiddrop": {"second_layer": 3, "third_layer": 4},
        "vscan": {"second_layer": 2},
        "sparsevlm_plus": {"second_layer": 3, "second_rank": 2, "third_layer": 4, "third_rank": 1, "heads": 2},
        "sparsevlm": {"second_layer": 3, "second_rank": 2, "third_layer": 4, "third_rank": 1},
        "v2drop": {"second_layer": 3, "second_share": 0.6, "third_layer": 0},
    }.get(name, {})
    layers = [layer for layer in (0, 1, 2) if complaint(strategy, params, layer=layer) is None]
    ranks = (max(2, strategy.least), 7, 15) if strategy.fixed_rank is None else (strategy.fixed_rank,)
    ranks = tuple(dict.fromkeys(admitted(strategy, rank, 16) for rank in ranks))
    points = [
        GridPoint(strategy=name, layer=layer, rank=rank, params=tuple(params.items()))
        for layer in layers
        for rank in ranks
    ]
    assert_equals_naive(deeper_engine, ["1", "3"], points)


@pytest.mark.parametrize("pair", [("fps", "fps_merged"), ("tome_centres", "tome_merged")])
def test_methods_that_keep_the_same_tokens_and_go_on_with_others_do_not_share_a_fork(deeper_engine, pair):
    """Same tokens of the same sequence at the same layer: only what goes on in their place tells the forks apart."""
    deeper_engine.micro_batch = 1
    points = tuple(GridPoint(strategy=name, layer=1, rank=5) for name in pair)
    first, second = deeper_engine.run(WorkUnit(samples=("1",), points=points)).outcomes
    assert first.kept_mask == second.kept_mask
    assert first.option_logits != second.option_logits
    assert_equals_naive(deeper_engine, ["1", "3"], points)


def test_keeping_everything_is_the_untouched_model(engine):
    """K = L, and R = N at any K, against transformers' own generate on the whole model."""
    points = [GridPoint(strategy="fastv", layer=2, rank=3), GridPoint(strategy="random", layer=1, rank=16)]
    cells = engine.run(WorkUnit(samples=("1", "6"), points=tuple(points))).outcomes
    for cell in cells:
        sample = engine.samples[cell.sample]
        prompt = encode_sample(engine.model, sample, engine.spec.task, "pad")
        assert cell.text_tokens == prompt.length - prompt.system - prompt.visual
        generated = engine.model.module.generate(
            **engine.model.inputs(prompt),
            attention_mask=torch.ones(1, prompt.length, dtype=torch.int64),
            do_sample=False,
            max_new_tokens=4,
        )[0, prompt.length :]
        text = engine.model.tokenizer.decode(generated, skip_special_tokens=True).strip()
        assert cell.answer == text
        assert cell.first_token == int(generated[0])


def test_long_answers_agree_with_naive(tmp_path, small_scienceqa):
    """Free-form answers: a dozen decoded tokens, in which every cached key is read."""
    checkpoint = make_checkpoint(tmp_path, seed=3, layers=3, end_bias=-0.9)
    engine = make_engine(checkpoint, small_scienceqa, max_new_tokens=12)
    points = [GridPoint(strategy="fastv", layer=layer, rank=rank) for layer in (1, 2) for rank in (0, 4)]
    assert_equals_naive(engine, ["1", "2"], points)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_answers_that_end_at_different_steps(tmp_path, small_scienceqa, seed):
    """Sequences leave the batch one after another; those that go on keep their own caches."""
    checkpoint = make_checkpoint(tmp_path, seed=3, layers=4, end_bias=-0.9)
    engine = make_engine(checkpoint, small_scienceqa, max_new_tokens=10)
    engine.micro_batch = 3
    vocabulary = torch.randperm(len(engine.model.tokenizer), generator=torch.Generator().manual_seed(seed))
    engine.model.end_tokens = frozenset(vocabulary[:12].tolist())
    points = [
        GridPoint(strategy=name, layer=layer, rank=rank)
        for name in ("fastv", "random")
        for layer in (0, 1, 3)
        if complaint(CATALOG[name], {}, layer=layer) is None
        for rank in (0, 4)
    ]
    points.append(GridPoint(strategy="l2_norm", layer=0, rank=5))
    points.append(GridPoint(strategy="himap", layer=1, rank=8, params=(("second_layer", 3), ("second_rank", 3))))
    lengths = {cell.decoded_tokens for cell in engine.run(WorkUnit(samples=("1", "2"), points=tuple(points))).outcomes}
    assert len(lengths) > 1
    assert_equals_naive(engine, ["1", "2", "6"], points)


def test_a_batch_that_does_not_fit_is_halved_and_gives_its_memory_back_first(engine, monkeypatch):
    from workers import engine as module

    engine.micro_batch = 4
    real, held, alive_at_start = module.prefill, [], []

    def prefill(llava, hidden, trunks, *rest):
        alive_at_start.append(sum(reference() is not None for reference in held))
        if len(trunks) > 1:
            big = torch.zeros(1000)
            held.append(weakref.ref(big))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return real(llava, hidden, trunks, *rest)

    points = (unpruned_point(2, 16), GridPoint(strategy="fastv", layer=1, rank=4))
    expected = engine.run(WorkUnit(samples=("1", "2", "3", "4"), points=points)).outcomes
    monkeypatch.setattr(module, "prefill", prefill)
    outcome = engine.run(WorkUnit(samples=("1", "2", "3", "4"), points=points))
    assert alive_at_start == [0] * 7  # 4, 2, 1, 1, 2, 1, 1 samples
    assert outcome.failures == ()
    assert [(c.sample, c.point, c.answer) for c in outcome.outcomes] == [
        (c.sample, c.point, c.answer) for c in expected
    ]
    assert outcome.notes[0].startswith("micro-batch of 4 halved after OutOfMemoryError")


def test_a_single_sample_without_room_is_tried_again_alone(engine, monkeypatch):
    """The other lane may have held the memory; what has no room by itself fails."""
    from workers import engine as module

    real, tries = module.prefill, []

    def prefill(llava, hidden, trunks, *rest):
        tries.append(hidden.shape[0])
        if len(tries) in (1, 3, 4):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return real(llava, hidden, trunks, *rest)

    monkeypatch.setattr(module, "prefill", prefill)
    monkeypatch.setattr(engine._lanes, "count", 2)
    monkeypatch.setattr(engine._lanes, "_free", threading.Semaphore(1))  # this lane is taken, the other is free
    engine.micro_batch = 1
    outcome = engine.run(WorkUnit(samples=("1", "2"), points=(unpruned_point(2, 16),)))
    assert [cell.sample for cell in outcome.outcomes] == ["1"]
    assert [(failure.sample, failure.kind) for failure in outcome.failures] == [("2", "OutOfMemoryError")]
    assert outcome.notes[0].startswith("micro-batch of 1 tried again alone after OutOfMemoryError")


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
    ],
)
def test_short_memory_is_no_lost_device(engine, monkeypatch, message):
    from workers import engine as module

    def prefill(*_):
        raise RuntimeError(message)

    monkeypatch.setattr(module, "prefill", prefill)
    outcome = engine.run(WorkUnit(samples=("1",), points=(unpruned_point(2, 16),)))
    assert [failure.message for failure in outcome.failures] == [message]


def test_a_lost_device_ends_the_process_not_the_samples(engine, monkeypatch):
    from workers import engine as module

    def prefill(*_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(module, "prefill", prefill)
    with pytest.raises(DeviceLostError):
        engine.run(WorkUnit(samples=("1",), points=(unpruned_point(2, 16),)))


def test_logits_that_are_not_finite_are_failures_not_answers(small_checkpoint, small_scienceqa):
    engine = make_engine(small_checkpoint, small_scienceqa)
    with torch.no_grad():
        engine.model.decoder.module.norm.weight[0] = torch.nan
    outcome = engine.run(WorkUnit(samples=("1",), points=(unpruned_point(2, 16),)))
    assert outcome.outcomes == ()
    assert "not finite" in outcome.failures[0].message


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (GridPoint(strategy="fastv", layer=9, rank=1), "the model has 2 layers"),
        (GridPoint(strategy="fastv", layer=1, rank=99), "16 visual tokens"),
        (GridPoint(strategy="fastvv", layer=1, rank=1), "Did you mean 'fastv'"),
        (GridPoint(strategy="l2_norm", layer=1, rank=1), "l2_norm"),
        (GridPoint(strategy="visionzip", layer=0, rank=9, positions="keep"), "visionzip feeds rows of its own making"),
        (GridPoint(strategy="vscan", layer=0, rank=9, params=(("second_layer", 1),), positions="keep"), "leave `keep`"),
        (GridPoint(strategy="fastv", layer=0, rank=1), "at layer 0 take `random`"),
        (GridPoint(strategy="weighted_combination", layer=1, rank=1, params=(("alpha", 2.0),)), "outside 0..1"),
        (GridPoint(strategy="ablation", layer=1, rank=1, params=(("heads_kept", 5),)), "4 heads"),
    ],
)
def test_points_that_the_model_cannot_run_are_refused(engine, point, message):
    with pytest.raises(ValueError, match=message):
        engine.run(WorkUnit(samples=("1",), points=(point,)))


def test_mistakes_in_code_are_told(engine, small_checkpoint, small_scienceqa):
    (failure,) = engine.run(WorkUnit(samples=("77",), points=(unpruned_point(2, 16),))).failures
    assert failure.message == "the benchmark has no sample '77'"
    with pytest.raises(ValueError, match="max_new_tokens"):
        make_engine(small_checkpoint, small_scienceqa, max_new_tokens=0)


def test_equal_token_sets_are_one_fork(engine):
    """cutoff, fastv at rank 0 and random at rank 0 drop the same tokens: one sequence answers all three."""
    points = tuple(GridPoint(strategy=name, layer=1, rank=0) for name in ("cutoff", "fastv", "random"))
    cells = engine.run(WorkUnit(samples=("1",), points=points)).outcomes
    assert len({cell.option_logits for cell in cells}) == 1
    assert {cell.point for cell in cells} == {point.key for point in points}


def test_positions_tell_forks_of_equal_tokens_apart(engine):
    """Without a gap there is nothing to renumber."""
    for strategy, own, rank in (("fastv", "keep", 4), ("cutoff", "keep", 0)):
        points = tuple(
            GridPoint(strategy=strategy, layer=1, rank=rank, positions=how) for how in (None, "keep", "compact")
        )
        first, kept, compact = engine.run(WorkUnit(samples=("1",), points=points)).outcomes
        assert first.kept_mask == kept.kept_mask == compact.kept_mask, own
        assert first.option_logits == kept.option_logits != compact.option_logits
    all_of_it = tuple(GridPoint(strategy="fastv", layer=1, rank=16, positions=how) for how in (None, "compact"))
    assert len({cell.option_logits for cell in engine.run(WorkUnit(samples=("1",), points=all_of_it)).outcomes}) == 1


def test_text_only_questions_run_unpruned(engine):
    points = (unpruned_point(2, 16), GridPoint(strategy="cutoff", layer=1, rank=0))
    cells = engine.run(WorkUnit(samples=("6",), points=points)).outcomes
    assert {cell.visual_tokens for cell in cells} == {0}
    assert len({cell.option_logits for cell in cells}) == 1


def test_random_choice_depends_on_sample_and_seed_only(small_checkpoint, small_scienceqa):
    point = GridPoint(strategy="random", layer=1, rank=5)
    masks = {}
    for seed, order in ((0, ("1", "2", "3")), (0, ("3", "1")), (1, ("1", "2", "3"))):
        engine = make_engine(small_checkpoint, small_scienceqa, seed=seed)
        for cell in engine.run(WorkUnit(samples=order, points=(point,))).outcomes:
            masks.setdefault((seed, cell.sample), set()).add(cell.kept_mask)
    assert all(len(masks[0, id]) == 1 for id in ("1", "2", "3"))
    assert masks[0, "1"] != masks[0, "2"]
    assert masks[0, "1"] != masks[1, "1"]


def test_cells_do_not_depend_on_the_shard_on_cpu(engine):
    """Micro-batches of one: the same bits whoever is in the unit."""
    engine.micro_batch = 1
    points = tuple(every_point(2, 16))
    together = engine.run(WorkUnit(samples=("1", "2", "3"), points=points)).outcomes
    alone = engine.run(WorkUnit(samples=("2",), points=points)).outcomes
    assert [cell for cell in together if cell.sample == "2"] == list(alone)


def test_a_broken_image_costs_only_its_sample(small_checkpoint, tmp_path):
    from conftest import write_scienceqa

    write_scienceqa(tmp_path, count=4)
    broken = tmp_path / "images" / "test" / "2" / "image.png"
    broken.write_bytes(broken.read_bytes()[:60])
    engine = make_engine(small_checkpoint, tmp_path)
    engine.micro_batch = 3
    outcome = engine.run(WorkUnit(samples=("1", "2", "3"), points=(unpruned_point(2, 16),)))
    assert [cell.sample for cell in outcome.outcomes] == ["1", "3"]
    (failure,) = outcome.failures
    assert (failure.sample, failure.kind) == ("2", "DataError")
    assert str(broken) in failure.message


def test_turns_to_another_benchmark_without_loading_the_model_again(small_checkpoint, small_scienceqa):
    first = make_engine(small_checkpoint, small_scienceqa)
    other = replace(first.spec, max_new_tokens=2, task=replace(first.spec.task, single_prediction=False))
    turned, fresh = first.turned_to(other), make_engine(small_checkpoint, small_scienceqa, **vars_of(other))
    assert turned.model is first.model
    unit = WorkUnit(samples=("1", "2"), points=(GridPoint(strategy="fastv", layer=1, rank=5),))
    assert turned.run(unit).outcomes == fresh.run(unit).outcomes


def vars_of(spec: EngineSpec) -> dict[str, object]:
    return {"max_new_tokens": spec.max_new_tokens, "task": spec.task}
