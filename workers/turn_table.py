"""Cosines and sines of positions, worked out once: a layer where somebody forks has other rows, not other positions.

As transformers makes them they are a dozen small steps of the device, which its host has to give at each such layer.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor

BY_POSITION_ALONE = ("default", "linear", "llama3", "yarn")  # kinds whose angles do not depend on the prompt's length
LEAST = 4096  # positions; 2 MB of a 7B model in half precision


class TurnTable:
    """Grows when longer prompts come."""

    def __init__(self, turned: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        """Begin with no position.

        Args:
            turned: (1, R) position ids -> cosines and sines, each (R, 1, E).
        """
        self._turned = turned
        self._growing = Lock()
        self._tables: list[tuple[Tensor, Tensor]] = []  # the last is the longest; others may still be read in a lane

    def up_to(self, below: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of at least so many positions from 0 on, on a GPU."""
        if not self._tables or len(self._tables[-1][0]) < below:
            with self._growing:
                if not self._tables or len(self._tables[-1][0]) < below:
                    count = max(LEAST, 1 << (below - 1).bit_length())
                    self._tables.append(self._turned(torch.arange(count, device=device)[None]))
                    torch.cuda.current_stream(device).synchronize()  # the other lane's may be the first to read it
        return self._tables[-1]
