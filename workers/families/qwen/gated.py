"""The feed-forward of Qwen2.5-VL's tower, padded to a width that tensor cores take whole.

It is 3,420 wide, no multiple of 8, and cuBLAS has only kernels of two generations ago for such rows: they took a fifth
of a sweep over cut-offs (``docs/performance.md``). Padded with zeros it computes the same.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from workers.kernels import gated_silu

ALIGNED = 64  # values


class GatedMlp:
    """down(silu(gate(x)) * up(x)), gate and up as one product; the module's own weights become views of the padded."""

    def __init__(self, mlp: Any) -> None:
        """Take the weights over.

        Args:
            mlp: transformers', whose activation is SiLU.
        """
        gate, up, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        width, padded = down.in_features, ALIGNED * ceil(down.in_features / ALIGNED)
        weight_IFC = gate.weight.new_zeros(2, padded, gate.in_features)
        bias_IF = None if gate.bias is None else gate.bias.new_zeros(2, padded)
        for place, part in enumerate((gate, up)):
            part.weight = _moved(part.weight, weight_IFC[place, :width])
            if bias_IF is not None:
                part.bias = _moved(part.bias, bias_IF[place, :width])
        self._down_CF = down.weight.new_zeros(down.out_features, padded)
        down.weight = _moved(down.weight, self._down_CF[:, :width])
        self._down_bias = down.bias
        self._gate_up = weight_IFC.flatten(0, 1), None if bias_IF is None else bias_IF.flatten()

    def __call__(self, rows_RC: Tensor) -> Tensor:
        """(R, C)."""
        return linear(gated_silu(linear(rows_RC, *self._gate_up)), self._down_CF, self._down_bias)


def feed_forwards(visual: Any) -> list[GatedMlp | Any]:
    """Of each of a tower's layers: padded where it is gated, else transformers'."""
    silu = visual.config.hidden_act == "silu"
    mlps = [block.mlp for block in visual.blocks]
    return [GatedMlp(mlp) if silu and hasattr(mlp, "gate_proj") else mlp for mlp in mlps]


def _moved(weight: Tensor, room: Tensor) -> nn.Parameter:
    with torch.no_grad():
        room.copy_(weight)
    return nn.Parameter(room, requires_grad=False)
