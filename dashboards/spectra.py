"""Rows of the tokens page: accuracy and matrix ranks of one curve, raw and min-max normalised; pure.

Source of the normalisation: HiMAP's plot of its text-weighted experiment, in which every quantity runs from 0 (its
least value on the curve) to 1 (its greatest). A quantity that does not change is 0 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

ACCURACY = "accuracy"
RANKS = ("numerical_rank", "effective_rank")  # drawn unless the reader chooses
KINDS = (
    *RANKS,
    "stable_rank",
    "spectral_entropy",
    "top_8_energy",
    "log10_condition",
)  # as workers/spectra.py names them


def kinds_of(measured: pd.DataFrame) -> list[str]:
    """What of a spectrum was measured, in the order of `KINDS`."""
    found = {str(name).rpartition(".")[2] for name in measured["name"].unique() if str(name).count(".") == 2}
    return [kind for kind in KINDS if kind in found]


def token_rows(curve: pd.DataFrame, measured: pd.DataFrame, kinds: Sequence[str] = RANKS) -> pd.DataFrame:
    """What a curve over the kept tokens shows.

    Args:
        curve: Rows of a summary with one series and one layer, each with its own ``rank``.
        measured: From `results.analysis.measured.measure_summary`.
        kinds: Of `KINDS`, what to show of each spectrum.

    Returns:
        One row per quantity and grid point, from many tokens to few: quantity ("accuracy", or the measure's name), kind
        ("accuracy", or one of `KINDS`), name (for people), x, raw, raw_low, raw_high (95 %; percent
        for the accuracy), by (what made these), y, low, high (normalised), n, key, and id where the summary has one.
    """
    curve = curve.sort_values("rank", ascending=False)
    shared = ["key", *(["id"] if "id" in curve else [])]
    parts = [
        pd.DataFrame(
            {
                "quantity": ACCURACY, "kind": ACCURACY, "name": ACCURACY, "x": curve["rank"],
                "raw": 100 * curve["accuracy"], "raw_low": 100 * curve["ci_low"], "raw_high": 100 * curve["ci_high"],
                "by": curve["interval"], "n": curve["n"], **{name: curve[name] for name in shared},
            }
        )
    ]  # fmt: skip
    for quantity in _quantities(measured, curve, kinds):
        own = measured[measured["name"] == quantity].set_index("point").reindex(curve["key"])
        margin = 1.96 * own["se"].to_numpy()
        mean = own["mean"].to_numpy()
        parts.append(
            pd.DataFrame(
                {
                    "quantity": quantity, "kind": quantity.rpartition(".")[2], "name": spoken(quantity),
                    "x": curve["rank"], "raw": mean, "raw_low": mean - margin, "raw_high": mean + margin,
                    "by": "1.96 standard errors over the measured questions",
                    "n": own["n"].fillna(0).to_numpy(dtype=int), **{name: curve[name] for name in shared},
                }
            )
        )  # fmt: skip
    return pd.concat([_normalised(part) for part in parts], ignore_index=True)


def spoken(quantity: str) -> str:
    """``attention_weights.11.numerical_rank`` -> ``numerical rank of attention weights, layer 11``."""
    matrix, layer, kind = quantity.split(".")
    return f"{kind} of {matrix}, layer {layer}".replace("_", " ")


def impossible_ranks(measured: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    """Which measured ranks cannot be, in words: a matrix of R rows has at most rank R.

    Before a grid point's own layer all visual tokens are still there, so only matrices from that layer on are judged.
    """
    points = summary.set_index("key")
    found = []
    for name, rows in measured.groupby("name", sort=False):
        parts = str(name).split(".")
        if len(parts) != 3 or not parts[2].endswith("_rank"):
            continue
        known = rows[rows["point"].isin(points.index)]
        kept = points.loc[known["point"], "rank"].to_numpy()
        pruned = points.loc[known["point"], "layer"].to_numpy() <= int(parts[1])
        if too_high := int(((known["mean"].to_numpy() > kept + 1e-6) & pruned).sum()):
            found.append(
                f"{spoken(str(name))}: above the number of kept tokens at {too_high} settings, which cannot be"
            )
        distinct = np.unique(kept[pruned])
        if len(distinct) >= 4 and known.loc[pruned, "mean"].nunique() == 1:
            found.append(
                f"{spoken(str(name))}: one and the same at {len(distinct)} numbers of kept tokens: not of a pruned one"
            )
    return found


def _quantities(measured: pd.DataFrame, curve: pd.DataFrame, kinds: Sequence[str]) -> list[str]:
    names = measured.loc[measured["point"].isin(curve["key"]), "name"].drop_duplicates()
    return [name for name in names if name.count(".") == 2 and name.rpartition(".")[2] in kinds]


def _normalised(part: pd.DataFrame) -> pd.DataFrame:
    least, span = part["raw"].min(), part["raw"].max() - part["raw"].min()
    for name, column in (("y", "raw"), ("low", "raw_low"), ("high", "raw_high")):
        part[name] = (part[column] - least) / span if span > 0 else part[column] * 0.0
    return part
