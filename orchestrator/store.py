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

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from workers.tasks.base import Sample
from workers.work import EngineSpec, GridPoint, MeasureSpec, UnitOutcome, WorkUnit, content_key

SCHEMA_VERSION = 1
MAGIC = b"PAR1"  # the end of every parquet file
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where there is one: 3,000 points take a second

_ADDRESS = [("context", pa.string()), ("source", pa.string()), ("point", pa.string()), ("sample", pa.string())]
CELLS = pa.schema(
    [
        *_ADDRESS,
        ("answer", pa.string()),
        ("parsed", pa.string()),
        ("correct", pa.bool_()),
        ("score", pa.float64()),  # 0 to 1; null: 0 or 1, as ``correct`` says
        ("first_token", pa.int64()),
        ("option_logits", pa.list_(pa.float32())),
        ("margin", pa.float32()),
        ("tokens_kept", pa.int32()),
        ("decoded_tokens", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("visual_tokens", pa.int32()),
    ]
)
KEPT = pa.schema([*_ADDRESS, ("visual_tokens", pa.int32()), ("kept_mask", pa.binary())])
MEASURES = pa.schema([*_ADDRESS, ("name", pa.string()), ("value", pa.float64())])
FAILURES = pa.schema([(name, pa.string()) for name in ("context", "sample", "kind", "message", "traceback", "worker")])
SAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("options", pa.int32()),  # number of options
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("subject", pa.string()),
        ("topic", pa.string()),
        ("category", pa.string()),
        ("skill", pa.string()),
        ("group", pa.string()),  # questions that count together; empty or null: it counts alone
        ("image", pa.string()),  # path, or file and row, where the run saw it; null: a text-only question
        ("patches", pa.list_(pa.int32())),  # visual tokens that hold the answer; null: unknown
        ("position", pa.int32()),  # 0-based, in the order of the benchmark's file
    ]
)
ADDED = frozenset({"score", "group"})  # columns that files of earlier versions do not have


