"""Figures that several benchmarks publish in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.tasks.base import Metric

if TYPE_CHECKING:
    import pandas as pd


def by_category(rows: pd.DataFrame) -> list[Metric]:
    """The mean score of each category, in the order in which they come."""
    groups = rows[rows["category"] != ""].groupby("category", sort=False)["score"]
    return [Metric(str(name), float(scores.mean()), len(scores)) for name, scores in groups]
