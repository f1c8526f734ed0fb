"""What is measured, how often and in which order. How long it takes is the machine's affair and not tested."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace

import pytest
import torch

import workers.patch
from test_workers_engine import make_engine
from workers import laps, latency
from workers.latency import Latency, Stat, measure_latency, prepare_prompts
from workers.work import GridPoint, unpruned_point

POINTS = (
    GridPoint(strategy="fastv", layer=1, rank=4),
    GridPoint(strategy="divprune", layer=0, rank=4, positions="keep"),
    GridPoint(strategy="weighted_combination", layer=1, rank=4, params=(("alpha", 0.5),)),
)
PARTS = ("tower_ms", "projector_ms", "selector_ms", "prefill_ms")
COUNTS = {"repeats": 3, "warmup": 1, "decode_tokens": 2}


@pytest.fixture(scope="module")
def engine(small_checkpoint, small_scienceqa):
    return make_engine(small_checkpoint, small_scienceqa)


@pytest.fixture(scope="module")
def prompts(engine):
    return prepare_prompts(engine.model, list(engine.samples.values())[:2], engine.spec.task, "pad")


def test_every_configuration_beside_the_unpruned_model(engine, prompts):
    told = []
    found = measure_latency(
        engine.model, prompts, (*POINTS, POINTS[0], unpruned_point(2, 16)), **COUNTS, progress=lambda *n: told.append(n)
    )
    assert [entry.point for entry in found] == [unpruned_point(2, 16), *POINTS]
    assert told == [(done, 32) for done in range(1, 33)]
    for entry in found:
        figures = {name: value for name, value in asdict(entry).items() if isinstance(value, dict) and "mean" in value}
        assert set(figures) == {*PARTS, "first_token_ms", "decode_ms", "tokens_per_s", "total_ms"}
        for name, figure in figures.items():
            assert figure["n"] == 6
            assert (figure["median"] > 0) == (name != "selector_ms" or entry.point.strategy != "none")
            assert figure["median"] <= figure["p90"]
        assert entry.total_ms.mean == pytest.approx(entry.first_token_ms.mean + 2 * entry.decode_ms.mean)
        assert entry.first_token_ms.mean == pytest.approx(sum(getattr(entry, part).mean for part in PARTS))
        assert entry.peak_gib is None
        assert entry.decode_tokens == 2
    assert (found[0].prefill_speedup, found[0].decode_speedup, found[0].total_speedup) == (1, 1, 1)
    assert all(entry.total_speedup == found[0].total_ms.median / entry.total_ms.median for entry in found)


def test_positions_are_those_of_the_configuration(engine, prompts, monkeypatch):
    asked = []
    drop = workers.patch.drop
    monkeypatch.setattr(workers.patch, "drop", lambda *args: asked.append(args[3]) or drop(*args))
    points = [replace(POINTS[1], positions=how) for how in (None, "keep", "compact")]
    measure_latency(engine.model, prompts[:1], points, repeats=1, warmup=0, decode_tokens=1)
    assert asked == [True, False, True]


def test_json_both_ways(engine, prompts):
    (_, found) = measure_latency(engine.model, prompts[:1], POINTS[2:], **COUNTS)
    counted = replace(found, peak_gib=Stat.of([1.0, 2.0]))
    for entry in (found, counted):
        assert Latency.from_json(json.loads(json.dumps(entry.to_json()))) == entry


def test_configurations_take_turns_and_warm_up_does_not_count(engine, prompts, monkeypatch):
    """With a clock that jumps by a known step at each look, every figure is known."""
    order = []
    measure = latency._measure
    jumping_clock(monkeypatch)
    monkeypatch.setattr(
        latency, "_measure", lambda llava, point, *rest: order.append(point) or measure(llava, point, *rest)
    )
    found = measure_latency(engine.model, prompts, POINTS[:1], repeats=2, warmup=3, decode_tokens=4)
    assert order == [unpruned_point(2, 16), POINTS[0]] * (5 * 2)
    for entry, looks in zip(found, (0, 4), strict=True):
        assert entry.tower_ms == Stat(mean=1000, median=1000, p90=1000, n=4)
        assert entry.projector_ms.mean == 2000  # the module, and what makes visual tokens of its output
        assert entry.selector_ms.mean == 1000 * looks / 2  # a look before and one after, at the input and at layer 1
        assert entry.prefill_ms.mean == 2000 + 1000 * looks / 2  # before the tower, behind all, and before each look
        assert entry.decode_ms.mean == 250
        assert entry.tokens_per_s.mean == 4
        assert entry.total_ms.mean == 6000 + 1000 * looks


def jumping_clock(monkeypatch) -> None:
    looks = itertools.count()
    for module in (laps, latency):
        monkeypatch.setattr(module, "now", lambda device: float(next(looks)))


def test_decoding_goes_on_after_the_end_token(engine, prompts, monkeypatch):
    """Forced steps: one forward for the prompt and one for each further token, whatever is decoded."""
    lengths = []
    handle = engine.model.module.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        measure_latency(engine.model, prompts[:1], (), repeats=1, warmup=0, decode_tokens=9)
    finally:
        handle.remove()
    assert lengths[0] > 16
    assert lengths[1:] == [1] * 9


def test_tokens_are_really_dropped(engine, prompts):
    """In the layers from K on, the matrix products see fewer rows."""
    rows = []
    handle = engine.model.decoder.module.layers[1].mlp.register_forward_hook(
        lambda module, args, out: rows.append(out.shape[1])
    )
    try:
        measure_latency(engine.model, prompts[:1], POINTS[:1], repeats=1, warmup=0, decode_tokens=1)
    finally:
        handle.remove()
    whole, step, dropped, other_step = rows
    assert (whole - dropped, step, other_step) == (12, 1, 1)


def test_nothing_stays_behind(engine, prompts):
    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(vars(m)) for m in engine.model.module.modules()]

    with torch.inference_mode():
        before = engine.model.module(input_ids=torch.tensor([[1, 5, 7]])).logits
        state = hooks()
        measure_latency(engine.model, prompts[:1], POINTS, repeats=1, warmup=0, decode_tokens=1)
        assert hooks() == state
        assert torch.equal(engine.model.module(input_ids=torch.tensor([[1, 5, 7]])).logits, before)


def test_questions_without_an_image_are_left_out(engine):
    samples = list(engine.samples.values())
    found = prepare_prompts(engine.model, samples, engine.spec.task, "pad")
    assert [item.id for item in found] == [sample.id for sample in samples if sample.image is not None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 0}, "repeats must be >= 1"),
        ({"warmup": -1}, "warmup must be >= 0"),
        ({"decode_tokens": 0}, "decode_tokens must be >= 1"),
        ({"prompts": ()}, "no prompt with an image"),
        ({"points": (GridPoint(strategy="fastv", layer=5, rank=1),)}, "layer 5 is outside"),
    ],
)
def test_mistakes(engine, prompts, change, message):
    arguments = {"prompts": prompts, "points": (), **COUNTS, **change}
    with pytest.raises(ValueError, match=message):
        measure_latency(engine.model, **arguments)


def test_a_prompt_without_an_image_is_refused(engine, prompts):
    bare = replace(prompts[0], prompt=replace(prompts[0].prompt, images=()))
    with pytest.raises(ValueError, match="sample 1 has no image"):
        measure_latency(engine.model, [bare], (), **COUNTS)


@pytest.mark.parametrize(
    ("values", "p90"), [([3.0], 3.0), ([1.0, 2.0], 2.0), ([float(n) for n in range(10, 0, -1)], 9.0)]
)
def test_p90_is_the_nearest_rank(values, p90):
    assert Stat.of(values).p90 == p90
