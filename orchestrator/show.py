"""What the commands print: plans, accuracies, progress and failures as text. No computing, no files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.sweep.kept import Budget
from orchestrator.sweep.plan import questions_per_image
from results.analysis.metrics import is_soft, share_images, spoken
from results.disk import stamp
from results.durations import since
from results.escaping import terminal_text
from results.exchange.point_names import is_chosen, names_of
from results.provenance import ways_text
from results.stops import STOPPED, read_stops
from results.timeline import read_timeline
from results.wording import MISSING, p_value, percent, percent_span, plural, points
from strategies import catalog

LISTED = 12  # grid points of a plan, where nobody asks for others
NO_OPTION = 0.05  # of the answers: so many without an option are said

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.sweep.plan import Plan
    from orchestrator.sweep.prepare import Prepared
    from results.analysis.racing import RacingRule
    from results.experiment import Experiment
    from results.inventory import Merged
    from results.stops import Stops
    from workers.latency import Latency
    from workers.work import GridPoint


NOTE = Text("note", "yellow")


class PlainConsole(Console):
    """A console to which names, answers and messages are what they are: brackets and colons in them are no markup.

    What has a style is a `Text`.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(terminal_text(text), **options)


def show_plan(
    console: Console,
    prepared: Prepared,
    plan: Plan,
    folder: Path,
    stops: Stops | None = None,
    memory: str | None = None,
    time: str = "",
    points: Sequence[str] = (),
) -> None:
    """The plan as a table.

    Args:
        console: Where to print.
        prepared: The sweep.
        plan: Of its missing cells.
        folder: Of the experiment.
        stops: By racing.
        memory: What the sweep takes of a GPU's, where there is one.
        time: How long it will take.
        points: Words that name the grid points to list; none: the first ones.
    """
    spec = prepared.spec
    strategies = sorted({" ".join((p.strategy, *([p.positions] if p.positions else []))) for p in spec.points[1:]})
    limited = len(prepared.samples) < prepared.available
    of = f" (the first of {prepared.available})" if limited else ""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    model = spec.engine.model
    name = model.path if model.base is None else f"{model.path} on {model.base}"
    most = "up to " if spec.config.varies else ""
    mean = "" if prepared.visual.mean is None else f", {prepared.visual.mean:,.0f} on average"
    sizes = f"{spec.config.layers} layers, {most}{spec.config.visual_tokens} visual tokens{mean}"
    rows = [
        ("model", f"{name} ({sizes}, {model.dtype})"),
        ("grid", f"{len(spec.points)} points: un-pruned, {', '.join(strategies)}"),
        ("samples", f"{len(prepared.samples)}{of} of {spec.engine.task.name}"),
        ("cells", cells_text(plan, stops)),
        ("work, shared", f"{plan.work.shared / 1e6:,.1f} million token-layers (estimate){_questions_text(prepared)}"),
        ("work, one by one", f"{plan.work.separate / 1e6:,.1f} million, {plan.work.saving:.1f} times as much"),
        ("disk", f"about {size_text(plan.bytes_on_disk)} in {folder}"),
    ]
    if time:
        rows.append(("time", time))
    if memory is not None:
        rows.append(("memory", memory))
    if stops is not None:
        rows.append(("racing", f"{rule_text(stops.rule)}; the work shown is an upper limit"))
    if spec.engine.measure.spectra or spec.engine.measure.quality:
        rows.append(("measures", _measures_text(prepared)))
    for row in rows:
        table.add_row(*row)
    console.print(table, soft_wrap=True)
    show_notes(console, (*prepared.notes, *plan.notes))
    for budget in spec.budgets:
        console.print(_budget_text(budget, spec.config.visual_tokens), soft_wrap=True)
    notes = (catalog.get(p.strategy).note(dict(p.params), spec.config.heads) for p in spec.points[1:])
    show_notes(console, dict.fromkeys(part for note in notes if note for part in note.split("; ")))
    _show_points(console, spec.points, points)


def _show_points(console: Console, points: Sequence[GridPoint], patterns: Sequence[str]) -> None:
    """The grid points that are asked for, else the first ones, each by its name in tables and `--points`."""
    chosen = [point.label for point in points if is_chosen(names_of(point), patterns)]
    shown = chosen if patterns else chosen[:LISTED]
    console.print("grid points:" if chosen else f"no grid point is named {', '.join(patterns)}")
    for label in shown:
        console.print(f"  {label}", soft_wrap=True)
    if left := len(chosen) - len(shown):
        console.print(f"  ... and {left} more; --points '*' lists all, --points 'fastv layer=2' those with these words")


def _budget_text(budget: Budget, most: int) -> str:
    """What a budget was compiled to."""
    if budget.share is not None:
        return f"tokens {budget.tokens / most:.4g} of each image's at layer {budget.layer}: rank {budget.share:.2%}"
    average = f"an average of {budget.average:.1f} visual tokens"
    return f"tokens {budget.tokens:g} at layer {budget.layer}: rank {budget.rank}, {average}"


def _questions_text(prepared: Prepared) -> str:
    """That images are asked about more than once, where they are."""
    mean = questions_per_image(prepared.samples)
    return f", with {mean:.3g} questions an image" if mean > 1 else ""


