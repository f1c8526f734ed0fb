"""What `saccade latency` has measured of an experiment: EXPERIMENT/latency.json."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr

from results.experiment import Experiment
from results.side_files import read_side_file

LATENCY_FILE = "latency.json"

Figure = Annotated[StrictFloat | StrictInt, Field(ge=0, allow_inf_nan=False)]


class _Spread(BaseModel):
    model_config = ConfigDict(extra="allow")

    mean: Figure
    median: Figure | None = None
    p90: Figure | None = None


class LatencyRow(BaseModel):
    """What was measured of one grid point; the rest is as `workers.latency.Latency` writes it."""

    model_config = ConfigDict(extra="allow")

    key: StrictStr
    total_ms: _Spread
    tower_ms: _Spread | None = None
    projector_ms: _Spread | None = None
    selector_ms: _Spread | None = None
    prefill_ms: _Spread | None = None
    first_token_ms: _Spread | None = None
    decode_ms: _Spread | None = None
    tokens_per_s: _Spread | None = None
    peak_gib: _Spread | None = None


class LatencyRecord(BaseModel):
    """The file: how was measured, and what."""

    how: dict[str, Any] = {}
    rows: list[LatencyRow]


def latency_record(experiment: Experiment) -> LatencyRecord | None:
    """The file; None where there is none, or where it is noted as damaged."""
    return read_side_file(experiment, LATENCY_FILE, LatencyRecord, "`saccade latency` measures again")


def latencies(experiment: Experiment) -> dict[str, float]:
    """Mean seconds per sample of each grid point (by key) that has been measured."""
    record = latency_record(experiment)
    return {} if record is None else {row.key: row.total_ms.mean / 1000 for row in record.rows}
