"""How InternVL cuts an image into tiles, and the tokens that come of it.

Source: OpenGVLab/InternVL, internvl_chat/internvl/train/dataset.py (``dynamic_preprocess``, with ``use_thumbnail``);
transformers' GotOcr2ImageProcessor counts the same. Only the standard library is imported: a planner counts tokens
without a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from workers.token_maps import TokenMap

Size = tuple[int, int]  # height, width


@dataclass(frozen=True, slots=True)
class Tiling:
    """Rows and columns of tiles whose shape is nearest to the image's; it is stretched over them.

    An image of several tiles is seen once more as a whole, squeezed to one tile, behind the others.
    """

    side: int  # pixels of a tile
    tokens_each: int  # of a tile, after pixel shuffle
    least: int  # tiles
    most: int

    def grid(self, image: Size) -> Size:
        """Rows and columns of tiles.

        Of shapes equally near the last counts whose pixels are fewer than twice the image's; the first is the smallest.
        """
        height, width = image
        best, nearest = (1, 1), float("inf")
        for columns, rows in self._grids() if self.most > 1 else ():
            apart = abs(width / height - columns / rows)
            if apart < nearest or (apart == nearest and width * height > 0.5 * self.side * self.side * columns * rows):
                best, nearest = (rows, columns), apart
        return best

    def tiles(self, image: Size) -> int:
        """That the tower sees, the whole image's among them."""
        rows, columns = self.grid(image)
        return _with_whole(rows * columns)

    def tokens(self, image: Size) -> int:
        """Visual tokens."""
        return self.tiles(image) * self.tokens_each

    def maps(self, image: Size) -> tuple[TokenMap, ...]:
        """Where an image's tokens lie in it."""
        rows, columns = self.grid(image)
        side = math.isqrt(self.tokens_each)
        tiled = TokenMap(0, rows * side, columns * side, tile=side)
        whole = TokenMap(rows * columns * self.tokens_each, side, side, overview=1)
        return (tiled, whole) if rows * columns > 1 else (tiled,)

    @property
    def most_tokens(self) -> int:
        """That an image can have."""
        return _with_whole(max(rows * columns for columns, rows in self._grids())) * self.tokens_each

    def _grids(self) -> list[Size]:
        """Columns and rows, the fewest tiles first."""
        sides = range(1, self.most + 1)
        grids = [(columns, rows) for columns in sides for rows in sides if self.least <= columns * rows <= self.most]
        return sorted(grids, key=lambda grid: grid[0] * grid[1])


def _with_whole(tiles: int) -> int:
    return tiles + (tiles > 1)
