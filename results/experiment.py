"""Results on disk: one directory per experiment, cells in parquet files that are written whole.

A cell is addressed by its content: (context, source, point, sample). The context names the model, the data, the rules
and all settings that decide an answer, but no path, so a directory may be moved and merged. Whatever is on disk under
another address stays there and is not read: resuming, adding grid points and adding samples are all "compute the cells
that are missing". What is not as it was written is not read either: it is noted, and counts as missing.

    EXPERIMENT/sweep.yaml        the resolved sweep
               samples.parquet   the samples of the sweep, in the order of the benchmark's file
               cells/*.parquet   one row per cell: the truth
               kept/*.parquet    which visual tokens each cell kept
               measures/*.parquet   what was measured on the forward, one row per cell and name
               failures/*.parquet   samples that could not be answered
               pictures/*.parquet   what the model saw of some samples, see ``pictures.py``
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from results.axes import Axes
from results.copies import first_copies, in_turn
from results.damage import BESIDE, UNREADABLE, damage, set_aside
from results.description import DamagedDescriptionError, read_description, write_description
from results.disk import StoreError, is_vacant, make_folder, stamp
from results.image_digests import known_digests
from results.manifest import FORMAT, Manifest
from results.seals import DamagedError
from results.tables import (
    ADDRESS,
    CELLS,
    FAILURES,
    KEPT,
    MEASURES,
    SAMPLES,
    SCHEMAS,
    check_file,
    read_columns,
    records_table,
    samples_table,
    stated_by,
    write_table,
)
from strategies.errors import UsageError
from strategies.own_names import in_file
from workers.tasks.base import Sample
from workers.work import UnitOutcome, WorkUnit, content_key


class Experiment:
    """An experiment directory: open one to read it, create one to write to it."""

    def __init__(
        self, path: Path, manifest: Manifest, samples: Sequence[Sample] | None = None, images: Sequence[str] = ()
    ) -> None:
        """Take what `open` and `create` have read; use those.

        Args:
            path: Directory.
            manifest: What its sweep.yaml says.
            samples: Of the sweep, where they are known; else those of samples.parquet count, read when they are needed.
            images: The digest of each sample's image, where they are known.
        """
        self.path = path
        self._own = None if samples is None else _frame(samples_table(samples, images))
        self.manifest = manifest
        self.name, self.context, self.spec = manifest.name, manifest.context, manifest.engine
        self.points = tuple(entry.point for entry in manifest.points)
        self.sources = {entry.key: entry.source for entry in manifest.points}  # by point
        self.config = manifest.config
        self.seals = manifest.format >= 2  # whether each of its files has a digest
        self.matrix: Any = None  # of its cells, kept by `results.analysis.matrix.cells_of`
        self._notes: dict[Path, str] = {}

    # -- making and opening -------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Path) -> Experiment:
        """Open an experiment for reading.

        Raises:
            StoreError: ``path`` is not an experiment, or one of another format.
        """
        path = Path(path)
        return cls(path, read_description(path))

    @classmethod
    def create(
        cls, path: str | Path, manifest: Manifest, samples: Sequence[Sample], images: Sequence[str] = ()
    ) -> Experiment:
        """Write the sweep's description into a new or an existing directory; cells already there stay.

        Args:
            path: Directory, made where it is missing.
            manifest: The resolved sweep.
            samples: The samples of the sweep, in the order of the benchmark's file.
            images: The digest of each sample's image; by default those that are there already.

        Raises:
            StoreError: The directory holds cells of another context, or something that is not an experiment.
        """
        path = Path(path)
        old = check_target(path, manifest)
        if not images and (known := known_digests(path, old)):
            images = [known.get(sample.id, "") for sample in samples]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = manifest.changed(created=(old and old.created) or now, updated=now, samples=len(samples))
        for folder in ("cells", "kept", "failures", "measures"):
            make_folder(path / folder)
        write_table(path / "samples.parquet", samples_table(samples, images))
        write_description(path, manifest, "run")
        return cls(path, manifest, samples, images)

    # -- writing ------------------------------------------------------------------------------------------------

    def write(self, unit: WorkUnit, outcome: UnitOutcome) -> None:
        """Store what an engine answered to a unit. Writing the same unit twice leaves one copy.

        The cells are written last: where they exist, their masks and measures exist too.
        """
        address = {"context": self.context, "sources": [self.sources[point.key] for point in unit.points]}
        name = f"{unit.key}-{content_key(address)[:8]}.parquet"
        cells = outcome.outcomes
        stamped = {"context": [self.context] * len(cells), "source": [self.sources[cell.point] for cell in cells]}
        if cells:
            write_table(self.path / "kept" / name, records_table(cells, KEPT, stamped))
        measured = [
            {"context": self.context, "source": self.sources[cell.point], "point": cell.point, "sample": cell.sample,
             "name": what, "value": value}
            for cell in cells
            for what, value in cell.measures
        ]  # fmt: skip
        if measured:
            (self.path / "measures").mkdir(exist_ok=True)  # an experiment begun before there were measures
            write_table(self.path / "measures" / name, pa.Table.from_pylist(measured, schema=MEASURES))
        if outcome.failures:
            failed = [
                {"context": self.context, "worker": outcome.worker, **asdict(failure)} for failure in outcome.failures
            ]
            write_table(self.path / "failures" / name, pa.Table.from_pylist(failed, schema=FAILURES))
        if cells:
            table = records_table(cells, CELLS, stamped)
            write_table(self.path / "cells" / name, table.replace_schema_metadata(stated_by(outcome, time.time())))

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def samples(self) -> pd.DataFrame:
        """The samples of the sweep, one row each, in the order of the benchmark's file (columns: SAMPLES)."""
        if self._own is not None:
            return self._own
        return _frame(self.samples_table()).sort_values("position", ignore_index=True)

    @property
    def axes(self) -> Axes:
        """Rows and columns of matrices of its cells."""
        return Axes(context=self.context, sources=self.sources, samples=self.samples["id"].tolist())

    def samples_table(self) -> pa.Table:
        """`samples` as they lie on disk.

        Raises:
            StoreError: They cannot be read.
        """
        try:
            table = read_columns(self.path / "samples.parquet", SAMPLES, schema=SAMPLES, seals=self.seals)
            if not len(table):
                raise DamagedError("no sample stands there")
            if len(table["id"].unique()) < len(table):
                raise DamagedError("a sample stands there twice")
            return table
        except UNREADABLE as error:
            raise StoreError(
                f"{self.path / 'samples.parquet'}: cannot be read; run the same sweep with the same --out to write it "
                "again (the cells are kept)"
            ) from error

    def cells(
        self,
        columns: list[str] | None = None,
        *,
        points: Collection[str] | None = None,
        samples: Collection[str] | None = None,
    ) -> pd.DataFrame:
        """The cells of this sweep: current context, current strategies, its points and samples, each once.

        Args:
            columns: Of CELLS; all of them by default. ``point`` and ``sample`` always come along.
            points, samples: Only cells of these (keys, ids); reading a few takes little memory.

        Returns:
            Rows ordered by sample (order of the file), then by point (order of the grid).
        """
        return self._read("cells", CELLS, columns, points=points, samples=samples)

    def kept(self, *, points: Collection[str] | None = None, samples: Collection[str] | None = None) -> pd.DataFrame:
        """Kept-token masks of the cells (columns: KEPT); bit i of ``kept_mask``, most significant first, is token i.

        Args:
            points, samples: Only cells of these (keys, ids).
        """
        return self._read("kept", KEPT, None, points=points, samples=samples)

    def measures(self) -> pd.DataFrame:
        """What was measured on the forward (columns point, sample, name, value), ordered as the cells."""
        return self._read("measures", MEASURES, ["name", "value"], unique=["point", "sample", "name"])

    def failures(self, unanswered: Collection[str] | None = None) -> pd.DataFrame:
        """Samples that could not be answered and still lack a cell, newest record of each (columns: FAILURES).

        Args:
            unanswered: Ids of the samples that lack a cell, where the caller knows them; else the cells are read.
        """
        files = sorted(self.files("failures"), key=lambda path: stamp(path)[1])
        tables = list(self._tables("failures", files, FAILURES.names))
        frame = _frame(pa.concat_tables(tables) if tables else FAILURES.empty_table())
        frame = frame[frame["context"] == self.context].drop_duplicates("sample", keep="last")
        order = {sample: place for place, sample in enumerate(self.samples["id"])}
        if unanswered is None:
            done = self.done() if len(frame) else {}
            unanswered = {sample for sample in order if len(done.get(sample, ())) < len(self.points)}
        open_ones = [sample in order and sample in unanswered for sample in frame["sample"]]
        frame = frame[pd.Series(open_ones, index=frame.index, dtype=bool)]
        return frame.sort_values("sample", key=lambda ids: ids.map(order), ignore_index=True)

    def whole(self) -> pd.DataFrame:
        """The cells that need not be computed (columns point, sample): what was written beside them is there too."""
        return self._read("cells", CELLS, ["point", "sample"], only=self._has_all)

    def done(self) -> dict[str, frozenset[str]]:
        """Which cells exist: of each sample that has any, the keys of its points."""
        frame = self.whole()
        return {str(sample): frozenset(points) for sample, points in frame.groupby("sample")["point"]}

    def unread(self) -> int:
        """How many cells of the same model, data and settings are of other samples or grid points than this sweep."""
        tables = list(self._tables("cells", self.files("cells"), [name for name, _ in ADDRESS]))
        table = pa.concat_tables(tables) if tables else pa.schema(ADDRESS).empty_table()
        table = table.filter(pc.equal(table["context"], self.context))
        point, sample = self.axes.places(table)
        other = table.filter(pa.array((point < 0) | (sample < 0)))
        return len(other.group_by(other.column_names).aggregate([]))

    @property
    def notes(self) -> tuple[str, ...]:
        """One line per file that reading had to leave out, so far."""
        return tuple(self._notes.values())

    def note(self, path: Path, error: Exception, remedy: str = "") -> None:
        """Remember that a file had to be left out."""
        reason = " ".join(str(error).split()).removeprefix(f"{path}: ")[:160]
        if path.parent.name in ("cells", *BESIDE):
            remedy = "`saccade run` computes its cells again"
        self._notes[path] = f"{path}: left out: {reason}{'; ' * bool(remedy)}{remedy}"

    def forget(self, path: Path) -> None:
        """A file is whole again."""
        self._notes.pop(path, None)

    def check(self, path: Path) -> None:
        """See that a file of one of the experiment's folders is as it was written.

        Raises:
            DamagedError, OSError: It is not; see `results.tables.check_file`.
        """
        check_file(path, SCHEMAS[path.parent.name], self.seals)

    def files(self, folder: str) -> list[Path]:
        """The parquet files of a folder, in their turn (`copies`).

        Raises:
            StoreError: The folder may not be read: what is in it must not count as missing.
        """
        place = self.path / folder
        try:
            names = [path.name for path in place.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{place}: cannot be read: {error.strerror}; see to it that this user may") from error
        return in_turn(place / name for name in names if name.endswith(".parquet") and name[0] != ".")

    @property
    def size_bytes(self) -> int:
        """What the cells, masks and measures take on disk."""
        return sum(stamp(file)[0] for folder in ("cells", "kept", "measures") for file in self.files(folder))

    def _read(
        self,
        folder: str,
        schema: pa.Schema,
        columns: list[str] | None,
        unique: Sequence[str] = ("point", "sample"),
        points: Collection[str] | None = None,
        samples: Collection[str] | None = None,
        only: Callable[[Path], bool] = lambda path: True,
    ) -> pd.DataFrame:
        wanted = list(schema.names) if columns is None else columns
        if unknown := [name for name in wanted if name not in schema.names]:
            raise UsageError(f"no column {unknown[0]!r} in {folder}; there are {', '.join(schema.names)}")
        needed = list(dict.fromkeys(["context", "source", "point", "sample", *wanted]))
        wanted_rows = [("point", points), ("sample", samples)]
        rows = [(name, "in", list(names)) for name, names in wanted_rows if names is not None]
        tables = list(self._tables(folder, filter(only, self.files(folder)), needed, rows))
        table = pa.concat_tables(tables) if tables else pa.schema([schema.field(n) for n in needed]).empty_table()
        table = table.filter(pc.equal(table["context"], self.context))
        frame = _frame(table.select(list(dict.fromkeys(["point", "sample", *wanted]))))
        frame["_point"], frame["_sample"] = self.axes.places(table)
        frame = frame[(frame["_point"] >= 0) & (frame["_sample"] >= 0)]
        frame = frame[first_copies(*(frame[name] for name in unique))]
        frame = frame.sort_values(["_sample", "_point"], ignore_index=True, kind="stable")
        return frame.drop(columns=["_point", "_sample"])

    def _has_all(self, cells: Path) -> bool:
        """Whether a file of cells and what stands beside it are as they were written; what is not is noted."""
        damaged = self.damage(cells.name)
        for path, error in damaged.items():
            self.note(path, error)
        return not damaged

    def damage(self, name: str) -> dict[Path, Exception]:
        """What is wrong with the cells of one name, and with what stands beside them."""
        return damage(self.path, name, self.seals)

    def set_damaged_aside(self) -> tuple[str, ...]:
        """Give what is damaged another name, under which nothing reads it, so that its cells are computed again.

        Cells and what stands beside them go together. Nothing is deleted; what may not be read stays as it is.

        Returns:
            A line for each.
        """
        lines = []
        for cells in self.files("cells"):
            found = self.damage(cells.name)
            if not any(isinstance(error, DamagedError) for error in found.values()):
                continue
            for folder in ("cells", *BESIDE):
                set_aside(self.path / folder / cells.name)
            lines += [f"{path}: {error}: set aside, its cells count as missing" for path, error in found.items()]
        for folder in ("failures", "pictures"):
            for path in self.files(folder):
                try:
                    self.check(path)
                except DamagedError as error:
                    set_aside(path)
                    lines.append(f"{path}: {error}: set aside")
                except OSError:
                    continue
        return tuple(lines)

    def _tables(
        self,
        folder: str,
        files: Iterable[Path],
        columns: Sequence[str],
        rows: Sequence[tuple[str, str, list[str]]] = (),
    ) -> Iterator[pa.Table]:
        """Read files, or those of their ``rows`` that pass pyarrow's filters; what is not as it was is noted."""
        schema = SCHEMAS[folder]
        wanted = pa.schema([schema.field(name) for name in columns])
        for path in files:
            try:
                yield read_columns(path, wanted, rows, schema=schema, seals=self.seals)
                self.forget(path)
            except FileNotFoundError:
                continue  # deleted since we looked
            except UNREADABLE as error:
                self.note(path, error)


def names_apart(experiments: Sequence[Experiment]) -> list[str]:
    """Names that tell experiments apart: of their sweeps, else of their folders with as many parents as that takes."""
    names = [experiment.name for experiment in experiments]
    places = [experiment.path.resolve().parts for experiment in experiments]
    for depth in range(1, max(map(len, places), default=0) + 1):
        if len(set(names)) < len(names):
            names = ["/".join(parts[-depth:]) for parts in places]
    return names


def check_target(path: Path, manifest: Manifest) -> Manifest | None:
    """Whether a sweep may write into a directory: it is new, empty, or holds cells of the same context.

    Returns:
        The description that is already there, or None.

    Raises:
        StoreError: Says what is in the way and what to do.
    """
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: is a file; give --out a directory")
    if not (path / "sweep.yaml").exists():
        if path.is_dir() and not is_vacant(path) and not (path / "cells").is_dir():
            raise StoreError(f"{path}: is not empty and not an experiment; give --out a new directory")
        return None
    try:
        old = read_description(path)
    except DamagedDescriptionError:
        return None  # written again from the sweep file
    if old.format != FORMAT:
        raise StoreError(
            f"{path}: has format {old.format}, whose cells do not say by which rules they were computed: "
            f"`saccade migrate {path} --out {path}.{FORMAT}` makes a directory to go on with; reading needs none"
        )
    if old.context == manifest.context:
        _check_own_rules(path, old, manifest)
        return old
    before, now = old.context_parts, manifest.context_parts
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if "task_source" in changed and before["task"] == now["task"] and in_file(str(now["task"])):
        raise StoreError(
            f"{path}: holds cells of {now['task']} as it was before (hash {before.get('task_source')}, now "
            f"{now.get('task_source')}); put that file back, or give the benchmark another name, or --out another "
            "directory"
        )
    details = ", ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in changed)
    remedy = "give --out another directory, or restore the old setting"
    if set(changed) <= {"scorer", "scoring"}:
        remedy += f"; or `saccade rescore {path} --out NEW` judges its answers again"
    raise StoreError(
        f"{path}: holds cells of another sweep ({details}); results of the two must not be mixed: {remedy}"
    )


def _check_own_rules(path: Path, old: Manifest, new: Manifest) -> None:
    """A file of a user's own may be edited at any time, and its cells go by a name that stays.

    Raises:
        StoreError: One is not the file any more that the cells were computed with.
    """
    before = {point.strategy: point.source for point in old.points if in_file(point.strategy)}
    for point in new.points:
        if (was := before.get(point.strategy, point.source)) != point.source:
            raise StoreError(
                f"{path}: holds cells of {point.strategy} as it was before (hash {was}, now {point.source}); put that "
                "file back, or give the rule another name, or --out another directory"
            )


def _frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas()
