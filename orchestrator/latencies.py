"""What `saccade latency` has measured of an experiment: EXPERIMENT/latency.json."""

from __future__ import annotations

import json

from orchestrator.store import Experiment

LATENCY_FILE = "latency.json"


def latencies(experiment: Experiment) -> dict[str, float]:
    """Mean seconds per sample of each grid point (by key) that has been measured."""
    path = experiment.path / LATENCY_FILE
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {row["key"]: row["total_ms"]["mean"] / 1000 for row in rows}
