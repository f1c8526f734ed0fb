"""Experiments and grid points side by side: accuracy, difference, cost, and which setting to recommend.

Experiments on the same questions are joined sample by sample and all compared with the first one's un-pruned model, in
paired tests that are corrected together, on the questions that all settings have answered: one that failed on the hard
ones is no better for that. A setting that lacks more than a few answers is said, and not recommended. An experiment on
other questions, and figures imported from elsewhere, keep their own un-pruned model; without its answers there is no
paired test, and the interval is Newcombe's for two independent shares (Statistics in Medicine 17, 1998, method 10),
which is wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator.costs import costs
from orchestrator.disk import StoreError
from orchestrator.imports import IMPORTED_FILE, imported_summary
from orchestrator.latencies import latencies
from orchestrator.metrics import LITTLE, Answers, answers, on_common_questions, summarise
from orchestrator.store import Experiment, names_apart

KEYS = ("key", "baseline", "strategy", "layer", "rank", "params", "state", "lacking")
NEWCOMBE = "Newcombe"
TOLERATED_LOSS = 0.01  # of accuracy; the documents' threshold for a recommendation
COLUMNS = (
    "experiment", "label", "n", "n_paired", "accuracy", "ci_low", "ci_high", "interval", "difference", "diff_low",
    "diff_high", "diff_interval", "test", "p_holm", "flops_ratio", "fastv_ratio", "average_visual_tokens", "latency_s",
    "speedup", "flags",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The table, and what it comes to."""

    rows: pd.DataFrame  # COLUMNS and KEYS
    recommendation: tuple[str, ...]  # lines
    notes: tuple[str, ...] = ()  # of questions that not all have answered, and of files that could not be read


