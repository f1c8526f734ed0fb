"""Overview: every configuration in a table, and the change against the un-pruned model of those that matter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import dash_ag_grid as dag
import pandas as pd
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update

from dashboards.contrasts import contrast_rows
from dashboards.figures import forest_figure
from dashboards.gallery import Gallery
from dashboards.pages.base import Page, Panel
from dashboards.pages.parts import numbers, tiles
from dashboards.progress import progress
from dashboards.reading import reading
from dashboards.rows import PARAMETER, forest, labels, significant, with_series
from dashboards.theme import DARK, LIGHT
from dashboards.view import CONFIG, OWNERS, View, filters_of, view
from dashboards.view import State as UrlState
from results.analysis.metrics import spoken
from results.wording import MISSING, count, number, p_value, percent, percent_span, plural, points

PICK = "pick"  # configurations that are compared: values of the column ``id``
MAX_PICKS = 12
MAX_FOREST = 24
GRID_HEIGHT = "520px"
GRID_SCRIPT = "_dash-component-suites/dash_ag_grid/dash_ag_grid.min.js"


def _count(value: float) -> str:
    return MISSING if math.isnan(value) else count(int(value))


def _share(value: float) -> str:
    return number(100 * value)


NUMBERS: dict[str, Callable[[float], str]] = {  # columns of numbers and how they are written, here as everywhere
    **dict.fromkeys(("layer", "rank", "n", "n_images", "lost", "gained"), _count),
    **dict.fromkeys(("accuracy", "ci_low", "ci_high"), _share),
    **dict.fromkeys(("difference", "diff_low", "diff_high"), points),
    "p_holm": p_value,
}
WRITTEN = {"function": "params.data[params.colDef.field + '_text']"}  # sorted and filtered by the number behind


def panels(shown: View) -> list[Panel]:
    picks = _picks(shown)
    rows = shown.rows[shown.rows["id"].isin(picks)] if picks else shown.pruned
    compared = forest(rows)
    text = reading(shown.sources[0].summary) if len(shown.sources) == 1 else ""
    said = [html.P(text, className="reading"), tiles(_tiles(shown))]
    found = [Panel(name="tiles", figure=None, rows=shown.rows, below=said)]
    if len(picks) > 1 and (against := _against_first(shown, picks)) is not None:
        first, contrasted = against
        found.append(
            Panel(
                name="compare",
                figure=forest_figure(contrasted, first),
                rows=contrasted,
                note=f"{plural(len(contrasted), 'configuration')} on the same questions as the one selected first",
                below=numbers(contrasted, shown, "the first"),
            )
        )
    if len(compared):
        compared = with_series(compared)
        chosen, note = (compared, "") if picks or len(compared) <= MAX_FOREST else _telling(compared)
        found.append(
            Panel(
                name="forest",
                figure=forest_figure(chosen.assign(label=labels(chosen))),
                rows=compared,
                note=note,
                below=numbers(chosen, shown),
            )
        )
    return found


def extra(shown: View) -> list[Any]:
    """The table. Its state (order, filters, place) is the reader's: only its rows are replaced."""
    head = html.Div(
        [
            html.H2("All configurations"),
            html.P("tick to compare; a click on a row opens its numbers and flipped answers", className="note"),
        ]
    )
    place = html.Div(id="overview-place", style={"minHeight": GRID_HEIGHT})  # the grid's script comes when it is seen
    stores = [
        dcc.Store(id="overview-library", data=GRID_SCRIPT), dcc.Store(id="overview-loaded"),
        dcc.Store(id="overview-picks", data={"name": PICK, "most": MAX_PICKS}),
    ]  # fmt: skip
    return [html.Section([head, place, *stores], className="card wide")]


