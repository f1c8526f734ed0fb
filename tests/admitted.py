"""A rank near one that a test has in mind, for methods that make only some."""

from __future__ import annotations

import math

from strategies.catalog import Strategy


def admitted(strategy: Strategy, rank: int, visual: int) -> int:
    """The rank itself, or the highest below it that the method makes of a square of tokens."""
    if strategy.grids is None or rank == 0:
        return rank
    return max(one for one in strategy.grids(math.isqrt(visual)) if one <= rank)
