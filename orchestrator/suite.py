"""Run a suite: its sweeps one after the other, by one crew of engines, each an experiment in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from orchestrator.crew import Crew
from orchestrator.run import RunOptions, RunResult, prepare_beside, run_sweep
from orchestrator.sweep.mistakes import SpecError
from orchestrator.sweep.prepare import Prepared, prepare
from orchestrator.sweep.suite import Member, Suite
from results.location import followed
from results.suites import SuiteMember, write_suite
from results.timeline import Timeline
from workers.tasks.base import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedMember:
    """A sweep of a suite whose files have been looked at."""

    member: Member
    prepared: Prepared


def prepare_suite(
    suite: Suite, keep_going: bool = False, crew: Crew | None = None, out: Path = Path()
) -> tuple[list[PreparedMember], list[str]]:
    """Look at the files of all members before any of them runs.

    Args:
        suite: As `load_suite` gives it.
        keep_going: Leave out benchmarks whose files are missing or damaged.
        crew: Who will answer, called beside it where the first member is sure to need them.
        out: Folder of the suite, for that.

    Returns:
        Those that can run, and one line for each benchmark, and each method of a model, that is left out.

    Raises:
        SpecError: A benchmark cannot be read; one line each.
        ModelError: A model cannot be used.
    """
    ready: list[PreparedMember] = []
    missing: list[str] = []
    for member in suite.members:
        try:
            if crew is not None and member is suite.members[0]:
                prepared = prepare_beside(crew, member.spec, out / member.folder)
            else:
                prepared = prepare(member.spec)
            ready.append(PreparedMember(member=member, prepared=prepared))
        except DataError as error:
            missing.append(str(error))
    if missing and not (keep_going and ready):
        hint = "or run the others with --keep-going" if ready else "none of them can run"
        raise SpecError(*missing, f"suite {suite.name}: put these files there, {hint}")
    cannot = [f"{one.model} {one.strategy}: {one.reason}" for one in suite.left_out]
    return ready, [f"left out: {line}" for line in (*missing, *cannot)]


def one_a_model(suite: Suite, benchmark: str | None) -> list[PreparedMember]:
    """Of each model the member that is named, or the first.

    Raises:
        SpecError: The suite has no such benchmark.
        DataError, ModelError: Its files cannot be used.
    """
    known = dict.fromkeys(one.benchmark for one in suite.members)
    name = next(iter(known)) if benchmark is None else benchmark
    if name not in known:
        raise SpecError(f"--benchmark {name}: suite {suite.name} has {', '.join(known)}")
    return [PreparedMember(member=one, prepared=prepare(one.spec)) for one in suite.members if one.benchmark == name]


def run_suite(
    suite: Suite,
    members: Sequence[PreparedMember],
    out: Path,
    options: RunOptions,
    console: Console,
    shown: Callable[[RunResult], None],
    crew: Crew | None = None,
) -> list[RunResult]:
    """Compute all missing cells of all members; what is there is not computed again.

    Args:
        suite: As `load_suite` gives it.
        members: Of it, in the order in which they run; those of a model one after the other.
        out: Folder of the suite, made where it is missing.
        options: Where to compute.
        console: For progress.
        shown: Called with what a member did, when it has.
        crew: Who stays from one to the next; None: somebody who has gone when this returns.

    Raises:
        StoreError, PoolError, SweepError, ModelError, DataError: Nothing that was computed is lost.
    """
    if crew is None:
        with Crew(options, options.local, stays=True) as crew:
            return run_suite(suite, members, out, options, console, shown, crew)
    results = []
    held = [SuiteMember(model=one.member.model, benchmark=one.member.benchmark) for one in members]
    write_suite(out, suite.name, held, suite.left_out)
    for place, one in enumerate(members):
        spec = one.prepared.spec
        count = f"{len(spec.points)} grid points x {len(one.prepared.samples)} samples"
        title = Text.assemble((one.member.title, "bold"), f" ({place + 1} of {len(members)}): {count}")
        console.print(title, soft_wrap=True)
        folder = out / one.member.folder
        if place:
            crew.timeline = Timeline()  # each is a run of its own
        with followed(folder, lambda line: console.print(line, soft_wrap=True)):
            results.append(run_sweep(one.prepared, folder, options, console, crew))
            shown(results[-1])
    return results
