"""Rows of comparisons with a grid point of the reader's choice instead of the un-pruned model; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from dashboards.rows import settings, significant
from results.analysis.matrix import Answers
from results.analysis.metrics import contrast

Factor = Literal["head", "query"]
REFERENCES: dict[Factor, str] = {"head": "sum", "query": "last_token"}  # what the originals compare with


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """Grid points that differ in one rule."""

    factor: Factor
    heads_kept: str
    rank: int
    layer: int
    other: str  # the rule that is held fixed
    positions: str  # keep or compact, of all of them
    rows: pd.DataFrame  # with a column ``rule``

    @property
    def held(self) -> str:
        """What is the same in all of them, in words."""
        return (
            f"{self.heads_kept} heads kept, {self.rank} visual tokens kept from layer {self.layer} on; "
            f"{'query' if self.factor == 'head' else 'head'} rule: {self.other}"
        )


def ablations(summary: pd.DataFrame) -> list[Ablation]:
    """Every group of at least two grid points that differ in nothing but their head rule, or their query rule."""
    pruned = summary[~summary["baseline"]]
    params = pd.DataFrame([settings(text) for text in pruned["params"]])
    found: list[Ablation] = []
    factors: tuple[tuple[Factor, Factor], ...] = (("head", "query"), ("query", "head"))
    if not {"head", "heads_kept"} <= set(params):
        return []
    params = params.reindex(columns=[*params.columns, *({"query", "positions"} - set(params))]).set_index(pruned.index)
    params = params.astype(object).fillna({"query": "last_token", "positions": "keep"})
    known = pruned[params["head"].notna()].join(params[["head", "query", "heads_kept", "positions"]])
    owner = ["experiment"] if "experiment" in known else []
    for factor, other in factors:
        fixed = [*owner, "positions", "heads_kept", "rank", "layer", other]
        for values, rows in known.groupby(fixed, sort=False):
            if rows[factor].nunique() > 1:
                positions, heads_kept, rank, layer, held = (str(value) for value in values[len(owner) :])
                found.append(
                    Ablation(
                        factor=factor, heads_kept=heads_kept, rank=int(rank), layer=int(layer), other=held,
                        positions=positions, rows=rows.assign(rule=rows[factor]),
                    )
                )  # fmt: skip
    return found


def contrast_rows(rows: pd.DataFrame, reference: str, table: Answers, keys: pd.Series) -> pd.DataFrame:
    """Grid points against one of them, the greatest gain first.

    Args:
        rows: Of a summary.
        reference: Key of the grid point that the others are compared with.
        table: The answers.
        keys: Of the answers' grid points, in order.

    Returns:
        ``rows`` with the columns of `results.analysis.metrics.contrast` in place of the comparison with the un-pruned
        model, and x, low, high (percentage points) and significant, as `dashboards.rows.forest` gives. The reference
        is left out.
    """
    place = pd.Index(keys)
    against = contrast(table, place.get_indexer(pd.Index(rows["key"])).tolist(), place.tolist().index(reference))
    kept = [name for name in rows if name not in against]
    joined = pd.concat([rows[kept].reset_index(drop=True), against], axis=1)
    joined = joined[joined["difference"].notna()]
    return joined.assign(
        x=100 * joined["difference"], low=100 * joined["diff_low"], high=100 * joined["diff_high"],
        significant=significant(joined),
    ).sort_values("x", ascending=False, kind="stable", ignore_index=True)  # fmt: skip
