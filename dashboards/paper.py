"""A figure of the pages for a paper: as wide as its column, all text of 8 pt, drawn with matplotlib.

What a plotly figure of ours holds is drawn again: lines, bands, bars, maps, levels and names. So every panel can be
printed, and shows what its page shows.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Sequence
from html import unescape
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from dashboards import theme
from dashboards.figures import Figure as Drawn
from dashboards.labels import push_apart
from dashboards.paper_tex import escape_for_tex
from dashboards.plots import DASHES, LEADER, RC
from results.wording import told_apart
from strategies.errors import UsageError

PT = 8  # all text, at final size
LINE = "line:"  # begins the names of labels at line ends
SHAPE = 0.72  # height of a plot, as a share of its width
ROW, TALL_ROW = 0.19, 0.3  # inches of a row with a name at its left, or above its mark
LETTER = 0.06  # inches, mean
LABEL = 18  # characters of a line of a label
NAMES = 0.45  # of the width: longer names stand above
MARKS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P", "star": "*", "line-ns": "|"}
TEX = ("xelatex", "lualatex", "pdflatex")
STYLE: Any = {**RC, "font.size": PT, "axes.labelsize": PT, "axes.titlesize": PT, "xtick.labelsize": PT,
              "ytick.labelsize": PT, "svg.fonttype": "none", "svg.hashsalt": "saccade", "axes.linewidth": 0.6,
              "lines.linewidth": 1.2, "pgf.rcfonts": False, "lines.markersize": 3,
              "savefig.dpi": 300}  # fmt: skip


def paper_figure(figure: Drawn, form: str, width: float, about: str, title: bool = False) -> bytes:
    """The file.

    Args:
        figure: Of a panel.
        form: pdf, svg, pgf, or png with 300 dots an inch.
        width: Inches.
        about: Where its numbers come from, for the file's metadata.
        title: Print the title too; in a paper the caption says it.

    Raises:
        UsageError: pgf needs a TeX system to measure its text with, and there is none.
    """
    style = STYLE
    if form == "pgf":
        if not (found := [name for name in TEX if shutil.which(name)]):
            raise UsageError(f"--format pgf needs one of {', '.join(TEX)} on the PATH; pdf, svg and png do not")
        style = {**STYLE, "pgf.texsystem": found[0]}
    with mpl.rc_context(style):
        drawn = _drawn(figure, width, title)
        content = io.BytesIO()
        if form == "pgf":  # which has no metadata
            escape_for_tex(drawn)
            content.write(f"% {' '.join(about.split())}\n".encode())
            drawn.savefig(content, format=form)
        else:
            named = _plain(figure.layout.title.text)
            drawn.savefig(content, format=form, metadata=_metadata(form, named, about))
    return content.getvalue()


def _metadata(form: str, title: str, about: str) -> dict[str, Any]:
    """No date of drawing: the same results give the same bytes."""
    if form == "pdf":
        return {"Title": title, "Subject": about, "Creator": "Saccade", "CreationDate": None}
    if form == "png":
        return {"Title": title, "Description": about, "Software": "Saccade"}
    return {"Title": title, "Description": about, "Creator": "Saccade", "Date": None}


def _drawn(figure: Drawn, width: float, title: bool) -> Figure:
    layout = figure.layout
    places = list(dict.fromkeys((trace.xaxis or "x", trace.yaxis or "y") for trace in figure.data)) or [("x", "y")]
    across = len({_axis(figure, x).domain for x, _ in places})
    down = max(len(places) // across, 1)
    names = max((_axis(figure, y).ticktext or () for _, y in places), key=len)
    above = LETTER * max(map(len, names), default=0) > NAMES * width and figure.data[0].type != "heatmap"
    beside = 0 if above else LETTER * max(map(len, names), default=0)  # names of rows
    letters = min(2 * LABEL, max(1, int((width - beside) / across / LETTER)))
    heads = [fill(_plain(one.text), letters) for one in layout.annotations if one.yref == "paper" and not one.name]
    height = 0.6 + (TALL_ROW if above else ROW) * len(names) if names else SHAPE * width * down / across
    height += 1.3 * PT / 72 * max((head.count("\n") for head in heads), default=0)
    paper = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    plots = dict(zip(places, paper.subplots(down, across, squeeze=False).ravel().tolist(), strict=True))
    for place, ((x, y), plot) in enumerate(plots.items()):
        _frame(plot, _axis(figure, x), _axis(figure, y))
        for trace in figure.data:
            if (trace.xaxis or "x", trace.yaxis or "y") == (x, y):
                _trace(plot, trace)
        if above:
            _names_above(plot, _axis(figure, y), int(width / LETTER))
        _levels(plot, [one for one in layout.shapes if _belongs(one.xref, x) and _belongs(one.yref, y)])
        _labels(plot, [one for one in layout.annotations if one.yref == y], 0.75 * height / down)
        for head in heads[place : place + 1]:  # of several plots, in order
            plot.set_title(head, loc="left", color=theme.LIGHT.muted)
    only = next(iter(plots.values()))
    if title:
        paper.suptitle(_plain(layout.title.text), fontsize=PT, x=0.01, ha="left")
    elif len(plots) == 1 and not names and not only.get_ylabel():
        only.set_ylabel(fill(_plain(layout.title.text), int(0.8 * height / LETTER)))
    return paper


def _axis(figure: Drawn, name: str) -> Any:
    return figure.layout[f"{name[0]}axis{name[1:]}"]


def _belongs(reference: str | None, axis: str) -> bool:
    return (reference or "paper").split()[0] in (axis, "paper")


def _frame(plot: Axes, x: Any, y: Any) -> None:
    plot.spines[["top", "right", "left"]].set_visible(False)
    plot.tick_params(length=0)
    if y.showgrid is not False:
        plot.grid(axis="y", color=theme.LIGHT.grid, linewidth=0.5)
    plot.set_axisbelow(True)
    for axis, limits, ticks, named in (
        (x, plot.set_xlim, plot.set_xticks, plot.set_xlabel),
        (y, plot.set_ylim, plot.set_yticks, plot.set_ylabel),
    ):
        if axis.range is not None:
            limits(*axis.range)
        if axis.ticktext is not None:
            ticks(list(axis.tickvals), [_plain(text) for text in axis.ticktext])
        elif axis.tickvals is not None:  # rows whose names stand beside another plot
            ticks(list(axis.tickvals), [""] * len(axis.tickvals))
        named(_plain(axis.title.text))


def _names_above(plot: Axes, axis: Any, length: int) -> None:
    """Names of rows above their marks, where they would take the room of the plot."""
    names = told_apart(map(_plain, axis.ticktext or ()), length)  # none of the plots beside the first
    for at, name in zip((axis.tickvals or ())[: len(names)], names, strict=True):
        plot.annotate(
            name, (0, at), xytext=(0, 2), xycoords=("axes fraction", "data"), textcoords="offset points", va="bottom",
            annotation_clip=False,
        ).set_in_layout(False)  # fmt: skip
    plot.set_yticks([])
    plot.grid(visible=False)


def _trace(plot: Axes, trace: Any) -> None:
    if trace.type == "heatmap":
        return _map(plot, trace)
    x, y = (np.asarray(values) for values in (trace.x, trace.y))
    if trace.type == "bar":
        before = np.zeros(len(y))
        for bars in plot.containers:
            before += [bar.get_width() for bar in bars]
        plot.barh(y.astype(float), x.astype(float), left=before, color=trace.marker.color)
    elif trace.fill == "toself":
        plot.fill(x, y, color=_colour(trace.fillcolor), linewidth=0)
    else:
        _points(plot, trace, x, y)
    return None


def _points(plot: Axes, trace: Any, x: np.ndarray, y: np.ndarray) -> None:
    mode, marker = trace.mode or "lines", trace.marker
    if "lines" in mode:
        step: dict[str, Any] = {"drawstyle": "steps-post"} if trace.line.shape in ("hv", "hvh") else {}
        plot.plot(
            x, y.astype(float), color=_colour(trace.line.color), linestyle=DASHES[trace.line.dash or "solid"],
            linewidth=0.5 * (trace.line.width or 2), **step,
        )  # fmt: skip
    if (error := trace.error_y).array is not None:
        plot.errorbar(x, y, [error.arrayminus, error.array], color=error.color, linewidth=0.8, capsize=2)
    if "markers" in mode:
        symbols, colours = (_each(value, len(x)) for value in (marker.symbol or "circle", marker.color))
        for at, height, symbol, colour in zip(x, y, symbols, colours, strict=True):
            shape = MARKS[symbol.removesuffix("-open")]
            plot.plot(
                [at], [height], shape, color=_colour(colour), alpha=marker.opacity, markersize=0.5 * (marker.size or 6),
                markerfacecolor="white" if symbol.endswith("-open") else _colour(colour), markeredgewidth=0.7,
            )  # fmt: skip


def _map(plot: Axes, trace: Any) -> None:
    values = np.asarray(trace.z, dtype=float)
    shades = LinearSegmentedColormap.from_list("map", [colour for _, colour in trace.colorscale])
    plot.pcolormesh(values, cmap=shades, vmin=trace.zmin, vmax=trace.zmax, edgecolor="white", linewidth=1)
    plot.set_xticks(np.arange(values.shape[1]) + 0.5, list(trace.x))
    plot.set_yticks(np.arange(values.shape[0]) + 0.5, [text.get_text() for text in plot.get_yticklabels()])
    plot.set_xlim(0, values.shape[1])
    plot.set_ylim(values.shape[0], 0)
    for row, column in np.ndindex(values.shape):
        dark = abs(values[row, column]) > 0.6 * trace.zmax
        plot.text(
            column + 0.5, row + 0.5, trace.text[row][column], ha="center", va="center", fontsize=PT,
            color="white" if dark else theme.LIGHT.text,
        )  # fmt: skip


def _levels(plot: Axes, shapes: Sequence[Any]) -> None:
    for shape in shapes:
        if shape.type == "rect":
            plot.axhspan(shape.y0, shape.y1, color=_colour(shape.fillcolor), linewidth=0)
            continue
        look = {"color": shape.line.color, "linestyle": DASHES[shape.line.dash or "solid"], "linewidth": 0.7}
        if shape.y0 == shape.y1:
            plot.axhline(shape.y0, **look)
        else:
            plot.axvline(shape.x0, **look)


def _labels(plot: Axes, labels: Sequence[Any], inches: float) -> None:
    """Names at line ends, pushed apart; others where they stand."""
    ends = [one for one in labels if (one.name or "").startswith(LINE)]
    low, high = sorted(plot.get_ylim())
    texts = [fill(_plain(one.text).replace("\n", " "), LABEL, break_long_words=False) for one in ends]
    lines = 1.25 * max((text.count("\n") + 1 for text in texts), default=1)
    placed = push_apart([float(one.y) for one in ends], lines * PT / 72 * (high - low) / inches, low, high)
    for one, text, to in zip(ends, texts, placed, strict=True):
        colour = one.font.color
        plot.annotate(
            text, (1, one.y), xytext=(1.04, to), xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"), color=colour, va="center", annotation_clip=False,
            arrowprops={**LEADER, "color": colour},
        )  # fmt: skip
    for one in labels:
        if one in ends:
            continue
        if one.showarrow:
            plot.annotate(_plain(one.text), (one.x, one.y), xytext=(-3, 5), textcoords="offset points", ha="right")
        else:
            plot.annotate(_plain(one.text), (0.01, one.y), xycoords=("axes fraction", "data"), color=one.font.color)


def _plain(text: str | None) -> str:
    return unescape(re.sub("<[^>]*>", "", (text or "").replace("<br>", "\n")))


def _each(value: Any, count: int) -> list[Any]:
    return [value] * count if value is None or isinstance(value, str) else list(value)


def _colour(text: str | None) -> Any:
    """``rgba(0,114,178,0.16)`` as matplotlib has it; other colours are the same to both."""
    if text is None or not text.startswith("rgba"):
        return text
    *rgb, opacity = (float(part) for part in text[5:-1].split(","))
    return (*(part / 255 for part in rgb), opacity)
