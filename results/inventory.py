"""What an experiment directory holds, file by file: to check it, and to put several of them together.

Both walk the same way: every file of ``cells/`` once, with one signature kept for each (grid point, sample).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from results.analysis.matrix import Matrix
from results.analysis.significance import Bools
from results.axes import Axes
from results.copies import first_copies
from results.damage import BESIDE, UNREADABLE, masks_fit
from results.description import write_description
from results.disk import StoreError, is_vacant, make_folder
from results.experiment import Experiment
from results.latencies import latencies
from results.provenance import ways_text
from results.stops import read_stops
from results.tables import SCHEMAS, read_whole, write_table
from workers.families.catalog import open_checkpoint
from workers.families.config import ModelError
from workers.fingerprint import is_same_data, model_fingerprint
from workers.tasks.base import DataError
from workers.tasks.catalog import load_samples

ANSWER = ["answer", "parsed", "correct", "first_token", "tokens_kept", "decoded_tokens"]  # what two equal cells share


class Ledger:
    """Which cells have been met, and what they said."""

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        self._cells = Matrix(axes.shape, says=np.uint64)
        self.doubled = 0
        self.conflicts: list[tuple[str, str]] = []  # (GridPoint.key, sample): said two things
        self.foreign = 0  # rows of another context, strategy source, grid or sample set

    @property
    def met_PS(self) -> Bools:
        return self._cells.known_PS

    def enter(self, cells: pa.Table) -> Bools:
        """Note the cells of one file.

        Returns:
            One flag a row: it is one of the sweep's, and was not met before.
        """
        rows, columns = self._axes.places(cells)
        ours = (rows >= 0) & (columns >= 0)
        self.foreign += int((~ours).sum())
        said = cells.select(ANSWER).to_pandas().astype(str)
        says = pd.util.hash_pandas_object(said, index=False).to_numpy()
        fresh = self._cells.enter(rows, columns, says=says)
        again = ours & ~fresh
        self.doubled += int(again.sum())
        differs = again & (self._cells.values["says"][rows, columns] != says)
        names = cells.select(["point", "sample"]).take(np.flatnonzero(differs)).to_pydict()
        self.conflicts += zip(names["point"], names["sample"], strict=True)
        return fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    well: bool
    text: str  # with the remedy, where it is not well


def verify(experiment: Experiment) -> list[Finding]:
    """Look at every file of an experiment: readable, every cell once, masks as they should be, model and data the same.

    Returns:
        What was found, good and bad.
    """
    ledger = Ledger(experiment.axes)
    damaged: dict[Path, Exception] = {}
    wrong_masks = 0
    for file in experiment.files("cells"):
        tables, complaints = _whole(experiment, file.name)
        damaged |= complaints
        if not complaints:
            ledger.enter(tables["cells"])
            wrong_masks += not masks_fit(tables["cells"], tables["kept"])
    for folder in ("failures", "pictures"):
        for file in experiment.files(folder):
            damaged |= _whole(experiment, file.name, (folder,))[1]
    return [
        *_damage(experiment, damaged, wrong_masks),
        _presence(experiment, ledger),
        *_doubles(ledger),
        *_ways(experiment),
        *_beside(experiment),
        *_inputs(experiment),
    ]


def _whole(
    experiment: Experiment, name: str, folders: Sequence[str] = ("cells", *BESIDE)
) -> tuple[dict[str, pa.Table], dict[Path, Exception]]:
    """The tables of one name, by folder, read from the disk whatever is known of them, and what is wrong with them."""
    tables: dict[str, pa.Table] = {}
    wrong: dict[Path, Exception] = {}
    for folder in folders:
        path = experiment.path / folder / name
        if folder == "measures" and not path.exists():
            continue
        try:
            tables[folder] = read_whole(path, SCHEMAS[folder], experiment.seals)
        except UNREADABLE as error:
            wrong[path] = error
    return tables, wrong


def _damage(experiment: Experiment, damaged: dict[Path, Exception], wrong_masks: int) -> Iterator[Finding]:
    again = "the same `saccade run` sets it aside and computes its cells again"
    if not experiment.seals:
        again = "`saccade migrate` leaves it out, and `saccade run` computes its cells again"
    for file, error in damaged.items():
        reason = "is missing" if isinstance(error, FileNotFoundError) else str(error).removeprefix(f"{file}: ")
        yield Finding(well=False, text=f"{file}: {reason}: {again}")
    left = [file for folder in ("cells", *BESIDE, "failures") for file in (experiment.path / folder).glob(".*.tmp")]
    if left:
        yield Finding(
            well=False,
            text=f"{len(left)} half-written files of a run that was killed, such as {left[0]}: nothing reads them; "
            "if no run is under way, delete them",
        )
    if wrong_masks:
        yield Finding(
            well=False,
            text=f"{wrong_masks} files of cells whose masks are missing or keep another number of tokens than the "
            "cells say: the directory was changed by hand; compute it again with another --out",
        )
    if not damaged:
        yield Finding(well=True, text=f"{len(experiment.files('cells'))} files of cells are whole")
    aside = [file for folder in SCHEMAS for file in (experiment.path / folder).glob("*.damaged")]
    if aside:
        yield Finding(well=True, text=f"{len(aside)} damaged files set aside, such as {aside[0]}: may be deleted")


def _presence(experiment: Experiment, ledger: Ledger) -> Finding:
    total, met = ledger.met_PS.size, int(ledger.met_PS.sum())
    stops = read_stops(experiment)
    saved = 0
    if stops:
        rows = [row for row, point in enumerate(experiment.points) if point.key in stops.stopped]
        saved = int((~ledger.met_PS[rows]).sum())
    failed = len(experiment.failures())
    early = f", {saved} not needed because racing stopped their points" if saved else ""
    missing = total - met - saved
    if not missing:
        return Finding(well=True, text=f"{met} of {total} cells are there{early}")
    why = f" ({failed} samples failed; `saccade status {experiment.path}` says why)" if failed else ""
    return Finding(
        well=False,
        text=f"{met} of {total} cells are there{early}, {missing} missing{why}: the same `saccade run` computes them",
    )


def _doubles(ledger: Ledger) -> Iterator[Finding]:
    if ledger.conflicts:
        key, sample = ledger.conflicts[0]
        yield Finding(
            well=False,
            text=f"{len(ledger.conflicts)} cells are there twice and say different things (first: point {key}, sample "
            f"{sample}); the first by file name is read. Was the directory written by two machines at once? Delete one "
            "of the files, or compute again with another --out",
        )
    elif ledger.doubled:
        yield Finding(well=True, text=f"{ledger.doubled} cells are there twice and say the same: read once")
    if ledger.foreign:
        yield Finding(well=True, text=f"{ledger.foreign} cells of other settings, points or samples: kept, not read")


def _inputs(experiment: Experiment) -> Iterator[Finding]:
    parts, spec = experiment.manifest.context_parts, experiment.spec
    model, data = f"model {spec.model.path} is", f"data {spec.task.data} are"
    try:
        found = model_fingerprint(open_checkpoint(spec.model))
    except (ModelError, OSError):
        yield Finding(well=True, text=f"{model} not on this machine: not compared")
    else:
        yield _unchanged(found == parts.get("model"), model, "the one used", "it was")
    try:
        same = is_same_data(parts.get("data"), load_samples(spec.task))
    except (DataError, OSError):
        yield Finding(well=True, text=f"{data} not on this machine: not compared")
    else:
        yield _unchanged(same, data, "those used", "they were")


def _unchanged(same: bool, what: str, used: str, changed: str) -> Finding:
    if same:
        return Finding(well=True, text=f"{what} {used}")
    remedy = f"{changed} changed after the run; cells of now and then must not be mixed"
    return Finding(well=False, text=f"{what} not {used}: {remedy}")


def _beside(experiment: Experiment) -> Iterator[Finding]:
    """What is no file of cells; nobody has noted anything else of an experiment that was opened to be verified."""
    latencies(experiment)
    read_stops(experiment)
    for note in experiment.notes:
        if ".json: left out" in note:
            yield Finding(well=False, text=note)


def _ways(experiment: Experiment) -> Iterator[Finding]:
    if text := ways_text(experiment):
        yield Finding(well=True, text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What merging did."""

    experiment: Experiment
    cells: int
    doubled: int  # met in more than one directory, taken once
    conflicts: tuple[tuple[str, str], ...]  # (GridPoint.key, sample); the first directory's cell was taken


