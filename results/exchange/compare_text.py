"""A comparison as people paste it: to a terminal, Markdown, LaTeX with booktabs, or CSV with every digit."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from results.escaping import csv_text, latex_cell, markdown_cell
from results.exchange.booktabs import SPAN, booktabs, name_columns
from results.exchange.compare import COLUMNS, Comparison
from results.exchange.point_names import PointName
from results.wording import count, figures, number, p_value, points

SPANS = {"95 %": SPAN, "change, 95 %": SPAN}  # columns of intervals, and how LaTeX's table calls them

WIDE = ("lost", "won", "FastV's FLOPs")  # what LaTeX's table leaves to the other forms, so that it fits a page


def rendered(comparison: Comparison, form: str) -> str:
    """As ``csv``, ``markdown`` or ``latex``; for the first every column and digit, for the others a table to print."""
    if form == "csv":
        return csv_text(comparison.rows[list(COLUMNS)])
    if form == "latex":
        return _latex(comparison)
    header, body = printable(comparison.rows)
    cells = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    table = "\n".join("| " + " | ".join(map(markdown_cell, line)) + " |" for line in cells)
    return table + "\n\n" + "\n".join(f"- {markdown_cell(line)}" for line in comparison.recommendation) + "\n"


def printable(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text; columns that nothing is known of are left out. A missing number is empty."""
    several = rows["experiment"].nunique() > 1
    columns = {
        "setting": [
            f"{owner}: {label}" if several else label
            for owner, label in zip(rows["experiment"], rows["label"], strict=True)
        ],
        **_figures(rows),
        "suspicious": [str(flag) for flag in rows["flags"]],
    }
    shown = {name: texts for name, texts in columns.items() if any(texts)}
    return list(shown), [list(line) for line in zip(*shown.values(), strict=True)]


def _latex(comparison: Comparison) -> str:
    """The parts of a name in columns of their own; below the table what is said of single rows."""
    rows = comparison.rows
    suspicions = list(dict.fromkeys(str(flag) for flag in rows["flags"] if flag))
    marks = [f"$^{{{suspicions.index(flag) + 1}}}$" if flag else "" for flag in rows["flags"]]
    (method, strategies), *others = name_columns([PointName.of(label) for label in rows["label"]])
    marked = [strategy + mark for strategy, mark in zip(strategies, marks, strict=True)]
    several = rows["experiment"].nunique() > 1
    owners = [("experiment", [latex_cell(owner) for owner in rows["experiment"]])] if several else []
    told = _figures(rows)
    notes = [f"$^{{{place}}}$ {latex_cell(text)}" for place, text in enumerate(suspicions, 1)]
    if not any(told["images"]) and len(set(told["n"])) == 1:
        notes.insert(0, f"{latex_cell(told.pop('n')[0])} image questions each")
    columns = []
    for name, texts in told.items():
        if name in WIDE or (name == "TFLOP" and not several):
            continue
        apart = [text.replace(" to ", "\u2009–\u2009") for text in texts] if name in SPANS else texts
        columns.append((SPANS.get(name, name), [latex_cell(text) for text in apart]))
    new = rows["experiment"].ne(rows["experiment"].shift()) | rows["baseline"].ne(rows["baseline"].shift())
    breaks = [place for place, one in enumerate(new) if one]
    return booktabs([*owners, (method, marked), *others], columns, breaks, notes, comparison.recommendation)


def _figures(rows: pd.DataFrame) -> dict[str, list[str]]:
    return {
        "n": _texts(rows["n"].replace(0, pd.NA), _whole),
        "images": _images(rows),
        "paired": _paired(rows),
        "accuracy %": _texts(100 * rows["accuracy"], number),
        "95 %": _spans(100 * rows["ci_low"], 100 * rows["ci_high"], number),
        "lost": _texts(rows["lost"], _whole),
        "won": _texts(rows["gained"], _whole),
        "change": _texts(rows["difference"], points),
        "change, 95 %": _spans(rows["diff_low"], rows["diff_high"], points),
        "p (Holm)": _texts(rows["p_holm"], p_value),
        "TFLOP": _texts(rows["prefill_tflop"], figures),
        "FLOPs": _texts(rows["flops_ratio"], lambda share: number(share, 3)),
        "FastV's FLOPs": _texts(rows["fastv_ratio"], lambda share: number(share, 3)),
        "mean tokens": _texts(rows["average_visual_tokens"], number),
        "s/sample": _texts(rows["latency_s"], lambda seconds: number(seconds, 4)),
        "speed-up": _texts(rows["speedup"], lambda times: number(times, 2)),
    }


def _paired(rows: pd.DataFrame) -> list[str]:
    """Questions behind the change, where they are fewer than those behind the accuracy."""
    paired, asked = (rows[name].astype("Float64").fillna(0) for name in ("n_paired", "n"))
    fewer = ~rows["baseline"] & rows["difference"].notna() & (paired > 0) & (paired < asked)
    return [_whole(n) if shown else "" for n, shown in zip(paired, fewer, strict=True)]


def _images(rows: pd.DataFrame) -> list[str]:
    """Images behind the accuracy, where they are fewer than the questions."""
    pairs = zip(rows["n_images"], rows["n"], strict=True)
    return ["" if pd.isna(n) or images >= n else _whole(images) for images, n in pairs]


def _whole(value: float) -> str:
    return count(int(value))


def _texts(values: pd.Series, text: Callable[[float], str]) -> list[str]:
    return ["" if pd.isna(value) else text(value) for value in values]


def _spans(low: pd.Series, high: pd.Series, text: Callable[[float], str]) -> list[str]:
    pairs = zip(_texts(low, text), _texts(high, text), strict=True)
    return [f"{first} to {last}" if first else "" for first, last in pairs]
