"""Answers on their way to the disk. A disk takes its time over each file, not over many at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from workers.work import UnitOutcome, WorkUnit

Answer = tuple[WorkUnit, UnitOutcome]

WRITERS = 8
HURRY_S = 0.2  # answers that come faster than this are written side by side; of others each is told of at once


def stored(answers: Iterable[Answer], write: Callable[[WorkUnit, UnitOutcome], None]) -> Iterator[Answer]:
    """The answers in their order, each when it is on disk; those that came before an error or a signal are written too.

    Args:
        answers: As a pool gives them.
        write: Puts one on disk; an error ends the iteration where the answer would stand.
    """
    waiting: deque[tuple[Answer, Future[None]]] = deque()
    last = -HURRY_S
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="saccade-write") as writers:
        for answer in answers:
            waiting.append((answer, writers.submit(write, *answer)))
            hurry, last = time.monotonic() - last < HURRY_S, time.monotonic()
            hurry = hurry and not answer[1].failures  # where all fail, whoever watches should know before the next
            while waiting and (not hurry or len(waiting) > WRITERS or waiting[0][1].done()):
                first, written = waiting.popleft()
                written.result()
                yield first
        for first, written in waiting:
            written.result()
            yield first
