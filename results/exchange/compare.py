"""Experiments and grid points side by side: accuracy, difference, cost, and which setting to recommend.

Experiments on the same questions are joined sample by sample, on the questions that all settings have answered: one
that failed on the hard ones is no better for that. Each setting is compared with the un-pruned row of its own model and
settings, or with grid points that the reader names, in paired tests that are corrected together. A setting that lacks
more than a few answers is said, and not recommended. An experiment on other questions, and figures imported from
elsewhere, stand apart; without answers there is no paired test, and the interval is Newcombe's for two independent
shares (Statistics in Medicine 17, 1998, method 10), which is wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from results.analysis.costs import costs
from results.analysis.matrix import Answers, stacked
from results.analysis.metrics import (
    LITTLE,
    answers,
    compared,
    on_common_questions,
    spoken,
    summarise,
    suspicions,
)
from results.analysis.significance import ALPHA
from results.analysis.tolerance import CRITERION, loses_little, surely
from results.disk import StoreError
from results.exchange.imports import IMPORTED_FILE, imported_summary
from results.exchange.point_names import is_chosen, is_named, names_of
from results.experiment import Experiment, names_apart
from results.latencies import latencies
from results.wording import p_value, percent, points
from workers.work import UNPRUNED

KEYS = ("key", "baseline", "strategy", "layer", "rank", "params", "state", "lacking")
NEWCOMBE = "Newcombe"
IMPORTED_FLOPS = ("flops_ratio", "FLOPs", "of the un-pruned")
COLUMNS = (
    "experiment", "label", "n", "n_images", "n_paired", "accuracy", "ci_low", "ci_high", "interval", "lost", "gained",
    "difference", "diff_low", "diff_high", "diff_interval", "test", "p_holm", "prefill_tflop", "flops_ratio",
    "fastv_ratio", "average_visual_tokens", "latency_s", "speedup", "flags",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The table, and what it comes to."""

    rows: pd.DataFrame  # COLUMNS and KEYS
    recommendation: tuple[str, ...]  # lines
    notes: tuple[str, ...] = ()  # of questions that not all have answered, and of files that could not be read


def compare(paths: Sequence[Path], patterns: Sequence[str] = (), reference: str | None = None) -> Comparison:
    """Compare experiments.

    Args:
        paths: Experiment directories, or directories that `saccade import` made.
        patterns: Only grid points of one of these names (`point_names`); un-pruned models stay.
        reference: Name of the grid points that others are compared with, each with the one of its layer and rank; by
            default the un-pruned model.

    Raises:
        StoreError: One is not an experiment, no grid point is left, or the reference names none, or several for one.
    """
    experiments = [Experiment.open(path) for path in paths if not (path / IMPORTED_FILE).is_file()]
    imported = [
        rows
        for path in paths
        if (path / IMPORTED_FILE).is_file()
        for _, rows in imported_summary(path).groupby("experiment", sort=False)
    ]
    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        data = experiment.manifest.context_parts
        groups.setdefault(f"{data['data']}|{data['task']}", []).append(experiment)
    tables = [stacked([answers(experiment) for experiment in group]) for group in groups.values()]
    common = [on_common_questions(table) for table in tables]
    parts = [_joined(group, table, reference) for group, table in zip(groups.values(), common, strict=True)]
    parts += [_unpaired(rows, reference) for rows in imported]
    rows = pd.concat([part for part in parts if len(part)], ignore_index=True)
    if patterns:
        rows = rows[rows["baseline"] | np.array([is_chosen(names, patterns) for names in _names(rows)])]
        if rows["baseline"].all():
            raise StoreError(f"no grid point matches {', '.join(patterns)}; `saccade status EXPERIMENT` lists them")
    rows = rows.reset_index(drop=True)
    fewer = [_fewer(*pair) for pair in zip(tables, common, strict=True) if len(pair[0].samples) > len(pair[1].samples)]
    notes = tuple(note for experiment in experiments for note in experiment.notes)
    told = recommend(rows) if reference is None else against(rows, reference)
    return Comparison(rows=rows, recommendation=told, notes=(*fewer, *notes))


