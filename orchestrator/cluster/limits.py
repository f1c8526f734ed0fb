"""How long anything may take before it counts as hanging: all limits in one place, with their reasons.

They are generous, because what they end is only slow if they are wrong. A unit that was ended is tried sample by
sample, so a limit that is too short for a unit costs time once and no answer.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

# An answer takes milliseconds on a GPU and seconds on a CPU; a network drive that is restarted comes back in minutes.
SAMPLE_S = 600
# Where units take minutes, so many times as long as the last ones of their size.
TIMES_USUAL = 20.0
# Tens of gigabytes over a slow network drive, read by many at once; waiting for a place in the cluster does not count.
LOAD_S = 3600.0
# Who is waited for is said after this part of its limit: a minute of the ten.
SAID_AFTER = 0.1
# A picture for the sample explorer: it takes milliseconds, the first one an import, and no number depends on it.
PICTURE_S = 300.0
# The same where the run ends before its time: Ctrl-C should.
PICTURE_AT_END_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of a run, in seconds."""

    sample_s: float = SAMPLE_S  # a worker without an answer, and a sample that is tried alone
    load_s: float = LOAD_S  # a worker that loads the model

    @classmethod
    def given(cls, sample_timeout_s: float) -> Limits:
        """As the command line gives them: who is patient with samples is so with the model too."""
        return cls(sample_s=sample_timeout_s, load_s=max(LOAD_S, sample_timeout_s))


class TimeLimit(BaseException):
    """Time is up; it passes through whatever handles errors of a sample."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Break a block off after some time, where the interpreter comes to it: a read that waits, not a loop inside C.

    Raises:
        TimeLimit: Time is up. Never outside of the main thread, which alone is told of signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeLimit

    began, handler = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    left_s, every_s = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left_s:  # somebody else's alarm, that of a test for one
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left_s - (time.monotonic() - began)), every_s)
