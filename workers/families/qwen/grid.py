"""Where an image's tokens lie: in rows and columns, in windows, and in the order in which the tower has them.

The patches of a token lie next to one another, and where the tower has windows so do the tokens of each.

Shape letters: see ``workers/sites.py``; here also M patches of a token.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from workers.upload import to_device

Size = tuple[int, int]  # rows and columns of tokens
THETA = 10000.0  # of the rotary positions of patches, which no published configuration states


class TokenGrid:
    """One image."""

    def __init__(self, size: Size, merge: int, window: int, device: torch.device) -> None:
        """Lay it out, on the host: the device is not waited for.

        Args:
            size: rows and columns of tokens.
            merge: patches of a token, one side.
            window: tokens of a window, one side; 0: the tower has none.
            device: of the tensors.
        """
        self.size, self.merge = size, merge
        self.tokens = size[0] * size[1]
        self.patches = self.tokens * merge**2
        step = window or max(size)
        # Tokens of each window, in the tower's order; those at the right and lower edge hold less.
        heights, widths = ([min(step, side - first) for first in range(0, side, step)] for side in size)
        self.windows = [height * width for height in heights for width in widths]
        row_V, column_V = torch.arange(self.tokens) // size[1], torch.arange(self.tokens) % size[1]
        window_V = row_V // step * len(widths) + column_V // step
        order_V = window_V.argsort(stable=True)
        self.place_V2 = to_device(torch.stack((row_V, column_V), dim=1), device)
        self.window_V = to_device(window_V, device)
        self.order_V = to_device(order_V, device)  # the tower's
        self.at_V = to_device(order_V.argsort(), device)  # where each token is there

    def angles(self, head_dim: int) -> Tensor:
        """(V, M, E) float32 of the patches' rotary positions: half of a head turns with the row, half with the column.

        Each half's speeds are in both halves of the values that turn together.
        """
        device, quarter = self.place_V2.device, head_dim // 4
        speed = THETA ** -(torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
        return (self._patches()[..., None] * speed).flatten(2).repeat(1, 1, 2)

    def stretched(self, table_XC: Tensor) -> Tensor:
        """(V, M, C) of the patches: a square of embeddings stretched over the image, corner to corner.

        Between its places it is linear in both directions.
        """
        side = math.isqrt(len(table_XC))
        reach = [(side - 1) / max(1, count * self.merge - 1) for count in self.size]
        at_2VM = [place_VM * one for place_VM, one in zip(self._patches().unbind(dim=-1), reach, strict=True)]
        taps = []
        for at_VM in at_2VM:
            low_VM = at_VM.long().clamp(max=max(0, side - 2))
            above_VM = at_VM - low_VM
            taps.append(((low_VM, 1 - above_VM), ((low_VM + 1).clamp(max=side - 1), above_VM)))
        parts = [
            table_XC[row_VM * side + column_VM] * (of_row_VM * of_column_VM)[..., None]
            for (row_VM, of_row_VM), (column_VM, of_column_VM) in itertools.product(*taps)
        ]
        return sum(parts[1:], start=parts[0])

    def _patches(self) -> Tensor:
        """(V, M, 2) rows and columns of the patches."""
        inner_M2 = torch.cartesian_prod(*[torch.arange(self.merge, device=self.place_V2.device)] * 2).view(-1, 2)
        return self.place_V2[:, None] * self.merge + inner_M2


def turned(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of rows (..., H, E) by their angles (..., 1, E); computed in float32, rounded once."""
    first, second = rows.float().chunk(2, dim=-1)
    return (rows.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(rows.dtype)
