"""Layer cut-off: what is lost by pruning early, at one number of tokens kept."""

from __future__ import annotations

from dashboards.figures import curve_figure
from dashboards.pages.base import Control, Page, Panel
from dashboards.pages.parts import focused, numbers, picked
from dashboards.rows import ACCURACY, DIFFERENCE, DROP, curves
from dashboards.view import View


def controls(view: View) -> list[Control]:
    found = view.slices("layer")
    if not found:
        return []
    ranks = sorted({part.value for part in found})
    series = list(dict.fromkeys(name for part in found for name in part.rows["series"]))
    slider = Control(
        name="kept", label="visual tokens kept", kind="slider", values=[str(rank) for rank in ranks],
        default=[str(found[0].value)],
    )  # fmt: skip
    focus = Control(name="focus", label="focus on (colour and band)", kind="choices", values=series)
    return [slider, focus] if len(series) > 1 else [slider]


def panels(view: View) -> list[Panel]:
    part = picked(view.slices("layer"), view.state.get("kept"))
    if part is None:
        return []
    chosen = focused(part, view)
    found = []
    for measure, name in ((ACCURACY, "accuracy"), (DIFFERENCE, "difference"), (DROP, "relative-drop")):
        if part.rows[measure.column].isna().all():
            continue
        rows = curves(part, measure)
        first = measure is ACCURACY
        shown = rows[rows["series"].isin(chosen)]
        found.append(
            Panel(
                name=name,
                figure=curve_figure(view.rows, part, measure, chosen),
                rows=rows,
                below=numbers(shown, view) if first else None,
                wide=first,
            )
        )
    return found


PAGE = Page(name="Layer cut-off", path="/layer", panels=panels, controls=controls)
