"""What became of some of a unit's samples: cells, and a record for each that failed."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from workers.nvrtc import CudaBuildError
from workers.work import SampleFailure, SampleOutcome


@dataclass(frozen=True, slots=True)
class Part:
    """What became of some of a unit's samples."""

    outcomes: tuple[SampleOutcome, ...] = ()
    failures: tuple[SampleFailure, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Part:
        return cls(
            outcomes=tuple(outcome for part in parts for outcome in part.outcomes),
            failures=tuple(failure for part in parts for failure in part.failures),
            notes=tuple(note for part in parts for note in part.notes),
        )


def device_is_lost(error: Exception) -> bool:
    """After an illegal access or a failed assertion every later CUDA call of the process fails.

    Not so where memory is short, which cuBLAS words in its own way, or where a kernel cannot be built.
    """
    text = str(error)
    short = "out of memory" in text or "_STATUS_ALLOC_FAILED" in text or "_STATUS_NOT_INITIALIZED" in text
    built = not isinstance(error, CudaBuildError)
    return isinstance(error, RuntimeError) and "CUDA error" in text and built and not short


def failure_of(id: str, error: Exception) -> SampleFailure:
    return SampleFailure(
        sample=id,
        kind=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
    )
