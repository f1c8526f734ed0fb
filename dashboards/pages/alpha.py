"""Alpha: mixtures of the strongest head and the mean of all, with the two pure rules as reference lines."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from dashboards.charts import add_level
from dashboards.looks import method_look
from dashboards.pages.base import Control, Page, Panel, faceted
from dashboards.pages.parts import curve_panels, numbers
from dashboards.rows import ACCURACY, DIFFERENCE, Reference, alpha_places, alpha_slice
from dashboards.view import View

PURE = ("max_head", "avg_all_heads")


def controls(view: View) -> list[Control]:
    places = alpha_places(view.pruned)
    if not places:
        return []
    here = _here(view, places)
    layers, ranks = sorted({layer for layer, _ in places}), sorted({rank for _, rank in here})
    return [
        Control(name="at", label="layer", kind="choice", values=[str(value) for value in layers],
                default=[str(places[0][0])]),
        Control(name="kept", label="tokens kept", kind="choice", values=[str(value) for value in ranks],
                default=[str(here[0][1])]),
    ]  # fmt: skip


def panels(view: View) -> list[Panel]:
    places = alpha_places(view.pruned)
    if not places:
        return []
    at = _here(view, places)
    layer, rank = next((place for place in at if str(place[1]) == view.state.get("kept")), at[0])
    here = view.rows[(view.rows["layer"] == layer) & (view.rows["rank"] == rank)]
    part = alpha_slice(here, layer, rank)
    pure = here[here["strategy"].isin(PURE) & (here["n"] > 0)]
    pure = pure.assign(series=(pure["strategy"] + " " + pure["params"]).str.rstrip())
    found = []
    for measure, panel in curve_panels(view, part, (ACCURACY, DIFFERENCE)).items():
        for row in pure.to_dict("records"):
            level = Reference(value=row[measure.column] * measure.scale, low=float("nan"), high=float("nan"))
            add_level(panel.figure, row["series"], level, method_look(row["strategy"], view.methods)[0])
        rows = pd.concat([panel.rows, pure], ignore_index=True)
        note = "alpha 1 is max_head, 1/heads is avg_all_heads" if measure is ACCURACY else ""
        found.append(replace(panel, rows=rows, note=note))
    if found:
        rows = pd.concat([part.rows, pure])
        found.append(Panel(name="numbers", figure=None, rows=rows, below=numbers(rows, view)))
    return found


def _here(view: View, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of the layer that the control points at."""
    wanted = view.state.get("at")
    layer = next((layer for layer, _ in places if str(layer) == wanted), places[0][0])
    return [place for place in places if place[0] == layer]


PAGE = Page(
    name="Alpha",
    path="/alpha",
    panels=faceted(panels),
    controls=controls,
    empty="no strategy here has the parameter alpha with two values at one layer and number of tokens",
)
