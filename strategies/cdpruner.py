"""CDPruner: a determinantal point process over the visual tokens, conditioned on the question.

Source: Zhang et al., Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs,
NeurIPS 2025, arXiv:2506.10967; Theia-4869/CDPruner, llava/model/llava_arch.py.
Kept as published: the likeness of patch and question counts negatively, because in CLIP's layer before the last the two
are inverted (``sign: positive`` is the other), and diversity is measured on the projector's output.
We differ on three points. A question longer than CLIP reads is cut; ``long_text: segments`` is the authors' mean over
segments, of which the later ones say nothing (they have no end mark). Relevance is scaled within the image, not within
the batch. Where the kernel's rank is exhausted, relevance alone decides, and no token is taken twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from strategies.evidence import IMAGE_EMBEDDINGS, QUESTION_EMBEDDINGS, EvidenceView, without_nan
from strategies.greedy import greedy_determinant
from strategies.scores import cosine
from strategies.view import Evidence

NEEDS = frozenset({Evidence.HIDDEN, IMAGE_EMBEDDINGS, QUESTION_EMBEDDINGS})


def cdpruner(
    view: EvidenceView,
    keep: int,
    *,
    long_text: Literal["truncate", "segments"] = "truncate",
    sign: Literal["negative", "positive"] = "negative",
) -> Tensor:
    """Greedy largest determinant of the kernel ``r_i cos(i, j) r_j``.

    Args:
        view: the projector's output is read, and the embeddings of patches and question.
        keep: tokens to keep, 0 <= keep <= V.
        long_text: what is done with a question longer than CLIP reads.
        sign: whether a patch that is unlike the question is relevant, or one that is like it.

    Returns:
        (keep,) int64, unique, in the order of choice.
    """
    return together([view], keep, long_text=long_text, sign=sign)[0]


def together(
    views: Sequence[EvidenceView], keep: int, *, long_text: str = "truncate", sign: str = "negative"
) -> Tensor:
    """(B, keep) the same of several images with as many tokens."""
    likeness_BVV = torch.stack([without_nan(cosine(view.hidden_VD, view.hidden_VD), "a likeness") for view in views])
    relevance_BV = torch.stack([relevance(view, long_text, sign) for view in views])
    return greedy_determinant(likeness_BVV, relevance_BV, keep)


def relevance(view: EvidenceView, long_text: str, sign: str) -> Tensor:
    """(V,) relevance of each token to the question, above 0 to about 1; 0 where no patch stands behind a token."""
    image_VE, text_SE = view.read(IMAGE_EMBEDDINGS), view.read(QUESTION_EMBEDDINGS)
    likeness_VS = cosine(image_VE, text_SE[1:] if long_text == "segments" else text_SE[:1])
    likeness_V = likeness_VS.mean(dim=1) * (-1 if sign == "negative" else 1)
    patch_V = (image_VE != 0).any(dim=1)
    least = likeness_V.masked_fill(~patch_V, torch.inf).amin()
    most = likeness_V.masked_fill(~patch_V, -torch.inf).amax()
    span = (most - least).clamp(min=torch.finfo(likeness_V.dtype).tiny)
    return ((likeness_V - least + 1e-6) / span).where(patch_V, 0.0)
