"""Micro-batches of several callers: filled by all of them, each answered whole, nobody left waiting."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.lanes import Lanes
from workers.mixing import Mixer


class Counted:
    """Takes so many items."""

    def __init__(self, size: int) -> None:
        self.left = size

    def takes(self, item: int) -> bool:
        self.left -= 1
        return self.left >= 0


class Doubling:
    """Answers twice what is asked, and remembers the micro-batches."""

    def __init__(self, size: int, lanes: int = 1) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.open = threading.Event()
        self.open.set()
        self.mixer = Mixer(Lanes(torch.device("cpu"), lanes), self.answer, lambda first: Counted(size))

    def answer(self, key: str, batch: Sequence[int]) -> list[int]:
        assert self.open.wait(60)
        self.batches.append((key, list(batch)))
        if -1 in batch:
            raise KeyError("minus one")
        return [2 * item for item in batch]


def test_what_one_caller_leaves_goes_with_the_next_ones_items():
    """The lane is busy with the first micro-batch while both callers bring theirs."""
    doubling, brought = Doubling(size=3), threading.Barrier(2, timeout=60)

    def items(start: int):
        yield from range(start, start + 4)
        brought.wait()  # all eight are there, and each caller could still bring more
        doubling.open.set()

    doubling.open.clear()
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(doubling.mixer.run, "grid", items(start)) for start in (0, 100))
        assert first.result(60) == [0, 2, 4, 6]
        assert second.result(60) == [200, 202, 204, 206]
    assert sorted(len(batch) for _, batch in doubling.batches) == [2, 3, 3]


def test_what_nobody_can_add_to_is_answered_at_once():
    doubling = Doubling(size=100)
    assert doubling.mixer.run("grid", [1, 2]) == [2, 4]
    assert doubling.mixer.run("grid", []) == []
    assert doubling.batches == [("grid", [1, 2])]


def test_lanes_do_not_go_in_step():
    """The first micro-batch of all is smaller, and only that: so one lane is in the middle when the other ends."""
    batches: list[list[int]] = []

    def answer(key: str, batch: Sequence[int]) -> Sequence[int]:
        batches.append(list(batch))
        return batch

    mixer = Mixer(Lanes(torch.device("cpu"), 2), answer, lambda first: Counted(2 if first else 4))
    assert mixer.run("grid", range(10)) == list(range(10))
    assert sorted(batches) == [[0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]


def test_other_grids_do_not_mix():
    doubling = Doubling(size=100, lanes=2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: doubling.mixer.run(f"grid {number % 2}", [number]), range(40)))
    assert found == [[2 * number] for number in range(40)]
    for key, batch in doubling.batches:
        assert {f"grid {number % 2}" for number in batch} == {key}


def test_an_error_is_told_to_all_that_are_in_the_micro_batch_and_to_nobody_else():
    doubling = Doubling(size=2)
    with pytest.raises(KeyError, match="minus one"):
        doubling.mixer.run("grid", [1, -1])
    assert doubling.mixer.run("grid", [5]) == [10]


def test_a_caller_that_breaks_off_leaves_nobody_waiting():
    doubling = Doubling(size=2)

    def broken():
        yield 1
        raise OSError("no image")

    with pytest.raises(OSError, match="no image"):
        doubling.mixer.run("grid", broken())
    assert doubling.mixer.run("grid", [5]) == [10]


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6), size=st.integers(1, 5), lanes=st.integers(1, 2))
def test_everybody_gets_their_own_answers_in_order(counts, size, lanes):
    doubling = Doubling(size, lanes)
    asked = [[1000 * caller + number for number in range(count)] for caller, count in enumerate(counts)]
    with ThreadPoolExecutor(len(counts)) as pool:
        found = list(pool.map(lambda items: doubling.mixer.run("grid", items), asked))
    assert found == [[2 * number for number in items] for items in asked]
    assert all(len(batch) <= size for _, batch in doubling.batches)
    assert sorted(number for _, batch in doubling.batches for number in batch) == sorted(
        number for items in asked for number in items
    )


def test_nobody_waits_for_lanes_that_are_closed():
    lanes = Lanes(torch.device("cpu"), 1)
    mixer = Mixer(lanes, lambda key, batch: batch, lambda first: Counted(2))
    lanes.close()
    for _ in range(2):  # and the count of lanes that are busy is right afterwards
        with pytest.raises(RuntimeError, match="after shutdown"):
            mixer.run("a", range(5))
