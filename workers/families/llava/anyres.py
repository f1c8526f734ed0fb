"""Any-resolution of LLaVA-NeXT and LLaVA-OneVision: an image as an overview and a grid of tiles, and its tokens.

Source: haotian-liu/LLaVA, llava/mm_utils.py (``select_best_resolution``, ``resize_and_pad_image``) and llava_arch.py
(``unpad_image``, merge type ``spatial_unpad``, and of ``anyres_max_9`` that tokens of many tiles become fewer);
transformers' LlavaNextProcessor and LlavaOnevisionProcessor count the same. Only the standard library is imported: a
planner counts tokens without a model.
"""

from __future__ import annotations

import math
from ast import literal_eval
from collections.abc import Sequence
from dataclasses import dataclass

from workers.token_maps import TokenMap

Size = tuple[int, int]  # height, width
MAX_TEXT = 10_000  # letters of a list of sizes
SLACK = 1.1  # by how much, along a side, patches may be more than those of ``most_tiles``


@dataclass(frozen=True, slots=True)
class Tiling:
    """Which grids of tiles a model knows."""

    pinpoints: tuple[Size, ...]  # pixels of each grid
    tile: int  # pixels, one side
    patch: int  # pixels of a patch, one side
    most_tiles: int | None = None  # whose tokens a grid has, where it has more patches; None: a token for each patch
    one_tile_among: bool = False  # whether each of several images in a prompt is a square, one tile alone

    @property
    def side(self) -> int:
        """Patches of a tile, one side."""
        return self.tile // self.patch

    def best(self, image: Size) -> Size:
        """The grid that keeps most of an image's pixels, and of several the smallest; the first of equal ones."""

        def merit(grid: Size) -> tuple[int, int]:
            scale = min(grid[1] / image[1], grid[0] / image[0])
            kept = min(int(image[1] * scale) * int(image[0] * scale), image[0] * image[1])
            return kept, kept - grid[0] * grid[1]

        return max(self.pinpoints, key=merit)

    def scaled(self, image: Size) -> Size:
        """Pixels of the image inside its grid; the rest of the grid is padding."""
        grid = self.best(image)
        by_height, by_width = grid[0] / image[0], grid[1] / image[1]
        if by_width < by_height:
            return min(math.ceil(image[0] * by_width), grid[0]), grid[1]
        return grid[0], min(math.ceil(image[1] * by_height), grid[1])

    def tiles(self, image: Size) -> int:
        """Images that the vision tower sees: the overview and the tiles."""
        grid = self.best(image)
        return 1 + (grid[0] // self.tile) * (grid[1] // self.tile)

    def unpadded(self, image: Size) -> Size:
        """Rows and columns of the grid's patches without those of padding alone."""
        height, width = (pixels // self.tile * self.side for pixels in self.best(image))
        if image[1] / image[0] > width / height:
            height -= (height - int(round(image[0] * (width / image[1]), 7))) // 2 * 2
        else:
            width -= (width - int(round(image[1] * (height / image[0]), 7))) // 2 * 2
        return height, width

    def merged(self, patches: Size) -> Size:
        """Rows and columns of tokens that so many of patches become."""
        height, width = patches
        ratio = math.sqrt(height * width / (self.most_tiles * self.side**2)) if self.most_tiles else 0
        return (int(height // ratio), int(width // ratio)) if ratio > SLACK else patches

    def tokens(self, image: Size, among: int = 1) -> int:
        """Visual tokens: the overview's, those of the grid without padding, and one at the end of each row.

        Args:
            image: its height and width.
            among: images of its prompt, of each of which some models see one square.
        """
        return self.side**2 + 1 if among > 1 and self.one_tile_among else self._tokens(self.unpadded(image))

    def _tokens(self, patches: Size) -> int:
        rows, columns = self.merged(patches)
        return self.side**2 + rows * (columns + 1)

    def maps(self, image: Size) -> tuple[TokenMap, ...]:
        """Where an image's tokens lie in it."""
        overview = TokenMap(0, self.side, self.side, overview=1)
        return overview, TokenMap(self.side**2, *self.merged(self.unpadded(image)), ends=1)

    @property
    def most_tokens(self) -> int:
        """That no image exceeds. One that fills its grid need not have most: somewhat fewer patches are not merged."""
        grids = [[pixels // self.tile * self.side for pixels in grid] for grid in self.pinpoints]
        lower = ((rows, width) for height, width in grids for rows in range(height, 0, -2))
        narrower = ((height, columns) for height, width in grids for columns in range(width, 0, -2))
        return max(map(self._tokens, (*lower, *narrower)))


def read_pinpoints(stated: object) -> tuple[Size, ...]:
    """Grids as a configuration states them, (height, width); LLaVA's training scripts write the list as a text.

    Raises:
        ValueError: it is no list of pairs of positive whole numbers.
    """
    if isinstance(stated, str):
        try:
            return read_pinpoints(literal_eval(stated[:MAX_TEXT]))
        except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise ValueError(f"{stated[:40]!r} is not a list of sizes") from error
    if not isinstance(stated, Sequence) or not stated:
        raise ValueError(f"{stated!r} is not a list of sizes")
    sizes = []
    for pair in stated:
        if not (
            isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(side, int) and side > 0 for side in pair)
        ):
            raise ValueError(f"{pair!r} is not a height and a width")
        sizes.append((pair[0], pair[1]))
    return tuple(sizes)
