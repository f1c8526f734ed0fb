"""Where an image's tokens lie: in rows and columns, in windows, and in the order in which the tower has them.

The patches of a token lie next to one another, and where the tower has windows so do the tokens of each.

Shape letters: see ``workers/sites.py``; here also M patches of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.sequences import to_device

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
        inner_M2 = torch.cartesian_prod(*[torch.arange(self.merge, device=device)] * 2).view(-1, 2)
        place_VM2 = self.place_V2[:, None] * self.merge + inner_M2
        speed = THETA ** -(torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
        return (place_VM2[..., None] * speed).flatten(2).repeat(1, 1, 2)


def turned(rows: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions of rows (..., H, E) by their angles (..., 1, E); computed in float32, rounded once."""
    first, second = rows.float().chunk(2, dim=-1)
    return (rows.float() * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()).to(rows.dtype)
