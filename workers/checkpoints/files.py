"""Which files hold a checkpoint's weights, and whether they are whole.

Nothing is loaded, and only the standard library is imported.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from workers.families.config import ModelError
from workers.foreign import OutsideError, inside, opened, readable
from workers.json_file import UnreadableError, parse_json, read_json

# Index of the shards, and the files where there is no index; the first form that is there counts.
FORMS = (
    ("model.safetensors.index.json", "*.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model*.bin"),
)
ADAPTER = "adapter_model"
MAX_HEADER_BYTES = 100_000_000  # as the safetensors library has it
MAX_JSON_BYTES = 2**28


@readable(ModelError)
def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files with a folder's weights, in name order: safetensors where there are any, else ``.bin``.

    Raises:
        ModelError: there is none, or one that the index names is missing or lies elsewhere.
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
    content = read_json(index, MAX_JSON_BYTES)
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise ModelError(f"{index}: is not an index of weight files: weight_map: expected names of files by tensor")
    names = sorted(set(table.values()))
    if not names:
        raise ModelError(f"{index}: names no weight file; download it again")
    for name in names:
        try:
            there = inside(folder, name, links=True).is_file()
        except OutsideError as error:
            raise ModelError(f"{index}: {error}; download it again") from error
        if not there:
            raise ModelError(f"model {folder}: {name} is missing, which {index.name} names; download it again")
    return names


@readable(ModelError)
def check_files(files: Sequence[Path]) -> None:
    """Find truncated files without loading them.

    Raises:
        ModelError: a file is missing, truncated, or not what its name says.
    """
    for file in files:
        if file.suffix == ".safetensors":
            read_header(file)
        else:
            _check_pickle(file)


def _check_pickle(file: Path) -> None:
    """``torch.save`` writes a zip archive, whose directory is its end; before torch 1.6 it wrote a bare pickle."""
    with opened(file) as stream:
        start = stream.read(4)
    if start[:1] == b"\x80":  # the old form shows its end only when it is read
        return
    if start[:2] != b"PK" or not zipfile.is_zipfile(file):
        raise ModelError(f"{file}: is truncated or not a PyTorch file; download it again")


@readable(ModelError)
def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a safetensors file holds: number type and shape of each tensor.

    Raises:
        ModelError: it is truncated, or its header is broken.
    """
    size = file.stat().st_size
    with opened(file) as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ModelError(f"{file}: is truncated or not a safetensors file; download it again")
        try:
            header = parse_json(stream.read(length))
        except UnreadableError as error:
            raise ModelError(f"{file}: has a broken safetensors header: it {error}") from error
    if not isinstance(header, dict):
        raise ModelError(f"{file}: has a broken safetensors header: it holds a {type(header).__name__}")
    header.pop("__metadata__", None)
    data_bytes, needed, held = size - 8 - length, 0, {}
    for name, entry in header.items():
        kind, shape, start, end = _entry(file, name, entry)
        if math.prod(shape) > end - start:  # every stored type has at least one byte a value
            raise ModelError(f"{file}: {name}: shape {list(shape)} does not fit its {end - start} bytes")
        needed, held[name] = max(needed, end), (kind, shape)
    if data_bytes < needed:
        raise ModelError(f"{file}: is truncated, {needed - data_bytes} bytes are missing; download it again")
    return held


def _entry(file: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Number type, shape, first byte and end of a tensor."""
    if isinstance(entry, dict):
        kind, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if isinstance(kind, str) and _counts(shape) and _counts(place) and len(place) == 2 and place[0] <= place[1]:
            return kind, tuple(shape), place[0], place[1]
    raise ModelError(f"{file}: has a broken safetensors header: {name[:60]!r} lacks dtype, shape or data_offsets")


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in value
    )
