"""Content hashes that tell whether two cells answer the same question.

Driver and actors compare ``sources_hash``, so that a mixture of two code versions is refused; model and data
fingerprints are part of a cell's address. Only the standard library is imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import strategies
import workers
from workers.models import weight_files
from workers.tasks.base import Sample

EDGE_BYTES = 1 << 20  # of each weight file, at its start and at its end


def sources_hash() -> str:
    """Hash of the Python files of ``strategies`` and ``workers`` as this process imports them."""
    digest = hashlib.sha256()
    for package in (strategies, workers):
        assert package.__file__
        root = Path(package.__file__).parent
        for file in sorted(root.rglob("*.py")):
            digest.update(f"{root.name}/{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def model_fingerprint(path: str | Path) -> str:
    """Hash of a checkpoint: every small file whole, of each weight file its size, first and last MiB.

    Reading 14 GB would take longer than many a sweep; the first MiB holds the header with every tensor's name and
    shape.

    Raises:
        ModelError: the directory has no weights.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(path).glob("*.json")):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    for file in weight_files(path):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(EDGE_BYTES))
            stream.seek(max(EDGE_BYTES, size - EDGE_BYTES))
            digest.update(stream.read(EDGE_BYTES))
    return digest.hexdigest()[:16]


def sample_fingerprint(sample: Sample) -> str:
    """Hash of a question, its label and its image's bytes count; where the files lie does not matter."""
    fields = asdict(sample)
    image = fields.pop("image")
    fields["image_bytes"] = image.stat().st_size if image is not None else None
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def data_fingerprint(samples: Sequence[Sample]) -> str:
    """Hash of all samples, in any order: the questions, labels and image sizes, not their folder."""
    return hashlib.sha256("".join(sorted(map(sample_fingerprint, samples))).encode()).hexdigest()[:16]
