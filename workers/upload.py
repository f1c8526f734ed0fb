"""Bookkeeping on its way to a GPU and back. What goes there is read out of host memory by a kernel, not copied.

A GPU has one engine for copies that come from the host, and it takes them in their order. Where layers of weights or
caches come from host memory, a table of some kilobytes that is copied waits until they have arrived, and all that is
computed waits for the table: nothing went on beside those copies (``docs/performance.md``). A kernel reads pinned
memory over the same wires, without that engine.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import torch
from torch import Tensor

MOST_BYTES = 4 << 20  # that a kernel reads; more, as pixels are, is copied
HALF_BYTES = 2 * MOST_BYTES  # of the memory that it is read from
WORD = torch.int32
ALIGNED = 128  # bytes, to which tables begin: a kernel's reads are as wide as they get


class _Mapped:
    """Pinned host memory, as a device sees it under the same address."""

    def __init__(self, pinned: Tensor) -> None:
        words = pinned.nbytes // WORD.itemsize
        self.__cuda_array_interface__ = {
            "shape": (words,),
            "typestr": "<i4",
            "data": (pinned.data_ptr(), False),
            "version": 3,
        }


class _Ring:
    """Pinned memory that all tables of a device pass through, in two halves: one is read while the other is filled.

    A piece of memory pinned for each table cost the host half as much again (``docs/performance.md``).
    """

    def __init__(self, device: torch.device) -> None:
        self._lock = Lock()  # lanes use it at a time; what is filled has its reader queued before it is let go
        with torch.cuda.device(device):
            host = torch.empty(2 * HALF_BYTES, dtype=torch.uint8, pin_memory=True)
            self._there = torch.as_tensor(_Mapped(host), device=device)
        assert self._there.data_ptr() == host.data_ptr(), "a copy of what is not filled yet"
        self._host = host.numpy()
        self._device = device
        self._half, self._at = 0, 0
        self._streams: set[torch.cuda.Stream] = set()  # that read the half which is being filled
        self._read: list[list[torch.cuda.Event]] = [[], []]  # of each half, when that has been done

    def send(self, host: Tensor) -> Tensor:
        """A copy on the device, made by a kernel of the current stream."""
        flat = host.contiguous().view(-1).view(torch.uint8).numpy()  # of rows that are one, all: they are written
        with self._lock:
            first = self._place(flat.nbytes)
            self._host[first : first + flat.nbytes] = flat
            self._streams.add(torch.cuda.current_stream(self._device))
            words = self._there[first // WORD.itemsize : (first + flat.nbytes) // WORD.itemsize]
            there = words.bitwise_or(0)  # a kernel, as a copy would not be
        return there.view(host.dtype).view(host.shape)

    def _place(self, size: int) -> int:
        """Where so many bytes are free."""
        if self._at + size > HALF_BYTES:
            self._read[self._half] = [stream.record_event() for stream in self._streams]
            self._streams.clear()
            self._half, self._at = 1 - self._half, 0
            for event in self._read[self._half]:
                event.synchronize()
        place, self._at = self._at, self._at + -(-size // ALIGNED) * ALIGNED
        return self._half * HALF_BYTES + place


_rings: dict[torch.device, _Ring] = {}
_making = Lock()


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Bring bookkeeping to the device without making either side wait for the other."""
    if device.type != "cuda":
        return host
    if not 0 < host.nbytes <= MOST_BYTES or host.nbytes % WORD.itemsize:
        return host.contiguous().pin_memory().to(device, non_blocking=True)
    ring = _rings.get(device)
    if ring is None:
        with _making:
            ring = _rings.get(device) or _rings.setdefault(device, _Ring(device))
    return ring.send(host)


class Download:
    """What is on its way to the host, which goes on until it wants to read it."""

    def __init__(self, *there: Tensor) -> None:
        """Have copies queued.

        Args:
            there: on the device, or on the host already.
        """
        self._here = [one.to("cpu", non_blocking=True) for one in there]
        self._arrived: torch.cuda.Event | None = None
        if any(one.is_cuda for one in there):
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[Any]:
        """Wait for it: each as a list, or as a number."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [one.tolist() for one in self._here]
