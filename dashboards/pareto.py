"""Rows of the Pareto page: accuracy against a cost, and which grid points lie on the front or cannot be told from it.

The front over many noisy grid points is chosen on the same questions that it is judged by, so it looks better than it
is (winner's curse). A point below it is therefore marked too, unless it is significantly worse than the front's point
that costs no more: a paired test on the questions that both have answered, the one that the summary makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from results.analysis.matrix import Answers
from results.analysis.significance import ALPHA, paired_test


@dataclass(frozen=True, slots=True, kw_only=True)
class CostAxis:
    """A cost that accuracy is held against."""

    name: str
    column: str
    title: str
    scale: float = 1.0
    unit: str = ""


ADDED = ("x", "y", "front", "near", "front_test")
COSTS = (
    CostAxis(name="TFLOP", column="prefill_tflop", title="prefill, TFLOP a question", unit=" TFLOP"),
    CostAxis(
        name="share of FLOPs",
        column="flops_ratio",
        title="prefill FLOPs, share of the un-pruned model",
        scale=100,
        unit=" %",
    ),
    CostAxis(name="latency", column="latency_ms", title="measured latency, ms a question", unit=" ms"),
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
        Rows with x, y (percent), front (bool), near (bool: not on the front of its experiment, and not shown to be
        worse than the point of the front that costs no more) and front_test (what was to show it), by cost.
    """
    if axis.column not in rows:
        return _nothing(rows)
    known = rows[~rows["baseline"] & (rows["state"] == "complete") & rows[axis.column].notna() & (rows["n"] > 0)]
    known = known[~known["short"]]
    parts = [_with_front(part, axis, *answers[str(name)]) for name, part in known.groupby("experiment", sort=False)]
    if not parts:
        return _nothing(known)
    return pd.concat(parts).sort_values("x", kind="stable", ignore_index=True)


def _nothing(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.iloc[:0].reindex(columns=[*rows.columns, *ADDED])


def _with_front(rows: pd.DataFrame, axis: CostAxis, table: Answers, keys: pd.Series) -> pd.DataFrame:
    x = (rows[axis.column] * axis.scale).to_numpy(dtype=float)
    accuracy = rows["accuracy"].to_numpy(dtype=float)
    on_front = front(x, accuracy)
    own = pd.Index(keys).get_indexer(pd.Index(rows["key"]))
    ahead = _at_no_more_cost(x, on_front)
    images = table.of_images(True)
    leader = own[np.maximum(ahead, 0)]
    both = images.answered_PS[own] & images.answered_PS[leader]
    change_PS = np.where(both, images.score_PS[own] - images.score_PS[leader], 0.0)
    tested = paired_test(change_PS, images.binary, images.cluster_S)
    near = ~on_front & (ahead >= 0) & (tested.p >= ALPHA)
    return rows.assign(x=x, y=100 * accuracy, front=on_front, near=near, front_test=tested.by)


def _at_no_more_cost(x: np.ndarray, on_front: np.ndarray) -> np.ndarray:
    """Of each point, the dearest point of the front that costs no more; -1 where there is none."""
    leaders = np.flatnonzero(on_front)
    leaders = leaders[np.argsort(x[leaders], kind="stable")]
    spot = np.searchsorted(x[leaders], x, side="right") - 1
    return np.where(spot >= 0, leaders[np.maximum(spot, 0)], -1) if len(leaders) else np.full(len(x), -1)
