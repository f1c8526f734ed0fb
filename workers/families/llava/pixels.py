"""From an image to the pixels of LLaVA's tower: a square, or the overview and tiles of any-resolution.

Source: haotian-liu/LLaVA, llava/mm_utils.py (``expand2square``): LLaVA-1.5 was trained on images padded to a square
with the CLIP mean colour. HiMAP's experiment scripts centre-crop instead and lose the borders of non-square images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from workers.families.llava.anyres import Tiling
from workers.families.llava.pixel_modes import SQUARE_MODES


def pad_to_square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Centre an image on a square of its longer side; the offset of the shorter side is rounded down."""
    if image.width == image.height:
        return image
    side = max(image.size)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def cut(image: Image.Image, tiling: Tiling, resample: int) -> list[Image.Image]:
    """The overview, squeezed to a square, and the tiles of the image padded with black, row by row."""
    side, (height, width) = tiling.tile, tiling.best((image.height, image.width))
    inner = tiling.scaled((image.height, image.width))
    grid = Image.new("RGB", (width, height))
    scaled = image.resize((inner[1], inner[0]), Image.Resampling(resample))
    grid.paste(scaled, ((width - inner[1]) // 2, (height - inner[0]) // 2))
    corners = [(x, y) for y in range(0, height, side) for x in range(0, width, side)]
    overview = image.resize((side, side), Image.Resampling(resample))
    return [overview, *(grid.crop((x, y, x + side, y + side)) for x, y in corners)]


def to_tiles(image: Image.Image, tiling: Tiling, processor: Any) -> Tensor:
    """Pre-process one image for any-resolution: (tiles, 3, side, side) float32, the overview first."""
    tiles = cut(image, tiling, int(processor.resample))
    pixels = [processor(images=tile, return_tensors="pt")["pixel_values"][0] for tile in tiles]
    return torch.stack([torch.as_tensor(one, dtype=torch.float32) for one in pixels])


def to_pixels(image: Image.Image, mode: str, processor: Any, side: int | None = None) -> Tensor:
    """Pre-process one image.

    Args:
        image: RGB.
        mode: ``pad`` to a square with the processor's mean colour (122, 116, 104 for CLIP), or ``crop`` the centre.
        processor: the checkpoint's image processor, PIL back end.
        side: pixels, in place of the processor's own.

    Returns:
        (3, side, side) float32, normalised as the processor says.
    """
    image = _squared(image, mode, processor)
    sizes = {} if side is None else {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    made = processor(images=image, return_tensors="pt", **sizes)["pixel_values"][0]
    return torch.as_tensor(made, dtype=torch.float32)


def as_seen(image: Image.Image, mode: str, processor: Any) -> Image.Image:
    """The pixels that the vision tower is given, before they are normalised; of any-resolution the overview."""
    if mode in SQUARE_MODES:
        image = _squared(image, mode, processor)
    else:
        side = int(dict(processor.crop_size)["height"])
        image = image.resize((side, side), Image.Resampling(int(processor.resample)))
    pixels = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)).astype(np.uint8))


def _squared(image: Image.Image, mode: str, processor: Any) -> Image.Image:
    if mode != "pad":
        return image
    red, green, blue = (int(mean * 255) for mean in processor.image_mean)
    return pad_to_square(image, (red, green, blue))
