"""Bookkeeping on its way to a GPU and back. What goes there is read out of host memory by a kernel, not copied.

A GPU has one engine for copies that come from the host, and it takes them in their order. Where layers of weights or
caches come from host memory, a table of some kilobytes that is copied waits until they have arrived, and all that is
computed waits for the table: nothing went on beside those copies (``docs/performance.md``). A kernel reads pinned
memory over the same wires, without that engine.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import torch
from torch import Tensor

from strategies.one_program import tl, triton

MOST_BYTES = 4 << 20  # that a kernel reads; more, as pixels are, is copied
WORD = torch.int32
BLOCK = 1024  # words of a program


class _Sent(threading.local):
    """What a thread's kernels may still read, with the event behind each."""

    def __init__(self) -> None:
        self.queue: deque[tuple[torch.cuda.Event, Tensor]] = deque()

    def hold(self, pinned: Tensor) -> None:
        """Keep a tensor until all that is queued now is done, and let go of those of which that is true."""
        event = torch.cuda.Event()
        event.record()
        self.queue.append((event, pinned))
        while self.queue and self.queue[0][0].query():
            self.queue.popleft()


_sent = _Sent()


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Bring bookkeeping to the device without making either side wait for the other."""
    if device.type != "cuda":
        return host
    pinned = host.contiguous().pin_memory()  # of rows that are one, all: they are written
    if triton is None or not 0 < pinned.nbytes <= MOST_BYTES or pinned.nbytes % WORD.itemsize:
        return pinned.to(device, non_blocking=True)
    there = torch.empty_like(pinned, device=device)
    words = pinned.nbytes // WORD.itemsize
    _read_kernel[(triton.cdiv(words, BLOCK),)](_words(pinned), _words(there), words, block=BLOCK, num_warps=4)
    _sent.hold(pinned)
    return there


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


def _words(rows: Tensor) -> Tensor:
    return rows.view(-1).view(WORD)


if triton is not None:

    @triton.jit
    def _read_kernel(source, target, words, block: tl.constexpr):  # type: ignore[no-untyped-def]
        at = tl.program_id(0) * block + tl.arange(0, block)
        tl.store(target + at, tl.load(source + at, mask=at < words), mask=at < words)
