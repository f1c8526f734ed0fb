"""Where evidence comes from: the vision tower, what enters the decoder, and the decoder layer where tokens are dropped.

The engine and ``workers/patch.py`` each offer these in their own way, the one from packed rows, the other from a padded
batch; what is made of them is the same for both (``workers/evidence.py``).

Shape letters: see ``strategies/view.py``; here also N squares of pixels (images, or tiles of one), P rows of a square
that the projector is given, E head width, G key-value heads, C width of the tower.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.families.config import ModelError

if TYPE_CHECKING:
    from workers.text_tower import TextTower

ATTENTION_VALUES = 2**24  # of a tower's attention that are made at a time, where all of its rows are asked for


class Site(StrEnum):
    """A place in the model, by when it is passed."""

    TOWER = "tower"  # the vision tower: once an image
    QUESTION = "question"  # its words, as CLIP's text tower reads them: once a sample
    INPUT = "input"  # the rows that enter the first decoder layer: once a sample
    DECODER = "decoder"  # the layer where tokens are dropped: once for each sequence that is pruned there


class Tower(ABC):
    """What the forward of a vision tower leaves for evidence, of all squares of pixels that it was given together.

    Layers are counted from 0, or from the end: -2 is the one before the last.
    """

    given: slice  # of the tower's S rows those that the projector is given
    class_token: int | None  # which of the S rows; None: the tower has none
    layers: int
    grid: tuple[int, int]  # rows and columns of patches, which are the last of the S rows
    text_tower: TextTower | None = None  # which knows the space that CLIP's two towers share; None: nobody named it

    @abstractmethod
    def hidden(self, index: int) -> Tensor:
        """(N, S, C) hidden states after ``index`` layers, before any last norm: 0 is the embeddings, -1 the end."""

    @abstractmethod
    def keys(self, layer: int) -> Tensor:
        """(N, S, H, E) keys of a layer."""

    @abstractmethod
    def queries(self, layer: int, rows: slice) -> Tensor:
        """(N, Q, H, E) queries of some rows of a layer."""

    @abstractmethod
    def attention(self, layer: int, queries: slice) -> Tensor:
        """(N, H, Q, S) float32 attention of some rows to all, after softmax."""

    @abstractmethod
    def selected(self, rows: slice) -> Tensor:
        """(N, rows, C) hidden states that go to the projector; C times as wide where it is given several layers."""

    def features(self) -> Tensor:
        """(N, P, C) what the projector is given."""
        return self.selected(self.given)

    def class_attention(self, layer: int) -> Tensor:
        """(N, P, H) float32 attention of the class token to each row that the projector is given.

        Raises:
            ModelError: the tower has no class token.
        """
        row_NHS = self.attention(layer, self._class_row())[:, :, 0]
        return row_NHS[:, :, self.given].transpose(1, 2)

    def joined_class_attention(self, layer: int) -> Tensor:
        """(N, P) float32 the same with all heads taken as one, scaled by their joined width.

        Raises:
            ModelError: the tower has no class token.
        """
        query_NC = self.queries(layer, self._class_row()).float().flatten(1)
        key_NSC = self.keys(layer).float().flatten(2)
        scores_NS = torch.einsum("nc,nsc->ns", query_NC, key_NSC) * query_NC.shape[1] ** -0.5
        return scores_NS.softmax(dim=1)[:, self.given]

    def class_features(self) -> Tensor:
        """(N, P, C) the class token's row of ``selected``, once for each row that the projector is given.

        Raises:
            ModelError: the tower has no class token.
        """
        return self.selected(self._class_row()).expand(-1, self.hidden(0)[:, self.given].shape[1], -1)

    def received_attention(self, layer: int) -> Tensor:
        """(N, P, H) float32 attention of all rows to each that the projector is given, mean over the rows."""
        squares, rows, heads = self.keys(layer).shape[:3]
        step = max(1, ATTENTION_VALUES // (squares * heads * rows))
        parts = (self.attention(layer, slice(first, first + step)).sum(dim=2) for first in range(0, rows, step))
        return (sum(parts, start=torch.zeros(())) / rows)[:, :, self.given].transpose(1, 2)

    def loadings(self) -> Tensor:
        """(N, P, P) float32 absolute loadings of the patches on the components of a square, the largest first.

        Of the sigmoid of the features, patches as variables, channels as observations. Exact, by the eigenvectors of
        the patches' products in float64.
        """
        found = []
        for features_PC in self.features():  # one by one: a batch of them in float64 would take as much as a wave
            rows_PC = features_PC.double().sigmoid()
            rows_PC = rows_PC - rows_PC.mean(dim=1, keepdim=True)
            found.append(torch.linalg.eigh(rows_PC @ rows_PC.T).eigenvectors.flip(dims=(1,)).abs().float())
        return torch.stack(found)

    def places(self) -> Tensor:
        """(N, P, 3) int64 number of the square, and row and column in it, from 1; 0 for a row that is no patch."""
        states_NSC = self.hidden(0)
        squares, columns = len(states_NSC), self.grid[1]
        patch_P = torch.arange(self.grid[0] * columns, device=states_NSC.device)
        place_P2 = torch.stack((patch_P // columns, patch_P % columns), dim=1) + 1
        number_N = torch.arange(1, squares + 1, device=states_NSC.device)[:, None, None]
        place_NP3 = torch.cat((number_N.expand(-1, len(patch_P), -1), place_P2.expand(squares, -1, -1)), dim=2)
        others = states_NSC.shape[1] - len(patch_P)
        return torch.cat((place_NP3.new_zeros(squares, others, 3), place_NP3), dim=1)[:, self.given]

    def image_embeddings(self) -> Tensor:
        """(N, P, E) of the layer before the last, in the space that CLIP's two towers share."""
        assert self.text_tower is not None, "a point was let through without its text tower"
        return self.text_tower.image_embeddings(self.hidden(-2)[:, self.given])

    def layer(self, named: str) -> int:
        """A layer as evidence names it: counted from 0 or from the end, or as a share of the depth, ``8/24``."""
        part, _, whole = named.partition("/")
        return int(part) * self.layers // int(whole) if whole else int(part)

    def _class_row(self) -> slice:
        if self.class_token is None:
            raise ModelError("the vision tower has no class token whose attention could be read")
        return slice(self.class_token, self.class_token + 1)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of an image."""

    plain: str  # without the instruction that asks for a short answer
    whole: str  # with it, where there is one


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """The questions of some samples, and who embeds them."""

    asked: Sequence[Question]
    tower: TextTower

    def embeddings(self) -> list[Tensor]:
        """(1 + S, E) of each, without the instruction: cut to what CLIP reads, and in S segments of that length."""
        return self.tower.embeddings([one.plain for one in self.asked])

    def whole_embeddings(self) -> list[Tensor]:
        """(1, E) of each, with the instruction, cut to what CLIP reads."""
        return [embedding_SE[:1] for embedding_SE in self.tower.embeddings([one.whole for one in self.asked])]


@dataclass(frozen=True, slots=True, eq=False)
class InputRows:
    """The rows of one sample that enter the first decoder layer."""

    visual_VD: Tensor
    text_TD: Tensor  # of the tokens after the image


class DecoderLayer(ABC):
    """One sequence at layer K, where its tokens are dropped, and what layer K-1 computed of it; at K = 0 there is none.

    V are the visual tokens it still has, S all its tokens, in this order: those before its image, and between its
    images where it has several; the visual ones; and T after these.
    """

    system: int  # tokens before the image, and between images
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
    def row_ahead(self) -> Tensor:
        """(H, 1, S) float32 attention of the last token to all that layer K would compute, were nothing dropped."""

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
    def visual_before(self) -> Tensor:
        """(V, D) hidden states of the visual tokens that entered layer K-1; only there for who says so."""

    @abstractmethod
    def text_hidden(self) -> Tensor:
        """(T, D) hidden states of the tokens after the image that enter layer K."""

    @abstractmethod
    def rotation(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines (V + T, E) of the positions of the visual tokens and those after them."""

    @abstractmethod
    def normed(self, rows_RD: Tensor) -> Tensor:
        """Hidden states (R, D) through the norm between the last layer and the head."""

    @abstractmethod
    def alive(self, image_VX: Tensor) -> Tensor:
        """Of rows for all visual tokens of the image those of the tokens that it still has."""