def cells_text(plan: Plan, stops: Stops | None) -> str:
    """How many cells there are, and what is missing."""
    saved = stops.saved if stops else 0
    there = plan.cells - plan.missing - saved
    parts = [f"{there} of {plan.cells} are there already"] if there else []
    if stops and saved:
        parts.append(f"{saved} not needed, of the {len(stops.stopped)} points that racing stopped")
    parts.append(f"{plan.missing} to be computed" + (f", in {len(plan.units)} units" if plan.units else ""))
    return "; ".join(parts)


def rule_text(rule: RacingRule) -> str:
    rival = "the best" if rule.against == "best" else "the un-pruned model"
    margin = f" by more than {rule.margin:g}" if rule.margin else ""
    return f"points that fall behind {rival}{margin} stop; the chance of any wrong stop is at most {rule.alpha:g}"


def show_stops(console: Console, stops: Stops, labels: dict[str, str]) -> None:
    """Which points racing stopped, and what that saved."""
    share = stops.saved / stops.cells if stops.cells else 0.0
    console.print(
        f"racing stopped {len(stops.stopped)} of {len(labels)} points early and saved {stops.saved} of {stops.cells} "
        f"cells ({share:.0%}); {rule_text(stops.rule)}",
        soft_wrap=True,
    )
    for key, samples in sorted(stops.stopped.items(), key=lambda item: item[1]):
        console.print(f"  after {samples} image questions: {labels[key]}", soft_wrap=True)


def _measures_text(prepared: Prepared) -> str:
    measure = prepared.spec.engine.measure
    spectra = [f"{spectrum.matrix} of layer {spectrum.layer}" for spectrum in measure.spectra]
    if spectra and measure.spectra_samples is not None:
        spectra[-1] += f" (first {measure.spectra_samples} image questions)"
    return ", ".join(spectra + (["concentration and diversity of the kept tokens"] if measure.quality else []))


def accuracy_table(rows: pd.DataFrame, figures: pd.DataFrame | None = None) -> object:
    """One line per grid point.

    Args:
        rows: Of `metrics.summarise`.
        figures: Of `task_metrics.headline`: a column of its own.
    """
    texts = bool(rows["n_text_only"].any())
    own = {} if figures is None else dict(zip(figures["point"], figures["text"], strict=True))
    what = "mean score" if is_soft(rows) else "accuracy"
    title = f"{what} on questions with an image ({spoken(rows['interval'])} 95 %)"
    table = Table(title=title, title_justify="left")
    table.add_column("grid point")
    several = share_images(rows)
    names = ["accuracy", "95 %", "n", *["images"] * several, "change", "p (Holm)"]
    names += ["text-only"] * texts + ([str(figures["name"].iloc[0])] if figures is not None and own else [])
    for name in names:
        table.add_column(name, justify="right")
    for _, row in rows.iterrows():
        without_image = (
            f"{percent(row['accuracy_text_only'])} of {row['n_text_only']}" if row["n_text_only"] else MISSING
        )
        more = [without_image] * texts + [own.get(row["key"], MISSING)] * bool(own)
        if not row["n"]:
            table.add_row(row["label"], MISSING, "", "0", *["0"] * several, "", "", *more)
            continue
        change = p = ""
        if not row["baseline"] and row["n_paired"]:
            change = points(row["difference"])
            p = p_value(row["p_holm"])
        interval = percent_span(row["ci_low"], row["ci_high"])
        n = f"{row['n']}" if row["n"] == row["n_expected"] else f"{row['n']} of {row['n_expected']}"
        n += ", stopped early" if row["state"] == STOPPED else ""
        images = [str(row["n_images"])] * several
        table.add_row(row["label"], percent(row["accuracy"]), interval, n, *images, change, p, *more)
    return table


def show_warnings(console: Console, rows: pd.DataFrame) -> None:
    """What a reader must know before reading numbers off the table: what cannot be, and answers without an option.

    Args:
        console: Where to print.
        rows: Of `metrics.summarise`.
    """
    for flags, part in rows[rows["flags"] != ""].groupby("flags", sort=False):
        _warn(console, f"suspicious: {flags}", part["label"])
    unread = rows[rows["no_option"] >= NO_OPTION].sort_values("no_option", ascending=False, kind="stable")
    if len(unread):
        worst = f"no option was found in {percent(unread['no_option'].iloc[0])} of the answers, which count as wrong"
        _warn(console, worst, unread["label"])


def _warn(console: Console, text: str, labels: pd.Series) -> None:
    more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
    console.print(Text("warning", "yellow"), f"{text} ({labels.iloc[0]}{more})", soft_wrap=True)


