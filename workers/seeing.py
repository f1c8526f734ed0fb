"""An image as the model sees it: one square, or the tiles of any-resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from workers.images import load_image, to_pixels, to_tiles
from workers.llava import Llava
from workers.tasks.base import EmbeddedImage


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """An image ready for the vision tower."""

    pixels: Tensor  # (3, side, side), or (T, 3, side, side) with any-resolution
    size: tuple[int, int]  # height and width of the image itself
    visual: int  # tokens that will come of it


def look(llava: Llava, source: Path | EmbeddedImage, mode: str) -> Seen:
    """Read and pre-process an image, from a file or a table's cell.

    Raises:
        DataError: the file is missing, damaged or too large.
    """
    image = load_image(source)
    size, tiling = (image.height, image.width), llava.facts.tiling
    if tiling is None:
        return Seen(to_pixels(image, mode, llava.image_processor), size, llava.visual_tokens)
    return Seen(to_tiles(image, tiling, llava.image_processor), size, tiling.tokens(size))


def image_features(llava: Llava, seen: Sequence[Seen]) -> list[Tensor]:
    """Vision tower and projector: (V, D) for each image."""
    if not seen:
        return []
    pixels = [one.pixels for one in seen]
    if llava.facts.tiling is None:
        return list(llava.image_features(torch.stack(pixels)))
    return llava.tiled_features(pixels, [one.size for one in seen])
