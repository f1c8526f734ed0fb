"""The papers' table: method and budget by benchmark, each a score, and the mean share of the un-pruned model's.

A cell is the figure that a benchmark's papers quote (MME's total, MMBench's accuracy), or the mean score of its image
questions. A method's mean is over benchmarks, each relative to the un-pruned model's figure. Its interval is a paired
bootstrap, 95 %: of each benchmark images are drawn with all their questions, the same for all methods (see
`results.analysis.resampled`); where the quoted figure is no mean of scores, the interval is that of mean scores around
it.

Shape letters: P grid points, S samples, G images, B replicates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from results.analysis.clusters import groups_of, per_image
from results.analysis.metrics import answers, on_common_questions
from results.analysis.resampled import Floats, Resampled, first_two, interval
from results.analysis.significance import resampled_sums
from results.analysis.task_metrics import headline, known_task, task_metrics
from results.exchange.point_names import PointName
from results.suites import LeftOut, Results
from results.wording import number, percent
from strategies.budget import average_tokens
from strategies.errors import UsageError
from workers.work import UNPRUNED, GridPoint

REPLICATES = 2000
ALIKE = 0.03  # budgets that differ by less are one
CANNOT = "cannot run"  # in place of a budget
FURTHER = {"mme": ("perception",)}  # figures beside the one that is quoted alone, by benchmark


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A method on a benchmark."""

    value: float  # percent, or points
    relative: float  # percent of the un-pruned model's
    n: int  # image questions
    mark: str = ""  # best or second, where it is so beyond chance: of its model and budget
    low: float = np.nan  # 95 %, where the cell is a mean
    high: float = np.nan
    away: float = np.nan  # percent, of an un-pruned figure that lies far from what is printed of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure of cost."""

    value: float
    high: float = np.nan  # 90th percentile, of what is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A method at a budget."""

    model: str
    method: str
    budget: str  # for people; "" of the un-pruned model
    tokens: float  # visual tokens, averaged over the layers
    cells: Mapping[str, Cell]  # by column; what is missing has not been answered
    mean: float = np.nan  # percent of the un-pruned model's, over the benchmarks; NaN where one is missing
    low: float = np.nan
    high: float = np.nan
    mark: str = ""
    gain: float = np.nan  # of the mean, over the method that all are held against at the same budget
    gain_low: float = np.nan
    gain_high: float = np.nan
    flops: float = np.nan  # of prefill, as a share of the un-pruned model's
    kv: float = np.nan  # of keys and values
    key: str = ""  # of its grid point; "" of what is none of ours
    name: PointName | None = None  # of its grid point
    costs: Mapping[str, Spread] = field(default_factory=dict)  # by column, see `printed_costs`
    reason: str = ""  # why it cannot run
    origin: str = ""  # of a printed row: copied, or re-run
    source: str = ""  # of a printed row: the method's paper

    @property
    def title(self) -> str:
        """The method, and whose figures it has where they are not ours."""
        return f"{self.method} ({self.origin})" if self.origin else self.method


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkTable:
    """Rows and columns in the order in which they are shown."""

    columns: tuple[str, ...]
    averaged: tuple[str, ...]  # those that the mean is over
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()  # columns of cost, where they are wanted


@dataclass(slots=True, kw_only=True)
class _Benchmark:
    """What one experiment says of every grid point."""

    name: str
    n: int
    images: int
    value_P: Floats
    further: dict[str, Floats]
    ratio_PB: Floats  # of the un-pruned model's mean score, resampled
    score_PB: Floats  # mean score, resampled
    unpruned: float  # mean score of the un-pruned model
    costs: Mapping[str, tuple[float, float, float]]  # point key -> tokens, flops, kv


