"""The results of one or several experiments in memory, kept up to date while they run.

`Gallery.poll` looks at the directories, which is cheap, and reads what is new beside the requests; pages draw from the
latest `Snapshot`, which never changes once it is made.
"""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd

from dashboards.opened import Opened, opened
from dashboards.rows import with_parameters
from results.analysis.matrix import Answers, CellMatrix, UnitFile, cells_of, image_lengths
from results.analysis.measured import measure_summary
from results.analysis.metrics import answers_of, open_failures, summarise
from results.disk import StoreError, stamp
from results.experiment import Experiment
from results.import_path import python_command, safe_environment
from results.latencies import latencies
from results.owners import Owner, owners_of
from results.stops import RACING
from results.suites import LeftOut, left_out_of

T = TypeVar("T")

LIVE_S = 120.0  # an unfinished experiment that was written to so recently is running


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One experiment as it stood at one time."""

    name: str  # unique on the gallery
    experiment: Experiment
    answers: Answers
    summary: pd.DataFrame  # `results.analysis.metrics.summarise`, with experiment, id and status
    failures: pd.DataFrame
    notes: tuple[str, ...]  # files that could not be read
    units: tuple[UnitFile, ...]  # files of cells, oldest first
    running: bool
    measured: Callable[[], pd.DataFrame]  # `results.analysis.measured.measure_summary`, read when first asked for
    costed: Callable[[], pd.DataFrame | None]  # `results.analysis.costs.costs`, likewise
    latency: dict[str, float]  # seconds per sample by key, of what `saccade latency` has measured
    opened: Opened  # where it lies, and what its suite calls it

    @property
    def baseline(self) -> pd.Series | None:
        """The un-pruned model's row, where it has answers."""
        found = self.summary[self.summary["baseline"] & (self.summary["n"] > 0)]
        return None if found.empty else found.iloc[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """All experiments as they stood at one time."""

    version: str  # changes when the data do
    sources: tuple[Source, ...]
    rows: pd.DataFrame  # the summaries one below the other; column ``id`` is unique: "EXPERIMENT:KEY"
    left_out: tuple[LeftOut, ...] = ()  # what models of suites cannot run
    found: dict[object, Any] = field(default_factory=dict)  # what views have worked out of it
    lock: Any = field(default_factory=threading.RLock)

    @property
    def is_suite(self) -> bool:
        """Whether some of the experiments are a suite's."""
        return any(source.opened.benchmark for source in self.sources)

    def source(self, name: str) -> Source | None:
        return next((source for source in self.sources if source.name == name), None)

    def source_of(self, rows: pd.DataFrame) -> Source:
        """The experiment of the first of some rows."""
        return next(source for source in self.sources if source.name == rows["experiment"].iloc[0])

    def find(self, id: str) -> tuple[Source, pd.Series] | None:
        """The experiment and the row of a configuration's ``id``; None where there is no such."""
        rows = self.rows[self.rows["id"] == id]
        return None if rows.empty else (self.source_of(rows), rows.iloc[0])


class Gallery:
    """Experiments that are watched."""

    def __init__(self, paths: Sequence[Path], read: Experiment | None = None) -> None:
        """Read everything once.

        Args:
            paths: Experiments, and suites' folders; what of a suite begins later is taken up then.
            read: One of them whose cells somebody has read already.

        Raises:
            StoreError: One of the paths is neither, or of a suite nothing has begun.
        """
        self._places = [*dict.fromkeys(path.resolve() for path in paths)]
        self._feeds = self._new_feeds([])
        if not self._feeds:
            raise StoreError(f"{self._places[0]}: no benchmark of the suite has begun; look again when one has")
        for feed in self._feeds:
            if read is not None and feed.opened.path == read.path.resolve():
                feed.take_up(read)
        self._lock = threading.Lock()
        self.checked_at = datetime.now(UTC)
        self._snapshot = self._read()

    @property
    def snapshot(self) -> Snapshot:
        """The latest; never waits."""
        return self._snapshot

    def poll(self) -> Snapshot:
        """Look for new data and begin to read them if there are any; the latest snapshot at once."""
        if self._lock.acquire(blocking=False):
            if any(feed.stale() for feed in self._feeds) or self._has_grown():
                threading.Thread(target=self._read_and_release, daemon=True).start()
            else:
                self.checked_at = datetime.now(UTC)
                self._lock.release()
        return self._snapshot

    def refresh(self) -> Snapshot:
        """Read what is new and wait for it."""
        with self._lock:
            self._snapshot = self._read()
        return self._snapshot

    def count_costs(self) -> None:
        """Count now what every grid point costs, so that nobody waits for it later."""
        for source in self.snapshot.sources:
            source.costed()

    def _new_feeds(self, known: Sequence[_Feed]) -> list[_Feed]:
        """Of what is not followed yet."""
        paths = [feed.opened.path for feed in known]
        found = [one for one in opened(self._places) if one.path not in paths]
        owners = owners_of([Experiment.open(path) for path in (*paths, *(one.path for one in found))]) if found else []
        return [_Feed(one, owner) for one, owner in zip(found, owners[len(paths) :], strict=True)]

    def _has_grown(self) -> bool:
        """Whether something of a suite has begun since; of one whose file cannot be read now nobody knows."""
        known = {feed.opened.path for feed in self._feeds}
        with suppress(StoreError):
            return any(one.path not in known for one in opened(self._places))
        return False

    def _read_and_release(self) -> None:
        try:
            self._snapshot = self._read()
        finally:
            self._lock.release()

    def _read(self) -> Snapshot:
        if self._has_grown():
            self._feeds += self._new_feeds(self._feeds)
        sources = tuple(feed.read() for feed in self._feeds)
        self.checked_at = datetime.now(UTC)
        return Snapshot(
            version="-".join(feed.version for feed in self._feeds),
            sources=sources,
            rows=with_parameters(pd.concat([source.summary for source in sources], ignore_index=True)),
            left_out=self._left_out(),
        )

    def _left_out(self) -> tuple[LeftOut, ...]:
        try:
            return tuple(left_out_of(self._places))
        except StoreError:  # the file is being written again
            return self._snapshot.left_out


class _Feed:
    """One experiment, read again where its files have changed."""

    def __init__(self, opened: Opened, owner: Owner) -> None:
        self.opened = opened
        self._path, self._owner = opened.path, owner
        self._signature: object = None  # of what was last read
        self._cells: object = None  # what lay there at the last look
        self._moved = -math.inf  # when that changed before our eyes, on the monotonic clock
        self._written: object = None  # when the description and the samples were
        self._source: Source | None = None
        self._matrix: CellMatrix | None = None
        self._measured: tuple[object, Callable[[], pd.DataFrame]] | None = None
        self._costed: tuple[int, Callable[[], pd.DataFrame | None]] | None = None
        self._reads = 0

    @property
    def version(self) -> str:
        return str(self._reads)

    def stale(self) -> bool:
        """Whether the files have changed since the last reading, or an experiment went quiet."""
        return self._source is None or self._look() != self._signature

    def read(self) -> Source:
        """The experiment as it stands; where it cannot be read, as it last stood, with a note that says why.

        Raises:
            StoreError: It could not be read from the first.
        """
        look = self._look()
        if self._source is not None and look == self._signature:
            return self._source
        try:
            self._source = self._read()
            self._signature, self._reads = look, self._reads + 1
        except StoreError as error:
            if self._source is None:
                raise
            self._leave(self._source, error)
        return self._source

    def _leave(self, source: Source, error: StoreError) -> None:
        """Show what was read before, and say so: the experiment was removed, or is being written again."""
        line = f"{error}; what is shown is as it was before"
        if source.notes[:1] != (line,):
            self._source = replace(source, notes=(line, *source.experiment.notes), running=False)
            self._reads += 1
        self._signature, self._moved = None, -math.inf  # it is tried at each look, and may come back as it was

    def take_up(self, experiment: Experiment) -> None:
        """Go on from what has been read of it."""
        self._matrix, self._written = cells_of(experiment), self._stamps()

    def _stamps(self) -> object:
        return stamp(self._path / "sweep.yaml"), stamp(self._path / "samples.parquet")

    def _read(self) -> Source:
        written = self._stamps()
        if self._matrix is None or written != self._written or self._matrix.gone():
            self._matrix = CellMatrix(Experiment.open(self._path))
            self._written = written
        experiment = self._matrix.experiment
        self._matrix.read()
        failures = open_failures(experiment, self._matrix)
        answers = answers_of(experiment, self._matrix, failures)
        latency = latencies(experiment)  # before the notes are taken
        unfinished = bool((~answers.answered_PS & ~answers.failed_S).any())
        running = unfinished and self._written_lately()
        return Source(
            name=self._owner.experiment,
            experiment=experiment,
            answers=answers,
            summary=_named(summarise(answers), self._owner, running),
            failures=failures,
            notes=experiment.notes,
            units=tuple(self._matrix.units),
            running=running,
            measured=self._lazy_measures(experiment),
            costed=self._lazy_costs(experiment, self._matrix),
            latency=latency,
            opened=self.opened,
        )

    def _lazy_measures(self, experiment: Experiment) -> Callable[[], pd.DataFrame]:
        """Read again only where a file of measures is new."""
        look = _listing(self._path / "measures")
        if self._measured is None or self._measured[0] != look:
            self._measured = look, _Once(lambda: measure_summary(experiment))
        return self._measured[1]

    def _lazy_costs(self, experiment: Experiment, matrix: CellMatrix) -> Callable[[], pd.DataFrame | None]:
        """Counted again only where many more questions have come to be known: a mean over them hardly changes."""
        lengths = image_lengths(matrix)
        known = int(lengths[-1].sum())
        before = 0 if self._costed is None else self._costed[0]
        if self._costed is None or known > 1.5 * before or (known > before and known == len(matrix.visual_S)):
            asked = experiment.points, experiment.config.sizes, experiment.spec.model.dtype, lengths
            self._costed = known, _Once(lambda: _counted(*asked))
        return self._costed[1]

    def _look(self) -> tuple[object, ...]:
        """What changes when the results do: names, sizes and times of the files, and whether somebody is at work."""
        folders = ("cells", "failures", "measures")
        state = tuple(_listing(self._path / folder) for folder in folders)
        if self._signature is not None and state != self._cells:
            self._moved = time.monotonic()
        self._cells = state
        single = tuple(stamp(self._path / name) for name in ("sweep.yaml", "samples.parquet", "latency.json", RACING))
        return (*state, single, self._written_lately())

    def _written_lately(self) -> bool:
        """Before our eyes, or by the times of its files: the clock that set these may be ahead of ours."""
        newest = max(_listing(self._path / folder)[2] for folder in ("cells", "failures"))
        return time.monotonic() - self._moved < LIVE_S or abs(time.time() - newest / 1e9) < LIVE_S


class _Once(Generic[T]):
    """A value that is worked out when it is first asked for, by whoever asks first."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._found: list[T] = []

    def __call__(self) -> T:
        with self._lock:
            if not self._found:
                self._found.append(self._work())
        return self._found[0]


def _counted(*asked: Any) -> pd.DataFrame | None:
    """`results.analysis.costs.count_costs`; it needs torch, which a process that computes has loaded already."""
    if "torch" not in sys.modules:
        return _counted_elsewhere(*asked)
    from results.analysis.costs import count_costs

    return count_costs(*asked)


def _counted_elsewhere(*asked: object) -> pd.DataFrame | None:
    """The same in a process of its own, so that the 180 MB of torch are given back."""
    command = python_command("from results.analysis.costs import answer; answer()")
    # In a session of its own, where the reader's Ctrl-C does not reach it.
    answer = subprocess.run(
        command, input=pickle.dumps(asked), stdout=subprocess.PIPE, check=True, start_new_session=True,
        env=safe_environment(),
    ).stdout  # fmt: skip
    found: pd.DataFrame | None = pickle.loads(answer)
    return found


def _named(summary: pd.DataFrame, owner: Owner, running: bool) -> pd.DataFrame:
    """With the names of whose it is, an id that is unique on the gallery, and a status for people."""
    status = np.where((summary["state"] == "partial") & running, "running", summary["state"])
    status = np.where((summary["failed"] > 0) & (summary["failed"] == summary["n_expected"]), "failed", status)
    ids = owner.experiment + ":" + summary["key"]
    return summary.assign(**asdict(owner), id=ids, status=status)


def _listing(folder: Path) -> tuple[int, int, int]:
    """Number of files, their bytes, and the time of the newest."""
    stamps = [stamp(file) for file in folder.glob("*.parquet") if not file.name.startswith(".")]
    return len(stamps), sum(size for size, _ in stamps), max((time for _, time in stamps), default=0)
