"""Results -> the tidy rows behind each figure. Pure: a summary goes in, tables of numbers come out, nothing is drawn.

A *series* is one strategy with its parameters; a *slice* is the part of the grid in which one axis (layer or rank) runs
and the other is held fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from results.analysis.matrix import Answers
from results.analysis.metrics import spoken
from results.analysis.significance import ALPHA
from strategies.listed import PUBLISHED, STAGED

Axis = Literal["layer", "rank", "alpha"]
AXES: tuple[Axis, Axis] = ("layer", "rank")  # those that `slices` finds
PARAMETER = "param."  # before the names of columns that `with_parameters` adds
CONTROL = "random"  # the strategy that every other must beat

MAX_FOREST = 60  # dots in one picture
HEAT_CELLS = 6  # a map of fewer says no more than the curves
MAX_COLOURED = 3  # more bands than that are mud
FOCUSED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A quantity of the summary, and the unit it is drawn in."""

    name: str
    column: str
    low: str
    high: str
    scale: float  # from the summary's unit to the figure's, percent
    by: str  # column that names what made the band; empty: there is none
    of: str = ""  # what is to be said besides
    unit: str = "%"

    def band(self, rows: pd.DataFrame) -> str:
        """What the band is, and what the number is of where that needs saying."""
        return f"{self.of}band: 95 %, {spoken(rows[self.by])}" if self.by else self.of


