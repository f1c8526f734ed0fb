"""Content hashes that tell whether two cells answer the same question.

Driver and actors compare ``sources_hash``, so that a mixture of two code versions is refused; model and data
fingerprints are part of a cell's address. Only the standard library is imported here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields as dataclass_fields
from functools import lru_cache
from pathlib import Path

import strategies
import workers
from workers.checkpoints.layout import Checkpoint
from workers.foreign import opened, readable
from workers.models import ModelError
from workers.tasks.base import Sample

SMALL_BYTES = 16 << 20  # files up to this size are read whole
BLOCKS, BLOCK_BYTES = 64, 1 << 16  # of each larger file, evenly spaced from its start to its end
IMAGE_BYTES = 1024  # of each image, besides its size
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
    shape, and 64 blocks a shard meet any training that touches more than a few tensors.

    Raises:
        ModelError: the checkpoint has no weights, or a file of it may not be read.
    """
    digest = hashlib.sha256()
    folders = dict.fromkeys((checkpoint.folder, checkpoint.base, checkpoint.words, checkpoint.images))
    for file in [*(file for folder in folders for file in _settings(folder)), *checkpoint.files]:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode() + _content_digest(file))
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


@lru_cache(maxsize=64)
def _table_digest(file: Path, size: int, changed: int) -> str:
    return _content_digest(file).hex()


def sample_fingerprint(sample: Sample) -> str:
    """Hash of a question, its label, and its image's size and first KiB; where the files lie does not matter.

    An image inside a table is named by its row and the table's content, of which reading one by one would take long.
    """
    fields = {item.name: getattr(sample, item.name) for item in dataclass_fields(sample)}
    for later in LATER_FIELDS:
        if not fields[later]:
            del fields[later]
    image = fields.pop("image")
    if isinstance(image, Path):
        with image.open("rb") as stream:
            fields["image"] = [image.stat().st_size, hashlib.sha256(stream.read(IMAGE_BYTES)).hexdigest()]
    elif image is not None:
        seen = image.file.stat()
        fields["image"] = [image.row, _table_digest(image.file, seen.st_size, seen.st_mtime_ns)]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def data_fingerprint(samples: Sequence[Sample]) -> str:
    """Hash of all samples, in any order: the questions, labels and image sizes, not their folder."""
    return hashlib.sha256("".join(sorted(map(sample_fingerprint, samples))).encode()).hexdigest()[:16]
