"""One writer at a time in an experiment: a record of who writes there, renewed while it does.

The record survives no process of this machine: whoever finds that its process has ended takes its place. From another
machine nobody can look, so a record counts as left behind when it was not renewed for STALE_S, which is watched and not
read from clocks. A process that was silent for that long (stopped, or its disk hung) finds another's record and ends.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import platform
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from results.disk import LOCK, StoreError, make_folder, write_whole
from results.removal import remove
from results.repeating import repeated
from workers.json_file import UnreadableError, parse_json, read_bytes

BEAT_S = 10.0  # between two signs of life
STALE_S = 90.0  # nine of them missed; NFS clients may show another's files 60 s late
SETTLE_S = 1.0  # after taking another's place, before that is believed: two may have taken it
LOOK_S = 1.0  # how often the record is looked at by who waits for it
WAKE = signal.SIGUSR1
MAX_BYTES = 2**16
DAMAGED = b""
MOST_PROCESSES = 2**31  # their numbers lie below


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who writes."""

    token: str  # of one hold, drawn
    machine: str  # on which a process id means something: this boot, this container
    host: str
    pid: int
    begun: int | None  # when the process began, as its machine counts; None: not known there
    user: str
    since: str  # ISO 8601
    sign: str  # the newest sign of life, by its own clock
    beat: int = 0  # signs given

    @classmethod
    def this_process(cls) -> Holder:
        now = _now()
        return cls(
            token=secrets.token_hex(8), machine=_machine(), host=platform.node(), pid=os.getpid(),
            begun=_begun(os.getpid()), user=_user(), since=now, sign=now,
        )  # fmt: skip

    @classmethod
    def of(cls, content: bytes) -> Holder | None:
        """Who a record names; None where it is damaged, or half-written."""
        try:
            holder = cls(**parse_json(content))
        except (UnreadableError, TypeError):
            return None
        whole = all(isinstance(value, str) for value in (holder.token, holder.machine, holder.host, holder.user))
        return holder if whole and isinstance(holder.pid, int) and 0 < holder.pid < MOST_PROCESSES else None

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @property
    def is_here(self) -> bool:
        """Whether this process can see whether that one lives."""
        return self.machine == _machine()

    @property
    def lives(self) -> bool:
        """Whether the process is there, and still the one that it was; asked on its own machine."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        begun = _begun(self.pid)
        return begun is None or self.begun is None or begun == self.begun

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host} (since {self.since}, last sign {self.sign})"


class LockFile(Protocol):
    """Where a record lies: a folder, or a bucket."""

    name: str  # for people

    def read(self) -> bytes | None:
        """The record; None where there is none, DAMAGED where it cannot be read."""

    def create(self, content: bytes) -> bool:
        """Write a record where there is none; whether it is there now."""

    def replace(self, old: bytes, new: bytes) -> bool:
        """Write a record in place of another; whether that one was there. Who does so at the same time may win."""

    def remove(self) -> None:
        """Leave no record."""


class FolderLockFile:
    """The record as a hidden file of the experiment's folder, which is made for it where it is missing."""

    def __init__(self, folder: Path) -> None:
        self.name, self._folder, self._file = str(folder), folder, folder / LOCK
        self._is_new = False

    def read(self) -> bytes | None:
        if not os.path.lexists(self._file):
            return None
        try:
            return read_bytes(self._file, MAX_BYTES)
        except UnreadableError:
            return DAMAGED

    def create(self, content: bytes) -> bool:
        if self._folder.exists() and not self._folder.is_dir():
            raise StoreError(f"{self._folder}: is a file; give --out a directory")
        self._is_new = self._is_new or not self._folder.exists()
        make_folder(self._folder)
        try:
            handle = os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(
                f"{self._file}: cannot be written: {error.strerror}; give --out a directory that may be written to"
            ) from error
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        return True

    def replace(self, old: bytes, new: bytes) -> bool:
        with _alone(self._folder):
            if self.read() != old:
                return False
            write_whole(self._file, new, sync=False)
            return True

    def remove(self) -> None:
        if self._is_new:  # it goes too, where nothing else was written
            remove(self._folder.parent, f"{self._folder.name}/{LOCK}")
        else:
            remove(self._folder, LOCK)


