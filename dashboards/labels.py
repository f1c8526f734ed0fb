"""Words at the edges of a picture: axis titles, and labels at line ends, pushed apart so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboards.rows import ACCURACY, Axis, Measure, Reference
from results.wording import number, told_apart

LABEL_LENGTH = 30  # characters of an end label

AXIS_TITLES = {
    "layer": "K: layers that still see every visual token",
    "rank": "visual tokens kept",
    "alpha": "alpha",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLabel:
    """A text beside the end of a line."""

    text: str  # not escaped
    series: str | None  # None: the un-pruned model
    y: float  # where the line ends
    reaches: bool  # the line comes up to the label; an unfinished one stops before
    placed: float  # where the text stands


def end_labels(
    rows: pd.DataFrame,
    axis: Axis,
    base: Reference | None,
    measure: Measure,
    chosen: tuple[str, ...],
    gap: float,
    span: tuple[float, float],
) -> list[EndLabel]:
    """Labels of all curves that have a point, or of the focused ones if not all fit; and of the un-pruned model.

    Args:
        rows: From `dashboards.rows.curves`.
        axis: What x is.
        base: The un-pruned model's line.
        measure: What is drawn.
        chosen: The focused series.
        gap: Least distance of two labels, in the unit of y.
        span: Ends of the y axis.
    """
    ends: list[tuple[str, str | None, float, bool]] = []
    last = rows["x"].min() if axis == "rank" else rows["x"].max()  # tokens run from many to few
    fit = (rows["series"].nunique() + 1) * gap <= span[1] - span[0]
    labelled = rows if fit else rows[rows["series"].isin(chosen)]
    names = [str(name) for name in rows["series"].unique()]
    texts = dict(zip(names, told_apart(names, LABEL_LENGTH), strict=True))
    for name, curve in labelled.groupby("series", sort=False):
        known = curve[curve["y"].notna()]
        if len(known):
            reaches = bool(known["x"].iloc[-1] == last)
            ends.append((end_label(curve, texts[str(name)]), str(name), float(known["y"].iloc[-1]), reaches))
    if base is not None:
        level = f" {number(base.value)}\u00a0%" if measure is ACCURACY else ""
        ends.append((f"un-pruned{level}", None, base.value, True))
    placed = push_apart([y for _, _, y, _ in ends], gap, *span)
    return [
        EndLabel(text=text, series=series, y=y, placed=to, reaches=reaches)
        for (text, series, y, reaches), to in zip(ends, placed, strict=True)
    ]


def end_label(rows: pd.DataFrame, text: str) -> str:
    """What stands at the end of a curve: its name, and how far it got where it is not finished."""
    if (rows["state"] == "complete").all():
        return text
    known = rows["y"].notna()
    return f"{text} (partial)" if known.iloc[-1] else f"{text} (partial, to {rows.loc[known, 'x'].iloc[-1]})"


def push_apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions as little as possible until neighbours are ``gap`` apart.

    Args:
        wanted: Positions in any order and unit.
        gap: Least distance of two, in the same unit.
        low: Nothing is placed below, unless there is no room: then the stack begins here and runs over ``high``.
        high: Nothing is placed above.

    Returns:
        Positions in the order of ``wanted``, which also is their order in space.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # Stacks of touching labels, bottom up: (members, position of the lowest). A stack sits where its members' mean
    # wish is; two that overlap become one.
    stacks: list[tuple[list[int], float]] = []
    for i in order:
        members, bottom = [i], min(max(wanted[i], low), high)
        while stacks and stacks[-1][1] + len(stacks[-1][0]) * gap > bottom:
            below, _ = stacks.pop()
            members = below + members
            bottom = sum(wanted[m] - gap * place for place, m in enumerate(members)) / len(members)
            bottom = max(low, min(bottom, high - gap * (len(members) - 1)))
        stacks.append((members, bottom))
    placed = [0.0] * len(wanted)
    for members, bottom in stacks:
        for place, m in enumerate(members):
            placed[m] = bottom + gap * place
    return placed
