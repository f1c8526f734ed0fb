"""What several commands ask for, each option once: alone, or together with others as a record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cluster.limits import SAMPLE_S

if TYPE_CHECKING:
    from orchestrator.run import RunOptions
    from orchestrator.sweep.prepare import Prepared
    from orchestrator.sweep.spec import SweepSpec

PER_INCH = {"in": 1, "mm": 25.4, "cm": 2.54, "pt": 72.27}  # points of TeX, as in \\columnwidth


def _number(value: float | None) -> float | None:
    """NaN is outside no range; not every click refuses it."""
    if value is not None and isnan(value):
        raise typer.BadParameter(f"{value} is no number")
    return value


def _shipped(incomplete: str) -> list[str]:
    """What a shell may complete a name to."""
    from orchestrator.sweep.source import SUITES, shipped_sweeps

    return [name for name in (*shipped_sweeps(), *shipped_sweeps(SUITES)) if name.startswith(incomplete)]


Sweep = Annotated[
    str,
    typer.Argument(
        autocompletion=_shipped, help="A sweep file, or a shipped sweep's name: layer_cutoff, text_weighted, ..."
    ),
]
Shipped = Annotated[
    str, typer.Argument(autocompletion=_shipped, help="A shipped sweep or suite, as `saccade list` names it.")
]
Out = Annotated[
    Path | None, typer.Option(help="Experiment: a directory or s3://, gs://, abfs:// URI; by default experiments/NAME.")
]
NewOut = Annotated[Path, typer.Option("--out", help="Directory or URI to make.")]
Place = Annotated[Path, typer.Argument(help="Experiment directory or URI.")]
Data = Annotated[str | None, typer.Option(help="Benchmark directory, instead of the file's; `embedded`: ours.")]
Scorer = Annotated[str | None, typer.Option(help="Scoring rule, instead of the usual one, or of the experiment's.")]
GpuMemory = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        max=1e6,
        metavar="GIB",
        callback=_number,
        help="As on a card with so much memory, instead of the one here.",
    ),
]
Points = Annotated[
    list[str] | None,
    typer.Option(
        "--points", help="Only grid points with these words, `fastv layer=2`, or a glob, `fastv*`; repeatable."
    ),
]

Picture = Annotated[Path | None, typer.Option("--picture", help="Draw the curves into this file, .png or .pdf.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where model and data are, if elsewhere than the sweep file says."""

    model: Annotated[
        str | None, typer.Option(help="Checkpoint directory or hub id, instead of the file's; `embedded`: ours.")
    ] = None
    base: Annotated[
        str | None, typer.Option("--model-base", help="What an adapter (LoRA) changes: directory or hub id.")
    ] = None
    data: Data = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes(Sources):
    """What a command line says otherwise than the sweep file."""

    samples: Annotated[
        str | None, typer.Option(help="`all`, or how many of the first samples, instead of the file's.")
    ] = None
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the file, e.g. grid[0].head=sum; may be given repeatedly."
        ),
    ] = None

    def prepared(self, sweep: str, gpu: bool | None = None) -> Prepared:
        """A sweep with these changes.

        Args:
            sweep: A file, or a shipped sweep's name.
            gpu: As for `load_sweep`.
        """
        from orchestrator.sweep.prepare import prepare

        return prepare(self.spec(sweep, gpu))

    def spec(self, sweep: str, gpu: bool | None = None) -> SweepSpec:
        """The same before its files are looked at."""
        from orchestrator.sweep.spec import load_sweep

        return load_sweep(sweep, self.by_place(), gpu)

    def by_place(self) -> dict[str, Any]:
        """The changes by their places in the file, as `load_sweep` takes them.

        Raises:
            SpecError: One of them cannot be read.
        """
        from orchestrator.sweep.spec import SpecError
        from results.yaml_text import YamlError, parse_yaml

        found: dict[str, Any] = {}
        for change in self.changes or ():
            place, sign, value = change.partition("=")
            if not sign or not place:
                raise SpecError(f"--set {change}: write KEY=VALUE, for example measure.spectra.samples=50")
            try:
                found[place.strip()] = parse_yaml(value)
            except YamlError as error:
                raise SpecError(f"--set {change}: the value is not YAML ({error})") from error
        if self.samples is not None:
            found["samples"] = _sample_count(self.samples)
        given = {"model": self.model, "data": self.data, "model.base": self.base}
        return found | {place: value for place, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How many compute, and where."""

    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of Ray actors; by default one for each GPU, or CPU core.")
    ] = None
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster; else RAY_ADDRESS, else none.")] = None

    def join(self) -> None:
        """Join the cluster, before the sweep is read: `dtype: auto` depends on it."""
        from orchestrator.cluster.joining import join_named

        join_named(self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers(Cluster):
    """Who computes."""

    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1000.0,
            callback=_number,
            help="GPUs of an actor: by default 1 where there are any; 0.5 puts two on one.",
        ),
    ] = None
    sample_timeout: Annotated[
        int,
        typer.Option(
            min=1,
            max=10**7,
            help="Seconds without an answer after which a worker is replaced, and a sample tried alone is recorded as "
            "failed. Units that usually take long get more.",
        ),
    ] = SAMPLE_S
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray: for debuggers.")] = False

    def join(self) -> None:
        if not self.local:
            Cluster.join(self)

    def options(self, **others: Any) -> RunOptions:
        """For `run_sweep`."""
        from orchestrator.cluster.limits import Limits
        from orchestrator.run import RunOptions

        return RunOptions(
            workers=self.workers,
            local=self.local,
            address=self.address,
            gpus_per_worker=self.gpus_per_worker,
            limits=Limits.given(self.sample_timeout),
            **others,
        )


def _sample_count(samples: str) -> str | int:
    from orchestrator.sweep.spec import SpecError

    if samples == "all":
        return samples
    if not (samples.isdecimal() and len(samples) < 20 and int(samples) > 0):
        raise SpecError(f"--samples {samples}: give `all` or a whole number above 0")
    return int(samples)


def inches(width: str) -> float:
    """``84mm`` -> 3.307.

    Raises:
        UsageError: It is no width, or none of a page.
    """
    found = re.fullmatch(r"([0-9]+\.?[0-9]*)(in|mm|cm|pt)", width.strip())
    size = float(found[1]) / PER_INCH[found[2]] if found else 0.0
    if not 1 <= size <= 40:
        from strategies.errors import UsageError

        raise UsageError(f"--width {width}: give a column's width from 1 to 40 inches, such as 3.25in, 84mm or 234pt")
    return size


def choices(given: Sequence[str]) -> dict[str, list[str]]:
    """``["layer=2", "strategy=fastv", "strategy=random"]`` by name.

    Raises:
        UsageError: One of them is not NAME=VALUE.
    """
    found: dict[str, list[str]] = {}
    for choice in given:
        name, sign, value = choice.partition("=")
        if not (name and sign and value):
            from strategies.errors import UsageError

            raise UsageError(f"--choose {choice}: write NAME=VALUE, for example strategy=fastv")
        found.setdefault(name, []).append(value)
    return found
