"""L2 norm: keep the visual tokens with the longest projected features, before the decoder sees any.

Source: YangXu-03/Himap-based, src/LLaVA/scripts/pruning_experiment.py.
We differ on one point: norms are taken in float32, and of equal ones the lower index wins. The question plays no part,
and long tokens are often background artefacts: expect a weak selector at low ranks.
"""

from __future__ import annotations

from torch import Tensor

from strategies.scores import lifted
from strategies.view import TokenView


def l2_norm(view: TokenView) -> Tensor:
    """Score a visual token by the Euclidean length of its projector output.

    Returns:
        (V,) float32 or better.
    """
    return lifted(view.hidden_VD).norm(dim=1)
