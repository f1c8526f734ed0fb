"""Rows of the Pareto page: accuracy against a cost, and which grid points lie on the front or cannot be told from it.

The front over many noisy grid points is chosen on the same questions that it is judged by, so it looks better than it
is (winner's curse). A point below it is therefore marked too, unless it is significantly worse than the front's point
that costs no more: a paired, exact McNemar test on the questions that both have answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dashboards.wording import ALPHA
from orchestrator.metrics import Answers
from orchestrator.significance import mcnemar


@dataclass(frozen=True, slots=True, kw_only=True)
class CostAxis:
    """A cost that accuracy is held against."""

    name: str
    column: str
    title: str
    scale: float = 1.0
    unit: str = ""


COSTS = (
    CostAxis(
        name="FLOPs", column="flops_ratio", title="prefill FLOPs, share of the un-pruned model", scale=100, unit=" %"
    ),
    CostAxis(name="latency", column="latency_ms", title="latency, ms per question", unit=" ms"),
    CostAxis(name="KV bytes", column="kv_mb", title="keys and values of a prompt, MB", unit=" MB"),
    CostAxis(name="tokens", column="average_visual_tokens", title="visual tokens, mean over layers"),
)


def front(cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """(P,) bool: no other point costs at most as much and is better, or costs less and is as good."""
    order = np.lexsort((-accuracy, cost))
    on_front = np.zeros(len(cost), dtype=bool)
    best = -np.inf
    for place in order:
        if accuracy[place] > best:
            on_front[place] = True
            best = accuracy[place]
    return on_front


def pareto_rows(rows: pd.DataFrame, axis: CostAxis, answers: Mapping[str, tuple[Answers, pd.Series]]) -> pd.DataFrame:
    """Finished, pruned grid points with a known cost, which have answered the same questions.

    Args:
        rows: With the costs' columns, ``experiment`` and ``key``.
        axis: Which cost.
        answers: Of each experiment, with the keys of its grid points in order.

    Returns:
        Rows with x, y (percent), front (bool) and near (bool: not on the front of its experiment, and not shown to be
        worse than the point of the front that costs no more), by cost.
    """
    if axis.column not in rows:
        return rows.iloc[:0].assign(x=[], y=[], front=[], near=[])
    known = rows[~rows["baseline"] & (rows["state"] == "complete") & rows[axis.column].notna() & (rows["n"] > 0)]
    known = known[~known["short"]]
    parts = [_with_front(part, axis, *answers[str(name)]) for name, part in known.groupby("experiment", sort=False)]
    if not parts:
        return known.assign(x=[], y=[], front=[], near=[])
    return pd.concat(parts).sort_values("x", kind="stable", ignore_index=True)


def _with_front(rows: pd.DataFrame, axis: CostAxis, table: Answers, keys: pd.Series) -> pd.DataFrame:
    x = (rows[axis.column] * axis.scale).to_numpy(dtype=float)
    accuracy = rows["accuracy"].to_numpy(dtype=float)
    on_front = front(x, accuracy)
    own = pd.Index(keys).get_indexer(pd.Index(rows["key"]))
    ahead = _at_no_more_cost(x, on_front)
    correct, answered = table.correct_PS[:, table.image_S], table.answered_PS[:, table.image_S]
    lost, gained = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    for leader in np.unique(ahead[ahead >= 0]):
        mine = np.flatnonzero(ahead == leader)
        both = answered[own[mine]] & answered[own[leader]]
        lost[mine] = (both & correct[own[leader]] & ~correct[own[mine]]).sum(axis=1)
        gained[mine] = (both & ~correct[own[leader]] & correct[own[mine]]).sum(axis=1)
    near = ~on_front & (ahead >= 0) & (mcnemar(lost, gained) >= ALPHA)
    return rows.assign(x=x, y=100 * accuracy, front=on_front, near=near)


def _at_no_more_cost(x: np.ndarray, on_front: np.ndarray) -> np.ndarray:
    """Of each point, the dearest point of the front that costs no more; -1 where there is none."""
    leaders = np.flatnonzero(on_front)
    leaders = leaders[np.argsort(x[leaders], kind="stable")]
    spot = np.searchsorted(x[leaders], x, side="right") - 1
    return np.where(spot >= 0, leaders[np.maximum(spot, 0)], -1) if len(leaders) else np.full(len(x), -1)
