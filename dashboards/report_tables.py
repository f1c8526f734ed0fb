"""The words and tables of a report, as HTML. Every text that comes from data is escaped: names, questions, answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd

from dashboards.rows import flipped, significant, with_series
from results.analysis.matrix import Answers
from results.analysis.metrics import is_soft, share_images, spoken
from results.experiment import Experiment
from results.wording import (
    MISSING,
    count,
    number,
    p_value,
    percent,
    percent_span,
    plural,
    points,
    points_span,
    shortened,
)

MAX_FLIPS = 8  # examples shown


def about(experiment: Experiment) -> str:
    model, task = experiment.spec.model, experiment.spec.task
    created = experiment.manifest.created[:10]
    parts = (Path(model.path).name, model.dtype, f"{task.name} {task.split or ''}".strip(), created)
    return " · ".join(part for part in parts if part)


def source_of_numbers(experiment: Experiment, n: int) -> str:
    """Model, data, questions, day and program, in a line: what stands in the metadata of a picture."""
    from workers.saccade_version import saccade_version

    program = f"saccade {saccade_version()}, sources {experiment.manifest.sources_hash[:12]}"
    return f"{about(experiment)} · n = {count(n)} · {program}"


def flips(experiment: Experiment, table: Answers, summary: pd.DataFrame, explorer: str | None) -> str:
    """Questions whose answer the costliest grid point changed: numbers are believed sooner with examples.

    Args:
        explorer: Address of the page that shows samples, where there is one.
    """
    compared = with_series(summary)
    compared = compared[(compared["lost"] + compared["gained"]).fillna(0) > 0]
    if compared.empty:
        return ""
    row = compared.sort_values("difference", kind="stable").iloc[0]
    lost, gained = flipped(table, row["key"])
    base = summary.loc[summary["baseline"], "key"].iloc[0]
    shown = (lost + gained)[:MAX_FLIPS]
    cells = experiment.cells(["point", "sample", "answer"], points=[base, row["key"]], samples=shown)
    said = cells.pivot(index="sample", columns="point", values="answer")
    questions = experiment.samples.set_index("id")
    body = [
        table_row(
            [
                ("text", _sample_link(explorer, sample, row["key"])),
                ("text wrap", escape(shortened(str(questions.at[sample, "question"]), 220))),
                ("text", escape(str(questions.at[sample, "label"]))),
                ("text wrap", escape(shortened(str(said.at[sample, base]), 120))),
                ("text wrap", escape(shortened(str(said.at[sample, row["key"]]), 120))),
            ]
        )
        for sample in shown
    ]
    head = table_head(["text"] * 5, ["sample", "question", "right answer", "un-pruned answer", "pruned answer"])
    return (
        "<section><h2>What a flipped answer looks like</h2>"
        f'<p class="note">{escape(row["label"])}: {plural(len(lost), "right answer")} lost and {count(len(gained))} '
        f"gained against the un-pruned model; the first {len(shown)} of them.</p>{scrolling(head, body)}</section>"
    )


def _sample_link(explorer: str | None, sample: str, key: str) -> str:
    if explorer is None:
        return escape(sample)
    address = f"{explorer}#{urlencode({'sample': sample, 'config': key})}"
    return f'<a href="{escape(address)}">{escape(sample)}</a>'


def grid(summary: pd.DataFrame) -> str:
    """All grid points as a table: accuracy, paired difference, test, and what is suspicious.

    Args:
        summary: The grid points.
    """
    texts = bool(summary["n_text_only"].any())
    flags = bool((summary["flags"] != "").any())
    images = share_images(summary)
    names = ["configuration", "n", *["images"] * images, "right", "accuracy", "95 % interval", "change, points",
             "95 % interval", "lost", "gained", "p", "p Holm", "rel. drop"]  # fmt: skip
    kinds = ["text", *[""] * (11 + images)]
    names += (["text-only accuracy"] if texts else []) + (["flags"] if flags else [])
    kinds += ([""] if texts else []) + (["text"] if flags else [])
    body = []
    for row, sure in zip(summary.to_dict("records"), significant(summary), strict=True):
        state = "" if row["state"] == "complete" else f' <span class="chip">{escape(row["state"])}</span>'
        cells = [
            ("text name", escape(row["label"]) + state),
            ("", count(row["n"]) if row["state"] == "complete" else f"{count(row['n'])} of {count(row['n_expected'])}"),
            *[("", count(row["n_images"]))] * images,
            ("", count(row["correct"]) if row["n"] else MISSING),
            ("", percent(row["accuracy"])),
            ("", percent_span(row["ci_low"], row["ci_high"])),
            ("", f"<b>{points(row['difference'])}</b>" if sure else points(row["difference"])),
            ("", points_span(row["diff_low"], row["diff_high"])),
            ("", MISSING if pd.isna(row["lost"]) else count(row["lost"])),
            ("", MISSING if pd.isna(row["gained"]) else count(row["gained"])),
            ("", escape(p_value(row["p"]))),
            ("", escape(p_value(row["p_holm"]))),
            ("", f"{number(row['relative_drop'])}\u00a0%" if pd.notna(row["relative_drop"]) else MISSING),
        ]
        cells += [("", percent(row["accuracy_text_only"]))] if texts else []
        cells += [("text flag", escape(row["flags"]))] if flags else []
        body.append(table_row(cells, "baseline" if row["baseline"] else row["state"]))
    accuracy = "Mean score" if is_soft(summary) else "Accuracy"
    interval, change, test = (spoken(summary[name]) for name in ("interval", "diff_interval", "test"))
    return (
        '<section id="grid"><h2>All grid points</h2>'
        f'<p class="note">{accuracy} over image questions; its interval: {interval}. The change is paired: on the '
        f"questions that the configuration and the un-pruned model have both answered; its interval: {change}. "
        f"p: {test}; then corrected across the grid by Holm. Bold: significant at 0.05 after correction.</p>"
        f"{scrolling(table_head(kinds, names), body)}</section>"
    )


def task_figures(figures: pd.DataFrame) -> str:
    """What the benchmark's authors publish, one column a figure."""
    if figures.empty:
        return ""
    names = list(dict.fromkeys(figures["name"]))
    body = []
    for _, rows in figures.groupby("point", sort=False):
        own = dict(zip(rows["name"], rows["text"], strict=True))
        cells = [("", escape(own.get(name) or MISSING)) for name in names]
        body.append(table_row([("text name", escape(rows["label"].iloc[0])), *cells]))
    head = table_head(["text", *[""] * len(names)], ["configuration", *names])
    note = '<p class="note">As the benchmark defines them, over all questions answered; without intervals.</p>'
    return f"<section><h2>The benchmark's own figures</h2>{note}{scrolling(head, body)}</section>"


