"""Results on disk: one directory per experiment, cells in parquet files that are written whole.

A cell is addressed by its content: (context, source, point, sample). The context names the model, the data and all of
the engine's settings that decide an answer, but no path, so a directory may be moved and merged. Whatever is on disk
under another address stays there and is not read: resuming, adding grid points and adding samples are all "compute
the cells that are missing".

    EXPERIMENT/sweep.yaml        the resolved sweep
               samples.parquet   the samples of the sweep, in the order of the benchmark's file
               cells/*.parquet   one row per cell: the truth
               kept/*.parquet    which visual tokens each cell kept
               measures/*.parquet   what was measured on the forward, one row per cell and name
               failures/*.parquet   samples that could not be answered
               pictures/*.parquet   what the model saw of some samples, see ``pictures.py``
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from orchestrator.disk import StoreError, make_folder, write_whole
from orchestrator.manifest import SCHEMA_VERSION, Manifest, check_written
from orchestrator.tables import (
    ADDRESS,
    CELLS,
    FAILURES,
    KEPT,
    MEASURES,
    SAMPLES,
    ends_well,
    read_columns,
    samples_table,
    write_table,
)
from orchestrator.yaml_text import MAX_BYTES, parse_yaml
from workers.json_file import UnreadableError, read_bytes
from workers.tasks.base import Sample
from workers.work import EngineSpec, GridPoint, UnitOutcome, WorkUnit, content_key


class DamagedError(StoreError):
    """An experiment's ``sweep.yaml`` is not whole. The same sweep can write it again."""


