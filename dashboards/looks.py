"""One colour a method, the same on every page and in every picture, whatever is filtered away."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dashboards import theme

Look = tuple[str, str]  # colour and dash
CONTEXT: Look = (theme.CONTEXT, "solid")


def methods_of(rows: pd.DataFrame) -> tuple[str, ...]:
    """The strategies of a summary, in the order of the grid: their places decide their colours."""
    return tuple(rows.loc[~rows["baseline"], "strategy"].drop_duplicates())


def method_look(strategy: str, methods: Sequence[str]) -> Look:
    """Colour and dash of a method."""
    return theme.line_look(methods.index(strategy))


def series_looks(rows: pd.DataFrame, methods: Sequence[str]) -> dict[str, Look]:
    """Of each series the colour of its method; series of one method differ in their dashes.

    Args:
        rows: With a column ``series``.
        methods: All methods that the reader may see, in their order.
    """
    found: dict[str, Look] = {}
    for strategy, part in rows.groupby("strategy", sort=False):
        colour, dash = method_look(str(strategy), methods)
        first = theme.DASHES.index(dash)
        for nth, series in enumerate(part["series"].drop_duplicates()):
            found[str(series)] = colour, theme.DASHES[(first + nth) % len(theme.DASHES)]
    return found
