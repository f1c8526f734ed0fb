"""PruneSID: patches in groups by their principal components, in each the most attended ones that are not alike.

Source: Fang et al., Prune Redundancy, Preserve Essence: Vision Token Compression in VLMs via Synergistic Importance-
Diversity, arXiv:2603.09480; ZhengyaoFang/PruneSID, prunesid/prunesid_llava/clip_encoder.py.
The rank counts the class token, which the decoder sees first; then group by group the survivors in the order of choice.
We differ. Components are exact, where the authors draw a subspace (``prunesid_drawn`` does that, from the sample's
seed): other draws change half of the tokens. There are at most as many of them as a square has patches, and the budget
is exact. Of equal scores the lower index wins. In any-resolution each tile has components of its own, as many as its
share.
In a picture of the kept places the most attended patch that has no row of its own stands for the class token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from strategies.evidence import CLASS_ATTENTION, CLASS_FEATURES, LOADINGS, PLACES, TOWER_FEATURES, EvidenceView
from strategies.scores import lifted

DRAWN_NEEDS = frozenset({CLASS_ATTENTION, CLASS_FEATURES, PLACES, TOWER_FEATURES})
NEEDS = DRAWN_NEEDS | {LOADINGS}
ROUNDS = 2  # of the drawn subspace, as torch.pca_lowrank


def prunesid(view: EvidenceView, keep: int) -> Tensor:
    """The places of the chosen patches, and one for the class token.

    Args:
        view: the tower's attention and features, and the principal loadings are read.
        keep: rows in all, 0 or 4 <= keep <= V.

    Returns:
        (keep,) int64, ascending, unique.
    """
    return _with_spare(view, _chosen(view, keep, drawn=False), keep)


def prunesid_drawn(view: EvidenceView, keep: int) -> Tensor:
    """As ``prunesid``, by components in a subspace that is drawn."""
    return _with_spare(view, _chosen(view, keep, drawn=True), keep)


def prunesid_rows(view: EvidenceView, kept_K: Tensor) -> Tensor:
    """(K, D) the class token, and the patches group by group."""
    return _rows(view, _chosen(view, len(kept_K), drawn=False))


def prunesid_drawn_rows(view: EvidenceView, kept_K: Tensor) -> Tensor:
    """As ``prunesid_rows``."""
    return _rows(view, _chosen(view, len(kept_K), drawn=True))


def _with_spare(view: EvidenceView, chosen_K: Tensor, keep: int) -> Tensor:
    """With the place that stands for the class token: the most attended patch that is not chosen."""
    if keep == 0:
        return chosen_K[:0]
    spare_V = view.read(CLASS_ATTENTION).sum(dim=1).index_fill(0, chosen_K, -torch.inf)
    return torch.cat((chosen_K, spare_V.argmax(dim=0, keepdim=True))).sort().values


def _rows(view: EvidenceView, chosen_K: Tensor) -> Tensor:
    return view.projected(torch.cat((view.read(CLASS_FEATURES)[:1], view.read(TOWER_FEATURES)[chosen_K])))


def _chosen(view: EvidenceView, keep: int, drawn: bool) -> Tensor:
    """(keep - 1,) patches, group by group, in each first those that nothing better is like."""
    return view.once(("chosen", keep, drawn), lambda: _by_groups(view, keep, drawn))


def _by_groups(view: EvidenceView, keep: int, drawn: bool) -> Tensor:
    square_V = view.read(PLACES)[:, 0].contiguous()
    numbers_N = square_V[square_V > 0].unique()
    each = max(1, keep // 4 // len(numbers_N))
    loading_VP = _drawn(view, each) if drawn else view.read(LOADINGS)[:, :each]
    groups = loading_VP.shape[1] * len(numbers_N)
    own_V = torch.searchsorted(numbers_N, square_V) * loading_VP.shape[1] + loading_VP.argmax(dim=1)
    group_V = own_V.where(square_V > 0, groups)  # behind all others: no patch
    order_V = view.by_falling(CLASS_ATTENTION)
    order_V = order_V[group_V[order_V].sort(stable=True).indices]
    alive_V = _survivors(view.likeness(TOWER_FEATURES), group_V, order_V, keep / 32)
    sizes, alive = (
        torch.bincount(one, minlength=groups + 1)[:groups].tolist() for one in (group_V, group_V[order_V[alive_V]])
    )
    order_V = order_V[(2 * group_V[order_V] - alive_V.long()).sort(stable=True).indices]
    budgets = [*_budgets(sizes, alive, keep), view.visual]
    starts_G = torch.tensor([0, *sizes], device=view.device).cumsum(dim=0)
    place_V = torch.arange(view.visual, device=view.device) - starts_G[group_V[order_V]]
    within_V = place_V < torch.tensor(budgets, device=view.device)[group_V[order_V]]
    return order_V[within_V][: max(keep - 1, 0)]


def _survivors(likeness_VV: Tensor, group_V: Tensor, order_V: Tensor, ratio: float) -> Tensor:
    """(V,) bool in the given order: which patches nothing before them of their group that survives is too like."""
    pairs = max(len(group_V) * (len(group_V) - 1), 1)
    threshold = ratio * (likeness_VV.sum() - likeness_VV.diagonal().sum()) / pairs
    alike_VV = (likeness_VV > threshold) & (group_V[:, None] == group_V)
    beats_VV = alike_VV[order_V][:, order_V].tril(diagonal=-1)
    alive_V, before_V = torch.ones_like(group_V, dtype=torch.bool), torch.zeros_like(group_V, dtype=torch.bool)
    while not torch.equal(alive_V, before_V):  # as many rounds as the longest chain of likes, a few
        alive_V, before_V = ~(beats_VV & alive_V).any(dim=1), alive_V
    return alive_V


def _budgets(sizes: list[int], alive: list[int], keep: int) -> list[int]:
    """Patches of each group: one, and of the others a share by its survivors, within bounds that leave room for all."""
    least = [min(1, size) for size in sizes]
    most = [min(5 * math.ceil(keep / 64), size, left) for size, left in zip(sizes, alive, strict=True)]
    while sum(most) < min(keep, sum(sizes)):
        most = [min(one + 1, size) for one, size in zip(most, sizes, strict=True)]
    others = max(keep - 1 - sum(least), 0)
    marks = [round(others * sum(alive[: i + 1]) / max(sum(alive), 1)) for i in range(len(alive))]
    shares = [mark - before for mark, before in zip(marks, [0, *marks], strict=False)]
    budgets = [min(first + share, bound) for first, share, bound in zip(least, shares, most, strict=True)]
    for i in sorted(range(len(sizes)), key=lambda i: -alive[i]):
        budgets[i] += min(most[i] - budgets[i], others + sum(least) - sum(budgets))
    return budgets


def _drawn(view: EvidenceView, count: int) -> Tensor:
    """(V, count) absolute loadings in a subspace that is drawn, as ``torch.pca_lowrank``, over all tiles together."""
    rows_VC = lifted(view.read(TOWER_FEATURES)).sigmoid()
    rows_VC = rows_VC - rows_VC.mean(dim=1, keepdim=True)
    count = min(count, *rows_VC.shape)
    start_VQ = torch.randn(view.visual, count, generator=view.generator()).to(rows_VC)
    basis_CQ = torch.linalg.qr(rows_VC.T @ start_VQ).Q
    for _ in range(ROUNDS):
        basis_CQ = torch.linalg.qr(rows_VC.T @ torch.linalg.qr(rows_VC @ basis_CQ).Q).Q
    return torch.linalg.svd(rows_VC @ basis_CQ, full_matrices=False).U.abs()
