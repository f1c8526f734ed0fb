"""SparseVLM: in three stages, keep what the words that concern the image look at.

Source: Zhang et al., SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference, ICML 2025,
arXiv:2410.04417; Gumpest/SparseVLMs, llava/model/language_model/modelling_sparse_llama.py and score.py.
The raters are those tokens after the image whose mass is above the mean: the softmax over the text of the products of
what enters the decoder, mean over the image. A visual token's score is the raters' attention to it, mean over heads and
raters. After layers 2, 6 and 15 (counted from 0) of LLaVA-1.5's 32 have run, which are K = 3, 7 and 16, the highest
stay.
Of the rest the best three tenths are recycled: merged into about a tenth of their number by density peaks, and fed
behind the kept ones; positions are renumbered. The rank counts every row that the decoder sees: 309 are 300 tokens of
576 and 9 merged ones.
SparseVLM+ (the code's version 2.0) divides the attention by what it would be of all-ones queries and keys after
rotation, before softmax, which undoes the pull of what stands near, and takes the 14 heads alone in which the raters
look at the image most. Nothing is merged, and tokens keep their position ids.
We differ: densities have no noise of 1e-6; where no token is above the mean, all are raters (the authors' score is then
not a number); of fewer than 14 heads all count; attention stays in float32; of equal scores the lower index wins. In a
picture a merged row stands at its cluster's centre. The lists of the authors are what is kept beside the merged rows;
at ranks below their smallest number of clusters all is merged.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from strategies import several
from strategies.decoder_evidence import POSITION_PULL, TEXT_MASS
from strategies.evidence import EvidenceView
from strategies.limits import Range
from strategies.scores import descending_order, lifted
from strategies.several import Views
from strategies.stages import Stage
from strategies.view import Evidence

NEEDS = frozenset({Evidence.TEXT_ROWS, Evidence.HIDDEN, TEXT_MASS})
PLUS_NEEDS = frozenset({Evidence.TEXT_ROWS, TEXT_MASS, POSITION_PULL})
# Rows after each stage, merged ones counted, for averages of 192, 128, 96 and 64, as the authors count, of 576: what
# they keep beside is 300, 200, 110; 303, 110, 36; 238, 48, 26; 66, 30, 17.
LISTS = ((309, 204, 113), (312, 117, 39), (249, 55, 27), (82, 32, 18))
RECYCLED, CLUSTER = 0.3, 10  # share of the rest that is merged, and how many into one, about
# Tokens after each stage for averages of 192, 128, 96 and 64, as the authors count, of 576.
PLUS_LISTS = ((300, 200, 118), (238, 108, 60), (246, 54, 28), (66, 34, 20))


def raters(view: EvidenceView) -> Tensor:
    """(T,) bool, which tokens after the image rate: those with more than the mean of the mass."""
    mass_T = view.read(TEXT_MASS)
    above_T = mass_T > mass_T.mean()
    return above_T | ~above_T.any()


def sparsevlm_stage(view: EvidenceView, keep: int) -> Tensor:
    """The best-rated tokens, and the centres of what is merged.

    Args:
        view: the text's attention, its mass and the hidden states are read.
        keep: rows in all, 0 <= keep <= V.

    Returns:
        (keep,) int64, unique, in the order in which their rows are fed: kept ones ascending, then the centres.
    """
    if keep == 0:
        return torch.arange(0, device=view.device)
    rating_T = raters(view).to(view.text_HTV.dtype)
    order_V = descending_order(rating_T @ view.text_HTV.mean(dim=0))
    kept = _kept_of(view.visual, keep)
    pool_S = order_V[kept:][: _recycled(view.visual - kept)]
    state_SD = lifted(view.hidden_VD[pool_S])
    centre_C, member_S = density_peaks(state_SD, keep - kept)
    place_K = torch.cat((order_V[:kept].sort().values, pool_S[centre_C]))
    rows_K = torch.arange(keep, device=view.device)
    slot_V = torch.full_like(order_V, -1).index_copy(0, pool_S, kept + member_S)
    view.once(("slots", keep), lambda: slot_V.index_copy(0, place_K, rows_K))
    return place_K


def sparsevlm_rows(views: Views, kept_BK: Tensor) -> Tensor:
    """(B, K, D) what the decoder sees: kept tokens as they are, and of each cluster the mean."""
    keep = kept_BK.shape[1]
    for view in views:
        if ("slots", keep) not in view.made:
            sparsevlm_stage(view, keep)
    return several.hidden_means(views, torch.stack([view.made["slots", keep] for view in views]), keep)


def density_peaks(state_SD: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Clusters by density peaks (DPC-kNN).

    Args:
        state_SD: (S, D), float32 or better.
        clusters: 1 <= clusters <= S; as many neighbours make a density.

    Returns:
        The centres (clusters,), best first, and for each row which of them is nearest, (S,); a centre is its own.
    """
    apart = torch.cdist(state_SD, state_SD, compute_mode="donot_use_mm_for_euclid_dist")
    distance_SS = apart * state_SD.shape[1] ** -0.5
    near_SC = distance_SS.topk(clusters, dim=1, largest=False).values
    density_S = (-near_SC.square().mean(dim=1)).exp()
    denser_SS = density_S > density_S[:, None]
    gap_S = torch.where(denser_SS, distance_SS, distance_SS.amax()).amin(dim=1)
    centre_C = descending_order(gap_S * density_S)[:clusters]
    member_S = distance_SS[:, centre_C].argmin(dim=1)
    return centre_C, member_S.index_copy(0, centre_C, torch.arange(clusters, device=state_SD.device))


