"""A decoder layer as a place that evidence comes from, of one sequence in packed rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.attention import probabilities, softmax_rows, visual_block
from workers.decoder import Decoder, Given, Rotary
from workers.sequences import Packing, TokenSequence, gather, numbers, on
from workers.sites import DecoderLayer
from workers.upload import to_device


@dataclass(frozen=True, slots=True, eq=False)
class LayerRead:
    """What the layer before a fork leaves for the strategies: its queries and keys, and what entered it."""

    packing: Packing
    query_RHE: Tensor
    key_RGE: Tensor
    scale: float
    entered_RD: Tensor | None = None  # where somebody reads it


class LayerAhead:
    """The layer that runs next, for strategies that go by what it will look at; it computes what it is asked for."""

    def __init__(
        self, decoder: Decoder, layer: int, packing: Packing, hidden_RD: Tensor, given: Callable[[], Given | None]
    ) -> None:
        """Look at a layer before it runs.

        Args:
            decoder: the model's.
            layer: about to run.
            packing: of ``hidden_RD``.
            hidden_RD: residual stream entering the layer.
            given: gives keys and values of the layer for those prefixes of the packing that ran in an earlier wave.
        """
        self._decoder, self._layer, self._packing, self._hidden_RD = decoder, layer, packing, hidden_RD
        self._given = given
        self._prefixes: dict[TokenSequence, Tensor] = {}  # keys of those that the last sequence has

    def row(self, sequence: TokenSequence) -> Tensor:
        """(H, 1, S) float32 attention of a sequence's last token to all its tokens, after softmax."""
        known = self._prefixes
        self._prefixes = {run: known[run] if run in known else self._keys(run) for run in sequence.prefixes}
        key_SGE = torch.cat((*self._prefixes.values(), self._keys(sequence)))
        last = self._packing.last_row(sequence)
        normed_1D, rotary = self._entering(slice(last, last + 1))
        return softmax_rows(self._decoder.queries(self._layer, normed_1D, rotary), key_SGE, self._decoder.scale)

    def rotation(self, rows: Sequence[slice | Tensor]) -> Rotary:
        """Cosines and sines (R, 1, E) of some rows' positions."""
        positions_PR = self._packing.positions(self._hidden_RD.device)
        return self._decoder.rotary(torch.cat([positions_PR[:, part] for part in rows], dim=1))

    def normed(self, rows_RD: Tensor) -> Tensor:
        """Through the norm between the last layer and the head."""
        return self._decoder.final_norm(rows_RD)

    def _keys(self, run: TokenSequence) -> Tensor:
        """(R, G, E) of its own rows, whether they are here or ran earlier."""
        if run in self._packing.starts:
            return self._decoder.keys(self._layer, *self._entering(self._packing.own(run)))
        given = self._given()
        assert given is not None, "a sequence without its prefix"
        return given[0][self._packing.own_keys(run)]

    def _entering(self, rows: slice) -> tuple[Tensor, Rotary]:
        """Normed rows and their rotation."""
        positions_PR = self._packing.positions(self._hidden_RD.device)[:, rows]
        return self._decoder.attention_norm(self._layer, self._hidden_RD[rows]), self._decoder.rotary(positions_PR)


class PackedLayer(DecoderLayer):
    """One sequence before the layer where it forks."""

    def __init__(
        self,
        sequence: TokenSequence,
        packing: Packing,
        hidden_RD: Tensor,
        before: LayerRead | None,
        ahead: LayerAhead | None = None,
    ) -> None:
        """Look at one sequence of a packing.

        Args:
            sequence: whose tokens are to be dropped; an image that several questions share has no tokens after it.
            packing: of ``hidden_RD``.
            hidden_RD: residual stream entering the layer.
            before: queries and keys of the layer before; None at layer 0.
            ahead: the layer about to run; None where nobody asks for it.
        """
        self.system = sequence.system + sequence.between
        self.visual, self.text = sequence.visual, sequence.text
        self._sequence = sequence
        self._rows = (on(packing.visual(sequence), hidden_RD.device), packing.text(sequence))
        self._order_S: Tensor | None = None
        self._visual_RD, self._text_RD = (hidden_RD[part] for part in self._rows)
        self._before = before
        self._ahead = ahead

    @property
    def _read(self) -> LayerRead:
        assert self._before is not None, "attention was asked for before the first layer"
        return self._before

    def _attention(self, count: int) -> Tensor:
        read = self._read
        rows_HQS = probabilities(read.query_RHE, read.key_RGE, read.packing, self._sequence, count, read.scale)
        return self._in_order(rows_HQS, dim=2)

    def row_ahead(self) -> Tensor:
        assert self._ahead is not None, "the next layer was asked for, and nobody gave it"
        return self._in_order(self._ahead.row(self._sequence), dim=2)

    def visual_block(self) -> Tensor:
        read = self._read
        return visual_block(read.query_RHE, read.key_RGE, read.packing, self._sequence, read.scale)

    def keys(self) -> Tensor:
        return self._in_order(gather(self._read.key_RGE, self._read.packing.keys(self._sequence)), dim=0)

    def visual_hidden(self) -> Tensor:
        return self._visual_RD

    def visual_before(self) -> Tensor:
        entered_RD = self._read.entered_RD
        assert entered_RD is not None, "nobody said that what entered the layer before is read"
        return entered_RD[on(self._read.packing.visual(self._sequence), entered_RD.device)]

    def text_hidden(self) -> Tensor:
        return self._text_RD

    def rotation(self) -> Rotary:
        assert self._ahead is not None, "positions were asked for, and nobody gave them"
        cos_R1E, sin_R1E = self._ahead.rotation(self._rows)
        return cos_R1E[:, 0], sin_R1E[:, 0]

    def normed(self, rows_RD: Tensor) -> Tensor:
        assert self._ahead is not None, "the norm before the head was asked for, and nobody gave it"
        return self._ahead.normed(rows_RD)

    def _in_order(self, tokens_SX: Tensor, dim: int) -> Tensor:
        """One for each of the sequence's tokens, those between images moved before the visual ones."""
        places_K, first = self._sequence.places_K, self._sequence.system
        if places_K is None:
            return tokens_SX
        if self._order_S is None:
            words_I = torch.ones(self.visual + self._sequence.between, dtype=torch.bool)
            words_I[places_K] = False
            after = slice(first + len(words_I), tokens_SX.shape[dim])
            order_S = (slice(0, first), words_I.nonzero()[:, 0] + first, places_K + first, after)
            self._order_S = to_device(numbers(*order_S), tokens_SX.device)
        return tokens_SX.index_select(dim, self._order_S)

    def alive(self, image_VX: Tensor) -> Tensor:
        if len(image_VX) == self.visual:
            return image_VX
        return image_VX[to_device(self._sequence.visual_K, image_VX.device)]
