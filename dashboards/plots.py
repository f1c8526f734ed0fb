"""The same rows as `dashboards.figures`, drawn with matplotlib: PNG and PDF that need no browser to be made."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dashboards import theme
from dashboards.contrasts import ablations
from dashboards.labels import AXIS_TITLES, end_labels, push_apart
from dashboards.looks import CONTEXT, Look, methods_of, series_looks
from dashboards.rows import (
    ACCURACY,
    AXES,
    DROP,
    MAX_FOREST,
    Axis,
    Measure,
    Reference,
    Slice,
    against_first,
    alpha_places,
    alpha_slice,
    axis_range,
    curves,
    focus,
    forest,
    forest_range,
    leftovers,
    measures,
    reference,
    slices,
    value_range,
)
from results.analysis.metrics import spoken, summary
from results.disk import make_folder, write_whole
from results.exchange.exports import original_files
from results.exchange.originals import PromisedFile, min_max
from results.experiment import Experiment
from results.wording import number, percent, told_apart
from strategies.errors import UsageError
from strategies.listed import KEEP_NOTHING

Normalised = tuple[tuple[str, list[float], str], ...]  # name, raw values, colour

CUTOFF_STEM = "fastv_layer_cutoff_plot"  # the name of the original (semantics 5.1)
INCHES = (8.0, 4.5)
DPI = 160
LABEL_PT = 9
LABEL_INCHES = 0.36  # height of a label of two lines
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))}
LEADER = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 2, "shrinkB": 0, "relpos": (0, 0.5)}
RC: Any = {
    "text.parse_math": False,  # a dollar in a name is a dollar
    "pdf.fonttype": 42,  # embed TrueType, so that text in a PDF stays text
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.edgecolor": theme.LIGHT.grid,
    "text.color": theme.LIGHT.text,
    "axes.labelcolor": theme.LIGHT.muted,
    "xtick.color": theme.LIGHT.muted,
    "ytick.color": theme.LIGHT.muted,
}


def write_plots(experiment: Experiment) -> list[Path]:
    """Write EXPERIMENT/exports/*.png and *.pdf: accuracy and relative drop along each axis, and what lies on none.

    Also accuracy by alpha, and each ablation of heads and queries, where it has most of them.

    Where the grid is one of the documents' experiments, also the picture that its document promises.

    Of a grid with many slices the largest of each axis is drawn, and the layer cut-off scan in any case; the report
    has them all.

    Returns:
        The files written. The layer cut-off scan has the name that the original gave it; its second picture the same
        name with ``_relative_drop``.
    """
    folder = experiment.path / "exports"
    make_folder(folder, below=experiment.path)
    rows = summary(experiment)
    written = []
    with mpl.rc_context(RC):
        for axis in AXES:
            for place, part in enumerate(slices(rows, axis)):
                if place and stem(part) != CUTOFF_STEM:
                    continue
                for measure in measures(part):
                    ending = "_relative_drop" if measure is DROP else ""
                    written += _save(curve_plot(rows, part, measure), folder, stem(part) + ending)
                if stem(part) == CUTOFF_STEM and (first := against_first(part)):
                    written += _save(curve_plot(rows, *first), folder, f"{CUTOFF_STEM}_drop_against_first_layer")
        for layer, rank in alpha_places(rows[~rows["baseline"]])[:1]:
            part = alpha_slice(rows, layer, rank)
            written += _save(
                curve_plot(rows, part, ACCURACY), folder, f"accuracy_by_alpha_at_layer_{layer}_rank_{rank}"
            )
        for factor, groups in groupby(ablations(rows), lambda group: group.factor):
            group = max(groups, key=lambda one: len(one.rows))
            if len(ruled := forest(group.rows[group.rows["n"] > 0])):
                figure = forest_plot(ruled.assign(label=ruled["rule"]), group.held)
                written += _save(figure, folder, f"{factor}_ablation_{group.heads_kept}_heads_rank_{group.rank}")
        if len(alone := forest(leftovers(rows))):
            written += _save(forest_plot(alone.head(MAX_FOREST)), folder, "single_configurations")
        written += original_plots(original_files(experiment), folder)
    return written


def original_plots(files: Sequence[PromisedFile], folder: Path) -> list[Path]:
    """The pictures that S2's and S4's documents promise: three curves, each scaled to 0..1 (semantics 5.2, 5.4)."""
    written = []
    for file in files:
        content = file.content
        name = Path(file.name)
        if name.name.startswith("fastv_textweighted"):
            tokens, series, ending = content["tokens"], _text_weighted_series(content), name.stem
            title = "Choice by the text's attention: accuracy and rank of the last layer's attention"
        elif name.name.startswith("raw_results"):
            tokens, series = content["token_counts"], _pruning_series(content)
            ending = f"pruning_experiment_results{name.stem.removeprefix('raw_results')}"
            title = f"Choice by norm before the first layer: accuracy and rank ({file.provenance['matrix'].split()[0]})"
        else:
            continue
        make_folder((folder / name).parent, below=folder)
        figure = normalised_plot(title, tokens, series)
        written += _save(figure, (folder / name).parent, ending)
    return written


def _text_weighted_series(content: dict[str, Any]) -> Normalised:
    return (
        ("accuracy", content["accuracies"], theme.COLOURS[0]),
        ("numerical rank", content["layer31_numeric_ranks"], theme.CONTEXT),  # it says nothing, see spectra.py
        ("effective rank", content["layer31_effective_ranks"], theme.COLOURS[1]),
    )


def _pruning_series(content: dict[str, Any]) -> Normalised:
    return (
        ("accuracy", [value / 100 for value in content["accuracies"]], theme.COLOURS[0]),
        ("rank, first layer", content["first_layer_ranks"], theme.COLOURS[1]),
        ("rank, last layer", content["last_layer_ranks"], theme.COLOURS[2]),
    )


def normalised_plot(title: str, tokens: list[int], series: Normalised) -> Figure:
    """Curves scaled to 0..1 over the tokens kept, many on the left; each label says what 0 and 1 stand for."""
    figure, axes = _canvas()
    labels = []
    for place, (name, values, colour) in enumerate(series):
        low, high = min(values), max(values)
        scaled = min_max(values)
        axes.plot(
            tokens, scaled, color=colour, linewidth=2, marker="o", markersize=3,
            linestyle=DASHES[theme.DASHES[place]],
        )  # fmt: skip
        if low == high:
            text = f"{name}: constant, {_amount(name, low)}"
        else:
            text = f"{name}\n{_amount(name, low)} to {_amount(name, high)}"
        labels.append((scaled[-1], text, colour))
    axes.set_xlim(*axis_range(pd.Series(tokens), "rank"))
    axes.set_ylim(-0.04, 1.04)
    axes.set_xlabel(AXIS_TITLES["rank"])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    _title(axes, title, "each series scaled from its least (0) to its greatest value (1)")
    free = -1.0
    for end, text, colour in sorted(labels):
        placed = max(end, free)
        free = placed + 0.13
        axes.annotate(
            text, (1, end), xytext=(1.03, placed), xycoords="axes fraction", textcoords="axes fraction", color=colour,
            fontsize=LABEL_PT, verticalalignment="center", annotation_clip=False,
        )  # fmt: skip
    return figure


def _amount(name: str, value: float) -> str:
    return percent(value) if name == "accuracy" else number(value)


def comparison_plot(rows: pd.DataFrame) -> Figure:
    """Accuracy curves of several experiments, ours and imported ones, in one picture.

    Args:
        rows: As `results.exchange.compare` gives them. Grid points on no curve of two points are left out.

    Where the models differ in size, x is the share of their layers or tokens.

    Raises:
        UsageError: There is no curve.
    """
    pruned = rows[~rows["baseline"] & rows["accuracy"].notna()]
    axis: Axis = "layer" if pruned["layer"].nunique() > pruned["rank"].nunique() else "rank"
    fixed = "rank" if axis == "layer" else "layer"
    sizes = rows[rows["baseline"]].groupby("experiment")[axis].max()
    shares = sizes.nunique() > 1 and set(pruned["experiment"]) <= set(sizes.index)
    keys = ["experiment", "strategy", "params", fixed]
    groups = pruned[pruned[axis].notna()].groupby(keys, sort=False, dropna=False)
    found = [curve.sort_values(axis, ascending=axis == "layer") for _, curve in groups if curve[axis].nunique() > 1]
    if not found:
        raise UsageError("no grid points differ in the layer or the rank alone, so that there is no curve to draw")
    with mpl.rc_context(RC):
        figure, axes = _canvas(height=max(INCHES[1], 1.2 + LABEL_INCHES * len(found)))
        ends: list[tuple[tuple[float, float], str, str]] = []
        for place, curve in enumerate(found):
            colour, dash = theme.line_look(place)
            owner, strategy, params, value = (curve[key].iloc[0] for key in keys)
            x = curve[axis] / sizes[owner] if shares else curve[axis]
            axes.fill_between(x, 100 * curve["ci_low"], 100 * curve["ci_high"], color=colour, alpha=0.12, linewidth=0)
            axes.plot(
                x, 100 * curve["accuracy"], color=colour, linewidth=2, marker="o", markersize=3, linestyle=DASHES[dash]
            )
            ends.append(
                (
                    (x.iloc[-1], 100 * curve["accuracy"].iloc[-1]),
                    f"{owner}\n{strategy} {params}".strip() + ("" if pd.isna(value) else f", {fixed} {value:g}"),
                    colour,
                )
            )
        low, high = axes.get_ylim()
        title = "Accuracy (%)" + (", by the share of the model's layers" if shares and axis == "layer" else "")
        axes.set_xlabel(f"{AXIS_TITLES[axis]}, share" if shares else AXIS_TITLES[axis])
        if axis == "rank":
            axes.invert_xaxis()
        _title(axes, title, f"band: 95 %, {spoken(pruned['interval'])}, where the number of answers is known")
        gap = LABEL_INCHES * (high - low) / (figure.get_figheight() * axes.get_position().height)
        placed = push_apart([y for (_, y), _, _ in ends], gap, low, high)
        for (end, text, colour), to in zip(ends, placed, strict=True):
            axes.annotate(
                text, end, xytext=(1.03, to), xycoords="data", textcoords=("axes fraction", "data"), color=colour,
                fontsize=LABEL_PT, verticalalignment="center", annotation_clip=False,
                arrowprops={**LEADER, "color": colour},
            )  # fmt: skip
    return figure


def write_comparison(rows: pd.DataFrame, path: Path) -> None:
    """`comparison_plot` as a file: PNG or PDF, as its name says."""
    figure = comparison_plot(rows)
    with mpl.rc_context(RC):
        content = io.BytesIO()
        ending = path.suffix.removeprefix(".").lower() or "png"
        figure.savefig(content, format=ending, bbox_inches="tight", pad_inches=0.2)
    write_whole(path, content.getvalue())


def stem(part: Slice) -> str:
    """File name of a slice's picture, without its ending."""
    if part.axis == "layer" and set(part.rows["strategy"]) <= KEEP_NOTHING:
        return CUTOFF_STEM
    return f"accuracy_by_{part.axis}_at_{part.fixed}_{part.value}"


def curve_plot(all_rows: pd.DataFrame, part: Slice, measure: Measure) -> Figure:
    """Curves of one measure along a slice's axis; the twin of `dashboards.figures.curve_figure`."""
    rows = curves(part, measure)
    chosen = focus(part.rows)
    looks = {name: look for name, look in series_looks(rows, methods_of(all_rows)).items() if name in chosen}
    base = reference(all_rows, measure) if measure.by else None  # what has no band has a zero of its own
    span = value_range(rows, base, chosen, measure)
    figure, axes = _canvas()
    _reference(axes, base)
    for name, curve in rows.groupby("series", sort=False):
        _curve(axes, curve, str(name), looks)
    axes.set_xlim(*axis_range(rows["x"], part.axis))
    axes.set_ylim(*span)
    axes.set_xlabel(AXIS_TITLES[part.axis])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=part.axis != "alpha"))
    _title(axes, f"{measure.name} (%)", f"{part.title}; {measure.band(part.rows)}")
    _end_labels(axes, rows, part, base, looks, measure, span)
    return figure


def forest_plot(rows: pd.DataFrame, held: str = "") -> Figure:
    """Single configurations; the twin of `dashboards.figures.forest_figure`. ``held``: what is the same in all."""
    figure, axes = _canvas(height=1.6 + 0.3 * len(rows))
    axes.axvline(0, color=theme.REFERENCE, linestyle="--", linewidth=1.2)
    for place, row in enumerate(rows.to_dict("records")):
        colour = theme.verdict(row["x"], row["significant"])
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
        face = colour if row["significant"] else theme.LIGHT.paper
        axes.plot([row["x"]], [place], marker="o", markersize=6, color=colour, markerfacecolor=face)
    axes.set_yticks(range(len(rows)), told_apart(rows["label"], 48))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.set_xlim(*forest_range(rows))
    axes.set_xlabel("percentage points")
    _title(
        axes,
        "Change against the un-pruned model" + f": {held}" * bool(held),
        f"line: {spoken(rows['diff_interval'])}, 95 % of each alone; "
        f"filled: significant among all ({spoken(rows['test'])}, Holm)",
    )
    return figure


def _canvas(height: float = INCHES[1]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(INCHES[0], height), dpi=DPI, facecolor=theme.LIGHT.paper)
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=theme.LIGHT.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    return figure, axes


def _title(axes: Axes, title: str, subtitle: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, pad=22)
    axes.annotate(
        subtitle, (0, 1), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=9,
        color=theme.LIGHT.muted,
    )  # fmt: skip


def _reference(axes: Axes, base: Reference | None) -> None:
    if base is None:
        return
    axes.axhspan(base.low, base.high, color=theme.REFERENCE, alpha=0.12, linewidth=0)
    axes.axhline(base.value, color=theme.REFERENCE, linestyle="--", linewidth=1.2)


def _curve(axes: Axes, rows: pd.DataFrame, name: str, looks: Mapping[str, Look]) -> None:
    colour, dash = looks.get(name, CONTEXT)
    focused = name in looks
    if focused:
        axes.fill_between(rows["x"], rows["low"], rows["high"], color=colour, alpha=theme.BAND_OPACITY, linewidth=0)
    axes.plot(
        rows["x"], rows["y"], color=colour, linewidth=2 if focused else 1, zorder=3 if focused else 2,
        linestyle=DASHES[dash],
    )  # fmt: skip
    for finished in (True, False):
        marked = rows[(rows["state"] == "complete") == finished]
        axes.plot(
            marked["x"], marked["y"], linestyle="", marker="o", markersize=5 if focused else 3, color=colour,
            markerfacecolor=colour if finished else theme.LIGHT.paper, zorder=4 if focused else 2,
        )  # fmt: skip


def _end_labels(
    axes: Axes,
    rows: pd.DataFrame,
    part: Slice,
    base: Reference | None,
    looks: Mapping[str, Look],
    measure: Measure,
    span: tuple[float, float],
) -> None:
    axes_points = 72 * INCHES[1] * axes.get_position().height
    gap = (LABEL_PT + 4) / axes_points * (span[1] - span[0])
    for label in end_labels(rows, part.axis, base, measure, tuple(looks), gap, span):
        colour = looks.get(label.series or "", (theme.REFERENCE, ""))[0]
        axes.annotate(
            label.text, (1, label.y), xytext=(1.03, label.placed), xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"), color=colour, fontsize=LABEL_PT, verticalalignment="center",
            fontweight="bold" if label.series in looks else "normal", annotation_clip=False,
            arrowprops={**LEADER, "color": colour} if label.reaches else None,
        )  # fmt: skip


def _save(figure: Figure, folder: Path, name: str) -> list[Path]:
    paths = []
    for ending in ("png", "pdf"):
        content = io.BytesIO()
        # No date inside: the same results give the same bytes.
        metadata = {"CreationDate": None} if ending == "pdf" else None
        figure.savefig(content, format=ending, bbox_inches="tight", pad_inches=0.2, metadata=metadata)
        path = folder / f"{name}.{ending}"
        write_whole(path, content.getvalue())
        paths.append(path)
    return paths
