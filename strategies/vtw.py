"""VTW: withdraw all visual tokens from a layer on, because what the text needs of them has gone over to it by then.

Source: Lin et al., Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for Rapid Inference, AAAI
2025, arXiv:2405.05803; lzhxmu/VTW, llava/model/language_model/VTW.py.
It is the layer cut-off by the name that the field's tables have; the authors' file takes layer 15 of LLaVA-1.5-7B's 32
and leaves the position ids as they are (its ``pe_type`` of "keep").
We differ: the span of the image is read from the sample, where the authors have 35 and 576. The authors' search for the
layer, by the divergence of the first token's distribution on some samples, is not here: a scan over layers
says more.
"""

from __future__ import annotations

from torch import Tensor

from strategies.scores import uniform_scores
from strategies.view import TokenView


def vtw(view: TokenView) -> Tensor:
    """Drop every visual token: the catalog fixes the rank at 0, so the scores are never compared.

    Returns:
        (V,) float32 zeros.
    """
    return uniform_scores(view.visual, view.device)