class StoreError(ValueError):
    """A directory cannot be used as an experiment. The message names the place and the remedy; exit code 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The resolved sweep: what ``sweep.yaml`` of an experiment says."""

    name: str
    engine: EngineSpec
    points: tuple[GridPoint, ...]  # the un-pruned baseline first
    sources: tuple[str, ...]  # of each point: hash of its strategy's source file, "none" for the baseline
    chosen_by: tuple[str, ...] = ()  # of each point: what its choice of tokens goes by, for people
    model_fingerprint: str
    data_fingerprint: str
    model_facts: tuple[tuple[str, int | float | str | None], ...] = ()  # layers, heads, visual_tokens ...
    sources_hash: str = ""  # of strategies/ and workers/ together
    versions: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.points):
            raise ValueError(f"{len(self.points)} points but {len(self.sources)} sources")

    @property
    def parts(self) -> dict[str, str | int | bool]:
        """All that the context is made of, by names that make sense in a message."""
        model, task, measure = self.engine.model, self.engine.task, self.engine.measure
        return {
            "model": self.model_fingerprint,
            "data": self.data_fingerprint,
            "dtype": model.dtype,
            "image_mode": model.image_mode,
            "task": task.name,
            "conversation": task.conversation,
            "single_prediction": task.single_prediction,
            "scorer": task.scorer or "",
            "max_new_tokens": self.engine.max_new_tokens,
            "seed": self.engine.seed,
            # Only where something is measured, so that other sweeps keep their addresses.
            **({"measure": json.dumps(asdict(measure), sort_keys=True)} if measure != MeasureSpec() else {}),
        }

    @property
    def context(self) -> str:
        """First part of every cell's address: equal contexts mean comparable cells."""
        return content_key(self.parts)

    def to_json(self) -> dict[str, Any]:
        points = [
            {"key": point.key, "source": source, **point.to_json(), **({"chosen_by": words} if words else {})}
            for point, source, words in zip(
                self.points, self.sources, self.chosen_by or [""] * len(self.points), strict=True
            )
        ]
        return {
            "format": SCHEMA_VERSION,
            "name": self.name,
            "context": self.context,
            "context_parts": self.parts,
            "engine": self.engine.to_json(),
            "model_facts": dict(self.model_facts),
            "sources_hash": self.sources_hash,
            "versions": dict(self.versions),
            "points": points,
        }


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
            meta = yaml.load(manifest.read_text(encoding="utf-8"), Loader=_LOADER)  # safe: either is
            if not isinstance(meta, dict) or "format" not in meta:
                raise StoreError(
                    f"{path}: is not an experiment directory: its sweep.yaml was not written by `saccade run`"
                )
            if meta["format"] != SCHEMA_VERSION:
                raise StoreError(
                    f"{manifest}: has format {meta['format']}, and this version of saccade reads {SCHEMA_VERSION}: "
                    "use the version that wrote it, or run the sweep again with another --out"
                )
            return cls(path, meta)
        except (yaml.YAMLError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise StoreError(
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
        _write_table(path / "samples.parquet", _samples_table(samples))
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
            _write_table(self.path / "kept" / name, pa.Table.from_pylist(rows, schema=KEPT))
        measured = [
            {"context": self.context, "source": self.sources[cell.point], "point": cell.point, "sample": cell.sample,
             "name": what, "value": value}
            for cell in outcome.outcomes
            for what, value in cell.measures
        ]  # fmt: skip
        if measured:
            (self.path / "measures").mkdir(exist_ok=True)  # an experiment begun before there were measures
            _write_table(self.path / "measures" / name, pa.Table.from_pylist(measured, schema=MEASURES))
        if outcome.failures:
            failed = [
                {"context": self.context, "worker": outcome.worker, **asdict(failure)} for failure in outcome.failures
            ]
            _write_table(self.path / "failures" / name, pa.Table.from_pylist(failed, schema=FAILURES))
        if rows:
            table = pa.Table.from_pylist(rows, schema=CELLS)
            stated = {"worker": outcome.worker, "seconds": str(outcome.seconds)}
            _write_table(self.path / "cells" / name, table.replace_schema_metadata(stated))

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def samples(self) -> pd.DataFrame:
        """The samples of the sweep, one row each, in the order of the benchmark's file (columns: SAMPLES)."""
        try:
            table = _read_columns(self.path / "samples.parquet", SAMPLES)
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
        tables = list(self._tables(self.files("cells"), CELLS, [name for name, _ in _ADDRESS]))
        read = len(self.cells(["point", "sample"]))
        if sum(map(len, tables)) == read:
            return 0
        table = pa.concat_tables(tables)
        ours = table.filter(pc.equal(table["context"], self.context))
        return len(ours.group_by(ours.column_names).aggregate([])) - read

    @property
    def notes(self) -> tuple[str, ...]:
        """One line per file that reading had to leave out, so far."""
        return tuple(self._notes.values())

    def note(self, path: Path, error: Exception) -> None:
        """Remember that a file had to be left out."""
        reason = " ".join(str(error).split())[:100]
        self._notes[path] = f"{path}: left out, not a whole file of cells ({reason})"

    def files(self, folder: str) -> list[Path]:
        """The parquet files of a folder, by name."""
        return sorted(path for path in (self.path / folder).glob("*.parquet") if not path.name.startswith("."))

    @property
    def size_bytes(self) -> int:
        """What the cells, masks and measures take on disk."""
        folders = (self.path / "cells", self.path / "kept", self.path / "measures")
        return sum(file.stat().st_size for folder in folders for file in folder.glob("*.parquet"))

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
        order = pa.table(
            {
                "point_order": pc.index_in(table["point"], pa.array(list(self.sources), pa.string())),
                "sample_order": pc.index_in(table["sample"], pa.array(self.samples["id"].tolist(), pa.string())),
            }
        )
        sources = pa.array(list(self.sources.values()), pa.string())
        current = pc.equal(table["source"], pc.take(sources, order["point_order"]))  # null: a point of another grid
        frame = _frame(table.select(list(dict.fromkeys(["point", "sample", *wanted]))))
        frame["_point"] = order["point_order"].to_pandas()
        frame["_sample"] = order["sample_order"].to_pandas()
        frame = frame[pc.fill_null(current, False).to_numpy() & frame["_sample"].notna().to_numpy()]
        frame = frame.drop_duplicates(list(unique), keep="first")
        frame = frame.sort_values(["_sample", "_point"], ignore_index=True, kind="stable")
        return frame.drop(columns=["_point", "_sample"])

    def _has_all(self, cells: Path) -> bool:
        """Whether the masks and measures of a file of cells are there to their ends; what is not is noted."""
        masks, measures = (self.path / folder / cells.name for folder in ("kept", "measures"))
        broken = [path for path in (masks, *([measures] if measures.exists() else ())) if not _ends_well(path)]
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
                yield _read_columns(path, wanted, rows)
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
    except StoreError as error:
        if error.__cause__ is None:
            raise
        return None  # damaged: written again from the sweep file
    if old["context"] == manifest.context:
        return old
    before, now = old.get("context_parts", {}), manifest.parts
    changed = [name for name in now if before.get(name) != now[name]] or ["format"]
    details = ", ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in changed)
    raise StoreError(
        f"{path}: holds cells of another sweep ({details}); results of the two must not be mixed: "
        "give --out another directory, or restore the old setting"
    )


def make_folder(path: Path) -> None:
    """Make a directory, and those above it, where it is missing.

    Raises:
        StoreError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be made: {error.strerror}; give --out another directory, or make room for this one"
        ) from error


def write_whole(path: Path, content: bytes, sync: bool = True) -> None:
    """Write a file so that it is there as a whole or not at all; with ``sync`` also after a power cut.

    Raises:
        StoreError: The disk is full, or the folder may not be written to.
    """
    # In the same folder, because renaming is atomic only inside one file system; readers skip the leading dot.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written: {error.strerror}; what was finished before is kept, and the same command "
            "goes on from there"
        ) from error


def _write_table(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_whole(path, sink.getvalue().to_pybytes())


def _read_columns(path: Path, wanted: pa.Schema, rows: Sequence[tuple[str, str, list[str]]] = ()) -> pa.Table:
    """Some columns of a file, of all rows or of those that pass; columns that came later than the file are null."""
    there = columns_there(path, wanted.names)
    table = pq.read_table(path, columns=there, filters=list(rows) or None)
    for place, name in enumerate(wanted.names):
        if name not in there:
            table = table.add_column(place, wanted.field(name), pa.nulls(len(table), wanted.field(name).type))
    return table.select(wanted.names).cast(wanted)


def columns_there(path: Path, names: Sequence[str]) -> list[str]:
    """The wanted columns without those that came later (ADDED) than the file."""
    own = set(pq.read_schema(path).names) if ADDED & set(names) else set(names)
    return [name for name in names if name in own or name not in ADDED]


def _ends_well(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-len(MAGIC), os.SEEK_END)
            return file.read() == MAGIC
    except OSError:  # missing, or shorter than that
        return False


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _samples_table(samples: Sequence[Sample]) -> pa.Table:
    rows = [
        {
            **{name: getattr(sample, name) for name in ("id", "label", "question", "subject", "topic")},
            "category": sample.category,
            "skill": sample.skill,
            "group": sample.group,
            "options": len(sample.choices),
            "choices": list(sample.choices),
            "image": None if sample.image is None else str(sample.image),
            "patches": None if sample.patches is None else list(sample.patches),
            "position": place,
        }
        for place, sample in enumerate(samples)
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def _frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas()
