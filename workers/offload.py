"""Decoder layers whose weights stay in host memory, and go through two buffers of the device when it is their turn.

A packed forward goes through a layer with thousands of rows at a time, so the next layer can be copied while this one
is computed. What decodes goes through all layers for a few rows, and waits for the copies.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from workers.fused import FusedLayer

BUFFERS = 2  # one computes while the other is filled


def spread(away: int, layers: int) -> frozenset[int]:
    """So many of the layers, evenly between the others, which give the copies time."""
    return frozenset((2 * number + 1) * layers // (2 * away) for number in range(away))


class Layers:
    """A decoder's layers by number; those that are away come when they are asked for, and the next one with them.

    Asked by one thread, in the order of the layers for the copies to be ahead; any order gives the same weights.
    """

    def __init__(self, modules: Sequence[Any], away: Iterable[int], device: torch.device) -> None:
        """Make the buffers.

        Args:
            modules: transformers' decoder layers.
            away: those whose parameters lie in host memory, pinned where the device is a GPU.
            device: where layers are computed.
        """
        self._away = sorted(away)
        self._here = {number: FusedLayer.of(one) for number, one in enumerate(modules) if number not in self._away}
        self._host = {number: list(modules[number].parameters()) for number in self._away}
        self._buffers = [_Buffer(modules[number], device) for number in self._away[:1] * BUFFERS]
        self._copying = torch.cuda.Stream(device) if self._away and device.type == "cuda" else None
        self._count = len(modules)

    @property
    def away(self) -> int:
        """How many stay in host memory."""
        return len(self._away)

    def __len__(self) -> int:
        """Decoder layers, wherever they are."""
        return self._count

    def __getitem__(self, layer: int) -> FusedLayer:
        """A layer on the device. What was queued before it may still use the layer that it replaces there."""
        if (here := self._here.get(layer)) is not None:
            return here
        buffer = next((one for one in self._buffers if one.layer == layer), None)
        if buffer is None:
            buffer = self._buffers[0]
            self._send(layer, buffer)
        if not buffer.met:
            buffer.met = True
            if buffer.arrived is not None:
                torch.cuda.current_stream().wait_event(buffer.arrived)
            following = self._away[(self._away.index(layer) + 1) % len(self._away)]
            if all(one.layer != following for one in self._buffers):
                (other,) = (one for one in self._buffers if one is not buffer)
                self._send(following, other)
        return buffer.fused

    def _send(self, layer: int, buffer: _Buffer) -> None:
        """Fill a buffer, once all that was queued until now has used what it holds."""
        buffer.layer, buffer.met = layer, False
        if self._copying is None:
            self._copy(layer, buffer)
            return
        used = torch.cuda.current_stream().record_event()
        with torch.cuda.stream(self._copying):
            self._copying.wait_event(used)
            self._copy(layer, buffer)
            buffer.arrived = self._copying.record_event()

    def _copy(self, layer: int, buffer: _Buffer) -> None:
        for target, source in zip(buffer.parameters, self._host[layer], strict=True):
            target.copy_(source, non_blocking=True)


class _Buffer:
    """Room for one layer on the device."""

    def __init__(self, module: Any, device: torch.device) -> None:
        own = copy.deepcopy(module).to(device)
        self.fused = FusedLayer.of(own)
        self.parameters = list(own.parameters())
        self.layer: int | None = None  # that it holds, or that is on its way
        self.met = False  # whether the forward has waited for it
        self.arrived: torch.cuda.Event | None = None
