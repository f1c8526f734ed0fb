"""Run a sweep from Python, as ``saccade run`` does from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.experiment import Experiment

WIDTH = 100  # of progress, in characters


def run(
    sweep: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    samples: int | str | None = None,
    model: str | None = None,
    data: str | None = None,
    changes: Mapping[str, Any] | None = None,
    local: bool = True,
    workers: int | None = None,
    address: str | None = None,
    pictures: int = 500,
    quiet: bool = False,
) -> Experiment:
    """Compute the missing cells of a sweep. The same call again goes on from there; what is there is not computed.

    Args:
        sweep: a file, the name of a shipped sweep (`saccade list`), or what such a file says, as a mapping.
        out: directory or URI of the experiment; by default ``experiments/NAME``.
        samples: how many of the first samples, or "all", in place of what the sweep says.
        model: in place of the sweep's.
        data: in place of the sweep's.
        changes: further places of the sweep by name: ``{"grid[0].layer": 2, "measure.quality": True}``.
        local: compute in this process; False: in Ray actors, one for each GPU, or CPU core.
        workers: how many actors, where this process does not compute.
        address: of the Ray cluster that they are of; by default RAY_ADDRESS, else a private one.
        pictures: images to keep for the sample explorer, at most.
        quiet: show no progress.

    Returns:
        The experiment, open for reading.

    Raises:
        strategies.errors.SaccadeError: the sweep has mistakes, a line each; model or data cannot be used; or the
            directory holds another sweep's cells. Samples that fail stop nothing; they are in ``failures``.
    """
    from orchestrator.cluster.joining import join_named
    from orchestrator.crew import Crew
    from orchestrator.run import RunOptions, prepare_beside, run_sweep
    from orchestrator.show import PlainConsole
    from orchestrator.sweep.source import SweepText, find_sweep
    from orchestrator.sweep.spec import spec_of
    from results.location import followed
    from results.timeline import Timeline
    from strategies.errors import UsageError

    timeline = Timeline()
    if workers is not None and workers < 1:
        raise UsageError(f"workers={workers}: give 1 or more, or leave it out")

    console = PlainConsole(WIDTH)
    console.quiet = quiet
    given = {"samples": samples, "model": model, "data": data, **(changes or {})}
    if not local:
        join_named(address)
    if isinstance(sweep, Mapping):
        written = SweepText(place="the sweep", source=Path("sweep"), raw=dict(sweep))
    else:
        written = find_sweep(sweep)
    spec = spec_of(written.changed({name: value for name, value in given.items() if value is not None}))
    options = RunOptions(local=local, workers=workers, address=address, pictures=pictures)
    place = Path(out or spec.default_out)
    timeline.add("sweep", 0.0)
    with Crew(options, local, timeline=timeline) as crew:
        prepared = prepare_beside(crew, spec, place)
        with followed(place, console.print) as folder:
            return Experiment(run_sweep(prepared, folder, options, console, crew).experiment)
