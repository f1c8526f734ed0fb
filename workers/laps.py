"""How long the parts of a forward take, without holding up the device: a lap ends where the next one begins."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch

PREFILL, SELECTOR, TOWER, PROJECTOR = "prefill", "selector", "tower", "projector"


def now(device: torch.device) -> float:
    """The clock in seconds, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Laps:
    """A stop watch that is told what has just ended.

    On CUDA it leaves events in the stream: the host runs ahead as it would without, and a lap has the pauses in which
    the device waited for the host.
    """

    def __init__(self, device: torch.device) -> None:
        """Start the first lap."""
        self._device = device
        self._start = self._look()
        self._ended: list[tuple[str, Any]] = []

    def end(self, part: str) -> None:
        """What has passed since the last look belongs to a part."""
        self._ended.append((part, self._look()))

    def seconds(self, part: str) -> float:
        """Sum of a part's laps; the device must have done all it was given."""
        looks = pairwise([("", self._start), *self._ended])
        return sum(self._between(before, after) for (_, before), (name, after) in looks if name == part)

    def _look(self) -> Any:
        if self._device.type != "cuda":
            return now(self._device)
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, before: Any, after: Any) -> float:
        return before.elapsed_time(after) / 1000 if self._device.type == "cuda" else after - before
