"""FasterVLM: keep the patches to which the vision tower's class token pays most attention.

Source: Zhang et al., [CLS] Attention is All You Need for Training-Free Visual Token Pruning, arXiv:2412.01818;
Theia-4869/FasterVLM, llava/model/multimodal_encoder/clip_encoder.py.
We differ on one point: of equal scores the lower index wins.
"""

from __future__ import annotations

from torch import Tensor

from strategies import several
from strategies.evidence import CLASS_ATTENTION, EvidenceView
from strategies.several import Views

NEEDS = frozenset({CLASS_ATTENTION})


def fastervlm(view: EvidenceView) -> Tensor:
    """Score a patch by the class token's attention in the tower's layer before the last, mean over heads.

    Returns:
        (V,) float32 in [0, 1].
    """
    return view.read(CLASS_ATTENTION).mean(dim=1)


def together(views: Views, keep: int) -> Tensor:
    """(B, keep) the best of several images with as many tokens, the very best first."""
    return several.by_falling(views, CLASS_ATTENTION)[:, :keep]