class Experiment:
    """An experiment directory: open one to read it, create one to write to it."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self.name: str = meta["name"]
        self.context: str = meta["context"]
        self.spec = EngineSpec.from_json(meta["engine"])
        self.points: tuple[GridPoint, ...] = tuple(GridPoint.from_json(point) for point in meta["points"])
        self.sources: dict[str, str] = {point["key"]: point["source"] for point in meta["points"]}  # by point
        self._notes: dict[Path, str] = {}

    # -- making and opening -------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Path) -> Experiment:
        """Open an experiment for reading.

        Raises:
            StoreError: ``path`` is not an experiment, or one of another format.
        """
        path = Path(path)
        manifest = path / "sweep.yaml"
        if not manifest.is_file():
            what = "is not an experiment directory: it has no sweep.yaml" if path.is_dir() else "does not exist"
            raise StoreError(f"{path}: {what}. `saccade run` makes one, by default under ./experiments")
        try:
            content = read_bytes(manifest, MAX_BYTES)
        except UnreadableError as error:
            raise StoreError(f"{error}; see to it that this user may read it, or give another experiment") from error
        try:
            meta = parse_yaml(content.decode())
            if not isinstance(meta, dict) or "format" not in meta:
                raise StoreError(
                    f"{path}: is not an experiment directory: its sweep.yaml was not written by `saccade run`"
                )
            if meta["format"] != SCHEMA_VERSION:
                raise StoreError(
                    f"{manifest}: has format {meta['format']}, and this version of saccade reads {SCHEMA_VERSION}: "
                    "use the version that wrote it, or run the sweep again with another --out"
                )
            check_written(meta)
            return cls(path, meta)
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise DamagedError(
                f"{manifest}: is damaged ({reason}); run the same sweep with the same --out to write it again "
                "(the cells are kept)"
            ) from error

    @classmethod
    def create(cls, path: str | Path, manifest: Manifest, samples: Sequence[Sample]) -> Experiment:
        """Write the sweep's description into a new or an existing directory; cells already there stay.

        Args:
            path: Directory, made where it is missing.
            manifest: The resolved sweep.
            samples: The samples of the sweep, in the order of the benchmark's file.

        Raises:
            StoreError: The directory holds cells of another context, or something that is not an experiment.
        """
        path = Path(path)
        old = check_target(path, manifest)
        meta = manifest.to_json()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        meta["created"] = old.get("created", now) if old else now
        meta["updated"] = now
        meta["samples"] = len(samples)
        for folder in ("cells", "kept", "failures", "measures"):
            make_folder(path / folder)
        write_table(path / "samples.parquet", samples_table(samples))
        text = "# Written by `saccade run`. Cells are addressed by what stands here: change the sweep file instead.\n"
        write_whole(path / "sweep.yaml", (text + yaml.safe_dump(meta, sort_keys=False)).encode())
        return cls(path, meta)

    # -- writing ------------------------------------------------------------------------------------------------

    def write(self, unit: WorkUnit, outcome: UnitOutcome) -> None:
        """Store what an engine answered to a unit. Writing the same unit twice leaves one copy.

        The cells are written last: where they exist, their masks and measures exist too.
        """
        address = {"context": self.context, "sources": [self.sources[point.key] for point in unit.points]}
        name = f"{unit.key}-{content_key(address)[:8]}.parquet"
        rows = [{"context": self.context, "source": self.sources[cell.point], **asdict(cell)}
                for cell in outcome.outcomes]  # fmt: skip
        if rows:
            write_table(self.path / "kept" / name, pa.Table.from_pylist(rows, schema=KEPT))
        measured = [
            {"context": self.context, "source": self.sources[cell.point], "point": cell.point, "sample": cell.sample,
             "name": what, "value": value}
            for cell in outcome.outcomes
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
        if rows:
            table = pa.Table.from_pylist(rows, schema=CELLS)
            stated = {"worker": outcome.worker, "seconds": str(outcome.seconds)}
            write_table(self.path / "cells" / name, table.replace_schema_metadata(stated))

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def samples(self) -> pd.DataFrame:
        """The samples of the sweep, one row each, in the order of the benchmark's file (columns: SAMPLES)."""
        try:
            table = read_columns(self.path / "samples.parquet", SAMPLES)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{self.path / 'samples.parquet'}: cannot be read; run the same sweep with the same --out to write it "
                "again (the cells are kept)"
            ) from error
        return _frame(table).sort_values("position", ignore_index=True)

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
        files = sorted(self.files("failures"), key=lambda path: path.stat().st_mtime_ns)
        tables = list(self._tables(files, FAILURES, FAILURES.names))
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
        tables = list(self._tables(self.files("cells"), CELLS, [name for name, _ in ADDRESS]))
        table = pa.concat_tables(tables) if tables else pa.schema(ADDRESS).empty_table()
        table = table.filter(pc.equal(table["context"], self.context))
        other = table.filter(pc.invert(self._order(table)["current"]))
        return len(other.group_by(other.column_names).aggregate([]))

    @property
    def notes(self) -> tuple[str, ...]:
        """One line per file that reading had to leave out, so far."""
        return tuple(self._notes.values())

    def note(self, path: Path, error: Exception) -> None:
        """Remember that a file had to be left out."""
        reason = " ".join(str(error).split())[:100]
        self._notes[path] = f"{path}: left out, not a whole file of cells ({reason})"

    def files(self, folder: str) -> list[Path]:
        """The parquet files of a folder, by name.

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
        return [place / name for name in sorted(names) if name.endswith(".parquet") and name[0] != "."]

    @property
    def size_bytes(self) -> int:
        """What the cells, masks and measures take on disk."""
        return sum(file.stat().st_size for folder in ("cells", "kept", "measures") for file in self.files(folder))

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
            raise ValueError(f"no column {unknown[0]!r} in {folder}; there are {', '.join(schema.names)}")
        needed = list(dict.fromkeys(["context", "source", "point", "sample", *wanted]))
        wanted_rows = [("point", points), ("sample", samples)]
        rows = [(name, "in", list(names)) for name, names in wanted_rows if names is not None]
        tables = list(self._tables(filter(only, self.files(folder)), schema, needed, rows))
        table = pa.concat_tables(tables) if tables else pa.schema([schema.field(n) for n in needed]).empty_table()
        table = table.filter(pc.equal(table["context"], self.context))
        order = self._order(table)
        frame = _frame(table.select(list(dict.fromkeys(["point", "sample", *wanted]))))
        frame["_point"] = order["point"].to_pandas()
        frame["_sample"] = order["sample"].to_pandas()
        frame = frame[order["current"].to_numpy()]
        frame = frame.drop_duplicates(list(unique), keep="first")
        frame = frame.sort_values(["_sample", "_point"], ignore_index=True, kind="stable")
        return frame.drop(columns=["_point", "_sample"])

    def _order(self, table: pa.Table) -> pa.Table:
        """Of each row the place of its point and sample in this sweep (or null), and whether it is a cell of it."""
        point = pc.index_in(table["point"], pa.array(list(self.sources), pa.string()))
        sample = pc.index_in(table["sample"], pa.array(self.samples["id"].tolist(), pa.string()))
        sources = pa.array(list(self.sources.values()), pa.string())
        same = pc.fill_null(pc.equal(table["source"], pc.take(sources, point)), False)  # null: a point of another grid
        return pa.table({"point": point, "sample": sample, "current": pc.and_(same, pc.is_valid(sample))})

    def _has_all(self, cells: Path) -> bool:
        """Whether the masks and measures of a file of cells are there to their ends; what is not is noted."""
        masks, measures = (self.path / folder / cells.name for folder in ("kept", "measures"))
        broken = [path for path in (masks, *([measures] if measures.exists() else ())) if not ends_well(path)]
        for path in broken:
            self._notes[path] = f"{path}: missing or not a whole file; `saccade run` computes its cells again"
        return not broken

    def _tables(
        self,
        files: Iterable[Path],
        schema: pa.Schema,
        columns: list[str],
        rows: Sequence[tuple[str, str, list[str]]] = (),
    ) -> Iterator[pa.Table]:
        """Read files, or those of their ``rows`` that pass pyarrow's filters; what is not one of ours is noted."""
        wanted = pa.schema([schema.field(name) for name in columns])
        for path in files:
            try:
                yield read_columns(path, wanted, rows)
            except FileNotFoundError:
                continue  # deleted since we looked
            except (pa.ArrowException, OSError, ValueError, KeyError) as error:
                self.note(path, error)


