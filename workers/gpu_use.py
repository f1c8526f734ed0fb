"""How busy a GPU is, asked of NVIDIA's driver while it works; nothing where there is none to ask."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from statistics import fmean

import torch

EVERY_S = 0.5  # the driver itself looks at the last sixth of a second to a second


class BusyWatch:
    """The mean of what a driver says between two calls, in a thread of its own."""

    def __init__(self, ask: Callable[[], float] | None, every_s: float = EVERY_S) -> None:
        """Nothing is asked yet.

        Args:
            ask: Share of the time in which the device had something to do, 0 to 1. Raises: OSError: It does not say.
            every_s: Seconds between two questions.
        """
        self._ask, self._every_s = ask, every_s
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._seen: list[float] = []

    def start(self) -> None:
        if self._ask is not None:
            self._ended.clear()
            self._seen = []
            self._thread = threading.Thread(target=self._watch, name="gpu-use", daemon=True)
            self._thread.start()

    def stop(self) -> float | None:
        """The mean since `start`; None where nobody said anything."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None
        return fmean(self._seen) if self._seen else None

    def _watch(self) -> None:
        assert self._ask is not None
        try:
            while True:
                self._seen.append(self._ask())
                if self._ended.wait(self._every_s):
                    return
        except OSError:
            self._seen = []


class _Rates(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))  # percent


def driver_of(device: torch.device) -> Callable[[], float] | None:
    """Who says how busy a device is; None for a CPU, and where NVIDIA's library is missing or knows no such card."""
    if device.type != "cuda":
        return None
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
    except (OSError, AttributeError):
        return None
    card = ctypes.c_void_p()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(card)):
        return None

    def ask() -> float:
        rates = _Rates()
        if code := library.nvmlDeviceGetUtilizationRates(card, ctypes.byref(rates)):
            raise OSError(f"nvml: {code}")  # of a part of a card the driver does not say it
        return float(rates.gpu) / 100

    return ask
