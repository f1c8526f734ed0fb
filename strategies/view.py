"""TokenView: all that a strategy may look at when it chooses among the visual tokens of one sample.

Shape letters, used as suffixes of tensor names throughout the project:
    B samples, S sequence, L layers, H query heads, V visual tokens, T text tokens after the image, Q last queries,
    D hidden width, K tokens kept, R packed rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor


class Evidence(StrEnum):
    """What the engine can lay before a strategy; only what is named is computed."""

    LAST_ROW = "last_row"  # attention of the last query to the visual tokens, layer K-1
    TEXT_ROWS = "text_rows"  # attention of the text queries to the visual tokens, layer K-1
    TEXT_TO_TEXT = "text_to_text"  # attention of the text queries to the text tokens, layer K-1
    VISUAL_ROWS = "visual_rows"  # attention of the visual queries to the visual tokens, layer K-1
    HIDDEN = "hidden"  # the visual tokens' residual stream entering layer K; at K = 0 the projector's output


ATTENTION = frozenset({Evidence.LAST_ROW, Evidence.TEXT_ROWS, Evidence.TEXT_TO_TEXT, Evidence.VISUAL_ROWS})


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """One sample at the layer where its tokens are dropped. Probabilities are float32, after softmax over all keys.

    Only what the strategy declared is there; reading anything else raises, so that a missing input is never silently
    replaced by a default.
    """

    visual: int  # V, visual tokens to choose from
    system: int  # tokens before the image; their queries see no visual token (causality)
    text: int  # T, tokens after the image
    seed: int  # for strategies that draw: depends on the run's seed, the sample and the layer, never on the batch
    device: torch.device
    attention_HQV: Tensor | None = None  # the last Q >= 1 queries on the visual tokens
    text_attention_HTT: Tensor | None = None  # text queries on text keys
    visual_attention_HVV: Tensor | None = None  # visual queries on visual keys
    hidden_states_VD: Tensor | None = None

    @property
    def last_HV(self) -> Tensor:
        """(H, V) attention of the prompt's last token."""
        return self._have(self.attention_HQV, Evidence.LAST_ROW)[:, -1]

    @property
    def text_HTV(self) -> Tensor:
        """(H, T, V) attention of the text tokens."""
        rows_HQV = self._have(self.attention_HQV, Evidence.TEXT_ROWS)
        self._need_text()
        if rows_HQV.shape[1] < self.text:
            raise ValueError(f"the strategy reads {Evidence.TEXT_ROWS} but did not declare it")
        return rows_HQV[:, rows_HQV.shape[1] - self.text :]

    def last_HQV(self, count: int) -> Tensor:
        """(H, min(count, S), V) attention of the prompt's last tokens, whatever they are."""
        rows_HQV = self._have(self.attention_HQV, Evidence.TEXT_ROWS)
        queries = min(count, self.system + self.visual + self.text)
        if rows_HQV.shape[1] < queries:
            raise ValueError(f"the strategy reads {Evidence.TEXT_ROWS} but did not declare it")
        return rows_HQV[:, rows_HQV.shape[1] - queries :]

    @property
    def text_HTT(self) -> Tensor:
        """(H, T, T) attention of the text tokens to one another, lower-triangular."""
        text_HTT = self._have(self.text_attention_HTT, Evidence.TEXT_TO_TEXT)
        self._need_text()
        return text_HTT

    @property
    def visual_HVV(self) -> Tensor:
        """(H, V, V) attention of the visual tokens to one another, lower-triangular."""
        return self._have(self.visual_attention_HVV, Evidence.VISUAL_ROWS)

    @property
    def hidden_VD(self) -> Tensor:
        """(V, D) residual stream of the visual tokens, in the model's dtype."""
        return self._have(self.hidden_states_VD, Evidence.HIDDEN)

    def generator(self) -> torch.Generator:
        """A fresh generator on the CPU, so that a draw is the same whatever device the model is on."""
        return torch.Generator().manual_seed(self.seed)

    def _need_text(self) -> None:
        if self.text == 0:
            raise ValueError("the strategy reads the text after the image, and this prompt has none")

    @staticmethod
    def _have(tensor: Tensor | None, evidence: Evidence) -> Tensor:
        if tensor is None:
            raise ValueError(f"the strategy reads {evidence} but did not declare it")
        return tensor
