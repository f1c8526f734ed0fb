"""What the engine answers today, against what it answered when its number was last raised: every strategy on one model.

Cells are addressed by `workers.rules.NUMERICS`, so that answers of two engines are not mixed. Where a test here fails
because the engine is meant to answer otherwise, raise NUMERICS and write the golden file again, in the same commit:

    python tests/test_workers_numerics.py
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from admitted import admitted
from small_clip import make_clip
from strategies.catalog import CATALOG
from workers.actor import EngineActor
from workers.embedded.location import DATA_DIR, MODEL_DIR
from workers.engine import Engine
from workers.fingerprint import sources_hash
from workers.rules import NUMERICS
from workers.work import EngineSpec, GridPoint, MeasureSpec, ModelSpec, SpectrumSpec, TaskSpec, WorkUnit, unpruned_point

GOLDEN = Path(__file__).parent / "golden" / "engine_numerics.json"
SAMPLES = ("300001", "300002")
RANK = 48
WIDTH = 128  # of the embedded model's vision tower
PARAMS: dict[str, dict[str, float | str]] = {
    "ablation": {"heads_kept": 2},
    "himap": {"second_rank": 24},
    "pyramiddrop": {"second_layer": 6, "third_layer": 9},
    "vispruner": {"important": 1.0},  # its rounds go another way by a last digit: see tests/test_strategies_tower.py
    "vscan": {"second_layer": 6},
    "sparsevlm_plus": {"second_layer": 4, "second_rank": 24, "third_layer": 8, "third_rank": 12},
    "sparsevlm": {"second_layer": 4, "second_rank": 24, "third_layer": 8, "third_rank": 12},
    "fitprune": {"left": "40-40-24-12"},
    "v2drop": {"second_layer": 4, "second_share": 0.5, "third_layer": 8, "third_rank": 1},
}
LOGITS = 2e-3  # float32 sums in another order, as other hosts and versions of torch take them; logits reach 20
CONDITION = 0.3  # of its logarithm: the smallest singular value of merged rows is near what float32 rounds away
SWAPPED = 1  # kept tokens that may give way to another one whose score is the same but for the last digits


def points(layers: int, visual: int) -> list[GridPoint]:
    """The un-pruned model, and every strategy after two layers, or before the first where it knows no other."""
    found = [unpruned_point(layers, visual)]
    for name, strategy in CATALOG.items():
        params = PARAMS.get(name, {})
        early = [n for n in (2, 0) if strategy.check(params, layer=n, rank=RANK, layers=layers, heads=4) is None]
        rank = admitted(strategy, RANK, visual)
        found.append(GridPoint(strategy=name, layer=early[0], rank=rank, params=tuple(params.items())))
    return found


def answered(text_tower: Path) -> dict[str, Any]:
    """Of each sample and strategy what a cell says, with the tokens kept as a hexadecimal mask."""
    spectrum = SpectrumSpec(matrix="hidden_states", layer=3, threshold=1e-6, power=2)
    spec = EngineSpec(
        model=ModelSpec(path=str(MODEL_DIR), text_tower=str(make_clip(text_tower, width=WIDTH))),
        task=TaskSpec(name="scienceqa", data=str(DATA_DIR)),
        max_new_tokens=4,
        measure=MeasureSpec(spectra=(spectrum,), quality=True),
    )
    engine = Engine.load(spec, device="cpu")
    grid = points(engine.model.config.layers, engine.model.visual_tokens)
    outcome = engine.run(WorkUnit(samples=SAMPLES, points=tuple(grid)))
    assert outcome.failures == ()
    labels = {point.key: point.label for point in grid}
    return {
        f"{cell.sample} {labels[cell.point]}": {
            "answer": cell.answer,
            "kept": cell.kept_mask.hex(),
            "logits": [round(value, 4) for value in cell.option_logits],
            "tokens": [cell.prompt_tokens, cell.visual_tokens, cell.decoded_tokens],
            "measures": {name: float(f"{value:.5g}") for name, value in cell.measures},
        }
        for cell in outcome.outcomes
    }


@pytest.fixture(scope="module")
def today(tmp_path_factory) -> dict[str, Any]:
    return answered(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(GOLDEN.read_text())
    return value


def test_the_golden_file_is_of_this_number(golden):
    assert golden["numerics"] == NUMERICS, f"write the golden file again: {__doc__}"


def test_every_strategy_is_in_it(golden, today):
    assert golden["cells"].keys() == today.keys()
    assert {key.split()[1] for key in today} == {*CATALOG, "un-pruned"}


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_engine_answers_as_it_did(golden, today, sample):
    remedy = "the engine answers otherwise: raise NUMERICS on purpose and write the golden file again"
    for key, now in today.items():
        then = golden["cells"][key]
        if not key.startswith(sample):
            continue
        what = f"{key}: {remedy}"
        assert (now["answer"], now["tokens"]) == (then["answer"], then["tokens"]), what
        differ = (int(now["kept"], 16) ^ int(then["kept"], 16)).bit_count() if now["kept"] else 0
        assert differ <= 2 * SWAPPED, what
        if differ == 0:  # another token changes more than a last digit
            np.testing.assert_allclose(now["logits"], then["logits"], atol=LOGITS, err_msg=what)
            assert now["measures"].keys() == then["measures"].keys(), what
            for name, value in now["measures"].items():
                near = {"abs": CONDITION} if name.endswith("log10_condition") else {"rel": 2e-2, "abs": 1e-3}
                assert value == pytest.approx(then["measures"][name], **near), f"{name}, {what}"


def test_an_answer_says_by_what_it_was_computed(small_checkpoint, small_scienceqa):
    task = TaskSpec(name="scienceqa", data=str(small_scienceqa))
    spec = EngineSpec(model=ModelSpec(path=str(small_checkpoint)), task=task, max_new_tokens=1)
    outcome = EngineActor(spec, "cpu").run(WorkUnit(samples=("1",), points=(unpruned_point(2, 16),)))
    made_by = dict(outcome.made_by)
    assert outcome.worker.startswith(f"{platform.node()} cpu ")
    assert (made_by["numerics"], made_by["sources"]) == (str(NUMERICS), sources_hash())
    assert made_by.keys() == {"saccade", "sources", "numerics", "python", "torch", "transformers", "device"}
    assert all(made_by.values())


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps({"numerics": NUMERICS, "cells": answered(Path(folder))}, indent=0) + "\n")
    sys.exit(0)
