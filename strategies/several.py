"""Evidence of several images with as many tokens, side by side: looked through once, whatever their number.

What a sum's last digit decides is made for each image alone, so that no image's choice depends on its company.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

from strategies.evidence import EvidenceView, without_nan

Views = Sequence[EvidenceView]


def read(views: Views, name: str) -> Tensor:
    """(B, V, ...) evidence by its name.

    Raises:
        ValueError: the strategy did not declare it, or it holds NaN.
    """
    if any(("read", name) not in view.made for view in views) and all(name in view.evidence for view in views):
        without_nan(torch.stack([view.evidence[name] for view in views]), name)
        for view in views:
            view.made["read", name] = view.evidence[name]
    return torch.stack([view.read(name) for view in views])


def means(views: Views, name: str) -> Tensor:
    """(B, V) mean over heads of an attention (V, H)."""
    read(views, name)
    return each(views, ("mean", name), lambda view: view.read(name).mean(dim=1))


def each(views: Views, what: Hashable, make: Callable[[EvidenceView], Tensor]) -> Tensor:
    """(B, ...) what ``EvidenceView.once`` makes of each."""
    return torch.stack([view.once(what, partial(make, view)) for view in views])


def keep_each(views: Views, what: Hashable, made_BX: Tensor) -> None:
    """Leave with each what was made of all together."""
    for view, made_X in zip(views, made_BX, strict=True):
        view.made[what] = made_X


def orders(scores_BV: Tensor) -> Tensor:
    """(B, V) int64 tokens of each by falling score; of equal scores the lower index comes first.

    Raises:
        ValueError: a score is NaN.
    """
    return without_nan(scores_BV, "a token score").sort(dim=1, descending=True, stable=True).indices


def by_falling(views: Views, name: str) -> Tensor:
    """(B, V) int64 tokens of each by falling mean over heads of an attention (V, H)."""
    if any(("by_falling", name) not in view.made for view in views):
        keep_each(views, ("by_falling", name), orders(means(views, name)))
    return torch.stack([view.by_falling(name) for view in views])
