"""Rows that go on in place of the kept tokens: merged, or made of the evidence, for all forks that enter together.

They are made when a fork enters: until then only what was read of its image is held, and what is small of what was made
of the rest. All forks of an image look at one view, so that what their rows have in common is made once; it goes when
they have entered. Forks of several images that ask the same are made at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from strategies.catalog import Strategy
from strategies.evidence import EvidenceView
from workers import evidence
from workers.sequences import Rows, numbers
from workers.upload import to_device

Shapes = tuple[object, ...]
TOGETHER = 2**23  # likenesses of tokens to one another that images looked at together may have


@dataclass(frozen=True, slots=True, eq=False)
class Maker:
    """What makes the rows of one image."""

    strategy: Strategy
    params: tuple[tuple[str, object], ...]
    view: EvidenceView  # of the image, without hidden states: it may be held for long

    def __call__(self, hidden_VD: Tensor, kept_K: Tensor) -> Tensor:
        """(K, D) in place of the kept tokens."""
        return self.strategy.goes_on([self.view.holding(hidden_VD)], kept_K[None], dict(self.params))[0]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Rows that a fork needs."""

    maker: Maker
    hidden_VD: Tensor  # of all tokens that there were to choose from
    kept_K: Tensor  # int64 on the host: those that are kept
    place: Rows  # where their rows go

    @property
    def kind(self) -> tuple[object, ...]:
        """What is alike in orders that are made at once."""
        return self.maker.strategy, self.maker.params, len(self.kept_K), shapes_of(self.maker.view)


def makers_of(
    chosen: Iterable[tuple[Strategy, tuple[tuple[str, object], ...], EvidenceView]],
) -> list[Maker | None]:
    """What makes the rows of each strategy that has chosen of an image; None where kept tokens go on themselves."""
    held: dict[int, EvidenceView] = {}
    makers: list[Maker | None] = []
    for strategy, params, view in chosen:
        if strategy.rows is not None:
            if id(view) not in held:
                held[id(view)] = evidence.of_image(view)
            makers.append(Maker(strategy, params, held[id(view)]))
        elif strategy.merge is not None:
            makers.append(Maker(strategy, params, replace(evidence.of_image(view), evidence={})))
        else:
            makers.append(None)
    return makers


def make_rows(orders: Sequence[Order], out_RD: Tensor) -> None:
    """Write the rows that forks need to their places."""
    images: dict[int, dict[int, list[Order]]] = defaultdict(lambda: defaultdict(list))  # visual tokens -> view -> forks
    for order in orders:
        images[order.maker.view.visual][id(order.maker.view)].append(order)
    for visual, of_views in images.items():
        some, step = list(of_views.values()), together(visual)
        for first in range(0, len(some), step):
            _make(some[first : first + step], out_RD)


def shapes_of(view: EvidenceView) -> Shapes:
    """Of what was read of an image; several of one prompt may have others than one with as many tokens."""
    return view.visual, *(tuple(rows.shape) for _, rows in sorted(view.evidence.items()))


def together(visual: int) -> int:
    """How many images with so many tokens are looked at together."""
    return max(1, TOGETHER // visual**2)


def _make(images: Sequence[Sequence[Order]], out_RD: Tensor) -> None:
    """Rows of some images: all that is made of them on the way is held at the same time."""
    alike: dict[tuple[object, ...], list[tuple[Order, EvidenceView]]] = defaultdict(list)
    for orders in images:
        view = orders[0].maker.view.holding(orders[0].hidden_VD)
        for order in orders:
            alike[order.kind].append((order, view))
    groups = list(alike.values())
    kept = to_device(torch.cat([order.kept_K for group in groups for order, _ in group]), out_RD.device)
    parts = kept.split([len(group) * len(group[0][0].kept_K) for group in groups])
    made = []
    for group, part in zip(groups, parts, strict=True):
        maker, views = group[0][0].maker, [view for _, view in group]
        rows_BKD = maker.strategy.goes_on(views, part.view(len(group), -1), dict(maker.params))
        made.append(rows_BKD.flatten(0, 1))
    places = numbers(*(order.place for group in groups for order, _ in group))
    out_RD[to_device(places, out_RD.device)] = torch.cat(made).to(out_RD.dtype)
