"""Alpha: mixtures of the strongest head and the mean of all, with the two pure rules as reference lines."""

from __future__ import annotations

import pandas as pd

from dashboards import theme
from dashboards.charts import add_level
from dashboards.figures import curve_figure
from dashboards.pages.base import Control, Page, Panel
from dashboards.pages.parts import focused, numbers
from dashboards.rows import ACCURACY, DIFFERENCE, Reference, Slice, curves, with_series
from dashboards.view import View

PURE = {"max_head": theme.COLOURS[4], "avg_all_heads": theme.COLOURS[2]}


def controls(view: View) -> list[Control]:
    places = _places(view)
    if not places:
        return []
    at = _place(view, places)
    layers = sorted({layer for layer, _ in places})
    ranks = sorted({rank for layer, rank in places if layer == at[0]})
    return [
        Control(name="at", label="pruned from layer", kind="choice", values=[str(value) for value in layers],
                default=[str(places[0][0])]),
        Control(name="kept", label="visual tokens kept", kind="choice", values=[str(value) for value in ranks],
                default=[str(_place(view, places, ranked=False)[1])]),
    ]  # fmt: skip


def panels(view: View) -> list[Panel]:
    places = _places(view)
    if not places:
        return []
    layer, rank = _place(view, places)
    here = view.rows[(view.rows["layer"] == layer) & (view.rows["rank"] == rank)]
    mixed = _mixed(here)
    part = Slice(axis="alpha", fixed="layer", value=layer, rows=mixed)
    chosen = focused(part, view)
    pure = here[here["strategy"].isin(PURE) & (here["n"] > 0)]
    found = []
    for measure, name in ((ACCURACY, "accuracy"), (DIFFERENCE, "difference")):
        if mixed[measure.column].isna().all():
            continue
        figure = curve_figure(view.rows, part, measure, chosen)
        for row in pure.to_dict("records"):
            level = Reference(value=row[measure.column] * measure.scale, low=float("nan"), high=float("nan"))
            add_level(figure, row["strategy"], level, PURE[row["strategy"]])
        rows = pd.concat([curves(part, measure), pure.assign(series=pure["strategy"])], ignore_index=True)
        first = measure is ACCURACY
        found.append(
            Panel(
                name=name, figure=figure, rows=rows, wide=False,
                note="alpha 1 is max_head, 1/heads is "
                "avg_all_heads" if first else "",
            )
        )  # fmt: skip
    if found:
        rows = pd.concat([mixed, pure])
        found.append(Panel(name="numbers", figure=None, rows=rows, below=numbers(rows, view)))
    return found


def _mixed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with an alpha, whose series is named without it."""
    mixed = rows[rows["alpha"].notna()]
    bare = mixed["params"].map(lambda text: " ".join(part for part in text.split() if not part.startswith("alpha=")))
    return with_series(mixed.assign(params=bare))


def _places(view: View) -> list[tuple[int, int]]:
    """(layer, rank) where alpha varies, the one with most values first."""
    mixed = view.pruned[view.pruned["alpha"].notna()]
    counts = mixed.groupby(["layer", "rank"])["alpha"].nunique()
    counts = counts[counts > 1].sort_values(ascending=False, kind="stable")
    return [(int(layer), int(rank)) for layer, rank in counts.index]


def _place(view: View, places: list[tuple[int, int]], ranked: bool = True) -> tuple[int, int]:
    """Where the controls point; without ``ranked`` only the layer counts."""
    layer = view.state.get("at")
    at = [place for place in places if str(place[0]) == layer] or [p for p in places if p[0] == places[0][0]]
    wanted = view.state.get("kept") if ranked else ""
    return next((place for place in at if str(place[1]) == wanted), at[0])


PAGE = Page(name="Alpha", path="/alpha", panels=panels, controls=controls)
