"""Diversity: keep tokens that lie far from one another (farthest points) or in the middle of many (ToMe-style centres).

Sources: DivPrune: Alvar et al., CVPR 2025, arXiv:2503.02175; vbdi/divprune, LLaVA/llava/model/llava_arch.py.
``fps`` and ``tome_centres``: YangXu-03/Himap-based, diversity_token_selector.py and
fastv_custom_selection_experiment.py.
We differ: a token is never chosen twice (all three originals can, among equal tokens), the farthest-point start is
fixed or drawn from the sample's seed, and a centre always belongs to its own cluster. Ties go to the lower index, but
the distances of equal tokens are equal only up to the rounding of a matrix product.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from strategies.scores import cosine, descending_order
from strategies.view import TokenView

ROUNDS = 3  # of re-centring, as in the original


def divprune(view: TokenView, keep: int) -> Tensor:
    """Greedy max-min selection on cosine distance, O(V^2 D) once and O(V) per kept token.

    The first token is the one whose nearest neighbour is farthest.

    Args:
        view: the projector's output is read, in any floating dtype; distances are taken in float32 or better.
        keep: tokens to keep, 0 <= keep <= V.

    Returns:
        (keep,) int64, unique, in the order of choice: a smaller ``keep`` gives the beginning of a larger one.
    """
    distance_VV = 1 - cosine(view.hidden_VD, view.hidden_VD)
    alone_V = distance_VV.clone().fill_diagonal_(torch.inf).amin(dim=0)
    return _farthest_first(distance_VV, alone_V, keep)


def fps(view: TokenView, keep: int, *, start: Literal["first", "drawn"] = "first") -> Tensor:
    """Farthest-point sampling on cosine distance.

    Args:
        view: the visual tokens' residual stream is read.
        keep: tokens to keep, 0 <= keep <= V.
        start: the first token of the image, or one drawn from the view's seed.

    Returns:
        (keep,) int64, unique, in the order of choice.
    """
    drawn = int(torch.randint(view.visual, (1,), generator=view.generator())) if start == "drawn" else 0
    distance_VV = 1 - cosine(view.hidden_VD, view.hidden_VD)
    preference_V = torch.zeros_like(distance_VV[0])
    preference_V[drawn] = 1
    return _farthest_first(distance_VV, preference_V, keep)


def _farthest_first(distance_VV: Tensor, preference_V: Tensor, keep: int) -> Tensor:
    """Start with the largest preference, then add whatever is farthest from all chosen; ties to the lower index."""
    _refuse_nan(distance_VV)
    order_K = torch.empty(keep, dtype=torch.int64, device=distance_VV.device)
    gap_V = torch.full_like(preference_V, torch.inf)  # distance to the nearest chosen token; -inf once chosen
    for i in range(keep):
        next_1 = (preference_V if i == 0 else gap_V).argmax(dim=0, keepdim=True)
        order_K[i : i + 1] = next_1
        gap_V = gap_V.minimum(distance_VV.index_select(0, next_1)[0]).index_fill(0, next_1, -torch.inf)
    return order_K


def tome_centres(view: TokenView, keep: int) -> Tensor:
    """Centres of ``keep`` clusters by cosine similarity, ToMe-style.

    Returns:
        (keep,) int64, ascending, unique.
    """
    return centres(view.hidden_VD, keep).sort().values


def centres(hidden_VD: Tensor, keep: int) -> Tensor:
    """Start at the tokens most similar to all others; three times assign every token and take each cluster's best.

    Args:
        hidden_VD: (V, D) floating.
        keep: clusters, 0 <= keep <= V.

    Returns:
        (keep,) int64, unique, cluster by cluster.
    """
    cosine_VV = cosine(hidden_VD, hidden_VD)
    _refuse_nan(cosine_VV)
    degree_V = cosine_VV.sum(dim=1)
    slot_K = torch.arange(keep, device=hidden_VD.device)
    centre_K = descending_order(degree_V)[:keep]
    for _ in range(ROUNDS if keep else 0):
        slot_V = cosine_VV.index_select(1, centre_K).argmax(dim=1)
        slot_V = slot_V.index_copy(0, centre_K, slot_K)  # keeps clusters non-empty, centres distinct
        member_VK = slot_V[:, None] == slot_K
        centre_K = degree_V[:, None].where(member_VK, -torch.inf).argmax(dim=0)
    return centre_K


def _refuse_nan(similarity_VV: Tensor) -> None:
    if similarity_VV.isnan().any():
        raise ValueError("a visual token holds NaN or infinity")
