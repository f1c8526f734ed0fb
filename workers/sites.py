"""Where evidence comes from: the vision tower, what enters the decoder, and the decoder layer where tokens are dropped.

The engine and ``workers/patch.py`` each offer these in their own way, the one from packed rows, the other from a padded
batch; what is made of them is the same for both (``workers/evidence.py``).

Shape letters: see ``strategies/view.py``; here also N squares of pixels (images, or tiles of one), P rows of a square
that the projector is given, E head width, G key-value heads, C width of the tower.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from workers.families.config import ModelError


class Site(StrEnum):
    """A place in the model, by when it is passed."""

    TOWER = "tower"  # the vision tower: once an image
    INPUT = "input"  # the rows that enter the first decoder layer: once a sample
    DECODER = "decoder"  # the layer where tokens are dropped: once for each sequence that is pruned there


class Tower(ABC):
    """What the forward of a vision tower leaves for evidence, of all squares of pixels that it was given together.

    Layers are counted from 0, or from the end: -2 is the one before the last.
    """

    given: slice  # of the tower's S rows those that the projector is given
    class_token: int | None  # which of the S rows; None: the tower has none

    @abstractmethod
    def hidden(self, index: int) -> Tensor:
        """(N, S, C) hidden states after ``index`` layers, before any last norm: 0 is the embeddings, -1 the end."""

    @abstractmethod
    def keys(self, layer: int) -> Tensor:
        """(N, S, H, E) keys of a layer."""

    @abstractmethod
    def attention(self, layer: int, queries: slice) -> Tensor:
        """(N, H, Q, S) float32 attention of some rows to all, after softmax."""

    @abstractmethod
    def features(self) -> Tensor:
        """(N, P, C) what the projector is given; C times as wide where it is given several layers."""

    def class_attention(self, layer: int) -> Tensor:
        """(N, P, H) float32 attention of the class token to each row that the projector is given.

        Raises:
            ModelError: the tower has no class token.
        """
        if self.class_token is None:
            raise ModelError("the vision tower has no class token whose attention could be read")
        row_NHS = self.attention(layer, slice(self.class_token, self.class_token + 1))[:, :, 0]
        return row_NHS[:, :, self.given].transpose(1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class InputRows:
    """The rows of one sample that enter the first decoder layer."""

    visual_VD: Tensor
    text_TD: Tensor  # of the tokens after the image


class DecoderLayer(ABC):
    """One sequence at layer K, where its tokens are dropped, and what layer K-1 computed of it; at K = 0 there is none.

    V are the visual tokens it still has, S all its tokens: those before the image, the visual ones, and T after it.
    """

    system: int  # tokens before the image
    visual: int  # V
    text: int  # T
    _rows_HQS: Tensor | None = None

    def last_rows(self, count: int) -> Tensor:
        """(H, count, S) float32 attention in layer K-1 of the last tokens to all, after softmax.

        More rows are not computed twice: whoever asks for fewer later gets them of the same ones.
        """
        if self._rows_HQS is None or self._rows_HQS.shape[1] < count:
            self._rows_HQS = self._attention(count)
        return self._rows_HQS[:, self._rows_HQS.shape[1] - count :]

    @abstractmethod
    def _attention(self, count: int) -> Tensor:
        """``last_rows``."""

    @abstractmethod
    def visual_block(self) -> Tensor:
        """(H, V, V) float32 attention in layer K-1 of the visual tokens to one another, after softmax over all keys."""

    @abstractmethod
    def keys(self) -> Tensor:
        """(S, G, E) keys of layer K-1, positions applied."""

    @abstractmethod
    def visual_hidden(self) -> Tensor:
        """(V, D) hidden states of the visual tokens that enter layer K."""

    @abstractmethod
    def text_hidden(self) -> Tensor:
        """(T, D) hidden states of the tokens after the image that enter layer K."""

    @abstractmethod
    def alive(self, image_VX: Tensor) -> Tensor:
        """Of rows for all visual tokens of the image those of the tokens that it still has."""
