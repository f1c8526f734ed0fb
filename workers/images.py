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
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from workers.anyres import Tiling
from workers.json_file import read_bytes
from workers.tasks.base import DataError, EmbeddedImage

SQUARE_MODES = ("pad", "crop")
MODES = (*SQUARE_MODES, "anyres")
# A file of 200 bytes can hold 1 x 60,000 pixels, which padded to a square are 14 GB: refused before it is decoded.
MAX_PIXELS = 64 * 1024 * 1024  # of the square it is padded to
MAX_ASPECT = 100  # longer to shorter side
# Formats of benchmarks. None needs another program, as EPS does, other files, or a plug-in that is not Pillow's.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # a camera's MPO is opened as the JPEG that it begins with
# Each scan of a progressive JPEG decodes the whole image again, and a few bytes make one. Cameras write up to 10.
MAX_SCANS = 100
MAX_BYTES = 2**29  # of a file; what is not compressed has 192 MiB at MAX_PIXELS
SCAN = b"\xff\xda"  # inside of compressed data a zero follows 0xFF; embedded previews and profiles may add some
DRAWING_COLOURS = 2048  # more than that after resizing, and the image is a photograph


def load_image(source: Path | EmbeddedImage) -> Image.Image:
    """Decode an image to RGB, as LLaVA's ``Image.open(path).convert("RGB")`` does, except for 16-bit grey.

    So of an animation the first frame counts; an orientation in the EXIF data is ignored; transparency is dropped,
    and what it covered shows. 16-bit grey is brought to 8 bits, where Pillow would clip it to white.

    Args:
        source: a file, or a place inside a table's file.

    Raises:
        DataError: the file is missing, no image of ``FORMATS``, damaged, of a number type without a known range, or too
            large or too long (``MAX_PIXELS``, ``MAX_ASPECT``).
    """
    try:
        content = read_bytes(source, MAX_BYTES) if isinstance(source, Path) else source.read()
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            size = f"image {source}: {image.width} x {image.height}"
            longer, shorter = max(image.size), max(min(image.size), 1)
            if longer**2 > MAX_PIXELS:
                raise DataError(f"{size} makes a square above {MAX_PIXELS} pixels")
            if longer > MAX_ASPECT * shorter:
                raise DataError(f"{size} is more than {MAX_ASPECT} times as long as wide")
            if image.format in ("JPEG", "MPO") and (scans := content.count(SCAN)) > MAX_SCANS:
                raise DataError(f"{size} in {scans} scans, more than {MAX_SCANS}; save it anew")
            return _eight_bits(image, source).convert("RGB")
    except UnidentifiedImageError as error:
        raise DataError(f"image {source}: is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from error
    except DataError:
        raise
    # Pillow raises SyntaxError on broken PNGs, ValueError where their texts or profiles unpack to more than a megabyte.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).removeprefix(f"{source}: ")
        raise DataError(f"image {source}: cannot be read: {reason}") from error


def _eight_bits(image: Image.Image, source: Path | EmbeddedImage) -> Image.Image:
    """Grey of more than 8 bits, scaled. Old releases of Pillow open a 16-bit PNG in mode I."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(f"image {source}: has pixels of mode {image.mode}, whose range is unknown; save it with 8 bits")
    return image


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


def to_pixels(image: Image.Image, mode: str, processor: Any) -> Tensor:
    """Pre-process one image.

    Args:
        image: RGB.
        mode: ``pad`` to a square with the processor's mean colour (122, 116, 104 for CLIP), or ``crop`` the centre.
        processor: the checkpoint's image processor, PIL back end.

    Returns:
        (3, side, side) float32, normalised as the processor says.
    """
    image = _squared(image, mode, processor)
    return torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"][0], dtype=torch.float32)


def as_seen(image: Image.Image, mode: str, processor: Any) -> Image.Image:
    """The pixels that the vision tower is given, before they are normalised; of any-resolution the overview."""
    if mode in SQUARE_MODES:
        image = _squared(image, mode, processor)
    else:
        side = int(dict(processor.crop_size)["height"])
        image = image.resize((side, side), Image.Resampling(int(processor.resample)))
    pixels = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)).astype(np.uint8))


def encoded(image: Image.Image) -> bytes:
    """An RGB image as WebP: without loss where it has few colours, as drawings and diagrams do, else quality 80.

    336 x 336 pixels take about 0.3 kB for a drawing, about 20 kB for a noisy photograph.
    """
    content = BytesIO()
    if image.getcolors(DRAWING_COLOURS) is not None:
        image.save(content, format="WEBP", lossless=True)
    else:
        image.save(content, format="WEBP", quality=80, method=2)
    return content.getvalue()


def _squared(image: Image.Image, mode: str, processor: Any) -> Image.Image:
    if mode != "pad":
        return image
    red, green, blue = (int(mean * 255) for mean in processor.image_mean)
    return pad_to_square(image, (red, green, blue))
