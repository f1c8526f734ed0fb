"""Rescued and retained: what a method gets right where a control is wrong, and where the un-pruned model is right.

An accuracy hides which questions a method wins: many are right whatever is kept. So the method is held against a
control that chooses nothing, such as the image itself with as few tokens (`downsample`). Of the image questions that
the control gets wrong, the share that the method gets right is *rescued*; of those that the un-pruned model gets right,
the share that stays right is *retained*. A random choice rescues some by luck, which is the floor; the un-pruned model
does not rescue all, which is the ceiling. Each is over the questions that both have answered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from results.analysis.matrix import Answers
from results.analysis.metrics import made_by
from results.analysis.significance import Bools, Interval, wilson_mean
from workers.work import UNPRUNED, GridPoint

CONTROLS = ("downsample", "downsample_features", "pool", "evenly_spaced")  # the first that a grid has is the usual one
FLOOR = "random"


def controls_of(points: Sequence[GridPoint]) -> list[str]:
    """Strategies with a point that another one has as many tokens as: the usual controls first, then as in the grid."""
    pruned = [point for point in points if point.strategy != UNPRUNED]
    found = dict.fromkeys(
        point.strategy
        for point in pruned
        if any(other.rank == point.rank and other.strategy != point.strategy for other in pruned)
    )
    first = [name for name in (*CONTROLS, FLOOR) if name in found]
    return [*first, *(name for name in found if name not in first)]


def rescue(table: Answers, control: str) -> pd.DataFrame:
    """What each other grid point rescues of a control's wrong answers, and retains of the un-pruned model's right ones.

    Args:
        table: All answers.
        control: Strategy. A point is held against its point with as many tokens: that of the same layer where there is
            one, else the first.

    Returns:
        One row for each point that has such a partner, in the order of the grid: key, label, control (the partner's
        label); wrong (questions that the partner gets wrong), rescued (of these right here), rescue, rescue_low,
        rescue_high (0 to 1, 95 %); right (questions that the un-pruned model gets right), retained (of these right
        here), retain, retain_low, retain_high; interval (what made the ends, as in `metrics.summarise`); floor and
        ceiling: the share of the partner's wrong answers that the random choice with as many tokens gets right, and
        that the un-pruned model does. A share of no questions is missing.
    """
    images = table.of_images(True)
    pairs = [
        (row, partner)
        for row, point in enumerate(images.points)
        if point.strategy not in (control, UNPRUNED)
        and (partner := _partner(images.points, point, control)) is not None
    ]
    rows, partners = ([pair[side] for pair in pairs] for side in (0, 1))
    floors = [_partner(images.points, images.points[row], FLOOR) if control != FLOOR else None for row in rows]
    wrong_PS = images.answered_PS[partners] & ~images.correct_PS[partners]
    right_PS = np.zeros_like(wrong_PS) if images.baseline is None else _right(images, [images.baseline] * len(rows))
    rescued, saved = _share(images, rows, wrong_PS)
    retained, stayed = _share(images, rows, right_PS)
    return pd.DataFrame(
        {
            "key": [images.points[row].key for row in rows],
            "label": [images.points[row].label for row in rows],
            "control": [images.points[row].label for row in partners],
            **_columns(("wrong", "rescued", "rescue"), rescued, saved),
            **_columns(("right", "retained", "retain"), retained, stayed),
            "interval": made_by(saved.by, images),
            "floor": _of_others(images, floors, wrong_PS),
            "ceiling": _of_others(images, [images.baseline] * len(rows), wrong_PS),
        }
    )


def _partner(points: Sequence[GridPoint], point: GridPoint, name: str) -> int | None:
    """The row of a strategy's point with as many tokens: of the same layer, else the first."""
    rows = [row for row, other in enumerate(points) if (other.strategy, other.rank) == (name, point.rank)]
    return next((row for row in rows if points[row].layer == point.layer), next(iter(rows), None))


def _right(images: Answers, rows: Sequence[int]) -> Bools:
    return images.answered_PS[rows] & images.correct_PS[rows]


def _share(images: Answers, rows: Sequence[int], asked_PS: Bools) -> tuple[Bools, Interval]:
    """For each row (2, P, S) which questions count, and which of these are right; and the interval of their share."""
    counted_PS = asked_PS & images.answered_PS[rows]
    hit_PS = counted_PS & images.correct_PS[rows]
    return np.stack((counted_PS, hit_PS)), wilson_mean(hit_PS.astype(np.float64), counted_PS, images.cluster_S)


def _columns(names: tuple[str, str, str], found_2PS: Bools, interval: Interval) -> dict[str, np.ndarray]:
    asked, hit, share = names
    n, hits = found_2PS.sum(axis=2)
    return {
        asked: n,
        hit: hits,
        share: np.divide(hits, n, out=np.full(len(n), np.nan), where=n > 0),
        f"{share}_low": interval.low,
        f"{share}_high": interval.high,
    }


def _of_others(images: Answers, others: Sequence[int | None], asked_PS: Bools) -> list[float]:
    """The share of some questions that another grid point gets right; NaN where there is none."""
    found = []
    for other, asked_S in zip(others, asked_PS, strict=True):
        answered_S = asked_S if other is None else asked_S & images.answered_PS[other]
        known = other is not None and answered_S.any()
        found.append(float(images.correct_PS[other][answered_S].mean()) if known else float("nan"))
    return found
