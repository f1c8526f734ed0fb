"""A decoder layer as a place that evidence comes from, of one sample in a padded batch.

Nothing here is the engine's: rotary positions, masks and softmax are applied again to what transformers' own modules
computed, so that the two ways are a check on one another.

Shape letters: see ``strategies/view.py``; here also W columns of a group of layers, E head width, G key-value heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.padded import Batch
from workers.sites import DecoderLayer


@dataclass(slots=True)
class Probe:
    """What the layer before a drop had and computed: queries and keys (B, W, H*E and G*E), positions and input."""

    module: Any  # its attention
    query: Tensor | None = None
    key: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    entered: Tensor | None = None  # (B, W, D), what entered the layer


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """The layer about to run: transformers' module, and the columns' rotation; and the norm before the head."""

    module: Any
    rotary: tuple[Tensor, Tensor]
    norm: Any


class PaddedLayer(DecoderLayer):
    """One sample of a batch before the layer where its tokens are dropped."""

    def __init__(self, batch: Batch, sample: int, hidden_BWD: Tensor, probe: Probe | None, ahead: Ahead) -> None:
        """Look at one sample of a padded batch.

        Args:
            batch: whose last group of columns the layers before ran on.
            sample: of the batch.
            hidden_BWD: residual stream entering the layer.
            probe: of the layer before; None where nothing is read of it.
            ahead: the layer about to run.
        """
        group = batch.groups[-1]
        self.system, self.text = batch.system[sample], batch.text[sample]
        self.visual = len(group.visual[sample])
        self._sample = sample
        self._probe = probe
        self._ahead = ahead
        self._kept_V = group.visual[sample]
        # Of the columns those of its tokens, in the order that evidence has them.
        self._living: slice | Tensor = slice(None) if group.full else group.alive_BW[sample]
        column_W = torch.arange(hidden_BWD.shape[1], device=hidden_BWD.device)
        if batch.between[sample]:
            words_W = group.alive_BW[sample].index_fill(0, group.columns[sample], False)
            words_S = column_W[words_W]
            self._living = torch.cat((words_S[: self.system], group.columns[sample], words_S[self.system :]))
        self._column_S = column_W[self._living]
        self._hidden_SD = hidden_BWD[sample, self._living]

    def _attention(self, count: int) -> Tensor:
        last = slice(len(self._column_S) - count, None)
        return self._probabilities(self._turned("query"), last, self.keys(), self._scale)

    def row_ahead(self) -> Tensor:
        attention = self._ahead.module.self_attn
        normed_SD = self._ahead.module.input_layernorm(self._hidden_SD)
        key_SGE = self._turn("key", attention.k_proj(normed_SD), attention, self._ahead.rotary)
        query_SHE = self._turn("query", attention.q_proj(normed_SD), attention, self._ahead.rotary)
        return self._probabilities(query_SHE, slice(-1, None), key_SGE, attention.scaling)

    def visual_block(self) -> Tensor:
        image = slice(self.system, self.system + self.visual)
        return self._probabilities(self._turned("query"), image, self.keys(), self._scale)[:, :, image]

    def keys(self) -> Tensor:
        return self._turned("key")

    def visual_hidden(self) -> Tensor:
        return self._hidden_SD[self.system : self.system + self.visual]

    def visual_before(self) -> Tensor:
        assert self._probe is not None
        assert self._probe.entered is not None
        return self._probe.entered[self._sample, self._living][self.system : self.system + self.visual]

    def text_hidden(self) -> Tensor:
        return self._hidden_SD[self.system + self.visual :]

    def rotation(self) -> tuple[Tensor, Tensor]:
        cos_SE, sin_SE = (table[self._sample if len(table) > 1 else 0, self._living] for table in self._ahead.rotary)
        return cos_SE[self.system :], sin_SE[self.system :]

    def normed(self, rows_RD: Tensor) -> Tensor:
        rows: Tensor = self._ahead.norm(rows_RD)
        return rows

    def alive(self, image_VX: Tensor) -> Tensor:
        return image_VX[self._kept_V]

    @property
    def _scale(self) -> float:
        assert self._probe is not None
        scale: float = self._probe.module.scaling
        return scale

    def _turned(self, name: str) -> Tensor:
        """Rotary positions applied to the sample's queries or keys: (S, heads, E)."""
        probe = self._probe
        assert probe is not None
        assert probe.rotary is not None
        return self._turn(name, getattr(probe, name)[self._sample, self._living], probe.module, probe.rotary)

    def _turn(self, name: str, rows_SX: Tensor, attention: Any, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """(S, X) the sample's rows as a projection gives them -> (S, heads, E)."""
        rows_SHE = rows_SX.unflatten(-1, (-1, attention.head_dim))
        if (norm := getattr(attention, f"{name[0]}_norm", None)) is not None:
            rows_SHE = norm(rows_SHE)
        cos_SE, sin_SE = (table[self._sample if len(table) > 1 else 0, self._living] for table in rotary)
        first, second = rows_SHE.chunk(2, dim=-1)
        return rows_SHE * cos_SE[:, None] + torch.cat((-second, first), dim=-1) * sin_SE[:, None]

    def _probabilities(self, query_SHE: Tensor, queries: slice, key_SGE: Tensor, scale: float) -> Tensor:
        """(H, Q, S) float32 attention of some of the S tokens; half precision ties many of them."""
        query_QHE, column_Q = query_SHE[queries], self._column_S[queries]
        key_SHE = key_SGE.float().repeat_interleave(query_QHE.shape[1] // key_SGE.shape[1], dim=1)
        scores_HQS = torch.einsum("qhe,she->hqs", query_QHE.float(), key_SHE) * scale
        hidden_QS = column_Q[:, None] < self._column_S
        return scores_HQS.masked_fill(hidden_QS, -torch.inf).softmax(dim=-1)
