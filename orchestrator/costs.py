"""What each grid point costs on the samples of an experiment: counted from the true tokens of every prompt."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.store import Experiment
from strategies import catalog
from strategies.catalog import Strategy
from workers.cost import Cost, cost, visual_by_layer
from workers.models import ModelFacts, VisionFacts
from workers.work import BASELINE, GridPoint

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
COLUMNS = tuple(Cost.__dataclass_fields__)


def costs(experiment: Experiment) -> pd.DataFrame | None:
    """Cost of every grid point, mean over the image questions that the un-pruned model or any point has answered.

    All points are counted on the same questions, whether they have been answered yet or not, so that ratios compare.

    Returns:
        One row per grid point: key, and the fields of `workers.cost.Cost`. ``selector_tflop`` is missing for strategies
        that read the text's rows, because cells do not say how many of the prompt's tokens follow the image. None where
        the experiment does not state its model's sizes, or has no cells.
    """
    facts = _facts(experiment.meta["model_facts"])
    cells = experiment.cells(["prompt_tokens", "visual_tokens"])
    cells = cells[cells["visual_tokens"] > 0].drop_duplicates("sample")
    if facts is None or cells.empty:
        return None
    value_bytes = VALUE_BYTES[experiment.spec.model.dtype]
    lengths = cells.groupby(["prompt_tokens", "visual_tokens"]).size()
    rows = []
    for point in experiment.points:
        found = [_values(point, facts, int(prompt), int(visual), value_bytes) for prompt, visual in lengths.index]
        mean = np.average(np.array(found, dtype=float), axis=0, weights=lengths.to_numpy())
        rows.append({"key": point.key, **dict(zip(COLUMNS, mean, strict=True))})
    return pd.DataFrame(rows)


def _values(point: GridPoint, facts: ModelFacts, prompt: int, visual: int, value_bytes: int) -> list[float]:
    stages: list[tuple[int, int]] = []
    probed: dict[int, int] | None = {}
    if point.strategy != BASELINE:
        strategy = catalog.get(point.strategy)
        for stage in strategy.stages(point.layer, point.rank, dict(point.params)):
            stages.append((stage.layer, stage.rank))
            if probed is not None and 0 < stage.layer < facts.layers:
                alive = min([visual, *(rank for _, rank in stages[:-1])])
                rows = _probed(catalog.get(stage.strategy), alive)
                probed = None if rows is None else probed | ({stage.layer - 1: rows} if rows else {})
    counted = cost(
        facts,
        system=0,  # what stands before and after the image costs the same
        visual=visual_by_layer(facts.layers, visual, stages),
        text=prompt - visual,
        image_tokens=visual,
        probed=probed,
        value_bytes=value_bytes,
    )
    values = {**asdict(counted), **({"selector_tflop": np.nan} if probed is None else {})}
    return [float(values[name]) for name in COLUMNS]


def _probed(strategy: Strategy, visual: int) -> int | None:
    """Rows of attention that a strategy reads; None where that depends on the length of the text."""
    needs = {str(evidence.value) for evidence in strategy.needs}
    if needs & {"text_rows", "text_to_text"}:
        return None
    return int("last_row" in needs) + visual * ("visual_rows" in needs)


def _facts(stated: dict[str, Any]) -> ModelFacts | None:
    vision = stated.get("vision")
    try:
        return ModelFacts(**{**stated, "vision": VisionFacts(**vision) if vision else VisionFacts()})
    except TypeError:
        return None