@dataclass(slots=True)
class _Line:
    point: GridPoint
    layers: int
    visual: int
    cells: dict[str, Cell] = field(default_factory=dict)
    parts: dict[str, Resampled] = field(default_factory=dict)  # percent of the un-pruned model's figure
    scores: dict[str, Resampled] = field(default_factory=dict)  # mean score
    costs: list[tuple[float, float, float]] = field(default_factory=list)  # of each benchmark: tokens, flops, kv

    @property
    def cost(self) -> tuple[float, float, float]:
        """Mean over the benchmarks; NaN where nothing is known."""
        if not self.costs:
            return (np.nan, np.nan, np.nan)
        tokens, flops, kv = np.mean(self.costs, axis=0).tolist()
        return tokens, flops, kv


def benchmark_table(
    found: Sequence[Results],
    against: str | None = None,
    left_out: Sequence[LeftOut] = (),
    replicates: int = REPLICATES,
) -> BenchmarkTable:
    """Put experiments side by side.

    Args:
        found: Of one grid; a point that one of them does not have is an empty cell there.
        against: A method that all others are held against at each budget, such as ``random``.
        left_out: Methods that one of the models cannot run: rows of empty cells there, and a note with the reason.
        replicates: Of the bootstrap.

    Raises:
        UsageError: No grid point is of the method that others are to be held against.
    """
    if against is not None and all(point.strategy != against for one in found for point in one.experiment.points):
        raise UsageError(f"--against {against}: no grid point is of this strategy")
    columns: dict[str, None] = {}
    averaged: dict[str, None] = {}
    rows: list[Row] = []
    notes: list[str] = []
    for model in dict.fromkeys(one.model for one in found):
        lines: dict[str, _Line] = {}
        for one in (other for other in found if other.model == model):
            benchmark = _read(one, replicates, notes)
            if benchmark is None:
                continue
            columns |= dict.fromkeys((one.benchmark, *(f"{one.benchmark} {name}" for name in benchmark.further)))
            averaged[one.benchmark] = None
            _enter(lines, one, benchmark)
        rows += _rows(model, list(lines.values()), tuple(averaged), against)
        for absent in dict.fromkeys(one for one in left_out if one.model == model):
            empty = Row(
                model=model, method=absent.strategy, budget=CANNOT, tokens=np.nan, cells={}, reason=absent.reason
            )
            rows.append(empty)
            notes.append(f"{model} {absent.strategy}: {CANNOT}: {absent.reason}")
    return BenchmarkTable(columns=tuple(columns), averaged=tuple(averaged), rows=tuple(rows), notes=tuple(notes))


def _read(one: Results, replicates: int, notes: list[str]) -> _Benchmark | None:
    experiment = one.experiment
    table = one.answers or answers(experiment)
    images = on_common_questions(table).of_images(True)
    answered_P = images.answered_PS.any(axis=1) if images.answered_PS.size else np.zeros(0, bool)
    if not answered_P.any():
        notes.append(f"{one.benchmark}: has no answers yet")
        return None
    title = f"{one.model} {one.benchmark}".strip()
    lacking = int((~images.answered_PS[answered_P]).any(axis=1).sum())
    if lacking or not answered_P.all():
        notes.append(f"{title}: {lacking + int((~answered_P).sum())} grid points are not finished")
    with np.errstate(invalid="ignore"):
        mean_P = np.where(answered_P, images.score_PS.sum(axis=1) / images.answered_PS.sum(axis=1), np.nan)
    own = task_metrics(experiment)
    if known_task(experiment) is None and own.empty:
        task = experiment.spec.task.name
        notes.append(f"{title}: the mean score of {task}, whose own figures `saccade run` writes when it ends")
    figures = headline(own)
    value_P = 100 * mean_P if figures.empty else _by_point(experiment.points, figures)
    further = {
        name: _by_point(experiment.points, own[own["name"].str.partition(" (")[0] == name])
        for name in FURTHER.get(experiment.spec.task.name, ())
    }
    groups = groups_of(images.cluster_S)
    score_PG, count_PG = per_image(images.score_PS, groups), per_image(images.answered_PS, groups)
    right_PB, asked_PB = resampled_sums(replicates, 0, score_PG, count_PG)
    with np.errstate(invalid="ignore", divide="ignore"):
        score_PB = right_PB / asked_PB
        base = images.baseline
        ratio_PB = score_PB / score_PB[base] if base is not None else np.full_like(score_PB, np.nan)
    counted = costs_of(one)
    known: dict[str, tuple[float, float, float]] = {}
    if counted is not None:
        columns = counted[["average_visual_tokens", "flops_ratio", "kv_ratio"]].to_numpy(dtype=np.float64)
        known = {key: (row[0], row[1], row[2]) for key, row in zip(counted["key"], columns.tolist(), strict=True)}
    return _Benchmark(
        name=one.benchmark,
        n=int(images.answered_PS[answered_P].any(axis=0).sum()),
        images=score_PG.shape[1],
        value_P=value_P,
        further=further,
        ratio_PB=ratio_PB.astype(np.float64),
        score_PB=score_PB.astype(np.float64),
        unpruned=np.nan if base is None else float(mean_P[base]),
        costs=known,
    )  # fmt: skip


