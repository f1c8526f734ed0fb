"""What each grid point costs on the samples of an experiment: counted from the true tokens of every prompt."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from results.analysis.matrix import UNKNOWN as UNKNOWN_LENGTH
from results.analysis.matrix import CellMatrix, cells_of, image_lengths
from results.experiment import Experiment
from strategies import catalog
from workers.cost import Cost, cost, sees_whole_images, squares_of, visual_by_layer
from workers.evidence import provider_of
from workers.families.config import ModelConfig
from workers.provider import Provider
from workers.sites import Site
from workers.work import UNPRUNED, GridPoint

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
COLUMNS = tuple(Cost.__dataclass_fields__)
UNKNOWN = "unknown"  # in the place of evidence: what a rule reads that this project does not have


def costs(experiment: Experiment, matrix: CellMatrix | None = None) -> pd.DataFrame | None:
    """Cost of every grid point, mean over the image questions that the un-pruned model or any point has answered.

    All points are counted on the same questions, whether they have been answered yet or not, so that ratios compare.

    Args:
        experiment: Whose grid and model.
        matrix: Its cells, where they have been read already.

    Returns:
        One row per grid point: key, and the fields of `workers.cost.Cost`. ``selector_tflop`` is missing for strategies
        that read the text's rows where cells of an earlier version do not say how many of the prompt's tokens follow
        the image, and for rules of a user's own, whose file is not run to look at its cells. None where the experiment
        does not state its model's sizes, or has no cells.
    """
    lengths = image_lengths(matrix or cells_of(experiment))
    return count_costs(experiment.points, experiment.config.sizes, experiment.spec.model.dtype, lengths)


def count_costs(
    points: Sequence[GridPoint], config: ModelConfig | None, dtype: str, lengths: np.ndarray
) -> pd.DataFrame | None:
    """`costs` of grid points, from what it needs to know of an experiment.

    Args:
        points: The grid.
        config: The model's sizes; None where the experiment does not state them all.
        dtype: Of keys and values.
        lengths: From `results.analysis.matrix.image_lengths`.
    """
    if config is None or not lengths.size:
        return None
    images_2N = lengths[[1, 3]]
    known: dict[object, list[float]] = {}  # strategies that drop alike cost alike
    rows = []
    for point in points:
        work = _work(point, config, images_2N)
        if work not in known:
            known[work] = _mean_cost(config, work, lengths, VALUE_BYTES[dtype])
        rows.append({"key": point.key, **dict(zip(COLUMNS, known[work], strict=True))})
    return pd.DataFrame(rows)


# Evidence that is read: (its name, before which layer if that is where it comes from, visual tokens there are then).
_Reading = tuple[str, int | None, int]
# Of each number of visual tokens and squares: (these, visual tokens that the tower makes, those that each layer
# processes, what is read).
_WorkOn = tuple[int, tuple[int, ...], tuple[_Reading, ...]]
_Work = tuple[tuple[tuple[int, int], int, tuple[int, ...], tuple[_Reading, ...]], ...]


def answer() -> None:
    """Count what standard input asks, pickled by the process that started this one; quietly end where it has ended."""
    try:
        sys.stdout.buffer.write(pickle.dumps(count_costs(*pickle.load(sys.stdin.buffer))))
        sys.stdout.buffer.flush()
    except (EOFError, pickle.UnpicklingError, BrokenPipeError):
        os._exit(0)  # without a word about what could not be written


def _work(point: GridPoint, config: ModelConfig, images_2N: np.ndarray) -> _Work:
    images = np.unique(images_2N, axis=1).T.tolist()
    return tuple(((visual, squares), *_work_on(point, config, visual)) for visual, squares in images)


def _work_on(point: GridPoint, config: ModelConfig, visual: int) -> _WorkOn:
    point = point.of(visual)
    seen = visual
    stages: list[tuple[int, int]] = []
    readings: dict[_Reading, None] = {}
    if point.strategy not in (UNPRUNED, *catalog.CATALOG):  # a user's own: it chooses once, by what nobody knows here
        stages.append((point.layer, point.rank))
        readings[UNKNOWN, None, visual] = None
    elif point.strategy != UNPRUNED:
        strategy = catalog.get(point.strategy)
        seen = min(visual, point.rank) if strategy.smaller else visual
        for stage in strategy.stages(point.layer, point.rank, dict(point.params)):
            alive = min([visual, *(rank for _, rank in stages)])
            stages.append((stage.layer, stage.rank))
            if stage.layer < config.layers:
                needs = catalog.get(stage.strategy).needs
                readings |= dict.fromkeys(_reading(name, stage.layer, alive, visual) for name in sorted(needs))
    return seen, visual_by_layer(config.layers, visual, stages), tuple(readings)


def _reading(name: str, layer: int, alive: int, visual: int) -> _Reading:
    """What comes from the tower or the input is read once, whatever its tokens are used for."""
    return (name, layer, alive) if _provider(name).site is Site.DECODER else (name, None, visual)


def _provider(name: str) -> Provider:
    provider = provider_of(name)
    assert provider is not None, f"a strategy reads {name}, which nothing provides"
    return provider


def _selector_flop(
    config: ModelConfig, readings: tuple[_Reading, ...], squares: float, others: np.ndarray, text: np.ndarray
) -> Any:
    """Of all evidence that is read, for prompts with some numbers of other tokens than visual ones.

    Args:
        config: Of the model.
        readings: What is read.
        squares: That the tower sees of the image.
        others: Of each prompt the tokens that are not visual.
        text: Those of them after the image; below 0: not known.
    """
    after = np.where(text < 0, np.nan, text)
    flop: Any = 0
    for name, layer, visual in readings:
        if name == UNKNOWN:
            return np.full(others.shape, np.nan)
        # Attention at layer 0 is in experiments of earlier versions: they drew there, and read nothing.
        provider = _provider(name)
        if layer != 0 or not provider.layer_before:
            each: float = visual
            if provider.site is Site.TOWER and squares > 1 and sees_whole_images(config):
                each = visual / squares
            own = provider.flop(config, others + visual, each)
            if provider.site is Site.TOWER and np.any(own):  # what costs nothing does so of any number
                own = own * squares
            more = 0 if provider.text_flop is None else provider.text_flop(config, others + visual, visual, after)
            flop = flop + own + more
    return flop


def _mean_cost(config: ModelConfig, work: _Work, lengths: np.ndarray, value_bytes: int) -> list[float]:
    prompt_N, visual_N, text_N, squares_N, count_N = lengths
    total = np.zeros(len(COLUMNS))
    for (visual, squares), seen, layers, readings in work:
        here = (visual_N == visual) & (squares_N == squares)
        recorded = None if squares == UNKNOWN_LENGTH else squares
        shown = squares_of(config, visual, recorded)
        counted = cost(
            config,
            system=0,  # what stands before and after the image costs the same
            visual=layers,
            text=prompt_N[here] - visual,  # all lengths at once: a cost is a polynomial of them
            image_tokens=visual,
            squares=recorded,
            seen_tokens=seen,
            selector_flop=_selector_flop(config, readings, shown, prompt_N[here] - visual, text_N[here]),
            value_bytes=value_bytes,
        )
        values = {name: getattr(counted, name) for name in COLUMNS}
        total += [float(np.sum(np.broadcast_to(values[name], here.sum()) * count_N[here])) for name in COLUMNS]
    return list(total / count_N.sum())
