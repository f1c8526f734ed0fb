"""FastV: keep the tokens to which the last query pays most attention, averaged over the heads.

Source: Chen et al., An Image is Worth 1/2 Tokens After Layer 2, ECCV 2024, arXiv:2403.06764; pkunlp-icler/FastV,
src/FastV/inference/modeling_llama.py; the same as ``avg_all_heads`` of HiMAP's fastv_advanced.py.
We differ on two points: probabilities stay in float32 (half precision ties many tokens), and of equal scores the lower
index wins. The authors' scripts take 36 for the image's start in LLaVA-1.5, which spares the first image token; here
the span is read from the sample.
"""

from __future__ import annotations

from torch import Tensor

from strategies.view import TokenView


def fastv(view: TokenView) -> Tensor:
    """Score a visual token by the last query's attention to it in layer K-1, mean over heads.

    Returns:
        (V,) float32 in [0, 1].
    """
    return view.last_HV.mean(dim=0)
