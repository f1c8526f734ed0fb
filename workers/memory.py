"""How many samples go through a GPU together: planned from free memory and each sample's own length, not guessed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from strategies import catalog
from workers.families.config import ModelConfig
from workers.work import UNPRUNED, GridPoint

ENOUGH_ROWS = (
    60_000  # matrix products gain nothing beyond, and there are two lanes of them (measured: 40,000 1.3 % slower)
)
DECODED_ALLOWANCE = 64  # decoded tokens a sequence that are planned for; longer answers may halve the micro-batch
SAFETY = 0.8  # of the free memory: fragments, scoring and the vision tower take the rest


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one sample asks of a device."""

    rows: int  # packed rows of the layer that has most
    bytes: int  # caches of all layers and the activations of one


def footprint(
    config: ModelConfig, points: Sequence[GridPoint], *, prompt: int, visual: int, decoded: int, value_bytes: int
) -> Footprint:
    """An upper bound: grid points that share a fork are counted apart.

    Args:
        config: sizes of the model.
        points: the grid.
        prompt: tokens of the un-pruned prompt, visual ones included.
        visual: visual tokens among them.
        decoded: tokens decoded by each sequence.
        value_bytes: of one value, 2 in half precision.
    """
    layers, sequences = [prompt] * config.layers, 1
    for point in points:
        if point.strategy == UNPRUNED or point.rank >= visual or point.layer >= config.layers:
            continue  # answered by the trunk
        sequences += 1
        stages = catalog.get(point.strategy).stages(point.layer, point.rank, dict(point.params))
        for number, stage in enumerate(stages):
            end = stages[number + 1].layer if number + 1 < len(stages) else config.layers
            for layer in range(stage.layer, min(end, config.layers)):
                layers[layer] += min(stage.rank, visual) + prompt - visual
    key_values = 2 * config.kv_heads * config.head_dim
    wide = 4 * config.hidden + config.heads * config.head_dim + 3 * key_values + 3 * config.ffn
    cached = sum(layers) + sequences * decoded * config.layers
    return Footprint(max(layers), value_bytes * (key_values * cached + wide * max(layers)))


def budget_bytes(device: torch.device, resident: int) -> int:
    """Memory that all micro-batches under way may take together; without end where it is not the device's to plan.

    Args:
        device: where the model is.
        resident: bytes that stay allocated, the weights.
    """
    if device.type != "cuda":
        return sys.maxsize
    free, total = torch.cuda.mem_get_info(device)
    share = _read_share(device) if _read_share else 1.0
    return int(SAFETY * (min(free + torch.cuda.memory_reserved(device), share * total) - resident))


def share_gpu(share: float) -> None:
    """Let this process allocate no more than a part (0 .. 1) of its GPU's memory, because others use the rest."""
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


_read_share = getattr(torch.cuda.memory, "get_per_process_memory_fraction", None)  # torch 2.8 and newer
