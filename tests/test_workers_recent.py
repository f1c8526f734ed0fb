"""Made once for all threads that ask, and only the last ones are kept."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from workers.recent import Recent


def test_whoever_asks_while_it_is_made_waits_for_it():
    recent: Recent[str, int] = Recent(2)
    made, begun, go = [], threading.Event(), threading.Event()

    def make() -> int:
        begun.set()
        assert go.wait(60)
        made.append(7)
        return 7

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(recent.get, "a", make)
        assert begun.wait(60)
        others = [pool.submit(recent.get, "a", make) for _ in range(3)]
        go.set()
        assert [one.result(60) for one in (first, *others)] == [7] * 4
    assert made == [7]


def test_the_last_ones_are_kept():
    recent: Recent[str, str] = Recent(2)
    made = []
    for key in "abacbab":
        assert recent.get(key, lambda key=key: (made.append(key), key.upper())[1]) == key.upper()
    assert "".join(made) == "abcba"
    recent.clear()
    recent.get("b", lambda: made.append("b") or "B")
    assert "".join(made) == "abcbab"


def test_an_error_is_told_and_not_kept():
    recent: Recent[str, int] = Recent(2)

    def broken() -> int:
        raise OSError("no image")

    with pytest.raises(OSError, match="no image"):
        recent.get("a", broken)
    assert recent.get("a", lambda: 3) == 3
