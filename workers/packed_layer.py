"""A decoder layer as a place that evidence comes from, of one sequence in packed rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from workers.attention import probabilities, visual_block
from workers.sequences import Packing, TokenSequence, gather, to_device
from workers.sites import DecoderLayer


@dataclass(frozen=True, slots=True, eq=False)
class LayerRead:
    """What the layer before a fork leaves for the strategies: its queries and keys, and what entered it."""

    packing: Packing
    query_RHE: Tensor
    key_RGE: Tensor
    scale: float
    entered_RD: Tensor | None = None  # where somebody reads it


class PackedLayer(DecoderLayer):
    """One sequence before the layer where it forks."""

    def __init__(
        self,
        sequence: TokenSequence,
        packing: Packing,
        hidden_RD: Tensor,
        before: LayerRead | None,
        norm: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Look at one sequence of a packing.

        Args:
            sequence: whose tokens are to be dropped; an image that several questions share has no tokens after it.
            packing: of ``hidden_RD``.
            hidden_RD: residual stream entering the layer.
            before: queries and keys of the layer before; None at layer 0.
            norm: between the last layer and the head, for those who read states through it.
        """
        self.system, self.visual, self.text = sequence.system, sequence.visual, sequence.text
        self._sequence = sequence
        self._visual_RD, self._text_RD = hidden_RD[packing.visual(sequence)], hidden_RD[packing.text(sequence)]
        self._before = before
        self._norm = norm

    @property
    def _read(self) -> LayerRead:
        assert self._before is not None, "attention was asked for before the first layer"
        return self._before

    def _attention(self, count: int) -> Tensor:
        read = self._read
        return probabilities(read.query_RHE, read.key_RGE, read.packing, self._sequence, count, read.scale)

    def visual_block(self) -> Tensor:
        read = self._read
        return visual_block(read.query_RHE, read.key_RGE, read.packing, self._sequence, read.scale)

    def keys(self) -> Tensor:
        return gather(self._read.key_RGE, self._read.packing.keys(self._sequence))

    def visual_hidden(self) -> Tensor:
        return self._visual_RD

    def visual_before(self) -> Tensor:
        entered_RD = self._read.entered_RD
        assert entered_RD is not None, "nobody said that what entered the layer before is read"
        return entered_RD[self._read.packing.visual(self._sequence)]

    def text_hidden(self) -> Tensor:
        return self._text_RD

    def normed(self, rows_RD: Tensor) -> Tensor:
        assert self._norm is not None, "nobody gave the norm before the head"
        return self._norm(rows_RD)

    def alive(self, image_VX: Tensor) -> Tensor:
        if len(image_VX) == self.visual:
            return image_VX
        return image_VX[to_device(self._sequence.visual_K, image_VX.device)]
