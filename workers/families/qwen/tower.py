"""Qwen2-VL's vision tower as a place that evidence comes from: one image, whose rows are tokens of 2 x 2 patches.

The tower works on patches, those of a token next to one another and, where it has windows, the tokens of a window
next to one another. What a strategy reads has one row a token, in the order of the decoder: hidden states, queries and
keys are the mean over the token's patches; of attention a token gives the mean of what its patches give and receives
the sum, so that a row still sums to 1. In a layer with windows nothing is given outside of one's own.

Queries and keys of a layer are computed again from what entered it, as in ``llava/tower.py``.

Shape letters: see ``workers/sites.py``; here also M patches of a token, W window.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from workers.sites import ATTENTION_VALUES, Tower

THETA = 10000.0  # of the rotary positions of patches, which no published configuration states


class QwenTower(Tower):
    """What the tower's forward leaves of one image."""

    class_token = None
    given = slice(None)

    def __init__(
        self, visual: Any, hidden_states: Sequence[Tensor], grid: tuple[int, int], full_layers: Collection[int]
    ) -> None:
        """Take what one forward of the tower left.

        Args:
            visual: the tower.
            hidden_states: (patches, C) each, what entered every layer, and what left the last one, as the tower
                ordered them.
            grid: rows and columns of tokens.
            full_layers: those without windows.
        """
        self._blocks = visual.blocks
        self.layers, self.grid = len(self._blocks), grid
        self._full = full_layers
        self._merge: int = visual.spatial_merge_size
        windowed = len(full_layers) < self.layers
        window = visual.window_size // visual.patch_size // self._merge if windowed else max(grid)
        device = hidden_states[0].device
        row_V, column_V = torch.meshgrid(*(torch.arange(side, device=device) for side in grid), indexing="ij")
        self._place_V2 = torch.stack((row_V.flatten(), column_V.flatten()), dim=1)
        window_V2 = self._place_V2 // window
        self._window_V = window_V2[:, 0] * len(self._place_V2) + window_V2[:, 1]
        ordered_V = self._window_V.argsort(stable=True)  # the tower's order
        self._at_V = torch.empty_like(ordered_V)
        self._at_V[ordered_V] = torch.arange(len(ordered_V), device=device)
        self._hidden_states = hidden_states

    def hidden(self, index: int) -> Tensor:
        return self._patches(index).mean(dim=1)[None]

    def keys(self, layer: int) -> Tensor:
        return self._projected(layer, 1).mean(dim=1)[None]

    def queries(self, layer: int, rows: slice) -> Tensor:
        return self._projected(layer, 0)[rows].mean(dim=1)[None]

    def attention(self, layer: int, queries: slice) -> Tensor:
        layer %= self.layers
        query_QMHE, key_VMHE = self._projected(layer, 0)[queries].float(), self._projected(layer, 1).float()
        window_Q, (tokens, merged, heads, _) = self._window_V[queries], key_VMHE.shape
        scale = self._blocks[layer].attn.scaling
        step = max(1, ATTENTION_VALUES // (heads * tokens * merged**2))
        parts = []
        for some_QMHE, inside_Q in zip(query_QMHE.split(step), window_Q.split(step), strict=True):
            scores_HQMVM = torch.einsum("qmhe,vnhe->hqmvn", some_QMHE, key_VMHE) * scale
            if layer not in self._full:
                outside_QV = inside_Q[:, None] != self._window_V
                scores_HQMVM = scores_HQMVM.masked_fill(outside_QV[None, :, None, :, None], -torch.inf)
            shared_HQMVM = scores_HQMVM.flatten(3).softmax(dim=-1).unflatten(-1, (tokens, merged))
            parts.append(shared_HQMVM.sum(dim=-1).mean(dim=2))
        return torch.cat(parts, dim=1)[None]

    def selected(self, rows: slice) -> Tensor:
        """As the merger is given them: a token's patches side by side."""
        return self._patches(-1)[rows].flatten(1)[None]

    def _patches(self, index: int) -> Tensor:
        """(V, M, C) hidden states in the order of tokens."""
        states_VMC = self._hidden_states[index].unflatten(0, (-1, self._merge**2))
        return states_VMC[self._at_V]

    def _projected(self, layer: int, which: int) -> Tensor:
        """(V, M, H, E) queries (0) or keys (1) of a layer, positions applied."""
        block = self._blocks[layer]
        attention, width = block.attn, block.attn.dim
        own = slice(which * width, (which + 1) * width)
        normed_VMC = block.norm1(self._hidden_states[:-1][layer].unflatten(0, (-1, self._merge**2))[self._at_V])
        rows_VMC = linear(normed_VMC, attention.qkv.weight[own], attention.qkv.bias[own])
        return self._turned(rows_VMC.unflatten(-1, (attention.num_heads, -1)))

    def _turned(self, rows_VMHE: Tensor) -> Tensor:
        """Rotary positions of patches: the first half of the angles by their row, the second by their column."""
        quarter = rows_VMHE.shape[-1] // 4
        device = rows_VMHE.device
        inner_M2 = torch.cartesian_prod(*[torch.arange(self._merge, device=device)] * 2)
        place_VM2 = self._place_V2[:, None] * self._merge + inner_M2
        speed = THETA ** -(torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
        angle_VM1E = (place_VM2[..., None] * speed).flatten(2).repeat(1, 1, 2)[:, :, None]
        rows = rows_VMHE.float()
        first, second = rows.chunk(2, dim=-1)
        turned = rows * angle_VM1E.cos() + torch.cat((-second, first), dim=-1) * angle_VM1E.sin()
        return turned.to(rows_VMHE.dtype)
