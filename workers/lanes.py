"""Micro-batches of a GPU in lanes, one or two: each lane is a thread with a CUDA stream of its own.

While one micro-batch waits for its host (tokens are chosen, forks laid out, answers written down) or decodes with small
kernels, the other's matrix products keep the GPU busy. Lanes share the weights and nothing else, so what a micro-batch
computes does not depend on its neighbour.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


class Lanes:
    """Runs micro-batches side by side."""

    def __init__(self, device: torch.device, count: int = 1) -> None:
        self.count = count
        self._device = device
        self._own = threading.local()
        self._free = threading.Semaphore(self.count)  # lanes without work
        self._turn = threading.Lock()
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="saccade-lane", initializer=self._open)

    def _open(self) -> None:
        if self._device.type == "cuda":
            self._own.stream = torch.cuda.Stream(self._device)
            self._own.stream.wait_stream(torch.cuda.default_stream(self._device))  # the weights are there

    def submit(self, work: Callable[..., Result], *given: Any) -> Future[Result]:
        """Call ``work`` in a lane, in inference mode; its tensors stay there, and it returns none."""

        def in_lane() -> Result:
            with self._free, torch.inference_mode():
                if self._device.type != "cuda":
                    return work(*given)
                with torch.cuda.stream(self._own.stream):
                    return work(*given)

        return self._pool.submit(in_lane)

    def close(self) -> None:
        """No more work comes."""
        self._pool.shutdown()

    def alone(self, work: Callable[[], Result]) -> Result:
        """Called by work in a lane: do this while no other lane holds anything of the device."""
        self._free.release()
        try:
            with self._turn:  # one waits for all lanes at a time
                for _ in range(self.count):
                    self._free.acquire()
                try:
                    return work()
                finally:
                    self._free.release(self.count)
        finally:
            self._free.acquire()
