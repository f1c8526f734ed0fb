"""The answers of an experiment as boolean matrices, read file by file and, while a sweep runs, only what is new.

As a data frame 6 million cells take gigabytes; as matrices they take 12 MB. Shape letters: P grid points, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from results.analysis.significance import Floats
from results.copies import first_copies
from results.experiment import UNREADABLE, Experiment
from results.tables import CELLS, read_columns, stated_of

_READ = ("context", "source", "point", "sample", "correct", "visual_tokens", "prompt_tokens")
_NAMES = _READ[:4]  # repeated in every row: read as dictionaries
_WANTED = pa.schema([CELLS.field(name) for name in (*_READ, "score", "parsed")])
UNKNOWN = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFile:
    """A file of cells: who computed it, and when it was written."""

    written: float  # seconds since the epoch
    cells: int
    worker: str


class CellMatrix:
    """Which cells exist and which are right; call `read` to take in what is on disk."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._points = [point.key for point in experiment.points]
        self._samples = experiment.samples["id"].tolist()
        shape = (len(self._points), len(self._samples))
        self.answered_PS = np.zeros(shape, dtype=bool)
        self.correct_PS = np.zeros(shape, dtype=bool)  # False where not answered
        self.unread_PS = np.zeros(shape, dtype=bool)  # answered, and the scorer has found no option in the answer
        self._soft_PS: Floats | None = None  # scores, from the first one on that is neither 0 nor 1
        self.visual_S: NDArray[np.int32] = np.full(shape[1], UNKNOWN, dtype=np.int32)  # visual tokens before pruning
        self.prompt_S: NDArray[np.int32] = np.full(shape[1], UNKNOWN, dtype=np.int32)  # tokens of the un-pruned prompt
        self._files: dict[Path, tuple[int, int]] = {}  # size and time of what has been read
        self._units: dict[Path, UnitFile] = {}

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
        sources = self.experiment.sources
        point = _places(table["point"], self._points)
        sample = _places(table["sample"], self._samples)
        known = _places(table["context"], [self.experiment.context]) == 0
        known &= (point >= 0) & (sample >= 0)
        names = sorted(set(sources.values()))
        current_P = np.array([names.index(sources[key]) for key in self._points])
        known &= _places(table["source"], names) == current_P[point]
        values = {name: table[name].to_numpy() for name in _READ[4:]}
        point, sample = point[known], sample[known]
        fresh = ~self.answered_PS[point, sample] & first_copies(point, sample)
        point, sample = point[fresh], sample[fresh]
        taken = {name: value[known][fresh] for name, value in values.items()}
        self.correct_PS[point, sample] = taken["correct"].astype(bool)
        self.visual_S[sample], self.prompt_S[sample] = taken["visual_tokens"], taken["prompt_tokens"]
        self.answered_PS[point, sample] = True
        self.unread_PS[point, sample] = pc.is_null(table["parsed"]).to_numpy()[known][fresh]
        own = table["score"].to_numpy()[known][fresh]  # NaN: as ``correct`` says
        self._take_scores(point, sample, np.where(np.isnan(own), taken["correct"], own))
        return bool(fresh.all())

    def _take_scores(self, point: NDArray[np.int64], sample: NDArray[np.int64], score: Floats) -> None:
        if self._soft_PS is None and np.isin(score, (0.0, 1.0)).all():
            return
        if self._soft_PS is None:
            self._soft_PS = self.correct_PS.astype(np.float64)
        self._soft_PS[point, sample] = score


def image_lengths(matrix: CellMatrix) -> NDArray[np.int64]:
    """(3, N): prompt tokens, visual tokens, and how many image questions have these; without a column for none."""
    images = matrix.visual_S > 0
    pairs = np.stack([matrix.prompt_S[images], matrix.visual_S[images]]).astype(np.int64)
    if not images.any():
        return np.empty((3, 0), dtype=np.int64)
    values, counts = np.unique(pairs, axis=1, return_counts=True)
    return np.concatenate([values, counts[None]])


def _places(column: pa.ChunkedArray, names: list[str]) -> NDArray[np.int64]:
    """Where each value of a dictionary column stands in ``names``; -1 where it does not."""
    place = {name: index for index, name in enumerate(names)}
    parts = [
        np.array([place.get(name, -1) for name in chunk.dictionary.to_pylist()] or [-1])[chunk.indices.to_numpy()]
        for chunk in column.chunks
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _unit_file(table: pa.Table, written: float) -> UnitFile:
    return UnitFile(written=written, cells=table.num_rows, worker=stated_of(table.schema).get("worker", ""))
