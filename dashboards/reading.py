"""What the numbers say, in one sentence, written from the numbers alone and claiming no more than they do."""

from __future__ import annotations

import pandas as pd

from dashboards.rows import AXES, Slice, significant, slices, with_series
from results.analysis.significance import ALPHA
from results.analysis.tolerance import CRITERION, loses_little, surely
from results.wording import count, number, percent, plural, points_span


def reading(summary: pd.DataFrame) -> str:
    """One or two sentences on a summary: the cost of pruning, its interval, and from where on none can be shown."""
    if not (summary["n"] > 0).any():
        return "No question has been answered yet."
    if not (summary["baseline"] & (summary["n"] > 0)).any():
        return "The un-pruned model has not been run yet, so nothing can be said about what pruning costs."
    summary = summary[summary["baseline"] | ~summary["short"]]  # others are of other, perhaps easier, questions
    base = summary[summary["baseline"]].iloc[0]
    if not base["correct"]:
        return f"The un-pruned model answers none of {plural(int(base['n']), 'question')} right: nothing can be lost."
    compared = with_series(summary)
    compared = compared[compared["difference"].notna()]
    if compared.empty:
        return f"The un-pruned model answers {percent(base['accuracy'])} right; no grid point has been answered yet."
    if compared["series"].nunique() == 1:
        for axis in AXES:
            parts = slices(summary, axis)
            if len(parts) == 1 and len(parts[0].rows) == len(with_series(summary)):
                return _one_curve(parts[0])
    return _many(summary, compared)


def _one_curve(part: Slice) -> str:
    rows = part.rows[part.rows["difference"].notna()].sort_values(part.axis)
    hardest = rows.iloc[0]  # the earliest layer, or the fewest tokens
    tail = _insignificant_tail(rows)
    return f"{_action(hardest, part)} {_cost(hardest)}{_tail_words(rows, tail, part)}"


def _action(row: pd.Series, part: Slice) -> str:
    if row["rank"] == 0:
        return f"Removing every visual token from layer {row['layer']} on"
    return f"Keeping {plural(row['rank'], 'visual token')} from layer {row['layer']} on ({row['series']})"


def _cost(row: pd.Series) -> str:
    """The verb phrase: what a configuration costs, with its interval, or that no cost can be shown."""
    if row["lost"] + row["gained"] == 0:
        return f"flips none of {count(int(row['n_paired']))} answers"
    change, low, high = row["difference"], row["diff_low"], row["diff_high"]
    if not row["p_holm"] < ALPHA:
        span = f"95\u00a0% interval {points_span(low, high)}"
        return f"changes accuracy by {_amount(change)} ({span}), which is not significant"
    if change < 0:
        verb, change, low, high = "costs", -change, -high, -low
    else:
        verb = "gains"
    span = f"95\u00a0% interval {number(100 * low)} to {number(100 * high)}"
    if row["n"] == row["n_paired"]:
        span += f"; {percent(row['accuracy'])} right instead of {percent(row['accuracy'] - row['difference'])}"
    return f"{verb} {_amount(change)} of accuracy ({span})"


def _amount(change: float) -> str:
    text = number(100 * change)
    return f"{text} percentage point" + ("" if text == "1.0" else "s")


def _insignificant_tail(rows: pd.DataFrame) -> pd.DataFrame:
    """The run of rows at the mild end (late layers, many tokens) of which none differs significantly."""
    mild = 0
    for differs in significant(rows).tolist()[::-1]:
        if differs:
            break
        mild += 1
    return rows.iloc[len(rows) - mild :]


def _tail_words(rows: pd.DataFrame, tail: pd.DataFrame, part: Slice) -> str:
    where = f"layer {rows[part.axis].iloc[-1]}" if part.axis == "layer" else plural(rows[part.axis].iloc[-1], "token")
    if tail.empty:
        return f"; even at {where} the difference to the un-pruned model is significant."
    within = f"all intervals lie within {points_span(tail['diff_low'].min(), tail['diff_high'].max())} points"
    if len(tail) == len(rows):
        return f"; none of {len(rows)} grid points differs significantly from the un-pruned model ({within})."
    start = tail[part.axis].iloc[0]
    begin = f"from layer {start} on" if part.axis == "layer" else f"with {plural(start, 'token')} or more"
    return f"; {begin} no difference to the un-pruned model is significant ({within})."


def _many(summary: pd.DataFrame, compared: pd.DataFrame) -> str:
    """Several strategies: how many are worse, and the cheapest of which that cannot be shown."""
    differs = significant(compared)
    worse = int((differs & (compared["difference"] < 0)).sum())
    better = int((differs & (compared["difference"] > 0)).sum())
    if not differs.any():
        asked = plural(int(compared["n_paired"].max()), "question")
        if not (compared["lost"] + compared["gained"]).any():
            return f"None of {plural(len(compared), 'configuration')} changes the verdict on any of {asked}."
        half = 50 * (compared["diff_high"] - compared["diff_low"]).max()
        return (
            f"None of {plural(len(compared), 'configuration')} differs significantly from the un-pruned model; with "
            f"{asked}, a change of less than about {half:.0f} percentage points may not show."
        )
    text = f"{count(worse)} of {plural(len(compared), 'configuration')} {'answers' if worse == 1 else 'answer'}"
    text += f" significantly worse than the un-pruned model{f', {better} better' if better else ''}; "
    # A handful of answers shows no loss of anything, so an unfinished configuration is no candidate.
    good = compared[loses_little(compared) & (compared["state"] == "complete")]
    if good.empty:
        return f"{text}no finished one is found to {CRITERION}."
    base = summary[summary["baseline"]].iloc[0]
    layers, tokens = base["layer"], base["rank"]
    mean = (good["layer"] * tokens + (layers - good["layer"]) * good["rank"]) / layers
    ranking = good.assign(mean=mean).sort_values(["mean", "difference"], ascending=[True, False], kind="stable")
    cheapest = ranking.iloc[0]
    return (
        f"{text}of the {count(len(good))} that {CRITERION} the cheapest is {cheapest['label']}, which keeps "
        f"{cheapest['mean']:.0f} of {tokens} visual tokens in the mean over layers (95\u00a0% interval of the change "
        f"{points_span(cheapest['diff_low'], cheapest['diff_high'])} points; for {count(surely(good))} of them the "
        "whole interval lies above that loss)."
    )
