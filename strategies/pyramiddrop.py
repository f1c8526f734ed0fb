"""PyramidDrop: prune at several depths, each time by what the layer that comes next looks at.

Source: Xing et al., PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
Reduction, CVPR 2025, arXiv:2410.17247; Cooperx521/PyramidDrop, llava/model/modeling_llama_pdrop.py.
Before layer K its own norm, projections and rotation are applied to what enters it; the last prompt token's attention
over all tokens, mean over heads, says which visual tokens layer K is run with. Half of the image is left after 8
layers, a quarter after 16, an eighth after 24, and positions are renumbered each time, which the next score sees.
We differ: attention stays in float32 (theirs goes back to half precision, where tokens tie), ties go to the lower
index, and numbers are counted from the first stage's, not from the image's: the same wherever that is the image's times
the first ratio.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from strategies.evidence import EvidenceView
from strategies.limits import Range
from strategies.stages import Stage

ROW_AHEAD = "row_ahead"  # (H, V) attention of the last token to the visual ones in layer K, after softmax over all
STAGE = "pyramiddrop_stage"


def pyramiddrop_stage(view: EvidenceView) -> Tensor:
    """Score a visual token by the last token's attention in the layer that comes next, mean over heads: (V,)."""
    return view.read(ROW_AHEAD).mean(dim=0)


def pyramiddrop(
    layer: int,
    rank: int,
    *,
    second_layer: Annotated[int, Range(1)] = 16,
    second_share: Annotated[float, Range(0, 1)] = 0.5,
    third_layer: Annotated[int, Range(1)] = 24,
    third_share: Annotated[float, Range(0, 1)] = 0.25,
) -> tuple[Stage, ...]:
    """The stages of the method.

    Args:
        layer: of the first, 8 in the original.
        rank: what it keeps, half of the image in the original: 288.
        second_layer, third_layer: of the others, each above the one before; at L, the number of layers, there is none.
        second_share, third_share: what they keep, as shares of ``rank``, rounded down; falling.

    Raises:
        ValueError: the stages are not in order.
    """
    if not layer < second_layer < third_layer:
        raise ValueError(f"second_layer: layers {layer}, {second_layer} and {third_layer} do not rise")
    if third_share > second_share:
        raise ValueError(f"third_share: {third_share:g} is above second_share {second_share:g}")
    shares = ((layer, 1.0), (second_layer, second_share), (third_layer, third_share))
    return tuple(Stage(STAGE, at, int(rank * share)) for at, share in shares)
