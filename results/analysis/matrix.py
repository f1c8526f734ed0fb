"""The cells of an experiment by (grid point, sample): read file by file and, while a sweep runs, only what is new.

As a data frame 6 million cells take gigabytes; as matrices they take 12 MB. Shape letters: P grid points, S samples.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike, NDArray

from results.analysis.clusters import BY_FILE, BY_IMAGE
from results.analysis.significance import Bools, Floats, Ints
from results.copies import first_copies
from results.damage import UNREADABLE
from results.experiment import Experiment
from results.tables import CELLS, read_columns, stated_of
from workers.work import UNPRUNED, GridPoint

_READ = ("context", "source", "point", "sample", "correct", "visual_tokens", "prompt_tokens", "text_tokens", "squares")
_NAMES = _READ[:4]  # repeated in every row: read as dictionaries
_WANTED = pa.schema([CELLS.field(name) for name in (*_READ, "score", "parsed")])
UNKNOWN = -1


class Matrix:
    """Which cells are known, and their values; of a cell that is entered more than once the first time counts."""

    def __init__(self, shape: tuple[int, int], **kinds: DTypeLike) -> None:
        """Make an empty one: all values are 0 until they are entered.

        Args:
            shape: (P, S).
            kinds: Of each value by name its dtype, ``(dtype, shape)`` where it is an array.
        """
        self.known_PS: Bools = np.zeros(shape, dtype=bool)
        self.values: dict[str, NDArray[Any]] = {name: np.zeros(shape, dtype=kind) for name, kind in kinds.items()}

    def enter(self, row: Ints, column: Ints, **values: Any) -> Bools:
        """Enter cells.

        Args:
            row, column: Their places; below 0: a cell that is none of these.
            values: One value a cell, for each name.

        Returns:
            One flag a cell: it is one of these, and was not known before.
        """
        fresh = (row >= 0) & (column >= 0) & first_copies(row, column)
        fresh[fresh] = ~self.known_PS[row[fresh], column[fresh]]
        place = row[fresh], column[fresh]
        self.known_PS[place] = True
        for name, value in values.items():
            self.values[name][place] = np.asarray(value)[fresh]
        return fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """All answers of an experiment as matrices, rows in the order of the grid, columns in that of the samples."""

    points: tuple[GridPoint, ...]
    samples: tuple[str, ...]
    answered_PS: Bools
    correct_PS: Bools  # a score of at least half; False where not answered
    score_PS: Floats  # 0 to 1; 0 where not answered
    unread_PS: Bools  # the scorer found no option, number or word in the answer; False where not answered
    image_S: Bools  # False: a text-only question, which no strategy can prune
    failed_S: Bools  # the sample has a failure record
    cluster_S: Ints  # the image that is asked about, see `results.analysis.clusters`
    clustered_by: str = BY_IMAGE  # what tells images apart
    stopped: frozenset[str] = frozenset()  # keys of the points that racing stopped

    @property
    def baseline(self) -> int | None:
        """Row of the un-pruned model; None where the grid has none."""
        return next((row for row, point in enumerate(self.points) if point.strategy == UNPRUNED), None)

    @property
    def binary(self) -> bool:
        """Whether every answer is right or wrong, and none in between."""
        return bool(((self.score_PS == 0) | (self.score_PS == 1)).all())

    def of_images(self, images: bool) -> Answers:
        """Only the image questions, or only the others."""
        return self.on(self.image_S == images)

    def on(self, chosen: Bools) -> Answers:
        """Only some samples."""
        by_sample = {name: getattr(self, name)[..., chosen] for name in (*_BY_CELL, *_BY_SAMPLE)}
        return replace(self, samples=tuple(np.array(self.samples, dtype=object)[chosen]), **by_sample)

    def of(self, rows: Sequence[int]) -> Answers:
        """Only some grid points, in this order."""
        by_cell = {name: getattr(self, name)[rows] for name in _BY_CELL}
        return replace(self, points=tuple(self.points[row] for row in rows), **by_cell)


_BY_CELL = tuple(item.name for item in fields(Answers) if item.name.endswith("_PS"))
_BY_SAMPLE = tuple(item.name for item in fields(Answers) if item.name.endswith("_S"))


def stacked(tables: Sequence[Answers]) -> Answers:
    """Grid points of all tables over the samples of all, in the order in which they first come."""
    samples = tuple(dict.fromkeys(name for table in tables for name in table.samples))
    place = {name: column for column, name in enumerate(samples)}
    points = tuple(point for table in tables for point in table.points)
    shape = len(points), len(samples)
    values: dict[str, Any] = {name: np.zeros(shape, float if name == "score_PS" else bool) for name in _BY_CELL}
    values |= {name: np.zeros(len(samples), int if name == "cluster_S" else bool) for name in _BY_SAMPLE}
    first = 0
    for table in tables:
        columns = [place[name] for name in table.samples]
        for name in _BY_CELL:
            values[name][first : first + len(table.points), columns] = getattr(table, name)
        for name in _BY_SAMPLE:
            if name != "cluster_S":
                values[name][columns] |= getattr(table, name)
        values["cluster_S"][columns] = table.cluster_S
        first += len(table.points)
    return Answers(points=points, samples=samples, clustered_by=_weakest(tables), **values)


def _weakest(tables: Sequence[Answers]) -> str:
    """By which name images are told apart in all tables."""
    return BY_FILE if any(table.clustered_by == BY_FILE for table in tables) else BY_IMAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFile:
    """A file of cells: who computed it, when it was written, and what its device had to do meanwhile."""

    written: float  # seconds since the epoch: as the file states it, else by the time of the file
    cells: int
    worker: str
    seconds: float = 0.0  # of work; 0: not known, as all that follows
    peak_bytes: int = 0  # of the device's memory
    device_bytes: int = 0  # that it has
    busy: float = 0.0  # share of the time in which the device had something to do


class CellMatrix:
    """Which cells exist and which are right; call `read` to take in what is on disk, or have `cells_of` do so."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._axes = experiment.axes
        self._cells = Matrix(self._axes.shape, correct=bool, unread=bool)
        self._soft_PS: Floats | None = None  # scores, from the first one on that is neither 0 nor 1
        shape = self._axes.shape
        self.visual_S: NDArray[np.int32] = np.full(shape[1], UNKNOWN, dtype=np.int32)  # visual tokens before pruning
        self.prompt_S: NDArray[np.int32] = np.full(shape[1], UNKNOWN, dtype=np.int32)  # tokens of the un-pruned prompt
        self.text_S: NDArray[np.int32] = np.full(shape[1], UNKNOWN, dtype=np.int32)  # of these, after the image
        self.squares_S: NDArray[np.int32] = np.full(shape[1], UNKNOWN, dtype=np.int32)  # that the tower saw
        self._files: dict[Path, tuple[int, int]] = {}  # size and time of what has been read
        self._units: dict[Path, UnitFile] = {}

    @property
    def answered_PS(self) -> Bools:
        return self._cells.known_PS

    @property
    def correct_PS(self) -> Bools:
        """False where not answered."""
        return self._cells.values["correct"]

    @property
    def unread_PS(self) -> Bools:
        """Answered, and the scorer has found no option in the answer."""
        return self._cells.values["unread"]

    @property
    def units(self) -> list[UnitFile]:
        """The files that have been read, oldest first."""
        return sorted(self._units.values(), key=lambda unit: unit.written)

    @property
    def score_PS(self) -> Floats:
        """0 to 1; 0 where not answered. In half the memory where every answer is right or wrong."""
        if self._soft_PS is not None:
            return self._soft_PS.copy()
        return self.correct_PS.astype(np.float32)  # exact: 0 and 1

    def gone(self) -> bool:
        """Whether a file that was read is not there any more, so that reading must begin again."""
        return not all(path.exists() for path in self._files)

    def read(self) -> bool:
        """Take in the files that are new since the last call.

        Returns:
            Whether there were any. A file that is not whole is left out, and tried again when it has changed.
        """
        found = late = False
        for path in self.experiment.files("cells"):
            try:
                status = path.stat()
                stamp = status.st_size, status.st_mtime_ns
                if self._files.get(path) == stamp:
                    continue
                found = True
                table = read_columns(path, _WANTED, schema=CELLS, seals=self.experiment.seals, dictionaries=_NAMES)
            except FileNotFoundError:
                continue  # deleted since we looked
            except UNREADABLE as error:
                self._files[path] = stamp
                self.experiment.note(path, error)
                continue
            turned = any(path <= other for other in self._files)
            self._files[path] = stamp
            self.experiment.forget(path)
            late |= not self._take(table) and turned
            self._units[path] = _unit_file(table, status.st_mtime)
        if late:  # copies of cells that have been read from files whose turn is later
            self.__init__(self.experiment)  # type: ignore[misc]
            self.read()
        return found

    def _take(self, table: pa.Table) -> bool:
        """Whether none of the cells had been taken before."""
        row, column = self._axes.places(table)
        correct = table["correct"].to_numpy()
        unread = pc.is_null(table["parsed"]).to_numpy()
        fresh = self._cells.enter(row, column, correct=correct, unread=unread)
        place = row[fresh], column[fresh]
        of_samples = {
            "visual_tokens": self.visual_S,
            "prompt_tokens": self.prompt_S,
            "text_tokens": self.text_S,
            "squares": self.squares_S,
        }
        for name, tokens_S in of_samples.items():
            tokens_S[place[1]] = pc.fill_null(table[name], UNKNOWN).to_numpy()[fresh]
        own = table["score"].to_numpy()  # NaN: as ``correct`` says
        self._take_scores(place, np.where(np.isnan(own), correct, own)[fresh])
        return bool(fresh[(row >= 0) & (column >= 0)].all())

    def _take_scores(self, place: tuple[Ints, Ints], score: Floats) -> None:
        if self._soft_PS is None and np.isin(score, (0.0, 1.0)).all():
            return
        if self._soft_PS is None:
            self._soft_PS = self.correct_PS.astype(np.float64)
        self._soft_PS[place] = score


