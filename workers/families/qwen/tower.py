"""Qwen2-VL's vision tower as a place that evidence comes from: one image, whose rows are tokens of 2 x 2 patches.

What a strategy reads has one row a token, in the order of the decoder: hidden states, queries and keys are the mean
over the token's patches; of attention a token gives the mean of what its patches give and receives the sum, so that a
row still sums to 1. In a layer with windows nothing is given outside of one's own.

Queries and keys of a layer are computed again from what entered it, as in ``llava/tower.py``.

Shape letters: see ``workers/sites.py``; here also M patches of a token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from workers.families.qwen.grid import TokenGrid, turned
from workers.sites import ATTENTION_VALUES, Tower


class QwenTower(Tower):
    """What the tower's forward leaves of one image."""

    class_token = None
    given = slice(None)

    def __init__(
        self, visual: Any, hidden_states: Sequence[Tensor], grid: TokenGrid, full_layers: Collection[int]
    ) -> None:
        """Take what one forward of the tower left.

        Args:
            visual: the tower.
            hidden_states: (patches, C) each, what entered every layer, and what left the last one, as the tower
                ordered them.
            grid: where the image's tokens lie.
            full_layers: those without windows.
        """
        self._blocks = visual.blocks
        self.layers, self.grid = len(self._blocks), grid.size
        self._full, self._tokens, self._hidden_states = full_layers, grid, hidden_states

    def hidden(self, index: int) -> Tensor:
        return self._patches(self._hidden_states[index]).mean(dim=1)[None]

    def keys(self, layer: int) -> Tensor:
        return self._projected(layer, 1).mean(dim=1)[None]

    def queries(self, layer: int, rows: slice) -> Tensor:
        return self._projected(layer, 0)[rows].mean(dim=1)[None]

    def attention(self, layer: int, queries: slice) -> Tensor:
        layer %= self.layers
        query_QMHE, key_VMHE = self._projected(layer, 0)[queries].float(), self._projected(layer, 1).float()
        window_V = self._tokens.window_V
        tokens, merged, heads, _ = key_VMHE.shape
        scale = self._blocks[layer].attn.scaling
        step = max(1, ATTENTION_VALUES // (heads * tokens * merged**2))
        parts = []
        for some_QMHE, inside_Q in zip(query_QMHE.split(step), window_V[queries].split(step), strict=True):
            scores_HQMVM = torch.einsum("qmhe,vnhe->hqmvn", some_QMHE, key_VMHE) * scale
            if layer not in self._full:
                outside_QV = inside_Q[:, None] != window_V
                scores_HQMVM = scores_HQMVM.masked_fill(outside_QV[None, :, None, :, None], -torch.inf)
            shared_HQMVM = scores_HQMVM.flatten(3).softmax(dim=-1).unflatten(-1, (tokens, merged))
            parts.append(shared_HQMVM.sum(dim=-1).mean(dim=2))
        return torch.cat(parts, dim=1)[None]

    def selected(self, rows: slice) -> Tensor:
        """As the merger is given them: a token's patches side by side."""
        return self._patches(self._hidden_states[-1])[rows].flatten(1)[None]

    def _patches(self, states_RC: Tensor) -> Tensor:
        """(V, M, C) in the order of tokens."""
        return states_RC.unflatten(0, (-1, self._tokens.merge**2))[self._tokens.at_V]

    def _projected(self, layer: int, which: int) -> Tensor:
        """(V, M, H, E) queries (0) or keys (1) of a layer, positions applied."""
        block = self._blocks[layer]
        attention, width = block.attn, block.attn.dim
        own = slice(which * width, (which + 1) * width)
        normed_VMC = block.norm1(self._patches(self._hidden_states[:-1][layer]))
        rows_VMC = linear(normed_VMC, attention.qkv.weight[own], attention.qkv.bias[own])
        angles_VM1E = self._tokens.angles(attention.head_dim)[:, :, None]
        return turned(rows_VMC.unflatten(-1, (attention.num_heads, -1)), angles_VM1E.cos(), angles_VM1E.sin())


def towers_of(
    visual: Any, hidden_states: Sequence[Tensor], grids: Sequence[TokenGrid], full_layers: Collection[int]
) -> list[QwenTower]:
    """The tower of each image that went through it together with others.

    Args:
        visual: transformers' tower.
        hidden_states: what entered each of its layers and left the last, of all images.
        grids: where their tokens lie.
        full_layers: those without windows.
    """
    states = zip(*(state.split([grid.patches for grid in grids]) for state in hidden_states), strict=True)
    return [QwenTower(visual, own, grid, full_layers) for own, grid in zip(states, grids, strict=True)]
