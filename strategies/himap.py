"""HiMAP: prune once by what the text looks at, and deeper by what the image looks at.

Source: YangXu-03/Himap-based, himap.py: at layer 2 keep 288 by the text rows' attention, at layer 8 keep 72 of these by
the image rows', optionally drop all later.
We differ: dropped tokens are gone (the original masks them), scores are per sample, ties go to the lower index.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from strategies.limits import Range
from strategies.stages import Stage
from strategies.view import TokenView


def text_sum(view: TokenView) -> Tensor:
    """Score a visual token by the attention it receives from all text tokens, mean over heads.

    Returns:
        (V,), at least 0.
    """
    return view.text_HTV.mean(dim=0).sum(dim=0)


def image_column_sum(view: TokenView) -> Tensor:
    """Score a visual token by the attention it receives from the visual tokens, itself included, mean over heads.

    Attention is causal, so early tokens have more queries that can see them.

    Returns:
        (V,), at least 0.
    """
    return view.visual_HVV.mean(dim=0).sum(dim=0)


def himap(
    layer: int,
    rank: int,
    *,
    second_layer: Annotated[int, Range(1)] = 8,
    second_rank: Annotated[int, Range(0)] = 72,
    cutoff_layer: Annotated[int, Range(0)] = 0,
) -> tuple[Stage, ...]:
    """The stages of the method.

    Args:
        layer: where the text chooses, 2 in the original.
        rank: what it keeps, 288 in the original.
        second_layer: where the image chooses among the survivors; above ``layer``.
        second_rank: what it keeps, at most ``rank``.
        cutoff_layer: where all visual tokens go, above ``second_layer``; 0: nowhere.

    Raises:
        ValueError: the stages are not in order.
    """
    if second_layer <= layer:
        raise ValueError(f"second_layer: {second_layer} is not above layer {layer}")
    if second_rank > rank:
        raise ValueError(f"second_rank: {second_rank} is above the first stage's rank {rank}")
    if cutoff_layer and cutoff_layer <= second_layer:
        raise ValueError(f"cutoff_layer: {cutoff_layer} is not above second_layer {second_layer}")
    stages = (Stage("text_sum", layer, rank), Stage("image_column_sum", second_layer, second_rank))
    return (*stages, Stage("cutoff", cutoff_layer, 0)) if cutoff_layer else stages
