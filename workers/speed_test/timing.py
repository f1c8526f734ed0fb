"""Times that mean something: warmed up, synchronised, repeated; and what the device could do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

REPEATS = 3
SUSTAINED_S = 3.0  # until the clock of an H200 has settled


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one run: the median of some, and their spread."""

    median_s: float
    low_s: float
    high_s: float
    runs: int
    warm: bool  # False: the time allowed was gone after the first run, which stands alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """The device's matrix product, measured in this process."""

    size: int  # (size x size) times (size x size), random values
    dtype: str
    tflops: float  # for a moment, on a cool device
    sustained_tflops: float  # after seconds of nothing else, when power and heat limit the clock


def timed(
    run: Callable[[], object], device: torch.device, seconds: float, repeats: int = REPEATS
) -> tuple[Timing, float | None]:
    """Run once to warm up, then some times by the clock; the device has finished before every look at it.

    Returns:
        The times, and the peak of allocated memory in GiB on CUDA.
    """
    cuda = device.type == "cuda"
    began = time.perf_counter()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    first = _once(run, device)
    times: list[float] = []
    while len(times) < repeats and time.perf_counter() - began < seconds:
        times.append(_once(run, device))
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None
    measured = times or [first]
    return (
        Timing(
            median_s=statistics.median(measured),
            low_s=min(measured),
            high_s=max(measured),
            runs=len(measured),
            warm=bool(times),
        ),
        peak,
    )


def _once(run: Callable[[], object], device: torch.device) -> float:
    _synchronise(device)
    began = time.perf_counter()
    run()
    _synchronise(device)
    return time.perf_counter() - began


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> Ceiling:
    """Median of ten square products of normal values, after two that do not count; then the rate that lasts."""
    cuda = device.type == "cuda"
    size = 8192 if cuda else 512
    first = torch.randn(size, size, device=device, dtype=dtype)
    second = torch.randn(size, size, device=device, dtype=dtype)
    times = [_once(lambda: first @ second, device) for _ in range(12)][2:]
    tflop = 2 * size**3 / 1e12

    def twenty() -> None:
        for _ in range(20):
            first @ second

    lasting: list[float] = []
    began = time.perf_counter()
    while not lasting or time.perf_counter() - began < (SUSTAINED_S if cuda else 0):
        lasting.append(_once(twenty, device))
    return Ceiling(
        size=size,
        dtype=str(dtype).removeprefix("torch."),
        tflops=tflop / statistics.median(times),
        sustained_tflops=20 * tflop / statistics.median(lasting[-10:]),
    )
