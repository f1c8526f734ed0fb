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

from typing import Literal

import torch
from torch import Tensor

from strategies.evidence import IMAGE_EMBEDDINGS, QUESTION_EMBEDDINGS, EvidenceView, without_nan
from strategies.scores import cosine
from strategies.view import Evidence

LEAST = 1e-6  # of a unit vector's square that is new: below is rounding in float32
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
    likeness_VV = without_nan(cosine(view.hidden_VD, view.hidden_VD), "the tokens' likeness")
    return greedy_determinant(likeness_VV, relevance(view, long_text, sign), keep)


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


def greedy_determinant(likeness_VV: Tensor, relevance_V: Tensor, keep: int) -> Tensor:
    """(keep,) int64: each time the row that adds most to the determinant of ``r_i likeness_ij r_j``.

    That is the square of its relevance times what is new in it: one minus the squares of a Cholesky factor's column.
    """
    new_V = likeness_VV.diagonal()
    weight_V = relevance_V.square()
    factor_KV = likeness_VV.new_zeros(keep, len(likeness_VV))
    order_K = torch.empty(keep, dtype=torch.int64, device=likeness_VV.device)
    for i in range(keep):
        gain_V = weight_V * new_V.clamp(min=LEAST)
        next_1 = gain_V.index_fill(0, order_K[:i], -torch.inf).argmax(dim=0, keepdim=True)
        order_K[i : i + 1] = next_1
        left_1 = new_V.index_select(0, next_1)
        known_K = factor_KV.index_select(1, next_1)[:, 0]
        row_V = likeness_VV.index_select(0, next_1)[0] - known_K @ factor_KV
        factor_KV[i] = (row_V / left_1.clamp(min=LEAST).sqrt()).where(left_1 > LEAST, 0.0)
        new_V = new_V - factor_KV[i].square()
    return order_K
