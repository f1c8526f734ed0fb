"""One bad sample is a record, and the sweep goes on; samples that fail one after another have a common cause. Pure."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Collection

from strategies.errors import SaccadeError
from workers.work import SampleFailure, UnitOutcome

IN_A_ROW = 50  # failed samples without one answer between them
LOST_WEIGHT = 10  # a sample that costs a worker costs a loaded model: so many times sooner enough
LOST = "WorkerLost"
NO_ANSWER = "NoAnswer"
REMEDIES = {
    LOST: "is there memory enough? Fewer --workers need less",
    NO_ANSWER: "is the disk there that holds the images? --sample-timeout gives each sample more time",
    "OutOfMemoryError": "the device is too small for one sample: try fewer grid points, or model.dtype=bfloat16",
    "DataError": "look at the file it names",
}


class SweepError(SaccadeError):
    """A sweep cannot go on as it is. The message names the reason and the remedy; exit code 2."""


class FaultWatch:
    """Looks at outcomes one after another."""

    def __init__(self, samples: int, known: Collection[str] = ()) -> None:
        """Start with no failure seen.

        Args:
            samples: Of the sweep.
            known: Samples that failed in an earlier run that answered others: they are expected to fail again.
        """
        self._samples = samples
        self._known = frozenset(known)
        self._row: list[SampleFailure] = []

    def look(self, outcome: UnitOutcome) -> None:
        """Note an outcome.

        Raises:
            SweepError: Too many samples in a row have failed.
        """
        if outcome.outcomes:
            self._row.clear()
        self._row += [failure for failure in outcome.failures if failure.sample not in self._known]
        weight = sum(LOST_WEIGHT if failure.kind in (LOST, NO_ANSWER) else 1 for failure in self._row)
        if weight >= IN_A_ROW or len(self._row) >= self._samples:
            (kind, message), count = Counter((f.kind, f.message) for f in self._row).most_common(1)[0]
            remedy = REMEDIES.get(kind, "`saccade status` shows all messages")
            raise SweepError(
                f"{len(self._row)} samples in a row failed, {count} of them with {kind}: {message} (the first is "
                f"{self._row[0].sample}): {remedy}. What was answered is kept, and the same command goes on from there"
            )


def is_of_the_machine(error: Exception) -> bool:
    """Whether another worker may do better than the one that raised this: memory was short, or the device failed."""
    names = ("OutOfMemoryError", "AcceleratorError")  # torch's
    return isinstance(error, MemoryError) or type(error).__name__ in names or "CUDA error" in str(error)


def told(error: Exception) -> str:
    """Type, message and place of an exception that nobody foresaw, in one line."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({where.filename}, line {where.lineno})"
