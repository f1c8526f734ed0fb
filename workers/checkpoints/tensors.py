"""Read tensors from weight files, one by one and straight from the disk's pages: nothing is held twice.

``.bin`` files are pickles, which can run code; they are read with ``weights_only``, which builds tensors and nothing
else.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workers.families.config import ModelError


@dataclass(frozen=True, slots=True)
class Outline:
    """A stored tensor, before it is read."""

    file: Path
    kind: str  # of its numbers, as safetensors or torch names it
    shape: tuple[int, ...]


def stored_tensors(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in some weight files; on the host, in the file's own dtype.

    Raises:
        ModelError: a file is damaged, or holds something else than tensors.
    """
    for file in files:
        yield from _safetensors(file) if file.suffix == ".safetensors" else _pickled(file).items()


def _safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - no mapping
                yield name, stored.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: cannot be read: {first_line(error)}") from error


def _pickled(file: Path) -> dict[str, Tensor]:
    try:
        # A file of before torch 1.6 is no zip archive and cannot be mapped.
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file}: holds more than tensors, which could run code when it is read ({_offender(error)}); "
            "get the checkpoint as safetensors"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{file}: cannot be read: {first_line(error)}; download it again") from error
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise ModelError(f"{file}: is not a table of tensors")
    return held


def _offender(error: pickle.UnpicklingError) -> str:
    """What was refused, out of torch's page of advice."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return named[1] if named else first_line(error)[:120]


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
