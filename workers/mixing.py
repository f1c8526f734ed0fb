"""Micro-batches filled from all units in flight: what one unit leaves over goes with the next one's samples."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from workers.lanes import Lanes

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Taken = TypeVar("Taken", contravariant=True)
Result = TypeVar("Result")

READY = 1  # full micro-batches that may wait for a lane; whoever brings more waits too


@dataclass(frozen=True, slots=True, eq=False)
class _Asked(Generic[Item, Result]):
    item: Item
    answer: Future[Result]


class Filling(Protocol[Taken]):
    """A micro-batch while it is being filled."""

    def takes(self, item: Taken, /) -> bool:
        """Take an item, always the first, or leave it to the next micro-batch."""
        ...


class Mixer(Generic[Key, Item, Result]):
    """Collects items of several callers, and has them answered together where they have the same key.

    A micro-batch goes to a lane when it is full, or when a lane is free and nobody in flight can add to it.
    """

    def __init__(
        self,
        lanes: Lanes,
        answer: Callable[[Key, Sequence[Item]], Sequence[Result]],
        begin: Callable[[bool], Filling[Item]],
    ) -> None:
        """Begin with nothing in flight.

        Args:
            lanes: where micro-batches are answered.
            answer: a key and a micro-batch; one result for each item.
            begin: a new micro-batch, without items; whether no other is under way.
        """
        self._lanes = lanes
        self._answer = answer
        self._begin = begin
        self._open: dict[Key, tuple[Filling[Item], list[_Asked[Item, Result]]]] = {}
        self._ready: deque[tuple[Key, list[_Asked[Item, Result]]]] = deque()
        self._feeding: Counter[Key] = Counter()  # callers that may bring more
        self._running = 0
        self._changed = threading.Condition()

    def run(self, key: Key, items: Iterable[Item]) -> list[Result]:
        """Results in the order of ``items``, which are taken one by one; called by several threads at a time."""
        asked: list[_Asked[Item, Result]] = []
        with self._changed:
            self._feeding[key] += 1
        try:
            for item in items:
                asked.append(_Asked(item, Future()))
                with self._changed:
                    self._add(key, asked[-1])
                    self._changed.wait_for(lambda: len(self._ready) <= READY)
        finally:
            with self._changed:
                self._feeding[key] -= 1
                self._start()
        return [one.answer.result() for one in asked]

    def _add(self, key: Key, one: _Asked[Item, Result]) -> None:
        filling, batch = self._open.get(key) or (self._begin(not self._running and not self._ready), [])
        if not filling.takes(one.item):
            self._ready.append((key, batch))
            filling, batch = self._begin(False), []
            filling.takes(one.item)
        batch.append(one)
        self._open[key] = filling, batch
        self._start()

    def _start(self) -> None:
        """Give free lanes what is full, or what nobody can add to any more."""
        while self._running < self._lanes.count:
            if self._ready:
                key, batch = self._ready.popleft()
            elif (left := next((key for key in self._open if not self._feeding[key]), None)) is not None:
                key, (_, batch) = left, self._open.pop(left)
            else:
                break
            self._running += 1
            try:
                self._lanes.submit(self._work, key, batch)
            except RuntimeError as error:  # lanes that are closed take nothing: nobody may wait for it
                self._running -= 1
                for one in batch:
                    one.answer.set_exception(error)
        self._changed.notify_all()

    def _work(self, key: Key, batch: Sequence[_Asked[Item, Result]]) -> None:
        try:
            results = self._answer(key, [one.item for one in batch])
            for one, result in zip(batch, results, strict=True):
                one.answer.set_result(result)
        except BaseException as error:  # the callers', whatever it is
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
        finally:
            with self._changed:
                self._running -= 1
                self._start()
