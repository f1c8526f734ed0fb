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
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.json_file import UnreadableError, parse_json, read_bytes
from workers.work import BASELINE, GridPoint

RESULTS = "result.json"
EVENTS = "events.out.tfevents.1.saccade"
MAX_BYTES = 2**24
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
        **dict(point.params),
    }


def trial_names(points: Sequence[GridPoint]) -> dict[str, str]:
    """Of each point key a directory name to read: ``fastv_2_128``, with any parameters after it; all different."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for point in points:
        parts = [point.strategy, str(point.layer), str(point.rank), *(f"{k}={v}" for k, v in point.params)]
        text = "unpruned" if point.strategy == BASELINE else "_".join(parts)
        name = "".join(
            letter if letter.isascii() and (letter.isalnum() or letter in "._=-") else "-" for letter in text
        )
        if len(name) > NAME_LENGTH or name.lower() in taken:  # some file systems know no case
            name = f"{name[:NAME_LENGTH]}_{point.key}"
        taken.add(name.lower())
        names[point.key] = name
    return names


class TrialFiles:
    """The files of one trial."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Args:
        folder: Of the trial.
        config: What Tune records of its grid point.
        """
        self.folder, self._config = folder, config
        self._table, self._events, self._lines = folder / "progress.csv", folder / EVENTS, folder / RESULTS

    def begin(self) -> None:
        """Make the directory, without any report of an earlier run."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        text = json.dumps(self._config, indent=2, sort_keys=True)
        (self.folder / "params.json").write_text(text, encoding="utf-8")

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


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


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
    """TFRecord framing: length, its checksum, content, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked_crc32c(length)) + content + struct.pack("<I", masked_crc32c(content))