def _by_point(points: Sequence[GridPoint], figures: pd.DataFrame) -> Floats:
    """A figure of each point; shares as percent, NaN where there is none."""
    scale = np.where(figures["unit"] == "share", 100.0, 1.0)
    known = dict(zip(figures["point"], scale * figures["value"].to_numpy(dtype=np.float64), strict=True))
    return np.array([known.get(point.key, np.nan) for point in points], dtype=np.float64)


def _enter(lines: dict[str, _Line], one: Results, benchmark: _Benchmark) -> None:
    """Add a benchmark's column to the lines of a model."""
    experiment = one.experiment
    base = next((row for row, point in enumerate(experiment.points) if point.strategy == UNPRUNED), None)
    for row, point in enumerate(experiment.points):
        value = float(benchmark.value_P[row])
        if np.isnan(value):
            continue
        line = lines.setdefault(point.key, _Line(point, experiment.config.layers, experiment.config.visual_tokens))
        unpruned = np.nan if base is None else float(benchmark.value_P[base])
        relative = 100 * value / unpruned if unpruned else np.nan
        line.cells[one.benchmark] = Cell(value=value, relative=relative, n=benchmark.n)
        for name, value_P in benchmark.further.items():
            if not np.isnan(value_P[row]):
                own = np.nan if base is None else float(value_P[base])
                share = 100 * float(value_P[row]) / own if own else np.nan
                line.cells[f"{one.benchmark} {name}"] = Cell(value=float(value_P[row]), relative=share, n=benchmark.n)
        ratio_B = 100 * benchmark.ratio_PB[row]
        centre = np.nanmean(ratio_B) if np.isfinite(ratio_B).any() else np.nan
        part = Resampled(
            value_B=relative + ratio_B - centre,
            images=benchmark.images,
            scale=100 / benchmark.unpruned if benchmark.unpruned else np.nan,
        )
        line.parts[one.benchmark] = part
        line.scores[one.benchmark] = Resampled(value_B=benchmark.score_PB[row], images=benchmark.images, scale=1.0)
        if point.key in benchmark.costs:
            line.costs.append(benchmark.costs[point.key])


def _rows(model: str, lines: list[_Line], averaged: Sequence[str], against: str | None) -> list[Row]:
    """Rows of a model, marked; the un-pruned one first, then budgets from the largest to the smallest."""
    several = len({line.point.layer for line in lines if line.point.strategy != UNPRUNED}) > 1
    budgets = _budgets(lines)
    made: list[Row] = []
    for name, members in budgets:
        group = [_row(model, name, line, averaged, several) for line in members]
        if name:
            group = _marked(group, members, averaged)
            group = group if against is None else _held_against(group, members, averaged, against)
        made += group
    return made


