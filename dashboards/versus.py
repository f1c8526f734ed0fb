"""Rows of a comparison of two methods: at every layer and number of tokens that both have, on the same questions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dashboards.rows import significant
from results.analysis.benchmark_table import ALIKE
from results.analysis.duels import duels
from results.analysis.matrix import Answers
from strategies.catalog import CATALOG

Row = dict[Hashable, Any]
BUDGET = ("layer", "rank", "tokens")  # words of a name that say how much is kept, and from where on


def versus_rows(rows: pd.DataFrame, table: Answers, ids: Sequence[str], first: str, second: str) -> pd.DataFrame:
    """Each grid point of one series against its like of the other.

    Args:
        rows: Of a summary, with ``series`` and ``id``.
        table: The answers of all of them.
        ids: Of the table's grid points, in order.
        first, second: Names of the series.

    Returns:
        Rows of the first one, from the earliest layer and the most tokens on, with the columns of
        `results.analysis.duels.duels` against the second one's (difference above 0: the first is better; gained:
        it alone is right), corrected over these rows; partner (id), partner_label, setting (for people), and x, low,
        high (percentage points) and significant, as `dashboards.rows.forest` gives.
    """
    mine, theirs = (rows[(rows["series"] == name) & (rows["n"] > 0)] for name in (first, second))
    partners = [_partner(row, theirs) for row in mine.to_dict("records")]
    mine = mine[[partner is not None for partner in partners]]
    known = [partner for partner in partners if partner is not None]
    place = pd.Index(ids)
    own = place.get_indexer(pd.Index(mine["id"]))
    other = place.get_indexer(pd.Index([partner["id"] for partner in known], dtype=object))
    found = duels(table, own.tolist(), other.tolist())
    replaced = [*found, "relative_drop", "drop_low", "drop_high"]
    joined = pd.concat([mine.drop(columns=replaced).reset_index(drop=True), found], axis=1)
    joined["relative_drop"] = np.nan
    joined = joined.assign(
        partner=[partner["id"] for partner in known],
        partner_label=[partner["label"] for partner in known],
        partner_accuracy=np.array([partner["accuracy"] for partner in known], dtype=float),
        setting=[_setting(row, partner) for row, partner in zip(mine.to_dict("records"), known, strict=True)],
        x=100 * joined["difference"], low=100 * joined["diff_low"], high=100 * joined["diff_high"],
        significant=significant(joined),
    )  # fmt: skip
    joined = joined[joined["difference"].notna()]
    return joined.sort_values(["layer", "rank"], ascending=[True, False], kind="stable", ignore_index=True)


def _partner(row: Row, theirs: pd.DataFrame) -> Row | None:
    """The other method's point of the same layer and rank, else of the same tokens on average over the layers."""
    same = theirs[(theirs["layer"] == row["layer"]) & (theirs["rank"] == row["rank"])]
    if same.empty and _at_once(str(row["strategy"])):
        theirs = theirs.assign(apart=(theirs["mean_tokens"] / row["mean_tokens"] - 1).abs())
        near = theirs[(theirs["apart"] <= ALIKE) & theirs["strategy"].map(_at_once).astype(bool)]
        same = near.sort_values("apart", kind="stable")
    return None if same.empty else same.iloc[0].to_dict()


def _at_once(strategy: str) -> bool:
    """Whether a method prunes at one layer, so that layer and rank say how many tokens there are on average."""
    method = CATALOG.get(strategy)
    return method is None or method.schedule is None


def with_mean_tokens(rows: pd.DataFrame) -> pd.DataFrame:
    """With the visual tokens on average over the layers, of what prunes at one layer; by each un-pruned model."""
    base = rows[rows["baseline"]].drop_duplicates("experiment").set_index("experiment")
    layers, visual = (rows["experiment"].map(base[name]).astype(float) for name in ("layer", "rank"))
    mean = (rows["layer"] * visual + (layers - rows["layer"]) * rows["rank"]) / layers
    return rows.assign(mean_tokens=mean)


def _setting(row: Row, partner: Row) -> str:
    """``layer=2 tokens=192``; where the other one prunes elsewhere, both."""
    mine, other = (
        " ".join(word for word in str(one["label"]).split() if word.partition("=")[0] in BUDGET)
        for one in (row, partner)
    )
    alike = (row["layer"], row["rank"]) == (partner["layer"], partner["rank"])
    return mine if alike else f"{mine} against {other}"
