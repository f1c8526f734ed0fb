"""What each grid point costs on the samples of an experiment: counted from the true tokens of every prompt."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from results.analysis.matrix import CellMatrix, image_lengths
from results.experiment import Experiment
from strategies import catalog
from strategies.catalog import Strategy
from workers.cost import Cost, cost, visual_by_layer
from workers.families.config import ModelConfig
from workers.work import UNPRUNED, GridPoint

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
COLUMNS = tuple(Cost.__dataclass_fields__)


def costs(experiment: Experiment, matrix: CellMatrix | None = None) -> pd.DataFrame | None:
    """Cost of every grid point, mean over the image questions that the un-pruned model or any point has answered.

    All points are counted on the same questions, whether they have been answered yet or not, so that ratios compare.

    Args:
        experiment: Whose grid and model.
        matrix: Its cells, where they have been read already.

    Returns:
        One row per grid point: key, and the fields of `workers.cost.Cost`. ``selector_tflop`` is missing for strategies
        that read the text's rows, because cells do not say how many of the prompt's tokens follow the image. None where
        the experiment does not state its model's sizes, or has no cells.
    """
    if matrix is None:
        matrix = CellMatrix(experiment)
        matrix.read()
    lengths = image_lengths(matrix)
    return count_costs(experiment.points, experiment.meta["model_facts"], experiment.spec.model.dtype, lengths)


def count_costs(
    points: Sequence[GridPoint], stated: Mapping[str, Any], dtype: str, lengths: np.ndarray
) -> pd.DataFrame | None:
    """`costs` of grid points, from what it needs to know of an experiment.

    Args:
        points: The grid.
        stated: The model's sizes, as the experiment states them.
        dtype: Of keys and values.
        lengths: From `results.analysis.matrix.image_lengths`.
    """
    config = ModelConfig.from_json(stated)
    if config is None or not lengths.size:
        return None
    prompt_N, visual_N, count_N = lengths
    known: dict[object, list[float]] = {}  # strategies that drop alike cost alike
    rows = []
    for point in points:
        work = _work(point, config, visual_N)
        if work not in known:
            known[work] = _mean_cost(config, work, prompt_N, visual_N, count_N, VALUE_BYTES[dtype])
        rows.append({"key": point.key, **dict(zip(COLUMNS, known[work], strict=True))})
    return pd.DataFrame(rows)


# Of each number of visual tokens: (itself, those that each layer processes, (layer, rows of attention read) or None).
_Work = tuple[tuple[int, tuple[int, ...], tuple[tuple[int, int], ...] | None], ...]


def answer() -> None:
    """Count what standard input asks, pickled by the process that started this one; quietly end where it has ended."""
    try:
        sys.stdout.buffer.write(pickle.dumps(count_costs(*pickle.load(sys.stdin.buffer))))
        sys.stdout.buffer.flush()
    except (EOFError, pickle.UnpicklingError, BrokenPipeError):
        os._exit(0)  # without a word about what could not be written


def _work(point: GridPoint, config: ModelConfig, visual_N: np.ndarray) -> _Work:
    return tuple(_work_on(point, config, int(visual)) for visual in np.unique(visual_N))


def _work_on(
    point: GridPoint, config: ModelConfig, visual: int
) -> tuple[int, tuple[int, ...], tuple[tuple[int, int], ...] | None]:
    stages: list[tuple[int, int]] = []
    probed: dict[int, int] | None = {}
    if point.strategy != UNPRUNED:
        strategy = catalog.get(point.strategy)
        for stage in strategy.stages(point.layer, point.rank, dict(point.params)):
            stages.append((stage.layer, stage.rank))
            if probed is not None and 0 < stage.layer < config.layers:
                alive = min([visual, *(rank for _, rank in stages[:-1])])
                rows = _probed(catalog.get(stage.strategy), alive)
                probed = None if rows is None else probed | ({stage.layer - 1: rows} if rows else {})
    layers = visual_by_layer(config.layers, visual, stages)
    return visual, layers, None if probed is None else tuple(probed.items())


def _mean_cost(
    config: ModelConfig, work: _Work, prompt_N: np.ndarray, visual_N: np.ndarray, count_N: np.ndarray, value_bytes: int
) -> list[float]:
    total = np.zeros(len(COLUMNS))
    for visual, layers, probed in work:
        here = visual_N == visual
        counted = cost(
            config,
            system=0,  # what stands before and after the image costs the same
            visual=layers,
            text=prompt_N[here] - visual,  # all lengths at once: a cost is a polynomial of them
            image_tokens=visual,
            probed=None if probed is None else dict(probed),
            value_bytes=value_bytes,
        )
        values = {name: getattr(counted, name) for name in COLUMNS}
        if probed is None:
            values["selector_tflop"] = np.nan
        total += [float(np.sum(np.broadcast_to(values[name], here.sum()) * count_N[here])) for name in COLUMNS]
    return list(total / count_N.sum())


def _probed(strategy: Strategy, visual: int) -> int | None:
    """Rows of attention that a strategy reads; None where that depends on the length of the text."""
    needs = {str(evidence.value) for evidence in strategy.needs}
    if needs & {"text_rows", "text_to_text"}:
        return None
    return int("last_row" in needs) + visual * ("visual_rows" in needs)
