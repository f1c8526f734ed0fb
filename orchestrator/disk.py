"""Folders and files that are there as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

LOCK = ".driver.json"  # see ``lock.py``


class StoreError(ValueError):
    """A directory cannot be used as an experiment. The message names the place and the remedy; exit code 2."""


def make_folder(path: Path) -> None:
    """Make a directory, and those above it, where it is missing.

    Raises:
        StoreError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be made: {error.strerror}; give --out another directory, or make room for this one"
        ) from error


def is_vacant(folder: Path) -> bool:
    """Whether nothing lies in a directory but the record of who is about to write there."""
    return all(LOCK in entry.name for entry in folder.iterdir())


def write_whole(path: Path, content: bytes, sync: bool = True) -> None:
    """Write a file so that it is there as a whole or not at all; with ``sync`` also after a power cut.

    Raises:
        StoreError: The disk is full, or the folder may not be written to.
    """
    # In the same folder, because renaming is atomic only inside one file system; readers skip the leading dot.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written: {error.strerror}; what was finished before is kept, and the same command "
            "goes on from there"
        ) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
