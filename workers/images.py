"""From an image file to RGB, the same on every host, and back to a small file for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from workers.json_file import read_bytes
from workers.tasks.base import DataError, EmbeddedImage

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


def image_content(source: Path | EmbeddedImage) -> bytes:
    """An image file's bytes.

    Raises:
        DataError: they cannot be had.
    """
    with _told(source):
        return read_bytes(source, MAX_BYTES) if isinstance(source, Path) else source.read()


def load_image(source: Path | EmbeddedImage, content: bytes | None = None) -> Image.Image:
    """Decode an image to RGB, as LLaVA's ``Image.open(path).convert("RGB")`` does, except for 16-bit grey.

    So of an animation the first frame counts; an orientation in the EXIF data is ignored; transparency is dropped,
    and what it covered shows. 16-bit grey is brought to 8 bits, where Pillow would clip it to white.

    Args:
        source: a file, or a place inside a table's file.
        content: its bytes, where they have been read.

    Raises:
        DataError: the file is missing, no image of ``FORMATS``, damaged, of a number type without a known range, or too
            large or too long (``MAX_PIXELS``, ``MAX_ASPECT``).
    """
    content = image_content(source) if content is None else content
    with _told(source), Image.open(BytesIO(content), formats=FORMATS) as image:
        size = f"image {source}: {image.width} x {image.height}"
        longer, shorter = max(image.size), max(min(image.size), 1)
        if longer**2 > MAX_PIXELS:
            raise DataError(f"{size} makes a square above {MAX_PIXELS} pixels")
        if longer > MAX_ASPECT * shorter:
            raise DataError(f"{size} is more than {MAX_ASPECT} times as long as wide")
        if image.format in ("JPEG", "MPO") and (scans := content.count(SCAN)) > MAX_SCANS:
            raise DataError(f"{size} in {scans} scans, more than {MAX_SCANS}; save it anew")
        return _eight_bits(image, source).convert("RGB")


def image_size(source: Path | EmbeddedImage) -> tuple[int, int]:
    """Height and width of an image in a file, which is not decoded.

    Raises:
        DataError: as ``load_image``, as far as the beginning of the file says it.
    """
    with _told(source):
        opened = source if isinstance(source, Path) else BytesIO(source.read())
        with Image.open(opened, formats=FORMATS) as image:
            return image.height, image.width


@contextmanager
def _told(source: Path | EmbeddedImage) -> Iterator[None]:
    """Tell whatever is wrong with an image as a DataError."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError(f"image {source}: is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from error
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow raises whatever it likes: SyntaxError, KeyError, struct.error
        reason = str(error).removeprefix(f"{source}: ")
        raise DataError(f"image {source}: cannot be read: {reason}") from error


def _eight_bits(image: Image.Image, source: Path | EmbeddedImage) -> Image.Image:
    """Grey of more than 8 bits, scaled. Old releases of Pillow open a 16-bit PNG in mode I."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(f"image {source}: has pixels of mode {image.mode}, whose range is unknown; save it with 8 bits")
    return image


def column(images: Sequence[Image.Image]) -> Image.Image:
    """Images one below the other, all made as large as the largest sides; one alone as it is."""
    if len(images) == 1:
        return images[0]
    width, height = (max(sides) for sides in zip(*(image.size for image in images), strict=True))
    made = Image.new("RGB", (width, height * len(images)))
    for place, image in enumerate(images):
        made.paste(image.resize((width, height)), (0, place * height))
    return made


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