_READING = threading.Lock()  # a matrix is read by one at a time


def cells_of(experiment: Experiment) -> CellMatrix:
    """What is on disk now. An open experiment has one matrix for all who ask, so that each file is read once."""
    with _READING:
        matrix = experiment.matrix
        if matrix is None or matrix.gone():
            matrix = experiment.matrix = CellMatrix(experiment)
        matrix.read()
        return matrix


def image_lengths(matrix: CellMatrix) -> NDArray[np.int64]:
    """(5, N): of the prompt, of the image and after it tokens, squares that the tower saw, and questions with these.

    What is not known is UNKNOWN.
    Without a column for none.
    """
    images = matrix.visual_S > 0
    known = (matrix.prompt_S, matrix.visual_S, matrix.text_S, matrix.squares_S)
    each = np.stack([one_S[images] for one_S in known]).astype(np.int64)
    if not images.any():
        return np.empty((5, 0), dtype=np.int64)
    values, counts = np.unique(each, axis=1, return_counts=True)
    return np.concatenate([values, counts[None]])


def _unit_file(table: pa.Table, written: float) -> UnitFile:
    stated = stated_of(table.schema)

    def known(name: str) -> float:
        try:
            value = float(stated.get(name, ""))
        except ValueError:
            return 0.0
        return value if 0 <= value < 2**63 else 0.0

    return UnitFile(
        written=known("written") or written,
        cells=table.num_rows,
        worker=stated.get("worker", ""),
        seconds=known("seconds"),
        peak_bytes=int(known("peak_bytes")),
        device_bytes=int(known("device_bytes")),
        busy=known("busy"),
    )
