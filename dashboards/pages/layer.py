"""Layer cut-off: what is lost by pruning early, at one number of tokens kept."""

from __future__ import annotations

from dataclasses import replace

from dashboards.pages.base import Control, Page, Panel, faceted
from dashboards.pages.parts import curve_panels, focused, held, numbers, picked
from dashboards.rows import ACCURACY, DIFFERENCE, DROP
from dashboards.view import View


def controls(view: View) -> list[Control]:
    found = view.slices("layer")
    if not found:
        return []
    series = list(dict.fromkeys(name for part in found for name in part.rows["series"]))
    slider = held(found, "kept", "tokens kept")
    focus = Control(name="focus", label="focus on (colour and band)", kind="choices", values=series)
    return [slider, focus] if len(series) > 1 else [slider]


def panels(view: View) -> list[Panel]:
    part = picked(view.slices("layer"), view.state.get("kept"))
    if part is None:
        return []
    found = curve_panels(view, part, (ACCURACY, DIFFERENCE, DROP))
    if first := found.get(ACCURACY):
        shown = first.rows[first.rows["series"].isin(focused(part, view))]
        found[ACCURACY] = replace(first, below=numbers(shown, view), wide=True)
    return list(found.values())


PAGE = Page(
    name="Layer cut-off",
    path="/layer",
    panels=faceted(panels),
    controls=controls,
    empty="no strategy here has two layers at one number of tokens, which would make a curve",
)