def _grid(shown: View) -> Any:
    return dag.AgGrid(
        id="overview-grid",
        rowData=[],  # comes after the plots, see `fill`
        columnDefs=_columns(shown.snapshot.rows),
        defaultColDef={
            "sortable": True, "filter": True, "floatingFilter": True, "resizable": True,
            "suppressHeaderMenuButton": True, "suppressHeaderFilterButton": True, "suppressFloatingFilterButton": True,
        },
        getRowId="params.data.id",
        dashGridOptions={
            "rowSelection": {
                "mode": "multiRow", "checkboxes": True, "headerCheckbox": False, "enableClickSelection": False,
            },
            "animateRows": False, "rowHeight": 28, "floatingFiltersHeight": 30,
            "headerHeight": 32, "tooltipShowDelay": 200, "enableCellTextSelection": True,
        },
        selectedRows={"ids": list(_picks(shown))},
        style={"height": GRID_HEIGHT},
        className=f"ag-theme-quartz-auto-dark {'dark' if shown.ink.dark else 'light'}",
    )  # fmt: skip


def _columns(rows: pd.DataFrame) -> list[dict[str, Any]]:
    interval, of_change = "interval, 95 %", "of the change, 95 %"
    change = "against the un-pruned model, on the same questions, percentage points"
    return [
        {"field": "label", "headerName": "configuration", "flex": 1, "minWidth": 250, "tooltipField": "label"},
        *({"field": name, "headerName": name, "hide": rows[name].nunique() < 2, "width": 120} for name in OWNERS),
        _number("layer", "layer"),
        _number("rank", "tokens", headerTooltip="visual tokens kept from that layer on"),
        *(
            {"field": name.replace(".", "_"), "headerName": title, "width": 110}
            for name, title in filters_of(rows).items()
            if name.startswith(PARAMETER)
        ),
        {"field": "status", "headerName": "state", "width": 92},
        _number("n", "n"),
        _number("n_images", "images", width=84, headerTooltip="images that these questions are about"),
        _number("accuracy", "acc. %", width=84),
        _number("ci_low", "from", headerTooltip=interval, tooltipField="interval"),
        _number("ci_high", "to", headerTooltip=interval, tooltipField="interval"),
        _number("difference", "change", width=108, sort="desc", headerTooltip=change),
        _number("diff_low", "from", headerTooltip=of_change, tooltipField="diff_interval"),
        _number("diff_high", "to", headerTooltip=of_change, tooltipField="diff_interval"),
        _number("lost", "lost"),
        _number("gained", "gained", width=84),
        _number("p_holm", "p Holm", width=90, tooltipField="test"),
        {"field": "significant", "headerName": "sign.", "width": 72, "headerTooltip": "p below 0.05 after Holm"},
        {"field": "flags", "headerName": "suspicious", "width": 150, "tooltipField": "flags"},
    ]


def _number(field: str, name: str, width: int = 76, **more: str) -> dict[str, Any]:
    return {
        "field": field, "headerName": name, "type": "rightAligned", "filter": "agNumberColumnFilter", "width": width,
        "valueFormatter": WRITTEN, **more,
    }  # fmt: skip


def table_rows(shown: View) -> list[dict[str, Any]]:
    """What the table holds: plain values, None where there is none."""
    rows = shown.rows.assign(significant=["yes" if sure else "" for sure in significant(shown.rows)])
    rows = rows.rename(columns={name: str(name).replace(".", "_") for name in rows})  # a dot is a path to the grid
    fields = [column["field"] for column in _columns(shown.snapshot.rows)]
    rows = rows[["id", *fields, "interval", "diff_interval", "test"]]
    rows = rows.assign(**{f"{name}_text": rows[name].astype(float).map(written) for name, written in NUMBERS.items()})
    return rows.astype(object).where(rows.notna(), None).to_dict("records")  # type: ignore[return-value]