def compare(paths: Sequence[Path], patterns: Sequence[str] = ()) -> Comparison:
    """Compare experiments.

    Args:
        paths: Experiment directories, or directories that `saccade import` made.
        patterns: Only grid points whose label contains one of these, or matches it as a glob; un-pruned models stay.

    Raises:
        StoreError: One is not an experiment, or no grid point is left.
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
        data = experiment.meta["context_parts"]
        groups.setdefault(f"{data['data']}|{data['task']}", []).append(experiment)
    tables = [_stacked([answers(experiment) for experiment in group]) for group in groups.values()]
    common = [on_common_questions(table) for table in tables]
    parts = [_joined(group, table) for group, table in zip(groups.values(), common, strict=True)]
    parts += [_unpaired(rows) for rows in imported]
    rows = pd.concat([part for part in parts if len(part)], ignore_index=True)
    if patterns:
        rows = rows[rows["baseline"] | rows["label"].map(lambda label: _matches(label, patterns))]
        if rows["baseline"].all():
            raise StoreError(f"no grid point matches {', '.join(patterns)}; `saccade status EXPERIMENT` lists them")
    rows = rows.reset_index(drop=True)
    fewer = [_fewer(*pair) for pair in zip(tables, common, strict=True) if len(pair[0].samples) > len(pair[1].samples)]
    notes = tuple(note for experiment in experiments for note in experiment.notes)
    return Comparison(rows=rows, recommendation=recommend(rows), notes=(*fewer, *notes))


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
    good = pruned[pruned["difference"] >= -TOLERATED_LOSS - 1e-12]
    if pruned.empty:
        return ("nothing to recommend: no pruned setting has been compared with an un-pruned model", *unequal)
    aside = f" ({doubtful} suspicious ones left aside)" if doubtful else ""
    lines = [f"{len(good)} of {len(pruned)} settings lose at most {TOLERATED_LOSS:g} of accuracy{aside}", *unequal]
    if good.empty:
        return tuple(lines)
    sure = int((good["diff_low"] >= -TOLERATED_LOSS).sum())
    lines.append(f"for {sure} of them the whole 95 % interval lies above that; for the others the loss may be larger")
    best = good.sort_values(["accuracy", "flops_ratio"], ascending=[False, True], kind="stable").iloc[0]
    lines.append(f"best by accuracy: {_name(best)}, {100 * best['accuracy']:.1f} % ({100 * best['difference']:+.1f})")
    for column, what, unit in (("flops_ratio", "FLOPs", "of the un-pruned"), ("latency_s", "latency", "s per sample")):
        known = good.dropna(subset=[column])
        if len(known):
            least = known.sort_values([column, "accuracy"], ascending=[True, False], kind="stable").iloc[0]
            change = f"accuracy {100 * least['difference']:+.1f}"
            lines.append(f"best by {what}: {_name(least)}, {least[column]:.3f} {unit} ({change})")
    if len(pruned) > 1:
        lines.append(f"the best of {len(pruned)} looks better than it is: it was chosen on these very questions")
    return tuple(lines)


def _unequal(rows: pd.DataFrame) -> str:
    """Who was asked fewer questions than others, so that accuracies are not of the same ones."""
    worst = rows.sort_values("lacking", kind="stable").iloc[-1]
    count = f"{len(rows)} settings lack" if len(rows) > 1 else "1 setting lacks"
    return f"{count} answers that others have, and cannot be recommended: {_name(worst)} {worst['lacking']}"


def rendered(comparison: Comparison, form: str) -> str:
    """As ``csv``, ``markdown`` or ``latex``; for the first every column and digit, for the others a table to print."""
    if form == "csv":
        return comparison.rows[list(COLUMNS)].to_csv(index=False, lineterminator="\n")
    header, body = printable(comparison.rows)
    if form == "markdown":
        cells = [header, ["---", *["---:"] * (len(header) - 1)], *body]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)
        return table + "\n\n" + "\n".join(f"- {line}" for line in comparison.recommendation) + "\n"
    lines = [" & ".join(_latex(cell) for cell in line) + r" \\" for line in (header, *body)]
    return "\n".join(
        [r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}", r"\hline", lines[0], r"\hline", *lines[1:], r"\hline",
         r"\end{tabular}", *(f"% {line}" for line in comparison.recommendation), ""]
    )  # fmt: skip


def printable(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text; columns that nothing is known of are left out. A missing number is empty."""
    several = rows["experiment"].nunique() > 1
    columns = {
        "setting": [
            f"{owner}: {label}" if several else label
            for owner, label in zip(rows["experiment"], rows["label"], strict=True)
        ],
        "n": ["" if pd.isna(n) or n == 0 else str(int(n)) for n in rows["n"]],
        "paired": _paired(rows),
        "accuracy %": _texts(rows["accuracy"], "{:.1f}", 100),
        "95 %": _spans(rows["ci_low"], rows["ci_high"], "{:.1f}"),
        "change": _texts(rows["difference"], "{:+.1f}", 100),
        "change, 95 %": _spans(rows["diff_low"], rows["diff_high"], "{:+.1f}"),
        "p (Holm)": _texts(rows["p_holm"], "{:.2g}"),
        "FLOPs": _texts(rows["flops_ratio"], "{:.3f}"),
        "FastV's FLOPs": _texts(rows["fastv_ratio"], "{:.3f}"),
        "tokens": _texts(rows["average_visual_tokens"], "{:.1f}"),
        "s/sample": _texts(rows["latency_s"], "{:.4f}"),
        "speed-up": _texts(rows["speedup"], "{:.2f}"),
        "suspicious": [str(flag) for flag in rows["flags"]],
    }  # fmt: skip
    shown = {name: texts for name, texts in columns.items() if any(texts)}
    return list(shown), [list(line) for line in zip(*shown.values(), strict=True)]


def _joined(group: Sequence[Experiment], table: Answers) -> pd.DataFrame:
    """Experiments on the same benchmark, with their answers, as one table compared with the first's un-pruned model."""
    rows = summarise(table)
    names = zip(names_apart(group), group, strict=True)
    rows["experiment"] = [name for name, experiment in names for _ in experiment.points]
    counted = pd.concat([_costs(experiment) for experiment in group], ignore_index=True)
    rows = pd.concat([rows, counted.drop(columns="key")], axis=1)
    seconds = [latencies(experiment) for experiment in group]
    rows["latency_s"] = [
        known.get(point.key, np.nan)
        for known, experiment in zip(seconds, group, strict=True)
        for point in experiment.points
    ]
    return _finished(rows)


