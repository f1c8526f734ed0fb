"""From an image to the tiles that InternVL's tower is given."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from workers.families.intern.tiling import Tiling


def to_tiles(image: Image.Image, tiling: Tiling, processor: Any) -> Tensor:
    """Pre-process one image.

    Args:
        image: RGB.
        tiling: how it is cut.
        processor: the checkpoint's image processor, PIL back end.

    Returns:
        (tiles, 3, side, side) float32: row by row, and behind them the whole image, where there are several.
    """
    made = processor(images=image, crop_to_patches=True, return_tensors="pt")
    tiles: Tensor = torch.as_tensor(made["pixel_values"], dtype=torch.float32)
    assert len(tiles) == tiling.tiles((image.height, image.width)), "tiles are not counted as transformers does"
    return tiles


def as_seen(image: Image.Image, tiling: Tiling, processor: Any) -> Image.Image:
    """The image that is cut into tiles, before it is normalised."""
    rows, columns = tiling.grid((image.height, image.width))
    size = (columns * tiling.side, rows * tiling.side)
    return image.resize(size, Image.Resampling(int(processor.resample)))
