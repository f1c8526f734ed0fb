"""Strategy x layer (or x tokens): the change against the un-pruned model as a map; a cell opens its configuration."""

from __future__ import annotations

from dashboards.figures import heat_figure
from dashboards.pages.base import Control, Page, Panel, faceted
from dashboards.pages.parts import finding, held, numbers, picked
from dashboards.rows import AXES, Axis, Slice, heat, mapped
from dashboards.view import View

FIXED = {"layer": "tokens kept", "rank": "layer"}
COLUMNS = {"layer": "layer", "rank": "tokens kept"}


def controls(view: View) -> list[Control]:
    maps = _maps(view)
    if not maps:
        return []
    axis = _axis(view, maps)
    columns = Control(
        name="columns", label="columns", kind="choice", values=list(maps), labels=[COLUMNS[name] for name in maps]
    )
    return [columns, held(maps[axis], "fixed", FIXED[axis])]


def panels(view: View) -> list[Panel]:
    maps = _maps(view)
    if not maps:
        return []
    axis = _axis(view, maps)
    part = picked(maps[axis], view.state.get("fixed"))
    cells = None if part is None else heat(part)
    if part is None or cells is None:
        return []
    return [
        Panel(
            name="heat", figure=heat_figure(cells, axis, part.title), rows=cells.rows,
            below=numbers(cells.rows, view), finding=finding(view, part.rows),
        )
    ]  # fmt: skip


def _maps(view: View) -> dict[Axis, list[Slice]]:
    found = {axis: [part for part in view.slices(axis) if mapped(part)] for axis in AXES}
    return {axis: parts for axis, parts in found.items() if parts}


def _axis(view: View, maps: dict[Axis, list[Slice]]) -> Axis:
    wanted = view.state.get("columns")
    return next((axis for axis in maps if axis == wanted), next(iter(maps)))


PAGE = Page(
    name="Strategy × layer",
    path="/heat",
    panels=faceted(panels),
    controls=controls,
    empty="a map takes two strategies or more and six cells, at one layer or one number of tokens; here are fewer",
)
