"""Rules of a user's own, as files of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from strategies import catalog

PEAKED = '''
from __future__ import annotations
from typing import Annotated
from torch import Tensor
from strategies.catalog import Strategy
from strategies.limits import Range
from strategies.view import Evidence, TokenView


def peaked(view: TokenView, *, power: Annotated[float, Range(0, 4)] = 2.0) -> Tensor:
    """Score by the last query's attention to a power."""
    return (view.last_HV**power).mean(dim=0)


my_rule = Strategy(name="peaked", score=peaked, needs=frozenset({Evidence.LAST_ROW}), source="mine")


def last_k(view: TokenView):
    """Prefer the last tokens."""
    import torch
    return torch.arange(view.visual, device=view.device).float()
'''


@contextmanager
def forgotten() -> Iterator[None]:
    """A process that knows no rule of anybody's own; what it comes to know is forgotten again."""
    before = dict(catalog.ADMITTED)
    catalog.ADMITTED.clear()
    try:
        yield
    finally:
        catalog.ADMITTED.clear()
        catalog.ADMITTED.update(before)