def provenance(experiment: Experiment) -> str:
    """Where the numbers come from: the description of the sweep without its points."""
    shown = {name: value for name, value in experiment.manifest.to_json().items() if name not in ("points", "notice")}
    parts = shown.pop("context_parts", {})  # mostly settings that `engine` has too
    shown["fingerprint"] = {name: parts.get(name) for name in ("model", "data")}
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in flatten(shown))
    return f'<section><h2>Where this comes from</h2><dl class="facts">{facts}</dl></section>'


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """{"a": {"b": 1}} -> ("a b", "1"); values that are not set are left out."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name} ")
        elif value not in (None, ""):
            yield f"{prefix}{name}".replace("_", " "), str(value)


def scrolling(head: str, body: Sequence[str]) -> str:
    """A table in a box of its own; head and rows are HTML."""
    return f'<div class="scroll" tabindex="0"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'


def table_head(kinds: Sequence[str], names: Sequence[str]) -> str:
    cells = "".join(f'<th class="{kind}">{escape(name)}</th>' for kind, name in zip(kinds, names, strict=True))
    return f"<tr>{cells}</tr>"


def table_row(cells: Sequence[tuple[str, str]], kind: str = "") -> str:
    """A table row from (CSS class, HTML) pairs; the caller has escaped the HTML."""
    body = "".join(f'<td class="{cell}" dir="auto">{text}</td>' for cell, text in cells)
    return f'<tr class="{kind}">{body}</tr>'
