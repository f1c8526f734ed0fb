"""TRIM: keep the patches that CLIP finds relevant to the question, and one row that is the mean of all others.

Source: Song et al., Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs,
COLING 2025, arXiv:2409.10994; FreedomIntelligence/TRIM, llava/model/multimodal_encoder/clip_encoder.py.
Kept as published: a plain dot product, although it is called a similarity (``similarity: cosine`` is the other), which
counts negatively, as in CDPruner; the mean is taken before the projector and stands last. The question goes in with its
instruction, cut to what CLIP reads. The softmax of the scores serves their number alone: it leaves their order.
We differ on one point: the rank says how many rows the decoder sees, rank - 1 patches and the mean. ``count: adaptive``
is the authors' own number, the outliers of the softmax of the scores, where the rank is the most that it may be.
In a picture of the kept places the best patch that was not kept stands for the mean.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from strategies.evidence import IMAGE_EMBEDDINGS, PROMPT_EMBEDDING, TOWER_FEATURES, EvidenceView
from strategies.scores import cosine, descending_order, lifted

NEEDS = frozenset({IMAGE_EMBEDDINGS, PROMPT_EMBEDDING, TOWER_FEATURES})


def trim(
    view: EvidenceView,
    keep: int,
    *,
    similarity: Literal["dot", "cosine"] = "dot",
    count: Literal["exact", "adaptive"] = "exact",
) -> Tensor:
    """The places of the most relevant patches, and one for the mean of the others.

    Args:
        view: the tower's features, and the embeddings of patches and prompt are read.
        keep: rows in all, 0 or 2 <= keep <= V.
        similarity: of a patch and the prompt.
        count: as many as asked for, or as many as stand out, and at most as many as asked for.

    Returns:
        (keep,) int64, ascending, unique; fewer where the count is adaptive.
    """
    if count == "adaptive" and keep:
        keep = min(keep, 1 + max(1, int(outliers(_scores(view, similarity).softmax(dim=0)))))
    return _by_relevance(view, similarity)[:keep].sort().values


def trim_rows(view: EvidenceView, kept_K: Tensor, *, similarity: str = "dot", count: str = "exact") -> Tensor:
    """(K, D) the patches in raster order, and the mean of those that were not kept."""
    patches = len(kept_K) - 1
    kept = _by_relevance(view, similarity)[:patches].sort().values
    features_VC = view.read(TOWER_FEATURES)
    removed_V = torch.ones(view.visual, dtype=lifted(features_VC).dtype, device=view.device).index_fill(0, kept, 0)
    removed_V = removed_V * (features_VC != 0).any(dim=1)
    mean_C = removed_V @ lifted(features_VC) / removed_V.sum().clamp(min=1)
    return view.projected(torch.cat((features_VC[kept], mean_C[None].to(features_VC.dtype))))


def outliers(values_V: Tensor) -> Tensor:
    """How many are above the third quartile by more than 1.5 times the distance of the quartiles."""
    low, high = values_V.quantile(values_V.new_tensor([0.25, 0.75]))
    return (values_V > high + 1.5 * (high - low)).sum()


def _by_relevance(view: EvidenceView, similarity: str) -> Tensor:
    return view.once(("by relevance", similarity), lambda: descending_order(_scores(view, similarity)))


def _scores(view: EvidenceView, similarity: str) -> Tensor:
    """(V,) the higher, the more relevant; minus infinity where no patch stands behind a token."""
    image_VE, text_1E = view.read(IMAGE_EMBEDDINGS), view.read(PROMPT_EMBEDDING)
    likeness_V1 = cosine(image_VE, text_1E) if similarity == "cosine" else lifted(image_VE) @ lifted(text_1E).T
    return (-likeness_V1[:, 0]).masked_fill((image_VE == 0).all(dim=1), -torch.inf)