def _names(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """What each row may be chosen by, as `names_of` says it of a grid point."""
    texts = zip(*(rows[name] for name in ("label", "strategy", "layer", "rank", "params")), strict=True)
    return [(label, f"{name} layer={layer} rank={rank} {params}") for label, name, layer, rank, params in texts]


def _fewer(table: Answers, common: Answers) -> str:
    asked, left = (int(one.image_S.sum()) for one in (table, common))
    return f"compared on the {left} of {asked} image questions that all settings have answered"


def recommend(rows: pd.DataFrame) -> tuple[str, ...]:
    """Who loses at most 0.01 of accuracy, the best of them by accuracy and by cost, and how sure that is."""
    pruned = rows[~rows["baseline"] & rows["difference"].notna()]
    lacks = pruned["lacking"] > LITTLE * (pruned["n"] + pruned["lacking"])
    lacking, pruned = pruned[lacks], pruned[~lacks]
    unequal = () if lacking.empty else (_unequal(lacking),)
    doubtful = int((pruned["flags"] != "").sum())
    pruned = pruned[pruned["flags"] == ""]
    good = pruned[loses_little(pruned)]
    if pruned.empty:
        return ("nothing to recommend: no pruned setting has been compared with an un-pruned model", *unequal)
    aside = f" ({doubtful} suspicious ones left aside)" if doubtful else ""
    lines = [f"{len(good)} of {len(pruned)} settings {CRITERION}{aside}", *unequal]
    if good.empty:
        return tuple(lines)
    lines.append(
        f"for {surely(good)} of them the whole 95 % interval lies above that; for the others the loss may be larger"
    )
    best = good.sort_values(["accuracy", "flops_ratio"], ascending=[False, True], kind="stable").iloc[0]
    lines.append(f"best by accuracy: {_name(best)}, {percent(best['accuracy'])} ({points(best['difference'])})")
    flops = ("prefill_tflop", "FLOPs", "TFLOP") if good["prefill_tflop"].notna().any() else IMPORTED_FLOPS
    for column, what, unit in (flops, ("latency_s", "latency", "s per sample")):
        known = good.dropna(subset=[column])
        if len(known):
            least = known.sort_values([column, "accuracy"], ascending=[True, False], kind="stable").iloc[0]
            change = f"accuracy {points(least['difference'])}"
            lines.append(f"best by {what}: {_name(least)}, {least[column]:.3g} {unit} ({change})")
    if len(pruned) > 1:
        lines.append(f"the best of {len(pruned)} looks better than it is: it was chosen on these very questions")
    return tuple(lines)


def against(rows: pd.DataFrame, reference: str) -> tuple[str, ...]:
    """Which settings are better and worse than those that were named, and the greatest gain."""
    known = rows[rows["difference"].notna()]
    if known.empty:
        return (f"no setting has been compared with {reference}",)
    sure = known["p_holm"] < ALPHA
    better, worse = int((sure & (known["difference"] > 0)).sum()), int((sure & (known["difference"] < 0)).sum())
    best = known.sort_values("difference", ascending=False, kind="stable").iloc[0]
    return (
        f"against {reference}, on the same questions: {better} of {len(known)} settings better, {worse} worse, "
        f"{len(known) - better - worse} not to be told apart ({spoken(known['test'])}, Holm, {100 * ALPHA:g} %)",
        f"greatest gain: {_name(best)}, {points(best['difference'])}: {best['gained']} won, {best['lost']} lost, "
        f"p {p_value(best['p_holm'])} after Holm",
    )


def _unequal(rows: pd.DataFrame) -> str:
    """Who was asked fewer questions than others, so that accuracies are not of the same ones."""
    worst = rows.sort_values("lacking", kind="stable").iloc[-1]
    count = f"{len(rows)} settings lack" if len(rows) > 1 else "1 setting lacks"
    return f"{count} answers that others have, and cannot be recommended: {_name(worst)} {worst['lacking']}"


def _joined(group: Sequence[Experiment], table: Answers, reference: str | None) -> pd.DataFrame:
    """Experiments on the same benchmark, with their answers, as one table."""
    owners = [owner for owner in group for _ in owner.points]
    own = [_unpruned(table, owners, owner) for owner in owners]
    rows = summarise(table, own)
    names = dict(zip(group, names_apart(group), strict=True))
    rows["experiment"] = [names[owner] for owner in owners]
    rows["flags"] = [flags for _, part in rows.groupby("experiment", sort=False) for flags in suspicions(part)]
    if reference is not None:
        named = [_partner(table, owners, row, reference) for row in range(len(owners))]
        rows = rows.assign(**compared(table.of_images(True), named))
    counted = pd.concat([_costs(experiment) for experiment in group], ignore_index=True)
    rows = pd.concat([rows, counted.drop(columns="key")], axis=1)
    seconds = [latencies(experiment) for experiment in group]
    rows["latency_s"] = [
        known.get(point.key, np.nan)
        for known, experiment in zip(seconds, group, strict=True)
        for point in experiment.points
    ]
    return _finished(rows, [owner.context for owner in owners])


def _unpruned(table: Answers, owners: Sequence[Experiment], owner: Experiment) -> int | None:
    """The un-pruned row of an experiment's model and settings: the first, where several experiments have them."""
    rows = (row for row, other in enumerate(owners) if other.context == owner.context)
    return next((row for row in rows if table.points[row].strategy == UNPRUNED), None)


def _partner(table: Answers, owners: Sequence[Experiment], row: int, name: str) -> int | None:
    """What a row is compared with: the named setting of its layer and rank, or the only named one; its own first.

    Raises:
        StoreError: The name fits several, or none at all.
    """
    named = [other for other, point in enumerate(table.points) if is_named(names_of(point), name)]
    if not named:
        raise StoreError(f"--reference {name}: no grid point has this name; `saccade status EXPERIMENT` lists them")
    place = table.points[row].layer, table.points[row].rank
    for rows in ([other for other in named if owners[other] is owners[row]], named):
        fitting = [other for other in rows if (table.points[other].layer, table.points[other].rank) == place]
        fitting = fitting or (rows if len(rows) == 1 else [])
        if len({replace(table.points[other], positions=None) for other in fitting}) == 1:  # in its own way, if any is
            fitting = [other for other in fitting if table.points[other].positions is None] or fitting
        if len(fitting) > 1:
            first, second = (table.points[other].label for other in fitting[:2])
            raise StoreError(f"--reference {name}: may be {first} or {second}; say which")
        if fitting:
            return fitting[0]
    return None


def _costs(experiment: Experiment) -> pd.DataFrame:
    counted = costs(experiment)
    keys = pd.DataFrame({"key": [point.key for point in experiment.points]})
    names = ["prefill_tflop", "flops_ratio", "fastv_ratio", "average_visual_tokens"]
    return keys.assign(**dict.fromkeys(names, np.nan)) if counted is None else counted[["key", *names]]


def _unpaired(rows: pd.DataFrame, reference: str | None) -> pd.DataFrame:
    """Differences of the imported figures of one run to its own un-pruned model, from counts alone."""
    rows = rows.assign(lacking=0)
    base = rows[rows["baseline"] & rows["accuracy"].notna()]
    if len(base) and reference is None:
        unpruned = base.iloc[0]
        rows["difference"] = np.where(rows["baseline"], np.nan, rows["accuracy"] - unpruned["accuracy"])
        low = np.hypot(rows["accuracy"] - rows["ci_low"], unpruned["ci_high"] - unpruned["accuracy"])
        high = np.hypot(rows["ci_high"] - rows["accuracy"], unpruned["accuracy"] - unpruned["ci_low"])
        rows["diff_low"], rows["diff_high"] = rows["difference"] - low, rows["difference"] + high
        rows["diff_interval"] = np.where(rows["diff_low"].notna(), NEWCOMBE, "")
    return _finished(rows, [""] * len(rows))


def _finished(rows: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Columns in their order, with the speed-up over each model's un-pruned row.

    Args:
        rows: The columns so far.
        models: Of each row what it shares with its un-pruned model.
    """
    model = pd.Series(models, index=rows.index)
    base = rows["baseline"] & rows["latency_s"].notna()
    unpruned_s = rows.loc[base, "latency_s"].groupby(model[base]).first()
    rows["speedup"] = model.map(unpruned_s) / rows["latency_s"]
    rows["n"] = rows["n"].astype("Int64")
    return rows[[*COLUMNS, *KEYS]]


def _name(row: pd.Series) -> str:
    return f"{row['label']} ({row['experiment']})"
