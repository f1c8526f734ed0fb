"""Content hashes that tell whether two cells answer the same question.

Driver and actors compare ``sources_hash``, so that a mixture of two code versions is refused; model and data
fingerprints are part of a cell's address. Only the standard library is imported here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields as dataclass_fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import strategies
import workers
from workers.families.base import Checkpoint
from workers.families.config import ModelError
from workers.foreign import opened, readable
from workers.tasks.base import DataError, EmbeddedImage, Sample

SMALL_BYTES = 16 << 20  # files up to this size are read whole
BLOCKS, BLOCK_BYTES = 64, 1 << 16  # of each larger file, evenly spaced from its start to its end
IMAGE_BYTES = 1024  # of each image, besides its size
WHOLE = "whole-"  # how a fingerprint begins that covers every byte of the images
READERS = 8  # threads that read images
LATER_FIELDS = ("answers", "group", "instruction")  # of samples; those without them keep their hashes


def sources_hash() -> str:
    """Hash of the Python and CUDA files of ``strategies`` and ``workers`` as this process imports them."""
    digest = hashlib.sha256()
    for package in (strategies, workers):
        assert package.__file__
        root = Path(package.__file__).parent
        for file in sorted((*root.rglob("*.py"), *root.rglob("*.cu"))):
            digest.update(f"{root.name}/{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@readable(ModelError)
def model_fingerprint(checkpoint: Checkpoint) -> str:
    """Hash of a checkpoint: configuration, tokenizer and small weights whole, of large files evenly spaced blocks.

    Reading 14 GB would take longer than many a sweep. The first block holds the header with every tensor's name and
    shape, and 64 blocks a shard meet any training that touches more than a few tensors. A text tower that is named is
    part of it, and so are settings of the image processor that are not those stored.

    Raises:
        ModelError: the checkpoint has no weights, or a file of it may not be read.
    """
    digest = hashlib.sha256()
    text_tower = (checkpoint.text_tower,) if checkpoint.text_tower else ()
    folders = dict.fromkeys((checkpoint.folder, checkpoint.base, checkpoint.tokenizer, checkpoint.images, *text_tower))
    for file in [*(file for folder in folders for file in _settings(folder)), *checkpoint.files]:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode() + _content_digest(file))
    for name, value in checkpoint.image_options:
        digest.update(f"{name}\0{value}\0".encode())
    return digest.hexdigest()[:16]


def _settings(folder: Path) -> list[Path]:
    """A pipe or a dangling link among them is refused when it is read; a folder of such a name is none of them."""
    names = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".model", ".jinja", ".txt"))
    return [file for file in names if not file.is_dir()]


def _content_digest(file: Path) -> bytes:
    """Hash of a small file's content, of a large one's evenly spaced blocks."""
    digest, size = hashlib.sha256(), file.stat().st_size
    with opened(file) as stream:
        if size <= SMALL_BYTES:
            digest.update(stream.read())
        else:
            for block in range(BLOCKS):
                stream.seek(block * (size - BLOCK_BYTES) // (BLOCKS - 1))
                digest.update(stream.read(BLOCK_BYTES))
    return digest.digest()


@readable(DataError)
def whole_data_fingerprint(samples: Sequence[Sample]) -> str:
    """Hash of all samples, in any order: questions, labels, and every byte of their images and tables, not the folder.

    Each file is read once, by several threads: 2,000 images of 100 kB take half a second, a table of 5 GB as long as
    the disk needs. Nothing is kept for the next time: size and time of a file do not prove that it is the same.

    Raises:
        DataError: an image may not be read.
    """
    files = sorted({_file(image) for sample in samples for image in sample.images})
    with ThreadPoolExecutor(READERS) as pool:
        digests = dict(zip(files, pool.map(_whole_digest, files), strict=True))
    images = ([[_row(image), digests[_file(image)]] for image in sample.images] for sample in samples)
    return WHOLE + _together(map(_sample_hash, samples, images))


@readable(DataError)
def data_fingerprint(samples: Sequence[Sample]) -> str:
    """As experiments were named before: of an image only the size and the first KiB, of large tables some blocks."""
    return _together(_sample_hash(sample, [_partly_named(image) for image in sample.images]) for sample in samples)


def is_same_data(recorded: object, samples: Sequence[Sample]) -> bool:
    """Whether samples are those of a fingerprint, of today's kind or of the one before.

    Raises:
        DataError: an image may not be read.
    """
    named = whole_data_fingerprint if str(recorded).startswith(WHOLE) else data_fingerprint
    return named(samples) == recorded


def _together(hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()[:16]


def _partly_named(image: Path | EmbeddedImage) -> list[Any]:
    """By its size and first KiB, or by its place in a table."""
    if isinstance(image, Path):
        with opened(image) as stream:
            first = hashlib.sha256(stream.read(IMAGE_BYTES)).hexdigest()
        return [image.stat().st_size, first]
    seen = image.file.stat()
    return [image.row, _table_digest(image.file, seen.st_size, seen.st_mtime_ns)]


def _sample_hash(sample: Sample, images: list[list[Any]]) -> str:
    """Hash of a question and its label, with what stands for its images."""
    names = {item.name for item in dataclass_fields(sample)} - {"image", "more"}
    fields = {name: getattr(sample, name) for name in names}
    for later in LATER_FIELDS:
        if not fields[later]:
            del fields[later]
    if images:
        fields["image"] = images[0]
    if len(images) > 1:
        fields["more"] = images[1:]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _file(image: Path | EmbeddedImage) -> Path:
    """Where an image lies: a file of its own, or a table."""
    return image if isinstance(image, Path) else image.file


def _row(image: Path | EmbeddedImage) -> int | None:
    """Of an image in a table."""
    return None if isinstance(image, Path) else image.row


def _whole_digest(file: Path) -> str:
    with opened(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=64)
def _table_digest(file: Path, size: int, changed: int) -> str:
    return _content_digest(file).hex()
