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

from strategies import several
from strategies.evidence import CLASS_ATTENTION, CLASS_FEATURES, LOADINGS, PLACES, TOWER_FEATURES, EvidenceView
from strategies.scores import lifted
from strategies.several import Views

DRAWN_NEEDS = frozenset({CLASS_ATTENTION, CLASS_FEATURES, PLACES, TOWER_FEATURES})
NEEDS = DRAWN_NEEDS | {LOADINGS}
AT_ONCE = 8  # rounds of removing what is alike before one asks whether something changed
ROUNDS = 2  # of the drawn subspace, as torch.pca_lowrank


def prunesid(view: EvidenceView, keep: int) -> Tensor:
    """The places of the chosen patches, and one for the class token.

    Args:
        view: the tower's attention and features, and the principal loadings are read.
        keep: rows in all, 0 or 4 <= keep <= V.

    Returns:
        (keep,) int64, ascending, unique.
    """
    return together([view], keep)[0]


def prunesid_drawn(view: EvidenceView, keep: int) -> Tensor:
    """As ``prunesid``, by components in a subspace that is drawn."""
    return drawn_together([view], keep)[0]


def together(views: Views, keep: int) -> Tensor:
    """(B, keep) ``prunesid`` of several images with as many tokens."""
    return _with_spare(views, _chosen(views, keep, drawn=False), keep)


def drawn_together(views: Views, keep: int) -> Tensor:
    """(B, keep) ``prunesid_drawn`` of several images with as many tokens."""
    return _with_spare(views, _chosen(views, keep, drawn=True), keep)


def prunesid_rows(views: Views, kept_BK: Tensor) -> Tensor:
    """(B, K, D) the class token, and the patches group by group."""
    return _rows(views, _chosen(views, kept_BK.shape[1], drawn=False))


def prunesid_drawn_rows(views: Views, kept_BK: Tensor) -> Tensor:
    """As ``prunesid_rows``."""
    return _rows(views, _chosen(views, kept_BK.shape[1], drawn=True))


def _with_spare(views: Views, chosen_BK: Tensor, keep: int) -> Tensor:
    """With the place that stands for the class token: the most attended patch that is not chosen."""
    if keep == 0:
        return chosen_BK
    sums_BV = several.each(views, "summed attention", lambda view: view.read(CLASS_ATTENTION).sum(dim=1))
    spare_B1 = sums_BV.scatter(1, chosen_BK, -torch.inf).argmax(dim=1, keepdim=True)
    return torch.cat((chosen_BK, spare_B1), dim=1).sort(dim=1).values


def _rows(views: Views, chosen_BK: Tensor) -> Tensor:
    rows_BKC = torch.cat((several.class_features(views), several.features(views, chosen_BK)), dim=1)
    return several.projected(views, rows_BKC)


def _chosen(views: Views, keep: int, drawn: bool) -> Tensor:
    """(B, keep - 1) patches, group by group, in each first those that nothing better is like."""

    def make() -> Tensor:
        square_BV = _squares(several.read(views, PLACES)[:, :, 0])
        if bool((square_BV == square_BV[0]).all()):
            return _by_groups(views, square_BV[0].contiguous(), keep, drawn)
        # Cut into other squares, which have other numbers of components.
        return torch.cat([_chosen([view], keep, drawn) for view in views])

    return several.once(views, ("chosen", keep, drawn), make)


def _squares(number_BV: Tensor) -> Tensor:
    """(B, V) the number of each patch's square, from 1 in each image; 0 for a row that is no patch."""
    first_B1 = number_BV.where(number_BV > 0, number_BV.amax()).amin(dim=1, keepdim=True)
    return (number_BV - first_B1 + 1).clamp(min=0)


def _by_groups(views: Views, square_V: Tensor, keep: int, drawn: bool) -> Tensor:
    numbers_N = square_V[square_V > 0].unique()
    each = max(1, keep // 4 // len(numbers_N))
    components, own_BV = _components(views, each, drawn)
    groups = components * len(numbers_N)
    own_BV = torch.searchsorted(numbers_N, square_V) * components + own_BV
    group_BV = own_BV.where(square_V > 0, groups)  # behind all others: no patch
    order_BV = several.by_falling(views, CLASS_ATTENTION)
    order_BV = order_BV.gather(1, group_BV.gather(1, order_BV).sort(dim=1, stable=True).indices)
    group_BV = group_BV.gather(1, order_BV)  # from here on in that order
    alive_BV = _survivors(views, group_BV, order_BV, keep / 32)
    in_BVG = group_BV[:, :, None] == torch.arange(groups, device=group_BV.device)
    counts_2BG = torch.stack((in_BVG.sum(dim=1), (in_BVG & alive_BV[:, :, None]).sum(dim=1)))
    budgets = [
        [*_budgets(sizes, alive, keep), len(square_V)] for sizes, alive in zip(*counts_2BG.tolist(), strict=True)
    ]
    starts_BG = torch.nn.functional.pad(counts_2BG[0].cumsum(dim=1), (1, 0))
    place_BV = torch.arange(len(square_V), device=group_BV.device) - starts_BG.gather(1, group_BV)
    beyond_BV = place_BV >= torch.tensor(budgets, device=group_BV.device).gather(1, group_BV)
    # Within a group survivors come first, and what is beyond its budget comes after all groups.
    first_BV = (2 * group_BV - alive_BV.long()).sort(dim=1, stable=True).indices
    first_BV = first_BV.gather(1, beyond_BV.sort(dim=1, stable=True).indices)
    return order_BV.gather(1, first_BV)[:, : max(keep - 1, 0)]


def _components(views: Views, most: int, drawn: bool) -> tuple[int, Tensor]:
    """How many there are, and (B, V) of each patch the one that it has most of."""
    loading_BVP = torch.stack([_drawn(view, most) for view in views]) if drawn else several.read(views, LOADINGS)
    loading_BVP = loading_BVP[:, :, :most]
    return loading_BVP.shape[2], loading_BVP.argmax(dim=2)


def _survivors(views: Views, group_BV: Tensor, order_BV: Tensor, ratio: float) -> Tensor:
    """(B, V) bool in the given order: which patches nothing before them of their group that survives is too like."""
    pairs = max(group_BV.shape[1] * (group_BV.shape[1] - 1), 1)
    threshold_B = ratio * several.each(views, "likeness between", _between) / pairs
    alike = [view.likeness(TOWER_FEATURES) > least for view, least in zip(views, threshold_B, strict=True)]
    image_B11 = torch.arange(len(views), device=order_BV.device)[:, None, None]
    alike_BVV = torch.stack(alike)[image_B11, order_BV[:, :, None], order_BV[:, None]]
    beats_BVV = (alike_BVV & (group_BV[:, :, None] == group_BV[:, None])).tril(diagonal=-1)
    alive_BV, before_BV = torch.ones_like(group_BV, dtype=torch.bool), torch.zeros_like(group_BV, dtype=torch.bool)
    while not torch.equal(alive_BV, before_BV):  # some rounds more than the longest chain of likes: asking waits
        for _ in range(AT_ONCE):
            alive_BV, before_BV = ~(beats_BVV & alive_BV[:, None]).any(dim=2), alive_BV
    return alive_BV


def _between(view: EvidenceView) -> Tensor:
    """() sum of the likenesses of all pairs."""
    likeness_VV = view.likeness(TOWER_FEATURES)
    return likeness_VV.sum() - likeness_VV.diagonal().sum()


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
