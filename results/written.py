"""What Saccade has written into a folder where a reader may put files too, so that it takes away that and nothing else.

FOLDER/written.json     each of our files and the SHA-256 of its content
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from results.disk import make_folder, write_whole
from results.removal import digest, remove
from workers.json_file import UnreadableError, read_json

LIST = "written.json"
MAX_LIST_BYTES = 2**26


class Written:
    """Files of a folder as they are written, in place of those that an earlier writer left."""

    def __init__(self, folder: Path, is_ours: Callable[[str], bool]) -> None:
        """Look after a folder; nothing is written yet.

        Args:
            folder: In an experiment.
            is_ours: Whether only we give a file this name: decides where there is no list, from before there was one.
        """
        self.folder = folder
        self.files: dict[str, str] = {}  # by name: the digest of what was written
        self._is_ours = is_ours

    def add(self, name: str, content: bytes) -> None:
        """Write a file where it is not there already with the same content.

        Raises:
            StoreError: It cannot be written, or would get elsewhere through a link.
        """
        path = self.folder / name
        make_folder(path.parent, below=self.folder.parent)
        same = path.is_file() and not path.is_symlink() and path.stat().st_size == len(content)
        if not same or path.read_bytes() != content:
            write_whole(path, content, sync=False)  # hundreds of files, written again in seconds
        self.files[name] = digest(content)

    def finish(self) -> tuple[str, ...]:
        """Take away what an earlier writer left and this one has not written again; what a reader put there stays.

        Returns:
            Names of files that stay, because they are not, or not known to be, as we wrote them.
        """
        old = _listed(self.folder)
        write_whole(self.folder / LIST, json.dumps({"files": self.files}, indent=0).encode(), sync=False)
        if old is None:
            stale = [name for name in self._found() if name not in self.files]
            return tuple(name for name in stale if not (self._is_ours(name) and remove(self.folder, name)))
        return tuple(
            name for name, content in old.items() if name not in self.files and not remove(self.folder, name, content)
        )

    def _found(self) -> list[str]:
        """Files in the folders that were written to; a dot: somebody is writing it now."""
        places = {self.folder / name for name in self.files}
        inside = {path.parent for path in places if path.parent != self.folder}
        found = [*self.folder.glob("*.html"), *(path for folder in sorted(inside) for path in folder.glob("[!.]*"))]
        return [path.relative_to(self.folder).as_posix() for path in found if path.is_file()]


def _listed(folder: Path) -> dict[str, str] | None:
    """What an earlier writer has written; None where it left no list."""
    try:
        files = read_json(folder / LIST, MAX_LIST_BYTES)["files"]
        return {name: content for name, content in files.items() if isinstance(content, str) and _is_plain(name)}
    except (UnreadableError, TypeError, KeyError, AttributeError):
        return None


def _is_plain(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and "/".join(parts) == name and not {"/", ".."} & {*parts} and "\0" not in name
