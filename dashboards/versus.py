"""Rows of a comparison of two methods: at every layer and number of tokens that both have, on the same questions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dashboards.rows import significant
from results.analysis.duels import duels
from results.analysis.matrix import Answers
from strategies.listed import STAGED

Row = dict[Hashable, Any]
ALIKE = 0.03  # mean tokens that differ by less are one budget, as in the benchmark table
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
    exact = {(row["layer"], row["rank"]): row for row in reversed(theirs.to_dict("records"))}
    partners = [exact.get((row["layer"], row["rank"])) or _near(row, theirs) for row in mine.to_dict("records")]
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


def _near(row: Row, theirs: pd.DataFrame) -> Row | None:
    """The other method's point of most nearly the same tokens on average, where both prune at one layer."""
    if theirs.empty or row["strategy"] in STAGED or theirs["strategy"].iloc[0] in STAGED:
        return None
    apart = np.abs(theirs["mean_tokens"].to_numpy() - row["mean_tokens"])
    nearest = int(apart.argmin())
    return theirs.iloc[nearest].to_dict() if apart[nearest] <= ALIKE * row["mean_tokens"] else None


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
