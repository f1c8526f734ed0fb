"""One experiment as a page to share: EXPERIMENT/report/index.html, and plotly.min.js beside it. Needs no network.

Every text that comes from data is escaped: names, questions, the model's answers, error messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboards import theme
from dashboards.figures import CONFIG, curve_figure, forest_figure, heat_figure, template
from dashboards.reading import reading
from dashboards.rows import (
    AXES,
    MAX_COLOURED,
    MAX_FOREST,
    Slice,
    failure_groups,
    flipped,
    forest,
    heat,
    leftovers,
    measures,
    significant,
    slices,
    with_series,
)
from dashboards.wording import (
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
from orchestrator.metrics import Answers, answers, summarise
from orchestrator.store import Experiment, write_whole
from orchestrator.task_metrics import task_metrics

MAX_NOTICES = 5  # of one kind
MAX_FLIPS = 8  # examples shown
MAX_FAILURES = 20  # kinds of failure shown


def write_report(experiment: Experiment) -> Path:
    """Write the page.

    Returns:
        EXPERIMENT/report/index.html. It is there as a whole or not at all, so it may be written while others read it.
    """
    folder = experiment.path / "report"
    folder.mkdir(exist_ok=True)
    library = get_plotlyjs().encode()
    target = folder / "plotly.min.js"
    if not target.exists() or target.stat().st_size != len(library):
        write_whole(target, library)
    page = folder / "index.html"
    write_whole(page, render(experiment, datetime.now(UTC)).encode())
    return page


def render(experiment: Experiment, now: datetime) -> str:
    """The page as HTML; ``now`` is the date it carries."""
    table = answers(experiment)
    summary = summarise(table)
    failures = experiment.failures()
    sections = [
        *_pictures(summary),
        _flips(experiment, table, summary),
        _grid(summary, table.of_images(True).binary),
        _task_figures(task_metrics(experiment)),
        _failures(failures),
        _provenance(experiment),
    ]
    assets = files("dashboards") / "assets"
    return Template((assets / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(experiment.name),
        about=escape(_about(experiment)),
        reading=escape(reading(summary)),
        notices="\n".join(_notices(experiment, summary)),
        tiles="\n".join(_tiles(summary, failures)),
        sections="\n".join(section for section in sections if section),
        footer=f"Written {now:%Y-%m-%d %H:%M} UTC from {escape(experiment.path.name)}.",
        css=(assets / "report.css").read_text(encoding="utf-8"),
        script=(assets / "report.js").read_text(encoding="utf-8"),
        light=_json(template(theme.LIGHT)),
        dark=_json(template(theme.DARK)),
    )


def _about(experiment: Experiment) -> str:
    model, task = experiment.spec.model, experiment.spec.task
    created = str(experiment.meta.get("created", ""))[:10]
    parts = (Path(model.path).name, model.dtype, f"{task.name} {task.split}", created)
    return " · ".join(part for part in parts if part)


def _notices(experiment: Experiment, summary: pd.DataFrame) -> list[str]:
    """What a reader must know before reading a number."""
    found = []
    if notice := experiment.meta.get("notice"):
        found.append(("Note", str(notice)))
    states = summary["state"].value_counts()
    if unfinished := " and ".join(f"{states[s]} {s}" for s in ("partial", "missing") if s in states):
        text = f"of {plural(len(summary), 'grid point')}, {unfinished}."
        found.append(("Unfinished", text + (" Hollow points are partial." if "partial" in states else "")))
    if early := states.get("stopped early", 0):
        text = (
            f"racing stopped {early} of {plural(len(summary), 'grid point')}; hollow points: few questions were asked."
        )
        found.append(("Stopped early", text))
    flagged = summary[summary["flags"] != ""]
    kinds = list(flagged.groupby("flags", sort=False))
    for flags, rows in kinds[:MAX_NOTICES]:
        names = ", ".join(rows["label"].head(3)) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
        found.append(("Suspicious", f"{flags} ({names})"))
    if more := sum(len(rows) for _, rows in kinds[MAX_NOTICES:]):
        found.append(("Suspicious", f"{plural(more, 'more configuration')}, flagged in the table below"))
    found += [("Left out", note) for note in experiment.notes[:MAX_NOTICES]]
    if (more := len(experiment.notes) - MAX_NOTICES) > 0:
        found.append(("Left out", plural(more, "more file")))
    return [f'<p class="notice" dir="auto"><strong>{kind}:</strong> {escape(text)}</p>' for kind, text in found]


def _tiles(summary: pd.DataFrame, failures: pd.DataFrame) -> list[str]:
    base = summary[summary["baseline"] & (summary["n"] > 0)]
    if base.empty:
        accuracy = ("Un-pruned accuracy", MISSING, "not run yet")
    else:
        row = base.iloc[0]
        span = percent_span(row["ci_low"], row["ci_high"])
        accuracy = ("Un-pruned accuracy", percent(row["accuracy"]), f"95 % interval {span}")
    expected, texts = int(summary["n_expected"].max()), int(summary["n_text_only"].max())
    states = summary["state"].value_counts()
    shown = ("complete", "stopped early", "partial", "missing")
    progress = ", ".join(f"{states[state]} {state}" for state in shown if state in states)
    tiles = [
        accuracy,
        ("Image questions", count(expected), f"{count(texts)} text-only, counted apart" if texts else "asked of each"),
        ("Grid points", count(len(summary)), progress),
        ("Failed samples", count(len(failures)), "listed below" if len(failures) else "none"),
    ]
    return [
        f"<div><dt>{name}</dt><dd>{escape(value)}<small>{escape(detail)}</small></dd></div>"
        for name, value, detail in tiles
    ]


def _pictures(summary: pd.DataFrame) -> list[str]:
    """A section per slice of the grid, the others of an axis folded away, and one for what lies on no curve."""
    sections = []
    for axis, heading in zip(AXES, ("Layer by layer", "Token by token"), strict=True):
        for place, part in enumerate(slices(summary, axis)):
            title = f"{heading}: {part.title}"
            figures = _slice_figures(summary, part)
            if place == 0:
                sections.append(f"<section><h2>{title}</h2>{figures}</section>")
            else:
                sections.append(f"<details><summary>{title}</summary>{figures}</details>")
    if len(alone := forest(leftovers(summary))):
        note = f"The {MAX_FOREST} with the least loss of {count(len(alone))}; the table below has all."
        more = f'<p class="note">{note}</p>' if len(alone) > MAX_FOREST else ""
        figure = _figure(forest_figure(alone.head(MAX_FOREST)))
        sections.append(f"<section><h2>Single configurations</h2>{more}{figure}</section>")
    return sections


def _slice_figures(summary: pd.DataFrame, part: Slice) -> str:
    drawn = measures(part)
    figures = "".join(_figure(curve_figure(summary, part, measure)) for measure in drawn)
    series = part.rows["series"].nunique()
    note = "Dashed: the un-pruned model, grey its 95 % interval."
    if series > MAX_COLOURED:
        note += " Colour: the series with the least mean loss, and the control or runner-up; grey: the others."
    columns = " pair" if series <= MAX_COLOURED and len(drawn) == 2 else ""
    text = f'<p class="note">{note}</p><div class="figures{columns}">{figures}</div>'
    if (cells := heat(part)) is not None:
        text += _figure(heat_figure(cells, part.axis))
    return text


def _flips(experiment: Experiment, table: Answers, summary: pd.DataFrame) -> str:
    """Questions whose answer the costliest grid point changed: numbers are believed sooner with examples."""
    compared = with_series(summary)
    compared = compared[(compared["lost"] + compared["gained"]).fillna(0) > 0]
    if compared.empty:
        return ""
    row = compared.sort_values("difference", kind="stable").iloc[0]
    lost, gained = flipped(table, row["key"])
    base = summary.loc[summary["baseline"], "key"].iloc[0]
    shown = (lost + gained)[:MAX_FLIPS]
    cells = experiment.cells(["point", "sample", "answer"])
    cells = cells[cells["point"].isin([base, row["key"]]) & cells["sample"].isin(shown)]
    said = cells.pivot(index="sample", columns="point", values="answer")
    questions = experiment.samples.set_index("id")
    body = [
        _row(
            [
                ("text", escape(sample)),
                ("text wrap", escape(shortened(str(questions.at[sample, "question"]), 220))),
                ("text", escape(str(questions.at[sample, "label"]))),
                ("text wrap", escape(shortened(str(said.at[sample, base]), 120))),
                ("text wrap", escape(shortened(str(said.at[sample, row["key"]]), 120))),
            ]
        )
        for sample in shown
    ]
    head = _head(["text"] * 5, ["sample", "question", "right answer", "un-pruned answer", "pruned answer"])
    return (
        "<section><h2>What a flipped answer looks like</h2>"
        f'<p class="note">{escape(row["label"])}: {plural(len(lost), "right answer")} lost and {count(len(gained))} '
        f"gained against the un-pruned model; the first {len(shown)} of them.</p>{_table(head, body)}</section>"
    )


def _grid(summary: pd.DataFrame, binary: bool = True) -> str:
    """All grid points as a table: the numbers under the pictures."""
    texts = bool(summary["n_text_only"].any())
    flags = bool((summary["flags"] != "").any())
    names = ["configuration", "n", "right", "accuracy", "95 % interval", "change, points", "95 % interval",
             "lost", "gained", "p", "p Holm", "rel. drop"]  # fmt: skip
    kinds = ["text", *[""] * 11]
    names += (["text-only accuracy"] if texts else []) + (["flags"] if flags else [])
    kinds += ([""] if texts else []) + (["text"] if flags else [])
    body = []
    for row, sure in zip(summary.to_dict("records"), significant(summary), strict=True):
        state = "" if row["state"] == "complete" else f' <span class="chip">{escape(row["state"])}</span>'
        cells = [
            ("text name", escape(row["label"]) + state),
            ("", count(row["n"]) if row["state"] == "complete" else f"{count(row['n'])} of {count(row['n_expected'])}"),
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
        body.append(_row(cells, "baseline" if row["baseline"] else row["state"]))
    accuracy, test = ("Accuracy", "McNemar's exact") if binary else ("Mean score", "a paired bootstrap")
    interval = "Wilson" if binary else "bootstrap"
    return (
        "<section><h2>All grid points</h2>"
        f'<p class="note">{accuracy} over image questions with its {interval} interval. The change is paired: on the '
        "questions that the configuration and the un-pruned model have both answered, with a bootstrap interval; p is "
        f"{test} test, then corrected across the grid by Holm. Bold: significant at 0.05 after correction. "
        f"Where no answer flipped the interval has no width.</p>{_table(_head(kinds, names), body)}</section>"
    )


def _task_figures(figures: pd.DataFrame) -> str:
    """What the benchmark's authors publish, one column a figure."""
    if figures.empty:
        return ""
    names = list(dict.fromkeys(figures["name"]))
    body = []
    for _, rows in figures.groupby("point", sort=False):
        own = dict(zip(rows["name"], rows["text"], strict=True))
        cells = [("", escape(own.get(name) or MISSING)) for name in names]
        body.append(_row([("text name", escape(rows["label"].iloc[0])), *cells]))
    head = _head(["text", *[""] * len(names)], ["configuration", *names])
    note = '<p class="note">As the benchmark defines them, over all questions answered; without intervals.</p>'
    return f"<section><h2>The benchmark's own figures</h2>{note}{_table(head, body)}</section>"


