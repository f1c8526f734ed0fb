"""What a run spent its time on, from its start to its last page: EXPERIMENT/timeline.json, of the newest run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import BaseModel, Field, StrictFloat, StrictInt, StrictStr

from results.disk import write_whole
from results.durations import duration
from results.experiment import Experiment
from results.side_files import read_side_file

TIMELINE = "timeline.json"
FIRST, LAST = "first cell", "last cell"  # moments

Seconds = Annotated[StrictFloat | StrictInt, Field(ge=0, allow_inf_nan=False)]


class Span(BaseModel):
    """A part of a run; parts lie beside one another in time."""

    what: StrictStr
    from_s: Seconds  # since the run began
    to_s: Seconds

    @property
    def seconds(self) -> float:
        """That it took."""
        return self.to_s - self.from_s


class Record(BaseModel):
    """The file."""

    began: StrictStr  # ISO 8601
    spans: list[Span] = []
    moments: dict[StrictStr, Seconds] = {}  # since the run began

    @property
    def text(self) -> str:
        """One line; empty where the run computed nothing."""
        if FIRST not in self.moments or LAST not in self.moments:
            return ""
        first, last = self.moments[FIRST], self.moments[LAST]
        end = max([last, *(span.to_s for span in self.spans)])
        before = _parts(span for span in self.spans if span.from_s <= first)
        after = _parts(span for span in self.spans if span.from_s > first)
        return (
            f"first cell after {duration(first)} ({before}), work {duration(last - first)}, "
            f"then {duration(end - last)} ({after})"
        )


class Timeline:
    """Notes when what happens; threads may note at the same time."""

    def __init__(self) -> None:
        """The run begins now."""
        self._began = time.time()
        self._clock = time.monotonic()
        self._spans: list[Span] = []
        self._moments: dict[str, float] = {}

    @property
    def now_s(self) -> float:
        """Seconds since it began."""
        return round(time.monotonic() - self._clock, 3)

    @contextmanager
    def span(self, what: str) -> Iterator[None]:
        """Note a part of the run, however it ends."""
        began = self.now_s
        try:
            yield
        finally:
            self.add(what, began)

    def add(self, what: str, from_s: float) -> None:
        """Note a part that ends now."""
        self._spans.append(Span(what=what, from_s=from_s, to_s=self.now_s))

    def at(self, moment: str) -> None:
        """Note a moment; of equal ones the last."""
        self._moments[moment] = self.now_s

    def has(self, moment: str) -> bool:
        """Whether it was noted."""
        return moment in self._moments

    @property
    def record(self) -> Record:
        """All that was noted, in order of beginning."""
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began))
        spans = sorted(self._spans, key=lambda span: span.from_s)
        return Record(began=began, spans=spans, moments=self._moments)

    def write(self, experiment: Experiment) -> None:
        """Keep it beside the cells, where this run computed some."""
        if self.has(LAST):
            content = json.dumps(self.record.model_dump(), indent=1) + "\n"
            write_whole(experiment.path / TIMELINE, content.encode())


def read_timeline(experiment: Experiment) -> Record | None:
    """Of the newest run that computed cells; None where there is none, or it is noted as damaged."""
    return read_side_file(experiment, TIMELINE, Record, "the next `saccade run` that computes cells writes it again")


def _parts(spans: Iterator[Span]) -> str:
    return ", ".join(f"{span.what} {span.seconds:.1f} s" for span in spans)
