"""The image at a lower resolution: cells of ``downsample`` against transformers' own forward of the smaller image."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import few
from small_qwen import make_qwen, noise
from strategies.catalog import get
from strategies.downsample import middles
from strategies.errors import UsageError
from workers.encoding import encode_sample
from workers.engine import Engine
from workers.families.catalog import parts_of
from workers.families.qwen.resizing import Resizing
from workers.images import load_image
from workers.latency import measure_latency, prepare_prompts
from workers.patch import pruned
from workers.runnable import Facts, complaint
from workers.slow_path import slow_answer
from workers.work import EngineSpec, GridPoint, ModelSpec, SampleOutcome, TaskSpec, WorkUnit, unpruned_point

LOGITS = {"atol": 1e-4, "rtol": 1e-5}  # float32: other shapes of the same sums
IDS, TEXT_ONLY = ("1", "2", "3"), "6"


def engine_of(model: ModelSpec, data, **task) -> Engine:
    spec = EngineSpec(model=model, task=TaskSpec(name="scienceqa", data=str(data), **task), max_new_tokens=3)
    return Engine.load(spec, device="cpu")


@pytest.fixture(scope="module")
def engine(small_checkpoint, small_scienceqa) -> Engine:
    return engine_of(ModelSpec(path=str(small_checkpoint)), small_scienceqa)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def native(request, tmp_path_factory, small_scienceqa) -> Engine:
    folder = make_qwen(tmp_path_factory.mktemp(request.param), request.param)
    model = ModelSpec(path=str(folder), image_mode="native")
    return with_images(engine_of(model, small_scienceqa, conversation="chat_template"), folder)


def with_images(engine: Engine, folder: Path) -> Engine:
    """Three questions about images of different shapes."""
    for id, size in zip(IDS, ((100, 150), (61, 300), (30, 30)), strict=True):
        noise(size).save(folder / f"{id}.png")
        engine.samples[id] = replace(engine.samples[id], image=folder / f"{id}.png")
    return engine


def smaller(rank: int, share: float | None = None) -> GridPoint:
    return GridPoint(strategy="downsample", layer=0, rank=rank, share=share)


def answered(engine: Engine, ids, *points: GridPoint) -> dict[tuple[str, str], SampleOutcome]:
    outcome = engine.run(WorkUnit(samples=tuple(ids), points=points))
    assert outcome.failures == ()
    found = {(cell.sample, cell.point): cell for cell in outcome.outcomes}
    assert len(found) == len(outcome.outcomes) == len(ids) * len(points)
    return found


def places(cell: SampleOutcome) -> list[int]:
    return np.flatnonzero(np.unpackbits(np.frombuffer(cell.kept_mask, np.uint8))[: cell.visual_tokens]).tolist()


@torch.inference_mode()
def test_a_square_tower_is_given_a_smaller_square_and_stretched_positions(engine):
    """As transformers runs it on the pixels of an image that Pillow has made smaller; beside other points or alone."""
    model, prunes = engine.model, GridPoint(strategy="fastv", layer=1, rank=4)
    side, patch = model.config.side, model.config.patch_size
    whole = unpruned_point(model.config.layers, side**2)
    points = (smaller(9), prunes, whole, smaller(4), smaller(1), smaller(side**2), smaller(0))
    cells = answered(engine, (*IDS, TEXT_ONLY), *points)
    before = answered(engine, (*IDS, TEXT_ONLY), prunes, whole, smaller(side**2), smaller(0))
    assert {key: cells[key] for key in before} == before
    for id in IDS:
        full = encode_sample(model, engine.samples[id], engine.spec.task, "pad")
        for point in (smaller(9), smaller(4), smaller(1)):
            cell, few = cells[id, point.key], math.isqrt(point.rank)
            image = load_image(engine.samples[id].image)
            pixels = model.look_smaller(image, "pad", point.rank).values
            assert pixels.shape == (3, few * patch, few * patch)
            ids = [*full.ids[: full.system], *[model.image_token] * few**2, *full.ids[full.system + full.visual :]]
            given_ids, given_pixels = torch.tensor([ids]), pixels[None]
            theirs = model.module(input_ids=given_ids, pixel_values=given_pixels, interpolate_pos_encoding=True)
            letters = engine.letter_tokens[: len(engine.samples[id].choices)]
            torch.testing.assert_close(torch.tensor(cell.option_logits), theirs.logits[0, -1, letters], **LOGITS)
            assert (cell.tokens_kept, cell.visual_tokens, cell.prompt_tokens) == (few**2, side**2, full.length)
            assert places(cell) == middles((side, side), (few, few)).tolist()
            slow = slow_answer(model, engine.spec, engine.samples[id], point, letters)
            assert (slow.text, len(slow.ids), slow.kept_mask) == (cell.answer, cell.decoded_tokens, cell.kept_mask)
            assert (slow.prompt_tokens, slow.visual_tokens) == (cell.prompt_tokens, cell.visual_tokens)
    assert cells["1", smaller(9).key].option_logits != cells["1", smaller(4).key].option_logits
    assert cells[TEXT_ONLY, smaller(4).key] == replace(cells[TEXT_ONLY, whole.key], point=smaller(4).key)


def test_its_latency_is_that_of_the_smaller_image(engine, native):
    for one in (engine, native):
        assert_timed_smaller(one)


def assert_timed_smaller(engine: Engine) -> None:
    """Rows that layers of tower and decoder see: of 4 tokens at most, beside the whole image and a random choice."""
    model, rows = engine.model, []
    points = [smaller(4), GridPoint(strategy="random", layer=0, rank=4)]
    mode = engine.spec.model.image_mode
    prompts = prepare_prompts(model, [engine.samples["1"]], engine.spec.task, mode, points)
    parts = parts_of(model.module)
    handles = [
        layer.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[-2]))
        for layer in (parts.tower_layers[-1], model.decoder.module.layers[-1])
    ]
    measure_latency(model, prompts, points, repeats=1, warmup=0, decode_tokens=1)
    for handle in handles:
        handle.remove()
    prompt, shown = prompts[0].prompt, prompts[0].smaller[points[0].key]
    assert shown.visual <= 4 < prompt.visual
    (tower, whole, _), (few, less, _), (again, kept, _) = rows[:3], rows[3:6], rows[6:]
    assert (whole, less, kept) == (prompt.length, shown.length, prompt.length - prompt.visual + 4)
    assert few < tower == again


def test_a_model_of_any_size_answers_as_with_fewer_pixels(native):
    """Cells are those of the un-pruned model whose ``max_pixels`` are so few, also where the rank is a share."""
    unit = native.model._resizing.unit
    most = native.model.visual_tokens
    full = unpruned_point(native.model.config.layers, most)
    cells = answered(native, (*IDS, TEXT_ONLY), full, smaller(6), smaller(most // 2, 0.5), smaller(2, 0.05))
    for (id, _), cell in cells.items():
        whole = cells[id, full.key]
        for name in ("visual_tokens", "prompt_tokens", "text_tokens", "maps"):
            assert getattr(cell, name) == getattr(whole, name)
    model = replace(native.spec.model, max_pixels=6 * unit**2)
    less = engine_of(model, native.spec.task.data, conversation="chat_template")
    less = with_images(less, Path(native.spec.model.path))
    whole = unpruned_point(less.model.config.layers, less.model.visual_tokens)
    for (id, _), theirs in answered(less, (*IDS, TEXT_ONLY), whole).items():
        ours = cells[id, smaller(6).key]
        assert ours.tokens_kept == theirs.visual_tokens <= 6
        assert ours.answer == theirs.answer
        assert ours.option_logits == pytest.approx(theirs.option_logits, abs=1e-4)
    assert {cells[id, smaller(6).key].visual_tokens > 6 for id in IDS} == {True, False}
    assert {cells[id, smaller(2, 0.05).key].tokens_kept for id in IDS} == {1}
    for id in IDS:
        half = cells[id, smaller(most // 2, 0.5).key]
        assert half.tokens_kept == len(places(half)) <= (half.visual_tokens + 1) // 2 < half.visual_tokens
        slow = slow_answer(native.model, native.spec, native.samples[id], smaller(6), native.letter_tokens[:2])
        cell = cells[id, smaller(6).key]
        assert (slow.text, slow.kept_mask, slow.prompt_tokens) == (cell.answer, cell.kept_mask, cell.prompt_tokens)


def test_a_question_that_fails_is_one_record_whatever_is_shown_of_its_image(engine):
    points = (unpruned_point(2, 16), smaller(4), smaller(9))
    outcome = engine.run(WorkUnit(samples=("1", "gone", "2"), points=points))
    assert [failure.sample for failure in outcome.failures] == ["gone"]
    assert [(cell.sample, cell.point) for cell in outcome.outcomes] == [(s, p.key) for p in points for s in ("1", "2")]


@settings(deadline=None, max_examples=few(200))
@given(
    height=st.integers(1, 900),
    ratio=st.floats(0.01, 100),
    least=st.sampled_from([1, 784, 60_000]),
    tokens=st.integers(1, 400),
)
def test_a_smaller_image_has_no_more_tokens_than_are_asked(height, ratio, least, tokens):
    resizing, image = Resizing(14, 2, least, 400 * 784), (height, max(1, int(height * ratio)))
    whole, less = resizing.grid(image), resizing.smaller(image, tokens)
    assert math.prod(less) <= tokens
    assert all(1 <= few <= many for few, many in zip(less, whole, strict=True))
    kept = middles(whole, less)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert 0 <= kept[0] <= kept[-1] < math.prod(whole)
    if math.prod(whole) <= tokens:
        assert less == whole
    elif least == 1 and min(less) > 1:
        assert less == Resizing(14, 2, 1, tokens * 784).grid(image)


@pytest.mark.parametrize(
    ("config", "point", "said"),
    [
        ({"side": 24}, {"rank": 100}, None),
        ({"side": 24}, {"rank": 192}, "rank: downsample makes no 192 tokens of 24 x 24; take 169 or 196"),
        ({"side": 0}, {"rank": 100}, "downsample shows one square smaller, and this model's images are none"),
        ({"side": 0, "position_parts": 3}, {"rank": 192}, None),
        ({"side": 24}, {"rank": 100, "positions": "keep"}, "positions: downsample feeds tokens of a smaller image"),
        ({"side": 24}, {"rank": 100, "layer": 2}, "layer: downsample chooses before the first decoder layer"),
    ],
)
def test_what_cannot_be_shown_smaller_is_one_line(config, point, said):
    found = complaint(get("downsample"), {}, Facts(**config), **{"layer": 0, **point})
    assert found is None if said is None else found.startswith(said)


def test_a_model_that_is_hooked_cannot_be_shown_another_image(engine):
    with (
        pytest.raises(UsageError, match="or give the processor a smaller one"),
        pruned(engine.model.module, "downsample", 0, 4),
    ):
        pass
