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
    """The digest of a sample's image, or of several in their order; "" where it has none.

    Raises:
        DataError: an image cannot be read.
    """
    return joined_digest([pixel_digest(load_image(image)) for image in sample.images])


def joined_digest(images: Sequence[str]) -> str:
    """One digest for those of a prompt's images; "" where there are none, or one is not known."""
    if len(images) < 2 or not all(images):
        return images[0] if len(images) == 1 else ""
    return hashlib.blake2b(" ".join(images).encode(), digest_size=DIGEST_BYTES).hexdigest()


def image_digests(
    samples: Sequence[Sample], known: Mapping[str, str] | None = None, watch: Watch = lambda found, count: found
) -> tuple[str, ...]:
    """The digest of each sample's images; "" where it has none, or one that cannot be decoded.

    A file is read once, under however many names and for however many samples, and equal files are decoded once.

    Args:
        samples: Of a benchmark.
        known: Digests by sample that need not be taken again.
        watch: Follows those that are taken.
    """
    known = known or {}
    sources = {str(source): source for sample in samples for source in sample.images}
    identity = {name: _identity(source) for name, source in sources.items()}
    taken = {sample.id: digest for sample in samples if (digest := known.get(sample.id, ""))}
    alone = {str(sample.image): taken[sample.id] for sample in samples if sample.id in taken and not sample.more}
    found = {identity[name]: digest for name, digest in alone.items() if name in identity}
    needed = dict.fromkeys(
        str(source) for sample in samples if not (sample.more and sample.id in taken) for source in sample.images
    )
    missing = {identity[name]: sources[name] for name in needed if identity[name] not in found}
    pool = ThreadPoolExecutor(min(READERS, os.cpu_count() or 1))
    try:
        found |= zip(missing, watch(pool.map(_Taking(), missing.values()), len(missing)), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)  # who breaks it off does not wait for thousands of images
    return tuple(
        taken[sample.id]
        if sample.more and sample.id in taken
        else joined_digest([found[identity[str(image)]] for image in sample.images])
        for sample in samples
    )


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
