"""SparseVLM: in three stages, keep what the words that concern the image look at.

Source: Zhang et al., SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference, ICML 2025,
arXiv:2410.04417; Gumpest/SparseVLMs, llava/model/language_model/modelling_sparse_llama.py and score.py.
The raters are those tokens after the image whose mass is above the mean: the softmax over the text of the products of
what enters the decoder, mean over the image. A visual token's score is the raters' attention to it, mean over heads and
raters. After layers 2, 6 and 15 (counted from 0) of LLaVA-1.5's 32 have run, which are K = 3, 7 and 16, the highest
stay.
SparseVLM+ (the code's version 2.0) divides the attention by what it would be of all-ones queries and keys after
rotation, before softmax, which undoes the pull of what stands near, and takes the 14 heads alone in which the raters
look at the image most. Nothing is merged, and tokens keep their position ids.
We differ: where no token is above the mean, all are raters (the authors' score is then not a number); of fewer than 14
heads all count; attention stays in float32; of equal scores the lower index wins.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from strategies.decoder_evidence import POSITION_PULL, TEXT_MASS
from strategies.evidence import EvidenceView
from strategies.limits import Range
from strategies.scores import descending_order
from strategies.stages import Stage
from strategies.view import Evidence

PLUS_NEEDS = frozenset({Evidence.TEXT_ROWS, TEXT_MASS, POSITION_PULL})
# Tokens after each stage for averages of 192, 128, 96 and 64, as the authors count, of 576.
PLUS_LISTS = ((300, 200, 118), (238, 108, 60), (246, 54, 28), (66, 34, 20))


def raters(view: EvidenceView) -> Tensor:
    """(T,) bool, which tokens after the image rate: those with more than the mean of the mass."""
    mass_T = view.read(TEXT_MASS)
    above_T = mass_T > mass_T.mean()
    return above_T | ~above_T.any()


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