def _recycled(rest: int) -> int:
    return int(rest * RECYCLED) + 1


def _kept_of(visual: int, rank: int) -> int:
    """Of so many rows those that are tokens as they are: the most that leave room for what the rest is merged into."""
    fit = (kept for kept in range(rank - 1, 0, -1) if kept + _recycled(visual - kept) // CLUSTER + 1 <= rank)
    return next(fit, 0)


def sparsevlm(
    layer: int,
    rank: int,
    *,
    second_layer: Annotated[int, Range(1)] = 7,
    second_rank: Annotated[int, Range(0)] = 204,
    third_layer: Annotated[int, Range(1)] = 16,
    third_rank: Annotated[int, Range(0)] = 113,
) -> tuple[Stage, ...]:
    """The stages of the method.

    Args:
        layer: of the first stage, 3 in the original.
        rank: rows that it leaves, merged ones counted; 309 in the original for 192 on average.
        second_layer, third_layer: of the others, each above the one before.
        second_rank, third_rank: rows that they leave, each at most what the one before does.

    Raises:
        ValueError: the stages are not in order.
    """
    stages = ((layer, rank), (second_layer, second_rank), (third_layer, third_rank))
    check_order(stages)
    return tuple(Stage("sparsevlm_stage", at, keep) for at, keep in stages)


def sparsevlm_plus_stage(view: EvidenceView, keep: int, *, heads: Annotated[int, Range(1)] = 14) -> Tensor:
    """Order visual tokens by the raters' attention without the pull of its place, mean over some heads and the raters.

    No score: where the pull is negative, so is what is divided by it.

    Args:
        view: the text's attention, its mass and the pull of places are read.
        keep: tokens to keep, 0 <= keep <= V.
        heads: those with the largest sum over raters and image; at most all.

    Returns:
        (keep,) int64, the highest first.
    """
    rating_T = raters(view).to(view.text_HTV.dtype)
    rated_HTV = view.text_HTV / view.read(POSITION_PULL) * rating_T[:, None]
    rated_HV = rated_HTV.sum(dim=1) / rating_T.sum()
    best_HV = rated_HV[descending_order(rated_HV.sum(dim=1))[:heads]]
    return descending_order(best_HV.mean(dim=0))[:keep]


def sparsevlm_plus(
    layer: int,
    rank: int,
    *,
    second_layer: Annotated[int, Range(1)] = 7,
    second_rank: Annotated[int, Range(0)] = 200,
    third_layer: Annotated[int, Range(1)] = 16,
    third_rank: Annotated[int, Range(0)] = 118,
    heads: Annotated[int, Range(1)] = 14,
) -> tuple[Stage, ...]:
    """The stages of the method.

    Args:
        layer: of the first stage, 3 in the original.
        rank: what it keeps, 300 in the original for 192 on average.
        second_layer, third_layer: of the others, each above the one before.
        second_rank, third_rank: what they keep, each at most what the one before does.
        heads: that count, see ``sparsevlm_plus_stage``.

    Raises:
        ValueError: the stages are not in order.
    """
    stages = ((layer, rank), (second_layer, second_rank), (third_layer, third_rank))
    check_order(stages)
    return tuple(Stage("sparsevlm_plus_stage", at, keep, (("heads", heads),)) for at, keep in stages)


def check_order(stages: tuple[tuple[int, int], ...]) -> None:
    """Refuse three (layer, rank) whose layers do not rise or whose ranks do.

    Raises:
        ValueError: names the parameter.
    """
    (first, rank), (second, second_rank), (third, third_rank) = stages
    if not first < second < third:
        raise ValueError(f"second_layer: layers {first}, {second} and {third} do not rise")
    if second_rank > rank:
        raise ValueError(f"second_rank: {second_rank} is above the first stage's rank {rank}")
    if third_rank > second_rank:
        raise ValueError(f"third_rank: {third_rank} is above the second stage's {second_rank}")
