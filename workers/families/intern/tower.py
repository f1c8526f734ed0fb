"""InternVL's vision tower as a place that evidence comes from: tiles whose rows are tokens of merged patches.

What a strategy reads has one row a token, in the order of the decoder: hidden states, queries and keys are the mean
over the patches that pixel shuffle makes a token of; of attention a token gives the mean of what its patches give and
receives the sum, so that a row still sums to 1. The class token's row stands before them, as it is.

Queries and keys of a layer are computed again from what entered it, as in ``llava/tower.py``.

Shape letters: see ``workers/sites.py``; here S counts rows of patches or, where T is said, the class token's and those
of tokens; M patches of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workers.sites import ATTENTION_VALUES, Tower


class InternTower(Tower):
    """What the tower's forward leaves of the tiles of one image."""

    class_token = 0
    given = slice(1, None)

    def __init__(self, visual: Any, hidden_states: Sequence[Tensor], merge: int) -> None:
        """Take what one forward of the tower left.

        Args:
            visual: the tower.
            hidden_states: (N, S, C) each, what entered every layer, and what left the last one.
            merge: patches of a token, one side.
        """
        self._visual, self._layers = visual, visual.encoder.layer
        self.layers, self._hidden_states = len(self._layers), hidden_states
        sizes = (visual.config.image_size, visual.config.patch_size)
        rows, columns = (pixels // patch for pixels, patch in zip(*sizes, strict=True))
        self.grid = (rows // merge, columns // merge)
        place_RC = torch.arange(1, rows * columns + 1, device=hidden_states[0].device).view(rows, columns)
        token_RrCc = place_RC.unflatten(0, (-1, merge)).unflatten(2, (-1, merge))
        merged_VM = token_RrCc.transpose(1, 2).flatten(2).flatten(0, 1)
        self._patches_TM = torch.cat((torch.zeros_like(merged_VM[:1]), merged_VM))  # the class token stands for all M
        self._counted_T = (self._patches_TM > 0).sum(dim=1).clamp(min=1)  # rows that are one's own

    def hidden(self, index: int) -> Tensor:
        return self._hidden_states[index][:, self._patches_TM].mean(dim=2)

    def keys(self, layer: int) -> Tensor:
        return self._keys(layer)[:, self._patches_TM].mean(dim=2)

    def queries(self, layer: int, rows: slice) -> Tensor:
        return self._queries(layer, rows).mean(dim=2)

    def attention(self, layer: int, queries: slice) -> Tensor:
        query_NQMHE, key_NSHE = self._queries(layer, queries).float(), self._keys(layer).float()
        squares, rows, heads, _ = key_NSHE.shape
        step = max(1, ATTENTION_VALUES // (squares * heads * rows * query_NQMHE.shape[2]))
        parts = []
        for some_NQMHE in query_NQMHE.split(step, dim=1):
            scores_NHQMS = torch.einsum("nqmhe,nshe->nhqms", some_NQMHE, key_NSHE) * self._layers[layer].attention.scale
            parts.append(self._received(scores_NHQMS.softmax(dim=-1).mean(dim=3)))
        return torch.cat(parts, dim=2)

    def joined_class_attention(self, layer: int) -> Tensor:
        query_NC = self._queries(layer, slice(0, 1))[:, 0, 0].float().flatten(1)
        key_NSC = self._keys(layer).float().flatten(2)
        scores_NS = torch.einsum("nc,nsc->ns", query_NC, key_NSC) * query_NC.shape[1] ** -0.5
        return self._received(scores_NS.softmax(dim=1))[:, self.given]

    def selected(self, rows: slice) -> Tensor:
        """As the projector is given them: a token's patches side by side, the class token as often."""
        normed_NSC: Tensor = self._visual.layernorm(self._hidden_states[-1])
        return normed_NSC[:, self._patches_TM[rows]].flatten(2)

    def class_features(self) -> Tensor:
        """Of every tile the whole image's, which is the last: it is what methods feed of the class token."""
        whole_11C = self.selected(slice(0, 1))[-1:]
        return whole_11C.expand(len(self._hidden_states[0]), len(self._patches_TM) - 1, -1)

    def _received(self, shares: Tensor) -> Tensor:
        """(..., S) shares of attention to patches -> (..., T) to tokens."""
        return shares[..., self._patches_TM].mean(dim=-1) * self._counted_T

    def _queries(self, layer: int, rows: slice) -> Tensor:
        """(N, Q, M, H, E) of the patches of some rows."""
        attention = self._layers[layer].attention
        entered_NQMC = self._normed(layer)[:, self._patches_TM[rows]]
        return _heads(attention.q_norm(attention.q_proj(entered_NQMC)), attention)

    def _keys(self, layer: int) -> Tensor:
        """(N, S, H, E) of the patches."""
        attention = self._layers[layer].attention
        return _heads(attention.k_norm(attention.k_proj(self._normed(layer))), attention)

    def _normed(self, layer: int) -> Tensor:
        normed_NSC: Tensor = self._layers[layer].layernorm_before(self._hidden_states[:-1][layer])
        return normed_NSC


def _heads(rows: Tensor, attention: nn.Module) -> Tensor:
    """(..., C) -> (..., H, E)."""
    return rows.unflatten(-1, (-1, attention.head_dim))
