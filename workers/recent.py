"""What several threads ask for at about the same time, made once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """The values of the last keys that were asked for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: OrderedDict[Key, Future[Value]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key; whoever asks first makes it, and others wait. An error is theirs too, and is not kept."""
        with self._lock:
            known = self._made.get(key)
            future = self._made[key] = known or Future()
            self._made.move_to_end(key)
            while len(self._made) > self._most:
                self._made.popitem(last=False)
        if known is None:
            try:
                future.set_result(make())
            except BaseException as error:  # whoever waits must not wait for ever
                future.set_exception(error)
                with self._lock:
                    if self._made.get(key) is future:
                        del self._made[key]
        return future.result()

    def clear(self) -> None:
        with self._lock:
            self._made.clear()