def register(app: Dash, gallery: Gallery) -> None:
    app.clientside_callback(
        ClientsideFunction("saccade", "library"),
        Output("overview-loaded", "data"), Input("overview-library", "data"),
    )  # fmt: skip

    @app.callback(
        Output("overview-place", "children"),
        Input("overview-loaded", "data"),
        State("url", "search"),
        State("theme", "data"),
        prevent_initial_call=True,
    )
    def build(_: bool, search: str, look: str) -> Any:
        shown = view(gallery.snapshot, UrlState.parse(search), DARK if look == "dark" else LIGHT)
        return [_grid(shown), dcc.Store(id="overview-shown")]  # with the grid, for `fill` writes into both

    @app.callback(
        Output("overview-grid", "rowData"),
        Output("overview-shown", "data"),
        Input("version", "data"),
        Input("url", "search"),
        State("overview-shown", "data"),
    )
    def fill(version: str, search: str, before: Any) -> Any:
        """Other rows only where the filters or the data have changed: a tick in the table is no reason."""
        state = UrlState.parse(search)
        key = [version, state.with_(PICK, None).with_(CONFIG, None).search]
        return (no_update, no_update) if key == before else (table_rows(view(gallery.snapshot, state)), key)

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Input("overview-grid", "cellClicked"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def choose(cell: Any, search: str) -> Any:
        return UrlState.parse(search).with_(CONFIG, cell["rowId"]).search if cell and cell.get("rowId") else no_update

    app.clientside_callback(  # in the browser, where a second tick cannot overtake the first
        ClientsideFunction("saccade", "pick"),
        Output("url", "search", allow_duplicate=True),
        Input("overview-grid", "selectedRows"),
        State("url", "search"),
        State("overview-picks", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("saccade", "tick"),
        Output("overview-grid", "selectedRows"),
        Input("url", "search"),
        State("overview-grid", "selectedRows"),
        State("overview-picks", "data"),
        prevent_initial_call=True,
    )


def _picks(shown: View) -> tuple[str, ...]:
    known = set(shown.rows["id"])
    return tuple(id for id in shown.state.all(PICK) if id in known)[:MAX_PICKS]


def _against_first(shown: View, picks: tuple[str, ...]) -> tuple[str, pd.DataFrame] | None:
    """The picked configurations of the first one's experiment, compared with it."""
    found = shown.snapshot.find(picks[0])
    assert found is not None
    source, first = found
    rows = source.summary[source.summary["id"].isin(picks)]
    contrasted = contrast_rows(rows, first["key"], source.answers, source.summary["key"])
    return (first["label"], contrasted) if len(contrasted) else None


def _telling(compared: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The best grid point of each series, and then the best of the others, as many as can be read."""
    best = compared.groupby("series", sort=False).head(1)
    rest = compared[~compared["id"].isin(best["id"])]
    chosen = pd.concat([best, rest]).head(MAX_FOREST).sort_values("x", ascending=False, ignore_index=True)
    text = (
        f"{MAX_FOREST} of {count(len(compared))}: the best of each strategy and then the best of all; tick rows below"
    )
    return chosen, text + " to see others"


def _tiles(shown: View) -> list[tuple[str, str, str]]:
    found = []
    for source in shown.sources[:4]:
        base = source.baseline
        name = "Un-pruned accuracy" if len(shown.sources) == 1 else f"Un-pruned, {source.name}"
        span = "not run yet" if base is None else f"95 % {percent_span(base['ci_low'], base['ci_high'])}"
        found.append((name, MISSING if base is None else percent(base["accuracy"]), span))
    pruned = shown.pruned
    sure = significant(pruned)
    worse, better = (int((sure & side).sum()) for side in (pruned["difference"] < 0, pruned["difference"] > 0))
    states = pruned["status"].value_counts()
    text = ", ".join(f"{count(int(n))} {name}" for name, n in states.items())
    cells = [progress(source.answers, source.units) for source in shown.sources]
    total, missing = sum(part.cells for part in cells), sum(part.missing for part in cells)
    failed = sum(len(source.failures) for source in shown.sources)
    found += [
        ("Configurations", count(len(pruned)), text),
        ("Significantly worse", count(worse), f"{count(better)} better; {spoken(pruned['test'])}, Holm, 5 %"),
        ("Image questions", count(int(shown.rows["n_expected"].max())), "asked of each configuration"),
        ("Cells", percent(1 - missing / max(total, 1)), plural(failed, "failed sample") if failed else "none failed"),
    ]
    return found


PAGE = Page(name="Overview", path="/", panels=panels, extra=extra, register=register)