ACCURACY = Measure(
    name="Accuracy",
    column="accuracy",
    low="ci_low",
    high="ci_high",
    scale=100,
    by="interval",
)
DIFFERENCE = Measure(
    name="Change against the un-pruned model",
    column="difference",
    low="diff_low",
    high="diff_high",
    scale=100,
    by="diff_interval",
    of="on the same questions; ",
    unit="percentage points",
)
DROP = Measure(
    name="Relative drop",
    column="relative_drop",
    low="drop_low",
    high="drop_high",
    scale=1,
    by="diff_interval",
    of="of the un-pruned accuracy; ",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Rows of the summary in which ``axis`` runs and ``fixed`` has one value."""

    axis: Axis
    fixed: Axis
    value: int
    rows: pd.DataFrame

    @property
    def title(self) -> str:
        """What is held fixed, in words."""
        if self.axis == "alpha":
            return f"layer {self.value}, {self.rows['rank'].iloc[0]} tokens kept"
        if self.fixed == "layer":
            return f"layer {self.value}"
        return "no token kept" if self.value == 0 else f"{self.value} tokens kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The un-pruned model as a horizontal line with its band, in the figure's unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """A map of series x axis: difference to the baseline in percentage points, NaN where not run."""

    series: tuple[str, ...]
    xs: tuple[int, ...]
    points: np.ndarray  # (series, xs)
    significant: np.ndarray  # bool, paired test with Holm's correction
    partial: np.ndarray  # bool
    rows: pd.DataFrame  # of the summary, with their series


def with_series(summary: pd.DataFrame) -> pd.DataFrame:
    """The pruned rows of a summary with their series' name in a column ``series``."""
    pruned = summary[~summary["baseline"]].copy()
    telling = {name: set() if _bound(rows) else _telling(rows) for name, rows in pruned.groupby("strategy", sort=False)}
    parts = [
        [part for part in params.split() if part.partition("=")[0] in telling[name]]
        for name, params in zip(pruned["strategy"], pruned["params"], strict=True)
    ]
    alone = len(telling) == 1 and all(parts)  # a strategy that is everywhere says nothing
    pruned["series"] = [_series(name, told, alone) for name, told in zip(pruned["strategy"], parts, strict=True)]
    if "experiment" in pruned and pruned["experiment"].nunique() > 1:
        pruned["series"] = pruned["experiment"] + ": " + pruned["series"]
    return pruned


def _series(strategy: str, parts: list[str], alone: bool) -> str:
    """Short: ``fastv``, ``weighted_combination alpha=0.3``; a rule by its own name, ``sparsity heads_kept=4``."""
    short = [part.partition("=")[2] if part.partition("=")[2][:1].islower() else part for part in parts]
    return " ".join(short if alone else [strategy, *short])


def _bound(rows: pd.DataFrame) -> bool:
    """Whether a method's parameters go with its ranks, as in its authors' lists: then its points are one series."""
    listed = rows["strategy"].iloc[0] in STAGED | PUBLISHED
    each_once = rows.groupby(["layer", "rank"])["params"].nunique().max() == 1
    return listed and each_once and rows["rank"].nunique() > 1


def _telling(rows: pd.DataFrame) -> set[str]:
    """Parameters of a strategy that tell its series apart; an only one is named too, where the labels name it."""
    parts = [settings(text) for text in rows["params"].unique()]
    names = {name for part in parts for name in part}
    varied = {name for name in names if len({part.get(name) for part in parts}) > 1}
    words = {word.partition("=")[0] for word in rows["label"].iloc[0].split()}
    alone = {name for name in names & words if len(names) == 1 and parts[0][name] != "False"}
    return varied | alone


def settings(params: str) -> dict[str, str]:
    """A text of the column ``params`` by names: ``alpha=0.5 head=sum``."""
    return dict(part.split("=", 1) for part in params.split())


def with_parameters(summary: pd.DataFrame) -> pd.DataFrame:
    """A column of texts for each parameter of which some strategy has several values: ``param.alpha``, "" for none."""
    parts = [settings(text) for text in summary["params"]]
    known: dict[tuple[str, str], set[str]] = {}
    for strategy, part in zip(summary["strategy"], parts, strict=True):
        for name, value in part.items():
            known.setdefault((name, strategy), set()).add(value)
    varied = dict.fromkeys(name for (name, _), values in known.items() if len(values) > 1)
    return summary.assign(**{PARAMETER + name: [part.get(name, "") for part in parts] for name in varied})


def labels(rows: pd.DataFrame) -> list[str]:
    """The name of each row, with its experiment's where there are several: ``left: fastv layer=2 tokens=192``."""
    if "experiment" not in rows or rows["experiment"].nunique() < 2:
        return rows["label"].tolist()
    return (rows["experiment"] + ": " + rows["label"]).tolist()


def slices(summary: pd.DataFrame, axis: Axis) -> list[Slice]:
    """All slices along an axis with a series of two points and an answer; the one with most points first."""
    fixed: Axis = "rank" if axis == "layer" else "layer"
    pruned = with_series(summary)
    long = pruned[pruned.groupby([fixed, "series"])[axis].transform("nunique") >= 2]
    found = []
    for value in sorted(long[fixed].unique()):
        rows = long[long[fixed] == value]
        if (rows["n"] > 0).any():
            found.append(Slice(axis=axis, fixed=fixed, value=int(value), rows=rows))
    return sorted(found, key=lambda part: -len(part.rows))


def alpha_places(pruned: pd.DataFrame) -> list[tuple[int, int]]:
    """(layer, rank) where alpha varies, the one with most values first."""
    mixed = pruned[pruned["alpha"].notna()]
    counts = mixed.groupby(["layer", "rank"])["alpha"].nunique()
    counts = counts[counts > 1].sort_values(ascending=False, kind="stable")
    return [(int(layer), int(rank)) for layer, rank in counts.index]


def alpha_slice(rows: pd.DataFrame, layer: int, rank: int) -> Slice:
    """The rows at a place that have an alpha, in series that are named without it."""
    mixed = rows[(rows["layer"] == layer) & (rows["rank"] == rank) & rows["alpha"].notna()]
    bare = mixed["params"].map(lambda text: " ".join(part for part in text.split() if not part.startswith("alpha=")))
    return Slice(axis="alpha", fixed="layer", value=layer, rows=with_series(mixed.assign(params=bare)))


def leftovers(summary: pd.DataFrame) -> pd.DataFrame:
    """Pruned rows that lie on no curve of any slice, with their series."""
    drawn = [key for axis in AXES for part in slices(summary, axis) for key in part.rows["key"]]
    rows = with_series(summary)
    return rows[~rows["key"].isin(drawn)]


def against_first(part: Slice) -> tuple[Slice, Measure] | None:
    """The relative drop as the originals' documents have it: of the accuracy at the first layer, not of the un-pruned.

    None where nothing was right there.
    """
    rows = part.rows[part.rows["n"] > 0]
    first = rows[part.axis].min()
    base = rows.loc[rows[part.axis] == first, ["series", "accuracy"]].set_index("series")["accuracy"]
    of_series = part.rows["series"].map(base)
    if not (base > 0).all() or of_series.isna().any():
        return None
    drop = 100 * (of_series - part.rows["accuracy"]) / of_series
    measure = Measure(
        name=f"Relative drop against layer {first:g}",
        column="first_drop",
        low="no_band",
        high="no_band",
        scale=1,
        by="",
        of=f"of the accuracy at layer {first:g}, as the originals have it; no interval",
    )
    return replace(part, rows=part.rows.assign(first_drop=drop, no_band=np.nan)), measure


def curves(part: Slice, measure: Measure) -> pd.DataFrame:
    """The points of a slice's curves.

    Returns:
        Rows of the summary ordered by series (as in the grid) and from left to right, with x, y, low and high in the
        figure's unit. A grid point without answers keeps its row with a missing y: its curve has a gap there.
    """
    rows = part.rows.assign(
        x=part.rows[part.axis],
        y=part.rows[measure.column] * measure.scale,
        low=part.rows[measure.low] * measure.scale,
        high=part.rows[measure.high] * measure.scale,
        order=pd.factorize(part.rows["series"])[0],
    )
    rows = rows.sort_values(["order", "x"], ascending=[True, part.axis != "rank"], ignore_index=True)
    return rows.drop(columns="order")


def measures(part: Slice) -> tuple[Measure, ...]:
    """What there is to draw of a slice: no relative drop where the un-pruned model has no right answer to lose."""
    return tuple(measure for measure in (ACCURACY, DROP) if part.rows[measure.column].notna().any())


def reference(summary: pd.DataFrame, measure: Measure) -> Reference | None:
    """The line of the un-pruned model; for a comparison it is 0, without a band.

    None where it has no answers, or where several experiments have several un-pruned models (see `baselines`).
    """
    base = summary[summary["baseline"] & (summary["n"] > 0)]
    if base.empty:
        return None
    if measure is not ACCURACY:
        return Reference(value=0.0, low=np.nan, high=np.nan)
    if len(base[["correct", "n"]].drop_duplicates()) > 1:
        return None
    first = base.iloc[0]
    return Reference(value=100 * first["accuracy"], low=100 * first["ci_low"], high=100 * first["ci_high"])


def baselines(summary: pd.DataFrame) -> list[tuple[str, float]]:
    """Name and accuracy (percent) of the un-pruned models of several experiments, where they differ."""
    base = summary[summary["baseline"] & (summary["n"] > 0)]
    if len(base[["correct", "n"]].drop_duplicates()) < 2:
        return []
    groups = base.groupby(["correct", "n"], sort=False)
    return [(", ".join(rows["experiment"]), 100 * float(rows["accuracy"].iloc[0])) for _, rows in groups]


def focus(rows: pd.DataFrame) -> tuple[str, ...]:
    """The series of a slice to draw in colour, the others being context: all if few; else the best, and the control.

    The best is the one with the least mean loss over its points; without a control the runner-up is shown beside it.
    """
    names = rows["series"].drop_duplicates().tolist()
    if len(names) <= MAX_COLOURED:
        return tuple(names)
    control = rows.loc[rows["strategy"] == CONTROL, "series"].drop_duplicates().tolist()[:1]
    others = rows[rows["strategy"] != CONTROL]
    ranking = others.groupby("series", sort=False)["difference"].mean().sort_values(ascending=False, kind="stable")
    best = [str(name) for name in ranking.dropna().index]
    return tuple((best[: FOCUSED - len(control)] + control) or names[:FOCUSED])


def significant(rows: pd.DataFrame) -> pd.Series:
    """Whether a row differs from the un-pruned model after Holm's correction; False where not compared."""
    return rows["p_holm"] < ALPHA


def value_range(
    rows: pd.DataFrame, base: Reference | None, focus: tuple[str, ...], measure: Measure
) -> tuple[float, float]:
    """Ends of the y axis: all points, the bands that are drawn, and the un-pruned model, with a little room."""
    drawn = rows[rows["series"].isin(focus)]
    seen = np.concatenate([rows["y"], drawn["low"], drawn["high"]])
    if base is not None:
        seen = np.append(seen, [base.value, base.low, base.high])
    seen = seen[~np.isnan(seen.astype(float))]
    if not seen.size:
        return 0.0, 100.0
    low, high = float(seen.min()), float(seen.max())
    room = max(0.06 * (high - low), 0.5)
    if measure is ACCURACY:  # no room below 0 and above 100, where nothing can be
        return max(low - room, -1.0), min(high + room, 101.0)
    return low - room, high + room


def axis_range(x: pd.Series, axis: str) -> list[float]:
    """Ends of the x axis; tokens run from many to few, as pruning does."""
    low, high = float(x.min()), float(x.max())
    room = 0.03 if axis == "alpha" else max(0.02 * (high - low), 0.25)
    return [high + room, low - room] if axis == "rank" else [low - room, high + room]


def forest_range(rows: pd.DataFrame) -> list[float]:
    """Ends of the axis of differences, in percentage points: all intervals and 0, with a little room."""
    low, high = min(float(rows["low"].min()), 0.0), max(float(rows["high"].max()), 0.0)
    room = max(0.05 * (high - low), 0.5)
    return [low - room, high + room]


def mapped(part: Slice) -> bool:
    """Whether a map says more than the curves."""
    return part.rows["series"].nunique() > 1 and len(part.rows) >= HEAT_CELLS


def heat(part: Slice) -> Heat | None:
    """The slice as a map, or None where it has a single series or hardly a cell."""
    rows = part.rows.assign(significant=significant(part.rows), partial=part.rows["state"] == "partial")
    series = rows["series"].drop_duplicates()
    if not mapped(part):
        return None

    def grid(column: str) -> pd.DataFrame:
        return rows.pivot(index="series", columns=part.axis, values=column).reindex(series)

    values = grid("difference")
    return Heat(
        series=tuple(series),
        xs=tuple(int(x) for x in values.columns),
        points=100 * values.to_numpy(dtype=float),
        significant=grid("significant").eq(True).to_numpy(),
        partial=grid("partial").eq(True).to_numpy(),
        rows=rows,
    )


def forest(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `leftovers` that have been compared, the greatest loss last, with x, low, high in percentage points."""
    compared = rows[rows["difference"].notna()]
    return compared.assign(
        x=100 * compared["difference"],
        low=100 * compared["diff_low"],
        high=100 * compared["diff_high"],
        significant=significant(compared),
    ).sort_values("x", ascending=False, kind="stable", ignore_index=True)


def flipped(table: Answers, key: str) -> tuple[list[str], list[str]]:
    """Image questions whose answer flipped between the un-pruned model and a grid point: (lost, gained) sample ids."""
    images = table.of_images(True)
    if images.baseline is None:
        return [], []
    row = [point.key for point in images.points].index(key)
    shared = images.answered_PS[images.baseline] & images.answered_PS[row]
    before, after = images.score_PS[images.baseline], images.score_PS[row]
    names = np.array(images.samples, dtype=object)
    return names[shared & (after < before)].tolist(), names[shared & (after > before)].tolist()


def failure_groups(failures: pd.DataFrame) -> pd.DataFrame:
    """Failures by kind and message, the most frequent first: kind, message, samples (a list of ids)."""
    groups = failures.groupby(["kind", "message"], sort=False)["sample"].agg(list).reset_index(name="samples")
    return groups.sort_values("samples", key=lambda ids: -ids.map(len), kind="stable", ignore_index=True)
