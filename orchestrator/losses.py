"""What is said of a lost worker, and what is recorded of the samples that it was lost over. Pure."""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.dispatch import MAX_LOSSES, Job, Loss
from orchestrator.faults import LOST, TIMED_OUT
from orchestrator.progress import duration
from workers.work import SampleFailure, UnitOutcome, WorkUnit

MACHINE_GONE = "its machine is gone"
OUT_OF_REACH = "it was out of reach"


def reason_of(error: Exception) -> str:
    """Why a worker died, from the many lines that Ray writes."""
    text = str(error)
    if "memory" in text and "threshold" in text:
        return "killed by Ray because memory ran out"
    if "End of file" in text:
        return "its process ended without a word: killed, or out of memory"
    if "node" in text and ("died" in text or "dead" in text or "terminated" in text):
        return MACHINE_GONE
    if text == OUT_OF_REACH:
        return OUT_OF_REACH
    return " ".join(text.split())[:160]


def told(what: str, loss: Loss) -> str:
    """A line about a loss, and what becomes of its samples."""
    given_up = sum(len(unit.samples) for unit in loss.given_up)
    parts = [
        what,
        f"{_samples(loss.again)} tried again{', one by one' if loss.singly else ''}" if loss.again else "",
        f"{_samples(given_up)} recorded as failed" if given_up else "",
    ]
    return ", ".join(filter(None, parts))


def no_answer(seconds: float, jobs: Collection[Job]) -> str:
    names = [name for job in jobs for name in job.unit.samples]
    which = f"sample {names[0]}" if len(names) == 1 else f"{len(names)} samples, {names[0]} to {names[-1]}"
    return f"no answer for {duration(seconds)} over {which}"


def _samples(count: int) -> str:
    return f"{count} sample{'s' if count > 1 else ''}"


def given_up(unit: WorkUnit, reason: str) -> UnitOutcome:
    return _failed(unit, LOST, f"{MAX_LOSSES} workers were lost over it ({reason})")


def timed_out(unit: WorkUnit, limit_s: float) -> UnitOutcome:
    return _failed(unit, TIMED_OUT, f"no answer within {duration(limit_s)}; --sample-timeout changes that")


def _failed(unit: WorkUnit, kind: str, message: str) -> UnitOutcome:
    failures = tuple(SampleFailure(sample=sample, kind=kind, message=message, traceback="") for sample in unit.samples)
    return UnitOutcome(unit=unit.key, outcomes=(), failures=failures)
