"""What racing has decided about an experiment, beside its cells: for readers only, see `policy.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, StrictStr

from results.analysis.racing import RacingRule
from results.disk import write_whole
from results.experiment import Experiment
from results.manifest import Size
from results.side_files import read_side_file

RACING = "racing.json"
STOPPED = "stopped early"  # state of a grid point, beside complete, partial and missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """What racing has decided about an experiment."""

    rule: RacingRule
    stopped: Mapping[str, int]  # GridPoint.key -> image questions after which it was stopped
    cells: int  # of the sweep
    saved: int  # cells that need not be computed

    def to_json(self) -> dict[str, object]:
        return {
            "rule": self.rule.to_json(),
            "stopped": dict(self.stopped),
            "cells": self.cells,
            "saved_cells": self.saved,
        }


def write_stops(experiment: Experiment, stops: Stops | None) -> None:
    """Keep what was decided beside the cells; without racing nothing is stopped.

    An earlier record is made empty, not removed: in a bucket and its working copies what is missing comes back.
    """
    path = experiment.path / RACING
    if stops is not None or path.exists():
        write_whole(path, json.dumps(stops.to_json() if stops else {}, indent=1).encode())


class _Record(BaseModel):
    """The file; empty where nothing is stopped."""

    rule: RacingRule | None = None
    stopped: dict[StrictStr, Size] = {}
    cells: Size = 0
    saved_cells: Size = 0


def read_stops(experiment: Experiment) -> Stops | None:
    """What racing has decided about an experiment; None where it was not on, or its file is noted as damaged."""
    record = read_side_file(experiment, RACING, _Record, "the same `saccade run` writes it again")
    if record is None or record.rule is None:
        return None
    return Stops(rule=record.rule, stopped=record.stopped, cells=record.cells, saved=record.saved_cells)


def stopped_points(experiment: Experiment) -> frozenset[str]:
    """Keys of the grid points that racing stopped."""
    stops = read_stops(experiment)
    return frozenset(stops.stopped) if stops else frozenset()