def names_apart(experiments: Sequence[Experiment]) -> list[str]:
    """Names that tell experiments apart: of their sweeps, else of their folders with as many parents as that takes."""
    names = [experiment.name for experiment in experiments]
    places = [experiment.path.resolve().parts for experiment in experiments]
    for depth in range(1, max(map(len, places), default=0) + 1):
        if len(set(names)) < len(names):
            names = ["/".join(parts[-depth:]) for parts in places]
    return names


def check_target(path: Path, manifest: Manifest) -> dict[str, Any] | None:
    """Whether a sweep may write into a directory: it is new, empty, or holds cells of the same context.

    Returns:
        The description that is already there, or None.

    Raises:
        StoreError: Says what is in the way and what to do.
    """
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: is a file; give --out a directory")
    if not (path / "sweep.yaml").exists():
        if path.is_dir() and any(path.iterdir()) and not (path / "cells").is_dir():
            raise StoreError(f"{path}: is not empty and not an experiment; give --out a new directory")
        return None
    try:
        old = Experiment.open(path).meta
    except DamagedError:
        return None  # written again from the sweep file
    if old["context"] == manifest.context:
        return old
    before, now = old.get("context_parts", {}), manifest.parts
    changed = [name for name in now if before.get(name) != now[name]] or ["format"]
    details = ", ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in changed)
    raise StoreError(
        f"{path}: holds cells of another sweep ({details}); results of the two must not be mixed: "
        "give --out another directory, or restore the old setting"
    )


def _frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas()
