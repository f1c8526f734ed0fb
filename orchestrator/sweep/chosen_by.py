"""What a grid point's choice of tokens goes by, in words for people who look at the tokens it kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from strategies import catalog
from strategies.catalog import Strategy
from strategies.listed import KEEP_NOTHING
from strategies.stages import Stage
from workers import evidence
from workers.work import UNPRUNED, GridPoint

DRAWN = "drawn at random"
REMOVED = "every visual token is removed"
SAID = 4  # stages that are said one by one
NO_ATTENTION = "drawn at random: there is no attention before the first layer"  # in experiments of earlier versions


def chosen_by(point: GridPoint, position_parts: int = 1) -> str:
    """What stands under a picture of the kept tokens; empty for the un-pruned model.

    A picture of the kept places alone would mislead where a method prunes more than once, mixes dropped tokens into
    kept ones, renumbers positions, or has nothing to look at yet; so this says it.

    Args:
        point: of a sweep.
        position_parts: that a position id of the model has; those of several are never renumbered.
    """
    if point.strategy == UNPRUNED:
        return ""
    strategy = catalog.get(point.strategy)
    if strategy.smaller:
        return "the image was shown with fewer pixels; each place is the middle of what a token covers"
    if strategy.grids is not None:
        return (
            f"nothing is chosen: each place is the middle of what a row is made of{_positions(point, position_parts)}"
        )
    stages = strategy.stages(point.layer, point.rank, dict(point.params))
    if len(stages) > 1:
        steps = [_steps(list(some), words) for words, some in groupby(stages, _by)]
        words = f"in stages: {', '.join(steps)}; the picture shows what reached the last layer"
        return words + _positions(point, position_parts)
    words = _evidence(strategy, point.layer, dict(point.params))
    words = words if words.startswith((NO_ATTENTION, DRAWN, REMOVED)) else f"chosen by {words}"
    if strategy.merge is not None:
        words += "; each kept place also holds a weighted mean of all the others"
    if strategy.rows is not None:
        words += "; what the decoder sees there is the method's own: merged rows, and an order that may be another"
    return words + _positions(point, position_parts)


def _positions(point: GridPoint, parts: int) -> str:
    """What becomes of position ids, where that is not what one expects."""
    if parts > 1:
        return ""
    own = catalog.own_positions(catalog.get(point.strategy), point.layer, point.rank, dict(point.params))
    if point.positions == "keep":
        return "; position ids stay those of the whole image"
    return "; position ids are renumbered without gaps" if point.positions or own == ("compact",) else ""


def _by(stage: Stage) -> str:
    return _evidence(catalog.get(stage.strategy), stage.layer, dict(stage.params)) if stage.rank else ""


def _steps(stages: Sequence[Stage], words: str) -> str:
    """What goes by the same, one after the other; of many the first and the last."""
    if not words:
        return f"from layer {stages[0].layer} on none"
    if len(stages) > SAID:
        first, last = stages[0], stages[-1]
        return f"{len(stages)} from layer {first.layer} to {last.layer}, {first.rank} to {last.rank} left, by {words}"
    return ", ".join(f"from layer {stage.layer} on {stage.rank}" for stage in stages) + f" by {words}"


def _evidence(strategy: Strategy, layer: int, params: Mapping[str, Any]) -> str:
    if layer == 0 and evidence.reads_layer_before(strategy.needs):
        return NO_ATTENTION
    if strategy.name in KEEP_NOTHING:
        return REMOVED
    words, draws = evidence.words(strategy.needs), strategy.reads_seed(params)
    if strategy.name not in catalog.CATALOG and not words:
        return "a rule of one's own that looks at nothing"
    if draws and not words:
        return f"{DRAWN}, once for each image" if strategy.draws_per == "image" else DRAWN
    return f"{words} and a draw" if draws else words or "a fixed pattern of places"
