"""Files of others (data, checkpoints): no name leads out of its folder, and what cannot be read is told in one line."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from strategies.errors import SaccadeError
from workers.json_file import UnreadableError


class OutsideError(SaccadeError):
    """A name that a file gives leads out of its folder, or is no file name. The message has no place and no remedy."""


def inside(folder: Path, name: str, *, links: bool = False) -> Path:
    """The path of a name that a file of others gives.

    Args:
        folder: what the name is relative to.
        name: as it stands in the file.
        links: whether links may lead out of the folder. They may where only tensors or tables are read, which people
            keep on other disks; they may not where what is found is shown.

    Raises:
        OutsideError: the name is absolute, climbs out with ``..``, cannot be a file's, or is a link that leads out or
            to itself.
    """
    path, shown = folder / name, repr(name if len(name) < 100 else f"{name[:100]}...")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise OutsideError(f"{shown} lies outside {folder}")
    try:
        path.stat()  # pathlib takes some of these errors for a file that is not there
        resolved = path.resolve()
    except FileNotFoundError:
        resolved = path.resolve()
    except (NotADirectoryError, PermissionError) as error:
        raise OutsideError(f"{shown}: cannot be read: {error.strerror}") from error
    except (OSError, ValueError, RuntimeError) as error:  # too long, a link to itself, NUL, half a surrogate pair
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutsideError(f"{shown}: is not a file name: {reason}") from error
    if not links and not resolved.is_relative_to(folder.resolve()):
        raise OutsideError(f"{shown} lies outside {folder}")
    return path


@contextmanager
def readable(kind: type[ValueError]) -> Iterator[None]:
    """Tell what the system says of a file as an error for people; also a decorator.

    Raises:
        kind: a file may not be read, is not there, or its disk fails; or it is an ``UnreadableError``.
    """
    try:
        yield
    except OSError as error:
        place = error.filename if error.filename is not None else "a file"
        raise kind(f"{place}: cannot be read: {error.strerror or error}; see to it and its permissions") from error
    except UnreadableError as error:
        raise kind(str(error)) from error


@contextmanager
def opened(file: Path) -> Iterator[BufferedReader]:
    """A file of others to read from; a pipe or a device, which may never end, is refused.

    Raises:
        UnreadableError: it is no regular file.
        OSError: it may not be read.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise UnreadableError(f"{file}: is not a file")
    with file.open("rb") as stream:
        yield stream


def expanded(place: Path) -> Path:
    """A path that a person gave, ``~`` resolved; one of an unknown user stays as it is."""
    with suppress(RuntimeError):
        return place.expanduser()
    return place
