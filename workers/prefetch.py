"""Do work ahead of its use, in threads and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], waiting: int) -> Iterator[Result]:
    """The results of ``work`` in the order of ``items``, some of them computed before they are asked for.

    Args:
        pool: where the work is done.
        work: an error ends the iteration where its result would stand.
        items: taken one by one.
        waiting: items that may be under way or done at a time, those of other iterations not counted.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= waiting:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
