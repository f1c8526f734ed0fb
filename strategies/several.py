"""Evidence of several images with as many tokens, side by side: looked through once, whatever their number.

What a sum's last digit decides, and every product, is made for each image alone: neither choices nor the rows that a
method makes depend on the company. The projector takes the rows of all as one matrix, as the decoder does after it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from strategies.evidence import CLASS_FEATURES, TOWER_FEATURES, EvidenceView, without_nan
from strategies.scores import lifted

Views = Sequence[EvidenceView]


def look_through(views: Views) -> None:
    """Look for NaN in all that ``read`` will be asked for: the host waits once for a device, not for each piece.

    Raises:
        ValueError: a piece of evidence holds NaN.
    """
    unread = [{name: rows for name, rows in view.evidence.items() if ("read", name) not in view.made} for view in views]
    largest = [torch.cat([rows.flatten() for rows in own.values()]).amax() for own in unread if own]  # NaN where one is
    if largest and torch.stack(largest).isnan().any():
        for own in unread:
            for name, rows in own.items():
                without_nan(rows, name)
    for view, own in zip(views, unread, strict=True):
        view.made.update({("read", name): rows for name, rows in own.items()})


def read(views: Views, name: str) -> Tensor:
    """(B, V, ...) evidence by its name.

    Raises:
        ValueError: the strategy did not declare it, or it holds NaN.
    """
    if all(("read", name) in view.made for view in views) or any(name not in view.evidence for view in views):
        return torch.stack([view.read(name) for view in views])
    rows_BVX = without_nan(torch.stack([view.evidence[name] for view in views]), name)
    for view in views:
        view.made["read", name] = view.evidence[name]
    return rows_BVX


def means(views: Views, name: str) -> Tensor:
    """(B, V) mean over heads of an attention (V, H)."""
    read(views, name)
    return each(views, ("mean", name), lambda view: view.read(name).mean(dim=1))


def each(views: Views, what: Hashable, make: Callable[[EvidenceView], Tensor]) -> Tensor:
    """(B, ...) what ``EvidenceView.once`` makes of each."""
    return torch.stack([view.once(what, partial(make, view)) for view in views])


def once(views: Views, what: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """(B, ...) the same, made of all together unless each has it."""
    if any(what not in view.made for view in views):
        for view, made_X in zip(views, make(), strict=True):
            view.made[what] = made_X
    return torch.stack([view.made[what] for view in views])


def exact(views: Views, name: str) -> list[Tensor]:
    """(V, ...) evidence of each in float32 at least."""
    return [view.once(("exact", name), partial(_exact, view, name)) for view in views]


def _exact(view: EvidenceView, name: str) -> Tensor:
    return lifted(view.read(name))


def products(left: Iterable[Tensor], right: Iterable[Tensor]) -> Tensor:
    """(B, ...) matrix products of each two."""
    return torch.stack([one @ other for one, other in zip(left, right, strict=True)])


def taken(rows: Iterable[Tensor], index_BK: Tensor) -> Tensor:
    """(B, K, ...) some rows of each."""
    return torch.stack([rows_VX[index_K] for rows_VX, index_K in zip(rows, index_BK, strict=True)])


def features(views: Views, index_BK: Tensor) -> Tensor:
    """(B, K, C) some patches as the tower leaves them."""
    return taken((view.read(TOWER_FEATURES) for view in views), index_BK)


def class_features(views: Views) -> Tensor:
    """(B, 1, C) the class token of each image, or of its first square."""
    return torch.stack([view.read(CLASS_FEATURES)[:1] for view in views])


def members(slot_BN: Tensor, slots: int, like: Tensor) -> Tensor:
    """(B, K, N) 1 where a row is in a slot, in the dtype in which rows like these are summed up."""
    return lifted((slot_BN[:, None] == torch.arange(slots, device=slot_BN.device)[:, None]).to(like.dtype))


def hidden_means(views: Views, slot_BV: Tensor, slots: int) -> Tensor:
    """(B, K, D) mean of the visual tokens' hidden states in each slot, none of which is empty, in their dtype."""
    member_BKV = members(slot_BV, slots, views[0].hidden_VD)
    sum_BKD = products(member_BKV, (lifted(view.hidden_VD) for view in views))
    return (sum_BKD / member_BKV.sum(dim=2, keepdim=True)).to(views[0].hidden_VD.dtype)


def projected(views: Views, features_BKC: Tensor) -> Tensor:
    """(B, K, D) what the projector makes of features that a method has merged before it."""
    project = views[0].project
    assert project is not None, "nobody gave the projector"
    return project(features_BKC.flatten(0, 1)).unflatten(0, features_BKC.shape[:2])


def orders(scores_BV: Tensor) -> Tensor:
    """(B, V) int64 tokens of each by falling score; of equal scores the lower index comes first.

    Raises:
        ValueError: a score is NaN.
    """
    return falling(without_nan(scores_BV, "a token score"))


def falling(scores_BV: Tensor) -> Tensor:
    """The same of scores that cannot be NaN, since what was read holds none: nobody waits for a device to say so."""
    return scores_BV.sort(dim=1, descending=True, stable=True).indices


def by_falling(views: Views, name: str) -> Tensor:
    """(B, V) int64 tokens of each by falling mean over heads of an attention (V, H)."""
    return once(views, ("by_falling", name), lambda: falling(means(views, name)))
