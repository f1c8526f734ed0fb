"""What is said of a lost worker, and what is recorded for the samples that it was answering. Pure."""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.cluster.dispatch import Job, Loss
from orchestrator.cluster.faults import LOST, NO_ANSWER
from results.durations import duration
from workers.work import SampleFailure, UnitOutcome, WorkUnit

MACHINE_GONE = "its machine is gone"
OUT_OF_REACH = "it was out of reach"


class NoAnswer(TimeoutError):
    """A worker has not answered some units within their limit."""

    def __init__(self, limit_s: float, jobs: Collection[Job]) -> None:
        super().__init__(no_answer(limit_s, jobs))
        self.limit_s, self.jobs = limit_s, tuple(jobs)


def no_answer(seconds: float, jobs: Collection[Job]) -> str:
    """That there was none for so long, over what."""
    names = [name for job in jobs for name in job.unit.samples]
    which = f"sample {names[0]}" if len(names) == 1 else f"{len(names)} samples, {names[0]} to {names[-1]}"
    return f"no answer for {duration(seconds)} over {which}"


def reason_of(error: Exception) -> str:
    """Why a worker died, from the many lines that Ray writes."""
    text = str(error)
    if isinstance(error, TimeoutError):
        return text  # our own
    if "memory" in text and "threshold" in text:
        return "killed by Ray because memory ran out"
    if "End of file" in text:
        return "its process ended without a word: killed, or out of memory"
    if "node" in text and ("died" in text or "dead" in text or "terminated" in text):
        return MACHINE_GONE
    if text == OUT_OF_REACH:
        return OUT_OF_REACH
    return " ".join(text.split())[:160]


def remedy_of(error: Exception) -> str:
    """What helps where workers are lost while they load the model."""
    if isinstance(error, TimeoutError):
        return "does the disk answer that holds the model?"
    return "is there memory enough? Fewer --workers need less"


def told_of(what: str, loss: Loss) -> str:
    """A line about a loss, and what becomes of its samples."""
    given_up = sum(len(unit.samples) for unit in loss.given_up)
    parts = [
        f"{_samples(loss.again)} tried again{', one by one' if loss.singly else ''}" if loss.again else "",
        f"{_samples(given_up)} recorded as failed" if given_up else "",
    ]
    return ", ".join([what, *filter(None, parts)])


def given_up(unit: WorkUnit, error: Exception) -> UnitOutcome:
    """Records of samples that are not tried again, at least not in this run."""
    if isinstance(error, NoAnswer):
        kind, message = NO_ANSWER, f"no answer within {duration(error.limit_s)}; --sample-timeout changes that"
    else:
        kind, message = LOST, f"several workers were lost over it, the last one over nothing else ({reason_of(error)})"
    failures = tuple(SampleFailure(sample=sample, kind=kind, message=message, traceback="") for sample in unit.samples)
    return UnitOutcome(unit=unit.key, outcomes=(), failures=failures)


def _samples(count: int) -> str:
    return f"{count} sample{'s' if count > 1 else ''}"
