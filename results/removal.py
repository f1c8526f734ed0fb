"""The one way in which files are taken away: by name, below a folder that the user gave, and never through a link.

An experiment may have come in an archive, with links to wherever its sender liked, and beside our files a reader keeps
their own. So nothing is removed by a pattern or as a tree: who removes names each file, knowing that we wrote it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe is not waited for
STAYS = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.ENXIO)


def digest(content: bytes) -> str:
    """What tells one content of a file from another."""
    return hashlib.sha256(content).hexdigest()


def remove(folder: Path, name: str, content: str | None = None) -> bool:
    """Remove a regular file, and the folders on the way to it that are empty then.

    Args:
        folder: Stays. It may be a link: the user has given it.
        name: Of the file, below the folder, with slashes.
        content: The ``digest`` of what we wrote; a file that says something else is somebody else's.

    Returns:
        Whether it is gone. What is a link, or lies behind one, is no file, says something else or may not be removed
        stays.
    """
    *parts, last = PurePosixPath(name).parts
    assert not {"/", ".."} & {*parts, last}, f"{name} leaves its folder"
    with ExitStack() as stack:
        try:
            handles = [_opened(stack, folder, FOLDER & ~os.O_NOFOLLOW)]
            for part in parts:
                handles.append(_opened(stack, part, FOLDER, handles[-1]))
            if not stat.S_ISREG(os.stat(last, dir_fd=handles[-1], follow_symlinks=False).st_mode):
                return False
            if content is not None and content != _digest_of(_opened(stack, last, FILE, handles[-1])):
                return False
            os.unlink(last, dir_fd=handles[-1])
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in STAYS:
                raise
            return False
        with suppress(OSError):  # not empty
            for part, above in reversed(list(zip(parts, handles, strict=False))):
                os.rmdir(part, dir_fd=above)
    return True


def _opened(stack: ExitStack, path: Path | str, flags: int, inside: int | None = None) -> int:
    handle = os.open(path, flags, dir_fd=inside)
    stack.callback(os.close, handle)
    return handle


def _digest_of(handle: int) -> str:
    with os.fdopen(handle, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
