"""Experiments in a bucket: everything works on a folder, and a bucket is a folder's copy that outlives its machine.

A URI (``s3://``, ``gs://``, ``abfs://``) has a working copy under the user's cache directory. It is fetched before use,
and what changed there is sent: after a command, and every few seconds while a sweep runs, cells last, so that a bucket
holds the masks and measures of every cell that it holds. An object is there as a whole or not at all. So a sweep whose
machine has gone is resumed on another one by the same command, and lacks the cells of the last seconds.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from results.disk import LOCK, StoreError, open_to_write
from results.lock import DAMAGED, MAX_BYTES, SETTLE_S
from results.removal import remove
from workers.user_cache import cache_folder
from workers.work import content_key

SCHEMES = ("s3", "gs", "abfs", "abfss")  # what pyarrow reads and writes by itself
CELLS = "cells"
ONCE = frozenset({CELLS, "kept", "measures", "pictures"})  # a file's name says what it holds: never changed
READ = ONCE | {"failures"}  # by every command
AT_ONCE = 16  # requests
PATIENCE_S = 60
NOBODY = b"{}"  # a record of who writes that could not be deleted


@dataclass(frozen=True, slots=True)
class _Look:
    """What tells one state of a file from another."""

    size: int
    mtime_ns: int


class Bucket:
    """An experiment in a bucket and its working copy."""

    def __init__(self, uri: str) -> None:
        import pyarrow as pa
        from pyarrow import fs

        self.uri = uri
        if urlsplit(uri).password or "secret_key=" in uri:
            raise StoreError(
                f"{uri.partition('://')[0]}://...: the URI holds a secret, and is shown and kept with the results; "
                "leave it out and set the store's own variables (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ...)"
            )
        try:
            self._files, root = fs.FileSystem.from_uri(_patient(uri))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StoreError(f"{uri}: cannot be used: {_reason(error)}; check the name and the network") from error
        self._root = PurePosixPath(root)
        name = PurePosixPath(urlsplit(uri).path).name or "bucket"
        self.folder = cache_folder("buckets") / f"{name}-{content_key(uri)[:8]}"
        self._sent: dict[str, _Look] = {}  # by name: files of the working copy that the bucket has
        self._undated: set[str] = set()  # names sent whose objects have another time than the files

    def check_writable(self) -> None:
        """Raises: StoreError: Nothing can be written, said before anything is computed."""
        probe = str(self._root / ".saccade")
        with self._complaints("written to"), self._files.open_output_stream(probe) as stream:
            stream.write(b"may be deleted")
        with suppress(OSError):  # who may not delete may still write
            self._files.delete_file(probe)

    def fetch(self, *, exists: bool = False, everything: bool = False) -> int:
        """Bring what is missing or newer there into the working copy; the number of files."""
        there = self._there()
        if exists and not there:
            raise StoreError(f"{self.uri}: there is nothing; `saccade run ... --out {self.uri}` makes an experiment")
        with self._complaints("read"):
            self.folder.mkdir(parents=True, exist_ok=True)
        here = self._here(everything=True)
        wanted = {}
        for name, look in there.items():
            own = here.get(name)
            if own is not None and not _replaces(name, look, own):
                if not _replaces(name, own, look):
                    self._sent[name] = own
            elif everything or "/" not in name or _lies_in(READ, name):
                wanted[name] = look
            elif own is not None:
                self._sent[name] = own  # out of date and not read now: it stays as it is, here and there
        self._in_threads(self._fetch_one, wanted, "read")
        return len(wanted)

    def send(self, everything: bool = True) -> int:
        """Write what is new or changed in the working copy into the bucket; the number of files."""
        changed = {name: look for name, look in self._here(everything).items() if self._is_unsent(name, look)}
        self._in_threads(self._send_one, changed, "written to")
        self._undated |= {name for name in changed if not _once(name)}
        if everything and self._undated:
            self._adopt_times()
        return len(changed)

    def _is_unsent(self, name: str, look: _Look) -> bool:
        sent = self._sent.get(name)
        return sent is None or (_replaces(name, look, sent) if _once(name) else look != sent)

    def _there(self) -> dict[str, _Look]:
        from pyarrow import fs

        with self._complaints("read"):
            found = self._files.get_file_info(fs.FileSelector(str(self._root), recursive=True, allow_not_found=True))
        looks = {}
        for info in found:
            name = info.path.removeprefix(f"{self._root}/")
            # Empty: an upload that broke off, where a store makes the object first, or a file that a power cut took.
            if info.type == fs.FileType.File and info.size and _is_plain(name):
                looks[name] = _Look(info.size, info.mtime_ns)
        return looks

    def _here(self, everything: bool) -> dict[str, _Look]:
        """Files of the working copy, cells looked at first: what belongs to a cell was written before it."""
        # Of `saccade ablate` each stage is an experiment. Asked once: a sweep has a folder for each grid point beside.
        experiments = [self.folder, *(cells.parent for cells in self.folder.glob(f"*/{CELLS}"))]
        read = [(folder, f"{name}/*") for name in (CELLS, *sorted(READ - {CELLS})) for folder in experiments]
        rest = [(self.folder, "**/*")] if everything else [(folder, "*") for folder in experiments]
        looks: dict[str, _Look] = {}
        for folder, pattern in (*read, *rest):
            for path in folder.glob(pattern):
                name = path.relative_to(self.folder).as_posix()
                with suppress(FileNotFoundError):  # a temporary name, gone by now
                    if name not in looks and not path.name.startswith(".") and path.is_file():
                        found = path.stat()
                        if found.st_size:
                            looks[name] = _Look(found.st_size, found.st_mtime_ns)
        return looks

    def _fetch_one(self, name: str, look: _Look) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            source = self._files.open_input_stream(str(self._root / name))
            with source as stream, open_to_write(temporary, os.O_TRUNC) as file:
                shutil.copyfileobj(stream, file)
            os.utime(temporary, ns=(look.mtime_ns, look.mtime_ns))
            temporary.replace(target)
        finally:
            remove(temporary.parent, temporary.name)
        self._sent[name] = look

    def _send_one(self, name: str, look: _Look) -> None:
        try:
            content = (self.folder / name).read_bytes()
        except FileNotFoundError:
            return
        with self._files.open_output_stream(str(self._root / name)) as stream:
            stream.write(content)
        self._sent[name] = look

    def _adopt_times(self) -> None:
        """Give files that change the times of their objects, so that whoever is newer can be told later."""
        there, here = self._there(), self._here(everything=True)
        for name in self._undated:
            look, other = here.get(name), there.get(name)
            if look and other and look == self._sent.get(name) and look.size == other.size:
                os.utime(self.folder / name, ns=(other.mtime_ns, other.mtime_ns))
                self._sent[name] = other
        self._undated.clear()

    def _in_threads(self, copy: Callable[[str, _Look], None], files: dict[str, _Look], what: str) -> None:
        """Copy many files at a time; cells last, so that who reads meanwhile finds the masks of each."""
        cells = [name for name in files if _folder_of(name) == CELLS]
        others = [name for name in files if _folder_of(name) != CELLS]
        with self._complaints(what), ThreadPoolExecutor(AT_ONCE) as threads:
            for names in (others, cells):
                for _ in threads.map(copy, names, [files[name] for name in names]):
                    pass

    @contextmanager
    def _complaints(self, what: str) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):  # stores name no file
                raise StoreError(
                    f"{error.filename or self.folder}: cannot be used as working copy of {self.uri}: {error.strerror}; "
                    "make room, or set XDG_CACHE_HOME to another directory"
                ) from error
            line = f"{self.uri}: cannot be {what}: {_reason(error)}; check the name and this machine's credentials"
            if what != "read" and self.folder.is_dir():
                line += f". Nothing is lost: {self.folder} has all of it, and the same command sends it"
            raise StoreError(line) from error


class BucketLockFile:
    """The record of who writes as an object beside the others, see ``lock.py``; a working copy never holds it.

    Stores offer no "only if it is not there" that all of them know: two that begin within a second of each other may
    both write a record, and the one whose record was written over finds that SETTLE_S later.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.name, self._bucket = bucket.uri, bucket
        self._object = str(bucket._root / LOCK)

    def read(self) -> bytes | None:
        from pyarrow import fs

        files = self._bucket._files
        with self._bucket._complaints("read"):
            if files.get_file_info(self._object).type != fs.FileType.File:
                return None
            with files.open_input_stream(self._object) as stream:
                content = bytes(stream.read(MAX_BYTES))
        return None if content == NOBODY else content or DAMAGED

    def create(self, content: bytes) -> bool:
        if self.read() is not None:
            return False
        self._put(content)
        time.sleep(SETTLE_S)
        return self.read() == content

    def replace(self, old: bytes, new: bytes) -> bool:
        if self.read() != old:
            return False
        self._put(new)
        return True

    def remove(self) -> None:
        try:
            self._bucket._files.delete_file(self._object)
        except OSError:  # who may not delete may still write
            with suppress(StoreError):
                self._put(NOBODY)

    def _put(self, content: bytes) -> None:
        with self._bucket._complaints("written to"), self._bucket._files.open_output_stream(self._object) as stream:
            stream.write(content)


def _patient(uri: str) -> str:
    """With a minute's patience where a store brings a quarter of an hour's: a wrong name is to be said soon."""
    if uri.startswith("gs") and "retry_limit_seconds=" not in uri:
        return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={PATIENCE_S}"
    return uri


def _is_plain(name: str) -> bool:
    """Whether a name stays inside the working copy: whoever may write to a bucket may call an object anything."""
    return not any(part == "" or part.startswith(".") for part in name.split("/"))


def _replaces(name: str, look: _Look, other: _Look) -> bool:
    """Whether one state of a file is to take the place of another.

    Of a file that is never changed the larger one is whole, and the other was cut, on whichever side it lies.
    """
    if _once(name):
        return look.size > other.size
    return look != other and look.mtime_ns >= other.mtime_ns


def _once(name: str) -> bool:
    return _lies_in(ONCE, name)


def _lies_in(folders: frozenset[str], name: str) -> bool:
    return name.endswith(".parquet") and _folder_of(name) in folders  # the report has a folder `pictures` too


def _folder_of(name: str) -> str:
    return PurePosixPath(name).parent.name


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
