"""Which samples show the same image: a digest of the pixels that the model is given, whatever the file is called."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from PIL import Image

from workers.images import image_content, load_image
from workers.tasks.base import DataError, EmbeddedImage, Sample

READERS = 8  # threads at most: Pillow lets others run while it decodes
DIGEST_BYTES = 16

Source = Path | EmbeddedImage
Watch = Callable[
    [Iterator[str], int], Iterable[str]
]  # is given digests as they come, and how many will; passes them on


def pixel_digest(image: Image.Image) -> str:
    """Name an RGB image by its size and pixels: 32 hex digits."""
    digest = hashlib.blake2b(f"{image.mode} {image.width} {image.height}\0".encode(), digest_size=DIGEST_BYTES)
    digest.update(image.tobytes())
    return digest.hexdigest()


def sample_digest(sample: Sample) -> str:
    """The digest of a sample's image; "" where it has none.

    Raises:
        DataError: the image cannot be read.
    """
    return "" if sample.image is None else pixel_digest(load_image(sample.image))


def image_digests(
    samples: Sequence[Sample], known: Mapping[str, str] | None = None, watch: Watch = lambda found, count: found
) -> tuple[str, ...]:
    """The digest of each sample's image; "" where it has none, or one that cannot be decoded.

    A file is read once, under however many names and for however many samples, and equal files are decoded once.

    Args:
        samples: Of a benchmark.
        known: Digests by sample that need not be taken again.
        watch: Follows those that are taken.
    """
    known = known or {}
    sources = {sample.id: sample.image for sample in samples if sample.image is not None}
    identity = {id: _identity(source) for id, source in sources.items()}
    found = {identity[id]: digest for id, digest in known.items() if digest and id in identity}
    missing = {identity[id]: source for id, source in sources.items() if identity[id] not in found}
    pool = ThreadPoolExecutor(min(READERS, os.cpu_count() or 1))
    try:
        found |= zip(missing, watch(pool.map(_Taking(), missing.values()), len(missing)), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)  # who breaks it off does not wait for thousands of images
    return tuple(found[identity[sample.id]] if sample.id in identity else "" for sample in samples)


class _Taking:
    """From an image's place to its digest; remembers files by their bytes, which a table repeats for each question."""

    def __init__(self) -> None:
        self._seen: dict[bytes, str] = {}
        self._turns: dict[bytes, Lock] = {}  # who comes with equal bytes waits for the one who decodes them

    def __call__(self, source: Source) -> str:
        try:
            content = image_content(source)
            name = hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
            with self._turns.setdefault(name, Lock()):
                if name not in self._seen:
                    self._seen[name] = pixel_digest(load_image(source, content))
                return self._seen[name]
        except (DataError, MemoryError):
            return ""  # fails when it is asked about, and is recorded then


def _identity(source: Source) -> Hashable:
    """Equal for two names of one file."""
    if not isinstance(source, Path):
        return str(source)
    try:
        status = source.stat()
    except OSError:
        return str(source)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
