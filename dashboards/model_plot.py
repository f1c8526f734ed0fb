"""Models side by side, drawn: a panel for each method, a line for each model, over the share of the tokens kept."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dashboards import theme
from dashboards.plots import DASHES, DPI, RC
from results.analysis.by_model import ModelCurve
from results.disk import write_whole
from strategies.errors import UsageError

PANEL = (3.4, 2.8)  # inches
ACROSS = 3


def model_plot(curves: Sequence[ModelCurve]) -> Figure:
    """One picture of all methods.

    Raises:
        UsageError: There is nothing to draw.
    """
    methods = list(dict.fromkeys(one.method for one in curves))
    models = list(dict.fromkeys(one.model for one in curves))
    if not methods:
        raise UsageError("no method has a mean over all benchmarks, so that there is nothing to draw")
    across = min(ACROSS, len(methods))
    down = -(-len(methods) // across)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(PANEL[0] * across, PANEL[1] * down + 0.5), dpi=DPI, facecolor=theme.LIGHT.paper)
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel().tolist()
        for panel, method in zip(panels, methods, strict=False):
            _panel(panel, method, [one for one in curves if one.method == method], models)
        for empty in panels[len(methods) :]:
            empty.set_visible(False)
        handles, labels = _legend(panels[: len(methods)], models)
        figure.legend(handles, labels, loc="upper left", ncols=len(models), frameon=False)
        figure.supxlabel("share of the visual tokens, mean over the layers (%)", fontsize=9, color=theme.LIGHT.muted)
        figure.supylabel("mean, % of the un-pruned model", fontsize=9, color=theme.LIGHT.muted)
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    return figure


def write_model_plot(curves: Sequence[ModelCurve], path: Path) -> None:
    """`model_plot` as a file: PNG or PDF, as its name says."""
    figure = model_plot(curves)
    with mpl.rc_context(RC):
        content = io.BytesIO()
        figure.savefig(content, format=path.suffix.removeprefix(".").lower(), bbox_inches="tight", pad_inches=0.2)
    write_whole(path, content.getvalue())


def _panel(axes: Axes, method: str, curves: Sequence[ModelCurve], models: Sequence[str]) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=theme.LIGHT.grid, linewidth=0.8)
    axes.tick_params(length=0)
    axes.set_title(method, loc="left", fontsize=10)
    axes.axhline(100, color=theme.REFERENCE, linestyle="--", linewidth=1)
    for curve in curves:
        place = models.index(curve.model)
        colour = theme.COLOURS[place % len(theme.COLOURS)]
        share = 100 * np.array(curve.share)
        axes.fill_between(share, curve.low, curve.high, color=colour, alpha=theme.BAND_OPACITY, linewidth=0)
        dash = DASHES[theme.DASHES[place % len(theme.DASHES)]]
        axes.plot(share, curve.mean, color=colour, linestyle=dash, marker="o", markersize=3, label=curve.model)


def _legend(panels: Sequence[Axes], models: Sequence[str]) -> tuple[list[Artist], list[str]]:
    """A handle for each model, from whichever panel has it."""
    found: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return [found[model] for model in models], list(models)