def show_status(console: Console, experiment: Experiment, driver: str | None = None) -> None:
    """Say how far an experiment is, and what failed.

    Args:
        console: Where to print.
        experiment: That is asked about.
        driver: Who writes there now, as `location.driver_of` says it.
    """
    cells = experiment.whole()
    samples = experiment.manifest.samples
    counts = cells["point"].value_counts()
    total = samples * len(experiment.points)
    console.print(
        Text.assemble(
            (experiment.name, "bold"),
            f": {len(cells)} of {total} cells, {len(experiment.points)} grid points x {samples} samples, "
            f"{size_text(experiment.size_bytes)}",
        ),
        soft_wrap=True,
    )
    table = Table("grid point", box=None, pad_edge=False)
    table.add_column("cells", justify="right")
    table.add_column("missing", justify="right")
    stops = read_stops(experiment)
    stopped = stops.stopped if stops else {}
    for point in experiment.points:
        have = int(counts.get(point.key, 0))
        missing = "stopped early" if point.key in stopped else str(samples - have)
        table.add_row(point.label, str(have), missing if have < samples else "")
    console.print(table)
    if stops:
        total -= stops.saved
        show_stops(console, stops, {point.key: point.label for point in experiment.points})
    if driver:
        console.print(f"{driver}; {_last_written(experiment)}", highlight=False, markup=False, soft_wrap=True)
    timeline = read_timeline(experiment)
    if timeline is not None and timeline.text:
        console.print(f"newest run: {timeline.text}", soft_wrap=True)
    failures = experiment.failures()
    if len(failures):
        show_failures(console, failures)
    elif len(cells) < total and not driver:
        console.print("give the same `saccade run` again to compute what is missing")
    if unread := experiment.unread():
        console.print(
            f"{unread} more cells are kept here, of other samples, grid points or versions of a strategy; a sweep that "
            "asks for them (`saccade run` with the same --out) does not compute them again",
            soft_wrap=True,
        )
    if ways := ways_text(experiment):
        console.print(ways, highlight=False, markup=False, soft_wrap=True)
    show_notes(console, experiment.notes)


def _last_written(experiment: Experiment) -> str:
    """Since when nothing has moved."""
    files = [file for folder in ("cells", "failures") for file in experiment.files(folder)]
    if not files:
        return "nothing is written yet"
    return f"the newest cells are of {since(max(stamp(file)[1] for file in files) / 1e9)}"


def show_notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        console.print(NOTE, note, soft_wrap=True)


def show_merged(console: Console, merged: Merged) -> None:
    experiment = merged.experiment
    console.print(
        f"{merged.cells} of {len(experiment.points) * experiment.manifest.samples} cells in {experiment.path}: "
        f"{len(experiment.points)} grid points x {experiment.manifest.samples} samples; {merged.doubled} were in more "
        "than one directory",
        soft_wrap=True,
    )
    if merged.conflicts:
        label = {point.key: point.label for point in experiment.points}
        key, sample = merged.conflicts[0]
        console.print(
            NOTE,
            f"{len(merged.conflicts)} cells differ between the directories, and the first one's were "
            f"taken (first: {label[key]}, sample {sample}); equal settings on other hardware may round differently",
            soft_wrap=True,
        )


def show_failures(console: Console, failures: pd.DataFrame) -> None:
    console.print(Text.assemble((f"{len(failures)} samples failed", "red"), "; running again tries them again"))
    for (kind, message), group in failures.groupby(["kind", "message"], sort=False):
        first = ", ".join(group["sample"].head(3)) + (" ..." if len(group) > 3 else "")
        console.print(f"  {len(group)} x {kind}: {message} ({first})", soft_wrap=True)


def latency_text(rows: Sequence[Latency]) -> str:
    """Latencies as a table: medians, and the 90th percentile of the time to the first token."""
    header = ["grid point", "tower ms", "projector ms", "selector ms", "prefill ms", "first token ms", "p90",
              "decode ms/token", "tokens/s", "total ms", "speed-up", "peak GiB"]  # fmt: skip
    body = [
        [row.point.label, *(f"{part.median:.1f}" for part in (row.tower_ms, row.projector_ms, row.selector_ms)),
         f"{row.prefill_ms.median:.1f}", f"{row.first_token_ms.median:.1f}", f"{row.first_token_ms.p90:.1f}",
         f"{row.decode_ms.median:.2f}", f"{row.tokens_per_s.median:.0f}", f"{row.total_ms.median:.1f}",
         f"{row.total_speedup:.2f}", "-" if row.peak_gib is None else f"{row.peak_gib.median:.2f}"]
        for row in rows
    ]  # fmt: skip
    return text_table(header, body)


def text_table(header: list[str], body: list[list[str]]) -> str:
    """Columns as wide as they need: a terminal wraps them, a pipe gets them whole."""
    lines = [[terminal_text(cell) for cell in line] for line in (header, *body)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
    left = {0, len(header) - 1} if header[-1] == "suspicious" else {0}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def named(paths: list[Path], folder: Path) -> str:
    """Paths; those in a folder below ``folder`` as that folder and how many they are."""
    counts: dict[Path, int] = {}
    for path in paths:
        inside = path.relative_to(folder).parts if path.is_relative_to(folder) else (path.name,)
        shown = folder / inside[0] if len(inside) > 1 else path
        counts[shown] = counts.get(shown, 0) + 1
    return ", ".join(
        f"{path}/ ({plural(count, 'file')})" if path.is_dir() else str(path) for path, count in counts.items()
    )


def size_text(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.1f} GB"
