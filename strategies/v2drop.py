"""V2Drop: in three stages, keep the tokens that the layer before has changed most.

Source: Chen et al., Variation-aware Vision Token Dropping for Faster Large Vision-Language Models, CVPR 2026,
arXiv:2509.01552; xuyang-liu16/V2Drop, llava/model/language_model/V2Drop.py.
Before layers 3, 17 and 22 of LLaVA-1.5's 32 a visual token's score is the L2 norm of what enters the layer minus what
entered the one before. The paper drops 50, 70 and 100 % of what is still there for 192 tokens on average, 72, 75 and
100 % for 128, 95, 95 and 100 % for 64: at ranks 288, 161 and 28, rounded down as the authors do, with a second share of
0.3, 0.25 and 0.05.
We differ: none is left from the third stage on, as the paper says, where the authors' code leaves one; their code ships
50 and 50 %, which with that one token is ``rank: 288``, ``second_share: 0.5``, ``third_rank: 1``. Layers that the model
does not have are a mistake, and not ignored. Of the authors' two versions of the file one compares by cosine; this is
the other, and the paper's. Of equal scores the lower index wins.
"""

from __future__ import annotations

import math
from typing import Annotated

from torch import Tensor

from strategies.decoder_evidence import STATES_BEFORE
from strategies.evidence import EvidenceView
from strategies.limits import Range
from strategies.scores import lifted
from strategies.stages import Stage
from strategies.view import Evidence

NEEDS = frozenset({Evidence.HIDDEN, STATES_BEFORE})
SLACK = 1e-9  # of a token: 0.3 x 290 is a little less than 87 in binary
SHARES = ((288, 0.3), (161, 0.25), (28, 0.05))  # the paper's, of 576: what the first stage leaves, and the second of it


def state_change(view: EvidenceView) -> Tensor:
    """Score a visual token by how far layer K-1 has moved it: the L2 norm of the difference.

    Returns:
        (V,), at least 0.
    """
    return (lifted(view.hidden_VD) - lifted(view.read(STATES_BEFORE))).norm(dim=1)


def v2drop(
    layer: int,
    rank: int,
    *,
    second_layer: Annotated[int, Range(1)] = 17,
    second_share: Annotated[float, Range(0, 1)] = 0.3,
    third_layer: Annotated[int, Range(0)] = 22,
    third_rank: Annotated[int, Range(0)] = 0,
) -> tuple[Stage, ...]:
    """The stages of the method.

    Args:
        layer: of the first stage, 3 in the original.
        rank: tokens that it leaves, half of them in the original.
        second_layer: above ``layer``.
        second_share: of these tokens that are left then, rounded down, one at least.
        third_layer: above ``second_layer``; 0: nowhere.
        third_rank: tokens that are left then.

    Raises:
        ValueError: the stages are not in order.
    """
    if second_layer <= layer:
        raise ValueError(f"second_layer: {second_layer} is not above layer {layer}")
    if third_layer and third_layer <= second_layer:
        raise ValueError(f"third_layer: {third_layer} is not above second_layer {second_layer}")
    second = min(rank, max(1, math.floor(second_share * rank + SLACK)))
    if third_layer and third_rank > second:
        raise ValueError(f"third_rank: {third_rank} is above the second stage's {second}")
    stages = (Stage("state_change", layer, rank), Stage("state_change", second_layer, second))
    return (*stages, Stage("state_change", third_layer, third_rank)) if third_layer else stages
