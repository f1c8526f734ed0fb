"""SIGTERM ends a command as Ctrl-C does: SLURM at its time limit, Kubernetes and `docker stop` send it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

KILLED = 128  # of a command that a signal ended the exit code is so much and the signal's number


class Ending:
    """How a command is asked to end."""

    def __init__(self) -> None:
        self.terminated = False  # kept, because what runs may turn a KeyboardInterrupt into another, or swallow it

    @property
    def text(self) -> str:
        return "ended by SIGTERM" if self.terminated else "interrupted"

    @property
    def exit_code(self) -> int:
        return KILLED + (signal.SIGTERM if self.terminated else signal.SIGINT)

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """What Ctrl-C does; the second SIGTERM ends the process at once."""
        if self.terminated:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        self.terminated = True
        raise KeyboardInterrupt


@contextmanager
def ended_by_signals() -> Iterator[Ending]:
    """Raise KeyboardInterrupt at SIGTERM too, until the block ends."""
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending  # a signal reaches the main thread only
        return
    before = signal.signal(signal.SIGTERM, ending.terminate)
    try:
        yield ending
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def own_handler() -> Iterator[None]:
    """Put our handler of SIGTERM back, if there is one, when Ray has put its own in the place: they end in a dump."""
    ours = signal.getsignal(signal.SIGTERM)
    if not callable(ours) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False
    try:
        yield
    except SystemExit as end:  # by Ray's handler in Python, which comes before the one in C++
        if end.code != signal.SIGTERM:
            raise
        came = True
    finally:
        signal.signal(signal.SIGTERM, ours)
    if came:
        signal.raise_signal(signal.SIGTERM)
