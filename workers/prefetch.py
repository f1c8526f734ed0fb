"""Do work ahead of its use, in threads and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 64  # results that may wait: a few micro-batches of pixels, 87 MB at 336 x 336


def ahead(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """The results of ``work`` in the order of ``items``, up to ``AHEAD`` of them computed before they are asked for.

    Args:
        work: must not raise; an error ends the iteration where its result would stand.
        items: taken one by one.
        threads: that work at a time.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="saccade-prepare") as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