def _budgets(lines: Iterable[_Line]) -> list[tuple[str, list[_Line]]]:
    """The lines by budget: those whose average number of tokens differs by little."""
    groups: list[tuple[float, list[_Line]]] = []
    unpruned = [line for line in lines if line.point.strategy == UNPRUNED]
    pruned = sorted((line for line in lines if line.point.strategy != UNPRUNED), key=lambda line: -_tokens(line))
    for line in pruned:
        tokens = _tokens(line)
        if groups and groups[-1][0] - tokens <= ALIKE * groups[-1][0]:
            groups[-1][1].append(line)
        else:
            groups.append((tokens, [line]))
    named = [("", unpruned)] if unpruned else []
    for tokens, members in groups:
        share = next((line.point.share for line in members if line.point.share is not None), None)
        visual = members[0].visual
        text = f"{number(tokens, 0)} tokens" if share is None else f"{percent(tokens / visual)} of the tokens"
        order = sorted(members, key=lambda line: line.point.label)
        named.append((text, order))
    return named


def _tokens(line: _Line) -> float:
    counted = line.cost[0]
    if not np.isnan(counted):
        return counted
    return average_tokens(line.point.layer, line.point.rank, line.layers, line.visual)


def _row(model: str, budget: str, line: _Line, averaged: Sequence[str], several: bool) -> Row:
    name = PointName.of(line.point.label)
    mean = low = high = np.nan
    if (parts := _parts(line, averaged)) is not None:
        mean = float(np.mean([line.cells[name].relative for name in averaged]))
        if budget:
            low, high = interval(parts)
            low = max(low, 0.0)
    return Row(
        model=model,
        method=name.method(layer=several),
        budget=budget,
        tokens=_tokens(line),
        cells=dict(line.cells),
        mean=mean,
        low=low,
        high=high,
        flops=line.cost[1],
        kv=line.cost[2],
        key=line.point.key,
        name=name,
    )


def _parts(line: _Line, averaged: Sequence[str]) -> list[Resampled] | None:
    """What a mean is over; None where a benchmark is missing."""
    return [line.parts[name] for name in averaged] if all(name in line.parts for name in averaged) else None


def costs_of(one: Results) -> pd.DataFrame | None:
    """What each grid point costs, see `results.analysis.costs`; counted here where nobody counts it elsewhere."""
    if one.costed is not None:
        return one.costed()
    from results.analysis.costs import costs  # with torch

    return costs(one.experiment)


def _marked(rows: list[Row], lines: Sequence[_Line], averaged: Sequence[str]) -> list[Row]:
    """The same with best and second best, each only where the next one is worse beyond chance."""
    for column in averaged:
        scores = {place: [line.scores[column]] for place, line in enumerate(lines) if column in line.scores}
        for place, mark in first_two(scores):
            cells = dict(rows[place].cells)
            cells[column] = replace(cells[column], mark=mark)
            rows[place] = replace(rows[place], cells=cells)
    for place, mark in first_two(_whole(lines, averaged)):
        rows[place] = replace(rows[place], mark=mark)
    return rows


def _held_against(rows: list[Row], lines: Sequence[_Line], averaged: Sequence[str], name: str) -> list[Row]:
    """The same with what each gains over a method; nothing where its budget has none, or several of it."""
    whole = _whole(lines, averaged)
    named = [place for place in whole if lines[place].point.strategy == name]
    if len(named) != 1:
        return rows
    (reference,) = named
    for place, parts in whole.items():
        if place != reference:
            low, high = interval([one - other for one, other in zip(parts, whole[reference], strict=True)])
            gain = rows[place].mean - rows[reference].mean
            rows[place] = replace(rows[place], gain=gain, gain_low=low, gain_high=high)
    return rows


def _whole(lines: Sequence[_Line], averaged: Sequence[str]) -> dict[int, list[Resampled]]:
    """The lines that no benchmark is missing of."""
    found = ((place, _parts(line, averaged)) for place, line in enumerate(lines))
    return {place: parts for place, parts in found if parts is not None}
