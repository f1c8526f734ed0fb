"""How Qwen2-VL chooses the size at which it looks at an image, and the tokens that come of it.

Source: QwenLM/Qwen2.5-VL, qwen-vl-utils/src/qwen_vl_utils/vision_process.py (``smart_resize``); transformers'
Qwen2VLImageProcessor counts the same. Only the standard library is imported: a planner counts tokens without a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Size = tuple[int, int]  # height, width
MAX_RATIO = 200  # of the sides of an image


@dataclass(frozen=True, slots=True)
class Resizing:
    """Sides become multiples of a token's, and the image neither smaller nor larger than allowed."""

    patch: int  # pixels of a patch, one side
    merge: int  # patches of a token, one side
    min_pixels: int
    max_pixels: int

    @property
    def unit(self) -> int:
        """Pixels of a token, one side."""
        return self.patch * self.merge

    def scaled(self, image: Size) -> Size:
        """Pixels of an image as the tower is given it. Its sides may differ ``MAX_RATIO``-fold."""
        height, width = image
        unit = self.unit
        rows, columns = round(height / unit), round(width / unit)
        if rows * columns * unit**2 > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows, columns = (max(1, math.floor(side / shrink / unit)) for side in image)
        elif rows * columns * unit**2 < self.min_pixels:
            stretch = math.sqrt(self.min_pixels / (height * width))
            rows, columns = (math.ceil(side * stretch / unit) for side in image)
        return rows * unit, columns * unit

    def grid(self, image: Size) -> Size:
        """Rows and columns of tokens."""
        height, width = self.scaled(image)
        return height // self.unit, width // self.unit

    def smaller(self, image: Size, tokens: int) -> Size:
        """Rows and columns of at most so many tokens: those of a ``max_pixels`` that allows no more, or of a strip.

        An image that was to grow shrinks from what it would have become.
        """
        rows, columns = self.grid(image)
        if rows * columns <= tokens:
            return rows, columns
        grows = round(image[0] / self.unit) * round(image[1] / self.unit) * self.unit**2 < self.min_pixels
        height, width = self.scaled(image) if grows else image
        shrink = math.sqrt(height * width / (tokens * self.unit**2))
        rows, columns = (max(1, math.floor(side / shrink / self.unit)) for side in (height, width))
        return (rows, columns) if rows * columns <= tokens else (min(rows, tokens), min(columns, tokens))

    @property
    def most_tokens(self) -> int:
        """That an image can have: of one that fills ``max_pixels``, or of a strip that no scaling makes narrower.

        A strip that is one token high may be longer than its area allows, and sides that grow are rounded up.
        """
        strip = math.isqrt(MAX_RATIO * self.max_pixels) // self.unit
        area, narrowest = self.min_pixels / self.unit**2, math.sqrt(self.min_pixels / MAX_RATIO) / self.unit
        shorter = range(max(1, math.ceil(narrowest)), math.ceil(math.sqrt(area)) + 1)
        grown = (side * math.ceil(area / max(side - 1, narrowest)) for side in shorter)
        return max(1, self.max_pixels // self.unit**2, strip, *grown)
