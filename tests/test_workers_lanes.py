"""Lanes without a GPU: who waits for whom. That they change nothing on one is tested in test_workers_cuda.py."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from workers.lanes import Lanes


def test_work_runs_in_inference_mode_and_no_more_at_a_time_than_there_are_lanes():
    lanes = Lanes(torch.device("cpu"), 2)
    assert lanes.submit(torch.is_inference_mode_enabled).result()
    both = threading.Barrier(2, timeout=60)
    assert sorted(future.result() for future in [lanes.submit(both.wait), lanes.submit(both.wait)]) == [0, 1]


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