def _costs(experiment: Experiment) -> pd.DataFrame:
    counted = costs(experiment)
    keys = pd.DataFrame({"key": [point.key for point in experiment.points]})
    names = ["flops_ratio", "fastv_ratio", "average_visual_tokens"]
    return keys.assign(**dict.fromkeys(names, np.nan)) if counted is None else counted[["key", *names]]


def _stacked(tables: Sequence[Answers]) -> Answers:
    """Rows of all tables over the samples of all, in the order in which they first come."""
    samples = tuple(dict.fromkeys(name for table in tables for name in table.samples))
    place = {name: column for column, name in enumerate(samples)}
    points = tuple(point for table in tables for point in table.points)
    answered, correct = np.zeros((len(points), len(samples)), bool), np.zeros((len(points), len(samples)), bool)
    score = np.zeros((len(points), len(samples)))
    image, failed = np.zeros(len(samples), bool), np.zeros(len(samples), bool)
    first = 0
    for table in tables:
        columns = [place[name] for name in table.samples]
        rows = slice(first, first + len(table.points))
        answered[rows, columns], correct[rows, columns] = table.answered_PS, table.correct_PS
        score[rows, columns] = table.score_PS
        image[columns] |= table.image_S
        failed[columns] |= table.failed_S
        first += len(table.points)
    return Answers(
        points=points,
        samples=samples,
        answered_PS=answered,
        correct_PS=correct,
        score_PS=score,
        image_S=image,
        failed_S=failed,
    )


def _unpaired(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences of the imported figures of one run to its own un-pruned model, from counts alone."""
    rows = rows.assign(n_paired=np.nan, lacking=0)
    base = rows[rows["baseline"] & rows["accuracy"].notna()]
    if len(base):
        reference = base.iloc[0]
        rows["difference"] = np.where(rows["baseline"], np.nan, rows["accuracy"] - reference["accuracy"])
        low = np.hypot(rows["accuracy"] - rows["ci_low"], reference["ci_high"] - reference["accuracy"])
        high = np.hypot(rows["ci_high"] - rows["accuracy"], reference["accuracy"] - reference["ci_low"])
        rows["diff_low"], rows["diff_high"] = rows["difference"] - low, rows["difference"] + high
        rows["diff_interval"] = np.where(rows["diff_low"].notna(), NEWCOMBE, "")
    return _finished(rows)


def _finished(rows: pd.DataFrame) -> pd.DataFrame:
    base = rows.loc[rows["baseline"] & rows["latency_s"].notna(), "latency_s"]
    rows["speedup"] = base.iloc[0] / rows["latency_s"] if len(base) else np.nan
    rows["n"] = rows["n"].astype("Int64")
    return rows[[*COLUMNS, *KEYS]]


def _name(row: pd.Series) -> str:
    return f"{row['label']} ({row['experiment']})"


def _matches(label: str, patterns: Sequence[str]) -> bool:
    return any(pattern in label or fnmatch(label, pattern) for pattern in patterns)


def _paired(rows: pd.DataFrame) -> list[str]:
    """Questions behind the change, where they are fewer than those behind the accuracy."""
    paired, asked = (rows[name].astype("Float64").fillna(0) for name in ("n_paired", "n"))
    fewer = ~rows["baseline"] & rows["difference"].notna() & (paired > 0) & (paired < asked)
    return [str(int(n)) if shown else "" for n, shown in zip(paired, fewer, strict=True)]


def _texts(values: pd.Series, form: str, scale: float = 1) -> list[str]:
    return ["" if pd.isna(value) else form.format(scale * value) for value in values]


def _spans(low: pd.Series, high: pd.Series, form: str) -> list[str]:
    pairs = zip(_texts(low, form, 100), _texts(high, form, 100), strict=True)
    return [f"{first} .. {last}" if first else "" for first, last in pairs]


def _latex(text: str) -> str:
    for sign in "&%_#":
        text = text.replace(sign, f"\\{sign}")
    return text
