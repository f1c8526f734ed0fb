"""Folders and files that are there as a whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

from results.removal import remove
from strategies.errors import SaccadeError

LOCK = ".driver.json"  # see ``lock.py``


class StoreError(SaccadeError):
    """A directory cannot be used as an experiment. The message names the place and the remedy; exit code 2."""


def check_place(path: Path) -> None:
    """Whether it can be seen if something is at a path, and read if that is a folder.

    Raises:
        StoreError: The name is too long or no name, or this user may not look there.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; give another directory") from error
    except ValueError as error:
        raise StoreError(f"{str(path)!r}: is not a file name: {error}") from error
    if stat.S_ISDIR(mode) and not os.access(path, os.R_OK | os.X_OK):
        raise StoreError(f"{path}: may not be read; see to it that this user may, or give another directory")


def stamp(path: Path) -> tuple[int, int]:
    """Bytes of a file and when it was written, in ns since the epoch; 0 and 0 where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def check_writable(folder: Path) -> None:
    """Whether files can be made in a folder; none is left behind.

    Raises:
        StoreError: They cannot.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written: {error.strerror}; see to it that this user may, or copy it elsewhere"
        ) from error


def make_folder(path: Path, below: Path | None = None) -> None:
    """Make a directory, and those above it, where it is missing.

    Args:
        path: Of the directory.
        below: A directory above it that the user has given: nothing between the two may be a link, through which files
            of an experiment would get, and take the place of others, wherever its sender liked.

    Raises:
        StoreError: It cannot be made, or would lie elsewhere.
    """
    inside = [] if below is None else [path, *path.parents][: len(path.parts) - len(below.parts)]
    for place in reversed(inside):
        if place.is_symlink():
            raise StoreError(
                f"{place}: is a link to {place.readlink()}, where nothing of {below} is to be written; remove the link"
            )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be made: {error.strerror}; give --out another directory, or make room for this one"
        ) from error


def open_to_write(path: Path, flags: int) -> BinaryIO:
    """Open a file of our own to write to it, made where it is missing; a link would lead to another's.

    Args:
        path: Of the file.
        flags: ``os.O_APPEND`` or ``os.O_TRUNC``.

    Raises:
        OSError: It cannot be opened, or is a link.
    """
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flags, 0o666), "wb")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "it is a link", str(path)) from error


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
            with open_to_write(temporary, os.O_TRUNC) as file:
                file.write(content)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            remove(temporary.parent, temporary.name)
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
