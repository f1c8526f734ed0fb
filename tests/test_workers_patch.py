"""The patch on stock transformers against the engine: the same tokens kept, the same answers, the same logits."""

from __future__ import annotations

import pytest
import torch

from small_llava import make_checkpoint
from test_workers_engine import make_engine
from workers.images import load_image, to_pixels
from workers.patch import pruned
from workers.tasks.prompts import build_prompt
from workers.work import GridPoint, WorkUnit

# Kernels differ in the order of their sums only; the weights are scaled up, so logits reach 1e2.
LOGIT_TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}
TEXT_ONLY = "6"


@pytest.fixture(scope="module")
def engine(small_checkpoint, small_scienceqa):
    return make_engine(small_checkpoint, small_scienceqa, max_new_tokens=4)


@pytest.fixture(scope="module")
def deep_engine(tmp_path_factory, small_scienceqa):
    """Three layers, and answers that run to the end of the budget."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("deep"), seed=3, layers=3, end_bias=-0.9)
    return make_engine(checkpoint, small_scienceqa, max_new_tokens=12)


def batch_inputs(engine, ids, side: str = "left", extra: int = 0) -> dict[str, torch.Tensor]:
    """What a processor would give: expanded image tokens, padding on one side, a mask, pixels of those with an image."""
    rows, pictures = [], []
    image_token = engine.llava.image_token
    visual = (engine.llava.model.config.vision_config.image_size // 14) ** 2
    for id in ids:
        sample = engine.samples[id]
        tokens = engine.llava.encode(build_prompt(sample, "vicuna_v1", True)).ids
        rows.append([t for token in tokens for t in [token] * (visual if token == image_token else 1)])
        if sample.image is not None:
            pictures.append(to_pixels(load_image(sample.image), "pad", engine.llava.image_processor))
    width = max(map(len, rows)) + extra
    fill = [[0] * (width - len(row)) for row in rows]
    ones = [[1] * len(row) for row in rows]
    join = (lambda pad, row: pad + row) if side == "left" else (lambda pad, row: row + pad)
    inputs = {
        "input_ids": torch.tensor([join(pad, row) for pad, row in zip(fill, rows, strict=True)]),
        "attention_mask": torch.tensor([join(pad, one) for pad, one in zip(fill, ones, strict=True)]),
    }
    return inputs | ({"pixel_values": torch.stack(pictures)} if pictures else {})


def patched_answers(engine, ids, point: GridPoint, **changes):
    """(texts, first-token logits, kept) of the model's own generate inside the block."""
    inputs = batch_inputs(engine, ids)
    arguments = {"do_sample": False, "max_new_tokens": engine.spec.max_new_tokens, "pad_token_id": 0} | changes
    with pruned(
        engine.llava.model, point.strategy, point.layer, point.rank, sample_ids=ids, **dict(point.params)
    ) as report:
        out = engine.llava.model.generate(**inputs, **arguments, output_logits=True, return_dict_in_generate=True)
    answers = out.sequences[:, inputs["input_ids"].shape[1] :]
    texts = [text.strip() for text in engine.llava.tokenizer.batch_decode(answers, skip_special_tokens=True)]
    return texts, out.logits[0], report.kept


def assert_equals_engine(engine, ids, points, **changes) -> None:
    cells = {(c.sample, c.point): c for c in engine.run(WorkUnit(samples=tuple(ids), points=tuple(points))).outcomes}
    for point in points:
        texts, logits, kept = patched_answers(engine, ids, point, **changes)
        for row, id in enumerate(ids):
            cell = cells[id, point.key]
            letters = engine.letter_tokens[: len(cell.option_logits)]
            assert texts[row] == cell.answer, point.label
            assert int(logits[row].argmax()) == cell.first_token
            torch.testing.assert_close(
                logits[row, letters], torch.tensor(cell.option_logits), **LOGIT_TOLERANCE, msg=point.label
            )
            first, second = logits[row].topk(2).values.tolist()
            assert first - second == pytest.approx(cell.margin, abs=1e-4, rel=1e-5)
            assert len(kept[row]) == cell.tokens_kept if kept else point.layer == len(engine.llava.layers)


def points_of(layers: int, visual: int, ranks=(1, 5)) -> list[GridPoint]:
    points = []
    for layer in range(layers + 1):
        points.append(GridPoint(strategy="cutoff", layer=layer, rank=0))
        for name in ("fastv", "random"):
            points += [GridPoint(strategy=name, layer=layer, rank=rank) for rank in (0, *ranks, visual - 1, visual)]
    return points


@pytest.mark.parametrize("ids", [["1"], ["1", TEXT_ONLY, "2"]], ids=["alone", "padded"])
def test_equals_engine(engine, ids):
    assert_equals_engine(engine, ids, points_of(2, 16))


@pytest.mark.parametrize("ids", [["1"], [TEXT_ONLY, "1", "2"]], ids=["alone", "padded"])
def test_long_answers_equal_engine(deep_engine, ids):
    """A dozen decoded tokens, in which every cached key is read."""
    assert_equals_engine(deep_engine, ids, points_of(3, 16, ranks=(4,)))
