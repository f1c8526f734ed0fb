"""What racing has decided about an experiment, beside its cells: for readers only, see `policy.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.disk import write_whole
from orchestrator.racing import RacingRule
from orchestrator.store import Experiment

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


def read_stops(experiment: Experiment) -> Stops | None:
    """What racing has decided about an experiment; None where it was not on, or its file is not whole."""
    try:
        value = json.loads((experiment.path / RACING).read_text(encoding="utf-8"))
        stopped = {str(key): int(samples) for key, samples in value["stopped"].items()}
        return Stops(
            rule=RacingRule(**value["rule"]), stopped=stopped, cells=value["cells"], saved=value["saved_cells"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def stopped_points(experiment: Experiment) -> frozenset[str]:
    """Keys of the grid points that racing stopped."""
    stops = read_stops(experiment)
    return frozenset(stops.stopped) if stops else frozenset()
