"""Lanes without a GPU: who waits for whom. That they change nothing on one is tested in test_workers_cuda.py."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from workers.lanes import Lanes


def test_on_a_cpu_the_caller_works():
    names = Lanes(torch.device("cpu")).map(lambda _: threading.current_thread().name, [1, 2])
    assert set(names) == {threading.current_thread().name}


def test_alone_means_that_no_other_lane_works():
    lanes = Lanes(torch.device("cpu"))
    lanes.count, lanes._free = 2, threading.Semaphore(2)
    working, most, alone_with = [0], [0], []
    lock = threading.Lock()

    def count(change: int) -> None:
        with lock:
            working[0] += change
            most[0] = max(most[0], working[0])

    def work(number: int) -> int:
        with lanes._free:
            count(1)
            threading.Event().wait(0.01)
            count(-1)
            if number % 3:
                return number

            def by_itself() -> int:
                with lock:
                    alone_with.append(working[0])
                return -number

            return lanes.alone(by_itself)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(12)))
    assert found == [-number if number % 3 == 0 else number for number in range(12)]
    assert most[0] == 2
    assert alone_with == [0] * 4
