"""The files of one Ray Tune trial, appended to and closed again, so that thousands of trials may grow side by side.

They are what Tune's own loggers write (tests hold them against those), but Tune's keep three files open for each trial
that is under way, and its TensorBoard logger two threads as well: at 3,000 trials they run into the limits of a host.

    TRIAL/params.json               the grid point
          result.json               one line a report: what a trial has told
          progress.csv              the same as a table
          events.out.tfevents.*     the same for TensorBoard, over the number of samples
"""

from __future__ import annotations

import csv
import io
import json
import os
import struct
from collections.abc import Container, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from results.disk import StoreError, make_folder, open_to_write, write_whole
from results.removal import remove
from workers.json_file import UnreadableError, parse_json, read_bytes, read_json
from workers.work import UNPRUNED, GridPoint

PARAMS, RESULTS, TABLE = "params.json", "result.json", "progress.csv"
EVENTS = "events.out.tfevents.1.saccade"
MAX_BYTES = 2**24
OURS = (RESULTS, TABLE, EVENTS, PARAMS)  # the last one tells whose folder it is, so it goes last
TUNES = ("params.pkl", "error.txt", "error.pkl", "events.out.tfevents.*")  # from before Saccade wrote them itself
MAX_PARAMS_BYTES = 2**20
NAME_LENGTH = 120  # bytes of a directory's name; file systems take 255
METRICS = ("samples", "n", "correct", "accuracy", "ci_low", "ci_high", "tokens_kept")  # the numbers of a report
COUNTS = ("samples", "n", "correct", "done")  # what makes two reports the same

Result = dict[str, Any]


def trial_config(point: GridPoint) -> Result:
    """What Tune records of a grid point."""
    return {
        "key": point.key,
        "strategy": point.strategy,
        "layer": point.layer,
        "rank": point.rank,
        **({} if point.share is None else {"share": point.share}),
        **dict(point.settings),
    }


def trial_names(points: Sequence[GridPoint]) -> dict[str, str]:
    """Of each point key a directory name to read: ``fastv_2_128``, with any parameters after it; all different."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for point in points:
        parts = [point.strategy, str(point.layer), point.kept, *(f"{k}={v}" for k, v in point.settings)]
        text = "unpruned" if point.strategy == UNPRUNED else "_".join(parts)
        name = "".join(
            letter if letter.isascii() and (letter.isalnum() or letter in "._=-") else "-" for letter in text
        )
        if len(name) > NAME_LENGTH or name.lower() in taken:  # some file systems know no case
            name = _told_apart(name, point)
        taken.add(name.lower())
        names[point.key] = name
    return names


class TrialFiles:
    """The files of one trial."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Name the files; none is made yet.

        Args:
            folder: Of the trial.
            config: What Tune records of its grid point.
        """
        self.folder, self._config = folder, config
        self._table, self._events, self._lines = folder / TABLE, folder / EVENTS, folder / RESULTS

    def make(self) -> None:
        """Make the directory where it is missing.

        Raises:
            StoreError: It cannot be made, or is a link.
        """
        make_folder(self.folder, below=self.folder.parent)

    def begin(self) -> None:
        """Take away every report of an earlier run, and say which grid point this is."""
        for name in OURS:
            remove(self.folder.parent, f"{self.folder.name}/{name}")
        self.make()
        write_whole(self.folder / PARAMS, json.dumps(self._config, indent=2, sort_keys=True).encode(), sync=False)

    def append(self, result: Result) -> None:
        """Write one report into all files; `RESULTS` last, because it says what was told."""
        first = result["training_iteration"] == 1
        flat = {name: value for name, value in result.items() if name != "config"}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([flat, flat.values()] if first else [flat.values()])
        _append(self._table, text.getvalue().encode())
        _append(self._events, _event(flat, first))
        _append(self._lines, json.dumps(result).encode() + b"\n")


def told(folder: Path) -> list[Result]:
    """The reports that a trial's directory holds, first to last; none where a line is not whole."""
    try:
        lines = [parse_json(line) for line in read_bytes(folder / RESULTS, MAX_BYTES).splitlines()]
    except UnreadableError:
        return []
    return lines if all(isinstance(line, dict) for line in lines) else []


def agrees(said: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether what a trial has told is the beginning of what the cells say."""
    return len(said) <= len(rows) and all(
        [old.get(name) for name in COUNTS] == [row[name] for name in COUNTS]
        for old, row in zip(said, rows, strict=False)
    )


def remove_trials(folder: Path, keep: Container[str]) -> list[str]:
    """Remove the trials of an earlier grid, and nothing else.

    A trial is a folder whose `PARAMS` tell a grid point that it is named for, which no other folder has by chance. One
    that holds anything besides what Tune and we write is somebody's by now, and stays as it is.

    Args:
        folder: Of the experiment.
        keep: Names of trial folders that stay.

    Returns:
        The trials of an earlier grid that stay.
    """
    left = []
    for params in sorted(folder.glob(f"*/{PARAMS}")):
        trial = params.parent
        if trial.name in keep or trial.is_symlink() or not _is_trial(trial):
            continue
        names = [path.name for path in trial.iterdir()]
        known = [name for name in names if name in OURS or any(fnmatch(name, form) for form in TUNES)]
        gone = len(known) == len(names) and all(
            [remove(folder, f"{trial.name}/{name}") for name in sorted(known, key=PARAMS.__eq__)]
        )
        if not gone:
            left.append(trial.name)
    return left


def _is_trial(folder: Path) -> bool:
    try:
        config = read_json(folder / PARAMS, MAX_PARAMS_BYTES)
        own = {name: config[name] for name in ("strategy", "layer", "rank")}
        own |= {name: config[name] for name in ("positions", "share") if name in config}
        point = GridPoint(**own, params=tuple(item for item in config.items() if item[0] not in (*own, "key")))
        name = trial_names([point])[point.key]
        return config["key"] == point.key and folder.name in (name, _told_apart(name, point))
    except (UnreadableError, ValueError, TypeError, KeyError, AttributeError):  # JSON of another's, in any form
        return False


def _told_apart(name: str, point: GridPoint) -> str:
    return f"{name[:NAME_LENGTH]}_{point.key}"


def _append(path: Path, content: bytes) -> None:
    try:
        with open_to_write(path, os.O_APPEND) as file:
            file.write(content)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written: {error.strerror}; take away what is in the way, or make room"
        ) from error


def _event(result: Result, first: bool) -> bytes:
    """A report as records of TensorBoard's event file: all its numbers in one event, at its number of samples."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    numbers = {name: result[name] for name in METRICS if result[name] is not None}
    values = [Summary.Value(tag=f"ray/tune/{name}", simple_value=value) for name, value in numbers.items()]
    now = result["timestamp"]
    event = Event(wall_time=now, step=result["samples"], summary=Summary(value=values))
    head = _record(Event(wall_time=now, file_version="brain.Event:2").SerializeToString()) if first else b""
    return head + _record(event.SerializeToString())


def _record(content: bytes) -> bytes:
    """TFRecord framing: length, its checksum, content, its checksum.

    tensorboardX's `RecordWriter` takes as long, and empties the file that it opens: no trial could be continued.
    """
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked_crc32c(length)) + content + struct.pack("<I", masked_crc32c(content))