@contextmanager
def held(lock_file: LockFile, tell: Callable[[str], None]) -> Iterator[None]:
    """Be the one who writes, for a block.

    Args:
        lock_file: Where everybody looks.
        tell: Takes a line where this has to wait for another machine.

    Raises:
        StoreError: Another one writes there, or has taken over meanwhile; nothing can be written there.
    """
    mine = _take(lock_file, tell)
    lost: list[str] = []
    try:
        with _woken() as number, _signs(lock_file, mine, lost, number):
            yield
    except KeyboardInterrupt:
        if lost:
            raise StoreError(
                f"{lock_file.name}: {lost[0]} writes there now, because this process gave no sign for {STALE_S:.0f} s; "
                "what was finished is kept"
            ) from None
        raise
    finally:
        if not lost:
            lock_file.remove()


def driver_line(lock_file: LockFile) -> str | None:
    """Who writes there, for readers; None where nobody does."""
    content = lock_file.read()
    holder = None if content is None else Holder.of(content)
    if holder is None or (holder.is_here and not holder.lives):
        return None
    return f"{holder} writes here"


def _take(lock_file: LockFile, tell: Callable[[str], None]) -> Holder:
    mine = Holder.this_process()
    watched: bytes | None = None  # the record that is waited for
    since = 0.0
    while True:
        content = lock_file.read()
        if content is None:
            if lock_file.create(mine.to_bytes()):
                return mine
            content = lock_file.read()
            if content is None:
                continue
        holder = Holder.of(content)
        if holder is not None and holder.is_here and holder.lives:
            raise _refusal(lock_file, holder)
        dead = holder is not None and holder.is_here
        if not dead and content != watched:
            if watched is not None and holder is not None:
                raise _refusal(lock_file, holder)
            watched, since = content, time.monotonic()
            who = f"held by {holder}" if holder else f"{LOCK} is damaged, so that nobody can tell who writes there"
            tell(f"{lock_file.name}: {who}; waiting up to {STALE_S:.0f} s for a sign of life, then going on")
        if dead or time.monotonic() - since >= STALE_S:
            if lock_file.replace(content, mine.to_bytes()):
                time.sleep(SETTLE_S)
                if lock_file.read() == mine.to_bytes():
                    return mine
            watched = None
        else:
            time.sleep(LOOK_S)


def _refusal(lock_file: LockFile, holder: Holder) -> StoreError:
    return StoreError(
        f"{lock_file.name}: {holder} writes there, and two at once would mix their numbers; wait until it has ended, "
        "stop it, or give --out another directory"
    )


def _signs(lock_file: LockFile, mine: Holder, lost: list[str], number: signal.Signals) -> AbstractContextManager[None]:
    """Give signs of life for a block; who has taken over is put into ``lost``, and the main thread gets a signal."""

    def give() -> None:
        nonlocal mine
        if lost:
            return
        with suppress(StoreError):  # a full disk, a store out of reach: tried again, and said by what writes there
            content = lock_file.read()
            other = None if content is None else Holder.of(content)
            if other is not None and other.token != mine.token:
                lost.append(str(other))
                # As Ctrl-C does: what runs is ended in order, and what waits is woken.
                signal.pthread_kill(threading.main_thread().ident or 0, number)
                return
            mine = replace(mine, beat=mine.beat + 1, sign=_now())
            if content is None:
                lock_file.create(mine.to_bytes())
            else:
                lock_file.replace(content, mine.to_bytes())

    return repeated(give, BEAT_S, "lock")


@contextmanager
def _woken() -> Iterator[signal.Signals]:
    """The signal that is a KeyboardInterrupt in this block.

    Not Ctrl-C's where another can be had: a shell lets what it starts in the background ignore that one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield signal.SIGINT  # handlers are the main thread's to set
        return
    before = signal.signal(WAKE, signal.default_int_handler)
    try:
        yield WAKE
    finally:
        signal.signal(WAKE, before)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else of this machine is in this block; where a file system knows no such thing, SETTLE_S has to do."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read: {error.strerror}; is its disk still there?") from error
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return platform.node()


def _begun(pid: int) -> int | None:
    """When a process began, in ticks since its machine did; 0 where it has ended and nobody has asked for its end."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return 0 if state in "ZX" else int(fields[18])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
