"""From an image file to the pixels of the vision tower, the same on every host.

Source: haotian-liu/LLaVA, llava/mm_utils.py (``expand2square``): LLaVA-1.5 was trained on images padded to a square
with the CLIP mean colour. HiMAP's experiment scripts centre-crop instead and lose the borders of non-square images.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from workers.tasks.base import DataError, EmbeddedImage

MODES = ("pad", "crop")
# A file of 200 bytes can hold 1 x 60,000 pixels, which padded to a square are 14 GB: refused before it is decoded.
MAX_PIXELS = 64 * 1024 * 1024  # of the square it is padded to
MAX_ASPECT = 100  # longer to shorter side


def load_image(source: Path | EmbeddedImage) -> Image.Image:
    """Decode an image file, or one inside a table's file, to RGB: the first frame, and of 16 bits the upper 8.

    Raises:
        DataError: the file is missing, no image, damaged, or too large or too long (``MAX_PIXELS``, ``MAX_ASPECT``).
    """
    try:
        with Image.open(source if isinstance(source, Path) else BytesIO(source.read())) as image:
            size = f"image {source}: {image.width} x {image.height}"
            longer, shorter = max(image.size), max(min(image.size), 1)
            if longer**2 > MAX_PIXELS:
                raise DataError(f"{size} makes a square above {MAX_PIXELS} pixels")
            if longer > MAX_ASPECT * shorter:
                raise DataError(f"{size} is more than {MAX_ASPECT} times as long as wide")
            return _rgb(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises SyntaxError on broken PNGs
        raise DataError(f"image {source}: cannot be read: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would cut off at 255 what runs to 65535
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def pad_to_square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Centre an image on a square of its longer side; the offset of the shorter side is rounded down."""
    if image.width == image.height:
        return image
    side = max(image.size)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def to_pixels(image: Image.Image, mode: str, processor: Any) -> Tensor:
    """Pre-process one image.

    Args:
        image: RGB.
        mode: ``pad`` to a square with the processor's mean colour (122, 116, 104 for CLIP), or ``crop`` the centre.
        processor: the checkpoint's image processor, PIL back end.

    Returns:
        (3, side, side) float32, normalised as the processor says.
    """
    if mode == "pad":
        red, green, blue = (int(mean * 255) for mean in processor.image_mean)
        image = pad_to_square(image, (red, green, blue))
    return torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"][0], dtype=torch.float32)