def merge(folders: Sequence[Path], out: Path, other_sources: bool = False) -> Merged:
    """Put experiments of one model, data and settings together: all their points and samples, every cell once.

    Args:
        folders: Of the experiments; where two say different things of a cell, the first is believed.
        out: New directory.
        other_sources: Accept cells that other versions of strategies/ and workers/ computed.

    Raises:
        StoreError: They do not belong together (says in what they differ), or ``out`` is taken.
    """
    if len(folders) < 2:
        raise StoreError("merge: give two experiment directories or more")
    check_new(out)
    experiments = [Experiment.open(folder) for folder in folders]
    for other in experiments[1:]:
        _check_same(experiments[0], other, other_sources)
    points = {entry.key: entry for experiment in reversed(experiments) for entry in experiment.manifest.points}
    order = dict.fromkeys(entry.key for experiment in experiments for entry in experiment.manifest.points)
    samples = pd.concat([experiment.samples for experiment in experiments])
    samples = samples.drop_duplicates("id").sort_values("position", ignore_index=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = experiments[0].manifest.changed(
        created=now,
        updated=now,
        samples=len(samples),
        points=tuple(points[key] for key in order),
        merged_from=[str(experiment.path.absolute()) for experiment in experiments],
    )
    sources = {entry.key: entry.source for entry in manifest.points}
    ledger = Ledger(Axes(context=manifest.context, sources=sources, samples=samples["id"].tolist()))
    for folder in SCHEMAS:
        make_folder(out / folder)
    pictured: set[str] = set()
    for number, experiment in enumerate(experiments):
        _take(experiment, number, out, ledger)
        _take_pictures(experiment, number, out, pictured)
    table = pa.concat_tables([experiment.samples_table() for experiment in experiments])
    first = table.to_pandas()["id"].drop_duplicates().index
    write_table(out / "samples.parquet", table.take(pa.array(first)).sort_by("position"))
    write_description(out, manifest, "merge")
    return Merged(
        experiment=Experiment.open(out),
        cells=int(ledger.met_PS.sum()),
        doubled=ledger.doubled,
        conflicts=tuple(ledger.conflicts),
    )


def check_new(out: Path) -> None:
    """Raises: StoreError: A directory that is to be made is there already."""
    if out.exists() and (not out.is_dir() or not is_vacant(out)):
        raise StoreError(f"--out {out}: is there already; give a new directory")


def _check_same(first: Experiment, other: Experiment, other_sources: bool) -> None:
    """Raises: StoreError: The two are not of one kind."""
    place = f"{first.path} and {other.path}"
    if first.manifest.format != other.manifest.format:
        old = min(first, other, key=lambda experiment: experiment.manifest.format).path
        raise StoreError(f"{place}: have different formats; `saccade migrate {old} --out NEW` makes one to be merged")
    if first.context != other.context:
        ours, theirs = first.manifest.context_parts, other.manifest.context_parts
        names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        details = ", ".join(f"{name} is {ours.get(name)} and {theirs.get(name)}" for name in names)
        raise StoreError(f"{place}: are not of the same kind ({details}); their cells must not be mixed")
    for entry in other.manifest.points:
        if first.sources.get(entry.key, entry.source) != entry.source:
            raise StoreError(
                f"{place}: the strategy {entry.strategy} was changed between them; run the older one again with "
                "this version and the same --out, and merge then"
            )
    other_sources |= first.seals  # the context says by which rules, since there are digests
    if first.manifest.sources_hash != other.manifest.sources_hash and not other_sources:
        hashes = f"{first.manifest.sources_hash} and {other.manifest.sources_hash}"
        raise StoreError(
            f"{place}: were computed by different sources of strategies/ and workers/ ({hashes}); if the change cannot "
            "touch an answer, give --other-sources"
        )


def _take(experiment: Experiment, number: int, out: Path, ledger: Ledger) -> None:
    """Copy an experiment's cells that were not met before, with what stands beside them; the cells last."""
    for file in experiment.files("cells"):
        tables, wrong = _whole(experiment, file.name)
        if wrong:
            raise StoreError(f"{next(iter(wrong))}: is damaged; `saccade verify {experiment.path}` says what to do")
        cells = tables.pop("cells")
        fresh = ledger.enter(cells)
        if not fresh.any():
            continue
        name = file.name if fresh.all() and not (out / "cells" / file.name).exists() else f"{number}-{file.name}"
        taken = cells.filter(pa.array(fresh))
        wanted = set(zip(taken["point"].to_pylist(), taken["sample"].to_pylist(), strict=True))
        for folder, table in tables.items():
            rows = zip(table["point"].to_pylist(), table["sample"].to_pylist(), strict=True)
            write_table(out / folder / name, table.filter(pa.array([row in wanted for row in rows])))
        write_table(out / "cells" / name, taken)
    for file in experiment.files("failures"):
        shutil.copy2(file, out / "failures" / f"{number}-{file.name}")


def _take_pictures(experiment: Experiment, number: int, out: Path, seen: set[str]) -> None:
    """Copy the pictures of samples that have none yet."""
    for file in experiment.files("pictures"):
        tables, wrong = _whole(experiment, file.name, ("pictures",))
        if wrong:
            raise StoreError(f"{file}: is damaged; `saccade verify {experiment.path}` says what to do")
        names = tables["pictures"]["sample"].to_pylist()
        fresh = first_copies(names) & np.array([name not in seen for name in names], dtype=bool)
        if fresh.any():
            table = tables["pictures"].filter(pa.array(fresh))
            write_table(out / "pictures" / f"{number}-{file.name}", table, compression="none")
            seen |= set(names)
