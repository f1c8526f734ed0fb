"""How a grid takes the memory of a card, said without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

from workers import evidence
from workers.families.config import ModelConfig
from workers.memory import (
    CACHES,
    CONTEXT_BYTES,
    SAFETY,
    WORKSPACE_BYTES,
    Budget,
    RowBytes,
    arrange,
    footprint,
    lane_budget,
    layer_bytes,
    layers_away,
    resident_bytes,
)
from workers.work import GridPoint


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a grid takes the memory of a card."""

    least: int  # bytes of the smallest card that would do: weights, the trunk of a sample, one fork
    weights: int  # on the card
    away: int  # decoder layers in host memory
    away_bytes: int  # of them
    host: int  # bytes of host memory that caches take at most
    lanes: int  # micro-batches side by side
    samples: int  # of a micro-batch
    waves: int  # that it takes
    peak: int  # bytes at most, the weights among them


def forecast(
    config: ModelConfig,
    points: Sequence[GridPoint],
    memory: int,
    *,
    host: int,
    prompt: int,
    visual: int,
    system: int,
    value_bytes: int,
    max_new_tokens: int,
    samples: int,
    questions: float = 1.0,
    offload: int | str = "auto",
) -> Forecast:
    """Plan a micro-batch without a card.

    Args:
        config: sizes of the model.
        points: the grid.
        memory: bytes of the card.
        host: bytes of host memory that caches may take, see ``host_memory.cache_bytes``.
        prompt, visual, system: tokens of a sample, of its image, and before it.
        value_bytes: of one value, 2 in half precision.
        max_new_tokens: decoded at most.
        samples: that there are.
        questions: about each image, on average.
        offload: as ``model.offload`` says.

    Raises:
        ModelError: the card is too small for the weights, whatever is done.
    """
    away = layers_away(config, value_bytes, offload, memory)
    weights = resident_bytes(config, value_bytes, away)
    needs = evidence.needed(points)
    scratch, entered = evidence.scratch(needs, config, prompt, visual), evidence.reads_entered(needs)
    row = RowBytes.of(config, value_bytes, max_new_tokens)
    least_row = arrange(0, host, row, streamed=away > 0)[1].within(Budget(1, 1), scratch, entered)
    alone = footprint(least_row, points, prompt=prompt, visual=visual, system=system)
    rows = max((min(point.of(visual).rank, visual) for point in points), default=0) + prompt - visual
    fork = alone.held_bytes + least_row.wave(rows * config.layers, rows, 1)
    fixed = weights + CONTEXT_BYTES + WORKSPACE_BYTES
    least = fixed + int(max(alone.trunk_bytes, fork if alone.held_bytes else 0) / SAFETY)
    free = int(SAFETY * (memory - fixed))
    count, row = arrange(free, host, row, streamed=away > 0)
    budget = lane_budget(free, host, count, row, streamed=away > 0)
    row = row.within(budget, entered=entered)
    asked = partial(footprint, row, points, prompt=prompt, visual=visual, system=system, scratch=scratch)
    first, further = asked(), asked(further=True)
    total, together = first, 1
    while together < samples and budget.takes(total, one := further if together % int(questions) else first):
        total, together = total + one, together + 1
    waves = max(1, ceil(budget.waves(total, scratch)))
    most = fixed + count * min(total.bytes + scratch, budget.bytes)
    on_host = count * min(CACHES * budget.host_bytes, 3 * total.host_bytes + total.held_host_bytes)
    return Forecast(
        least, weights, away, away * layer_bytes(config, value_bytes), on_host, count, together, waves, most
    )
