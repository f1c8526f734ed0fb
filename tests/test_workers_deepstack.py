"""What Qwen3-VL adds to visual rows between the first layers: seen by every fork, and by transformers' own forward.

That the numbers are those of the naive forward stands in ``test_workers_qwen.py``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from small_qwen import LAYERS, make_qwen, noise
from test_workers_qwen import SIZES, TOLERANCE, asked
from workers.added import AddedRows
from workers.engine import Engine
from workers.memory import RowBytes, footprint
from workers.patch import pruned
from workers.seen_images import KEPT, SeenImages
from workers.work import EngineSpec, GridPoint, ModelSpec, TaskSpec, WorkUnit, unpruned_point


@pytest.fixture(scope="module")
def engine(tmp_path_factory, small_scienceqa) -> Engine:
    model = ModelSpec(path=str(make_qwen(tmp_path_factory.mktemp("qwen3"), "qwen3_vl")), image_mode="native")
    task = TaskSpec(name="scienceqa", data=str(small_scienceqa), conversation="chat_template")
    return Engine.load(EngineSpec(model=model, task=task, max_new_tokens=4), device="cpu")


@pytest.mark.parametrize("first", [0, 1])
def test_what_is_added_between_layers_is_seen(engine, monkeypatch, first):
    """Without it, or without its second part, every answer is another: of the trunk, and of forks before and behind."""
    points = (
        unpruned_point(LAYERS, engine.model.visual_tokens),
        *(GridPoint(strategy="random", layer=layer, rank=4) for layer in range(LAYERS)),
    )
    unit, add = WorkUnit(samples=("1", "5"), points=points), AddedRows.add
    whole = engine.run(unit).outcomes
    monkeypatch.setattr(AddedRows, "add", lambda self, layer, *rest: add(self, layer, *rest) if layer < first else None)
    for cell, lacking in zip(whole, engine.run(unit).outcomes, strict=True):
        assert cell.kept_mask == lacking.kept_mask
        assert not np.allclose(cell.option_logits, lacking.option_logits, atol=1e-3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_is_pruned_as_each_alone(engine, side):
    """What is added between layers goes to the rows that are left, whose number differs."""
    model, points = engine.model, (("fastv", 1, 5), ("divprune", 0, 9), ("fps_merged", 2, 3), ("random", 1, 0))
    prompts = [*(asked(engine, noise(size)) for size in SIZES[:3]), asked(engine, None)]
    inputs = [model.inputs(prompt) for prompt in prompts]
    longest = max(prompt.length for prompt in prompts)
    rows = {}
    for name in ("input_ids", "mm_token_type_ids"):
        of_each = [
            one.get(name, torch.zeros(1, prompt.length).int())[0] for one, prompt in zip(inputs, prompts, strict=True)
        ]
        rows[name] = torch.stack([_padded(row, longest, side) for row in of_each])
    alive_BS = torch.stack([_padded(torch.ones(prompt.length, dtype=torch.int64), longest, side) for prompt in prompts])
    seen = {name: torch.cat([one[name] for one in inputs[:-1]]) for name in ("pixel_values", "image_grid_thw")}
    for strategy, layer, rank in points:
        with torch.no_grad():
            names = [str(number) for number in range(len(prompts))]
            with pruned(model.module, strategy, layer, rank, sample_ids=names):
                together = model.module(**rows, **seen, attention_mask=alive_BS).logits
            for number, one in enumerate(inputs):
                with pruned(model.module, strategy, layer, rank, sample_ids=names[number : number + 1]):
                    alone = model.module(**one).logits[0, -1]
                last = int(alive_BS[number].nonzero()[-1])
                torch.testing.assert_close(together[number, last], alone, **TOLERANCE, msg=f"{strategy} {number}")
    assert "_deepstack_process" not in vars(model.module.model.language_model)


def _padded(row: torch.Tensor, length: int, side: str) -> torch.Tensor:
    gap = row.new_zeros(length - len(row))
    return torch.cat((gap, row) if side == "left" else (row, gap))


def test_the_memory_of_what_is_added_is_counted(engine):
    """Of an image once, whatever is asked about it, until its last fork has run."""
    config, prompt = engine.model.config, asked(engine, noise(SIZES[0]))
    row, points = RowBytes.of(config, 4, 4), [GridPoint(strategy="random", layer=1, rank=4)]
    without = replace(row, added=0)
    (image,) = engine.model.see([prompt], {})
    sizes = {"prompt": prompt.length, "visual": prompt.visual, "system": prompt.system}
    ours, bare = footprint(row, points, **sizes), footprint(without, points, **sizes)
    assert ours.bytes - bare.bytes == ours.trunk_bytes - bare.trunk_bytes == image.added_JVD.nbytes
    assert ours.held_bytes - bare.held_bytes == AddedRows([image.added_JVD, None, image.added_JVD]).nbytes
    assert footprint(row, points, **sizes, further=True) == footprint(without, points, **sizes, further=True)
    kept = KEPT * config.visual_tokens * config.hidden * 4
    assert SeenImages.planned_bytes(config, 4) == (2 + len(image.added_JVD)) * kept
