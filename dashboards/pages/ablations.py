"""Head and query ablation: each rule against the one that the originals compare with, on the same questions."""

from __future__ import annotations

from dataclasses import replace

from dashboards.contrasts import REFERENCES, Ablation, Factor, ablations, contrast_rows
from dashboards.figures import forest_figure
from dashboards.pages.base import Control, Page, Panel
from dashboards.pages.parts import numbers
from dashboards.rows import forest
from dashboards.view import View

TITLES: dict[Factor, str] = {"head": "A: which heads vote", "query": "B: which queries vote"}


def controls(view: View) -> list[Control]:
    found = ablations(view.rows)
    if not found:
        return []
    factors = list(dict.fromkeys(group.factor for group in found))
    factor = _factor(view, found)
    mine = [group for group in found if group.factor == factor]
    positions = sorted({group.positions for group in mine})
    mine = _those(mine, "positions", view.state.get("positions"))
    kept = sorted({group.heads_kept for group in mine}, key=float)
    with_heads = _those(mine, "heads_kept", view.state.get("heads"))
    ranks = sorted({group.rank for group in with_heads})
    return [
        Control(name="factor", label="ablation", kind="choice", values=factors,
                labels=[TITLES[name] for name in factors]),
        *([Control(name="positions", label="position ids", kind="choice", values=positions,
                   default=[mine[0].positions])] if len(positions) > 1 else ()),
        Control(name="heads", label="heads kept", kind="choice", values=kept, default=[mine[0].heads_kept]),
        Control(name="kept", label="tokens kept", kind="choice", values=[str(rank) for rank in ranks],
                default=[str(with_heads[0].rank)]),
    ]  # fmt: skip


def panels(view: View) -> list[Panel]:
    found = ablations(view.rows)
    if not found:
        return []
    group = _group(view, found)
    rows = group.rows[group.rows["n"] > 0]
    against = REFERENCES[group.factor]
    reference = rows[rows["rule"] == against]
    compared = forest(rows)
    unpruned = Panel(
        name="unpruned",
        figure=forest_figure(compared.assign(label=compared["rule"])),
        rows=compared,
        below=numbers(compared, view, label="rule"),
    )
    if reference.empty:
        return [replace(unpruned, name="rules", note=group.held)]
    source = view.snapshot.source_of(rows)
    drawn = contrast_rows(rows, reference["key"].iloc[0], source.answers, source.summary["key"])
    rules = Panel(
        name="rules",
        figure=forest_figure(drawn.assign(label=drawn["rule"]), against),
        rows=drawn,
        note=group.held,
        below=numbers(drawn, view, against, label="rule"),
    )
    return [rules, unpruned]


def _factor(view: View, found: list[Ablation]) -> Factor:
    wanted = view.state.get("factor")
    return next((group.factor for group in found if group.factor == wanted), found[0].factor)


def _group(view: View, found: list[Ablation]) -> Ablation:
    """The group that the controls point at."""
    factor = _factor(view, found)
    mine = [group for group in found if group.factor == factor]
    mine = _those(mine, "positions", view.state.get("positions"))
    with_heads = _those(mine, "heads_kept", view.state.get("heads"))
    return _those(with_heads, "rank", view.state.get("kept"))[0]


def _those(groups: list[Ablation], attribute: str, wanted: str) -> list[Ablation]:
    """The groups of a value; of one that is not there, those like the first, which has most rules."""
    of_value = [group for group in groups if str(getattr(group, attribute)) == wanted]
    first = getattr(groups[0], attribute)
    return of_value or [group for group in groups if getattr(group, attribute) == first]


PAGE = Page(
    name="Ablations",
    path="/ablations",
    panels=panels,
    controls=controls,
    empty="no two grid points here differ in their head or query rule alone (strategy ablation)",
)