def _failures(failures: pd.DataFrame) -> str:
    if failures.empty:
        return ""
    groups = failure_groups(failures)
    body = [
        _row(
            [
                ("text", escape(group["kind"])),
                ("text wrap", escape(shortened(group["message"], 300))),
                ("", count(len(group["samples"]))),
                ("text wrap", escape(", ".join(group["samples"][:6]) + (" …" if len(group["samples"]) > 6 else ""))),
            ]
        )
        for group in groups.head(MAX_FAILURES).to_dict("records")
    ]
    more = f'<p class="note">and {len(groups) - MAX_FAILURES} more kinds.</p>' if len(groups) > MAX_FAILURES else ""
    head = _head(["text", "text", "", "text"], ["kind", "message", "samples", "which"])
    note = '<p class="note">These samples have no answer. They count neither as right nor as wrong.</p>'
    return f"<section><h2>Failed samples</h2>{note}{_table(head, body)}{more}</section>"


def _provenance(experiment: Experiment) -> str:
    """Where the numbers come from: the description of the sweep without its points."""
    shown = {name: value for name, value in experiment.meta.items() if name not in ("points", "notice")}
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


def _figure(figure: go.Figure) -> str:
    return f"<div>{figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)}</div>"


def _json(look: go.layout.Template) -> str:
    return json.dumps(look.to_plotly_json()).replace("<", "\\u003c")


def _table(head: str, body: Sequence[str]) -> str:
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'


def _head(kinds: Sequence[str], names: Sequence[str]) -> str:
    cells = "".join(f'<th class="{kind}">{escape(name)}</th>' for kind, name in zip(kinds, names, strict=True))
    return f"<tr>{cells}</tr>"


def _row(cells: Sequence[tuple[str, str]], kind: str = "") -> str:
    """A table row from (CSS class, HTML) pairs; the caller has escaped the HTML."""
    body = "".join(f'<td class="{cell}" dir="auto">{text}</td>' for cell, text in cells)
    return f'<tr class="{kind}">{body}</tr>'
