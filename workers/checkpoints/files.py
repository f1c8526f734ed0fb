"""Which files hold a checkpoint's weights, and whether they are whole.

Nothing is loaded, and only the standard library is imported.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workers.models import ModelError

# Index of the shards, and the files where there is no index; the first form that is there counts.
FORMS = (
    ("model.safetensors.index.json", "*.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model*.bin"),
)
ADAPTER = "adapter_model"


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files with a folder's weights, in name order: safetensors where there are any, else ``.bin``.

    Raises:
        ModelError: there is none, or one that the index names is missing.
    """
    for index_name, pattern in FORMS:
        if (folder / index_name).is_file():
            return tuple(folder / name for name in _indexed(folder, folder / index_name))
        if files := _matching(folder, pattern):
            return tuple(files)
    raise ModelError(f"model {folder}: has no weights (safetensors or pytorch_model*.bin)")


def holds_weights(folder: Path) -> bool:
    """Whether a folder is meant to hold a model's weights, be they complete or not."""
    return any((folder / index).is_file() or _matching(folder, pattern) for index, pattern in FORMS)


def _matching(folder: Path, pattern: str) -> list[Path]:
    return sorted(file for file in folder.glob(pattern) if not file.name.startswith(ADAPTER))


def _indexed(folder: Path, index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index}: is not an index of weight files: {error!r}") from error
    if not names:
        raise ModelError(f"{index}: names no weight file; download it again")
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(f"model {folder}: {name} is missing, which {index.name} names; download it again")
    return names


def check_files(files: Sequence[Path]) -> None:
    """Find truncated files without loading them.

    Raises:
        ModelError: a file is missing, truncated, or not what its name says.
    """
    for file in files:
        if file.suffix == ".safetensors":
            _check_safetensors(file)
        else:
            _check_pickle(file)


def _check_safetensors(file: Path) -> None:
    header, data_bytes = _read_header(file)
    needed = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if data_bytes < needed:
        raise ModelError(f"{file}: is truncated, {needed - data_bytes} bytes are missing; download it again")
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        if math.prod(entry["shape"]) > (end - start):  # every stored type has at least one byte a value
            raise ModelError(f"{file}: {name}: shape {entry['shape']} does not fit its {end - start} bytes")


def _check_pickle(file: Path) -> None:
    """``torch.save`` writes a zip archive, whose directory is its end; before torch 1.6 it wrote a bare pickle."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if start[:1] == b"\x80":  # the old form shows its end only when it is read
        return
    if start[:2] != b"PK" or not zipfile.is_zipfile(file):
        raise ModelError(f"{file}: is truncated or not a PyTorch file; download it again")


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file, and how many bytes of data follow it."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= size - 8:
            raise ModelError(f"{file}: is truncated or not a safetensors file; download it again")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise ModelError(f"{file}: has a broken safetensors header: {error}") from error
    header.pop("__metadata__", None)
    return header, size - 8 - length
