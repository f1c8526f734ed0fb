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

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from strategies import several
from strategies.evidence import IMAGE_EMBEDDINGS, PROMPT_EMBEDDING, TOWER_FEATURES, EvidenceView
from strategies.scores import cosine, lifted
from strategies.several import Views

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
    return together([view], keep, similarity=similarity, count=count)[0]


def together(views: Views, keep: int, *, similarity: str = "dot", count: str = "exact") -> Sequence[Tensor] | Tensor:
    """The same of several images with as many tokens."""
    order_BV = _by_relevance(views, similarity)
    if count == "exact" or keep == 0:
        return order_BV[:, :keep].sort(dim=1).values
    scores = (_scores(view, similarity).softmax(dim=0) for view in views)
    most = [min(keep, 1 + max(1, int(outliers(score_V)))) for score_V in scores]
    return [order_V[:own].sort().values for order_V, own in zip(order_BV, most, strict=True)]


def trim_rows(views: Views, kept_BK: Tensor, *, similarity: str = "dot", count: str = "exact") -> Tensor:
    """(B, K, D) the patches in raster order, and the mean of those that were not kept."""
    chosen_BK = _by_relevance(views, similarity)[:, : kept_BK.shape[1] - 1].sort(dim=1).values
    patches_BKC, exact = several.features(views, chosen_BK), several.exact(views, TOWER_FEATURES)
    patch_BV = several.each(views, "patches", lambda view: (view.read(TOWER_FEATURES) != 0).any(dim=1))
    removed_BV = patch_BV.to(exact[0].dtype).scatter(1, chosen_BK, 0)
    mean_BC = several.products(removed_BV, exact) / removed_BV.sum(dim=1, keepdim=True).clamp(min=1)
    return several.projected(views, torch.cat((patches_BKC, mean_BC[:, None].to(patches_BKC.dtype)), dim=1))


def outliers(values_V: Tensor) -> Tensor:
    """How many are above the third quartile by more than 1.5 times the distance of the quartiles."""
    low, high = values_V.quantile(values_V.new_tensor([0.25, 0.75]))
    return (values_V > high + 1.5 * (high - low)).sum()


def _by_relevance(views: Views, similarity: str) -> Tensor:
    """(B, V) int64 tokens of each, the most relevant first."""
    return several.once(
        views,
        ("by relevance", similarity),
        lambda: several.orders(torch.stack([_scores(view, similarity) for view in views])),
    )


def _scores(view: EvidenceView, similarity: str) -> Tensor:
    """(V,) the higher, the more relevant; minus infinity where no patch stands behind a token."""
    image_VE, text_1E = view.read(IMAGE_EMBEDDINGS), view.read(PROMPT_EMBEDDING)
    likeness_V1 = cosine(image_VE, text_1E) if similarity == "cosine" else lifted(image_VE) @ lifted(text_1E).T
    return (-likeness_V1[:, 0]).masked_fill((image_VE == 0).all(dim=1), -torch.inf)
