"""Standard input and output as a command may find them: closed, full, without a reader, or unable to hold a text."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

USER_ERROR = 2
UNREAD = 1  # as click and rich end where the reader has gone, such as `| head -1`


class OutputError(OSError):
    """What a command says cannot be written."""


class _Output(io.BufferedWriter):
    """Standard output, whose errors can be told from those of other files; the end of a pipe's reader stays what it is.

    Python's own stream would drop what it could not write and say nothing of where. A signal that is raised in here
    finds the text taken over or written; in the raw stream below, it would be written once more.
    """

    def write(self, content: Any) -> int:
        with _told_apart():
            return super().write(content)

    def flush(self) -> None:
        with _told_apart():
            super().flush()


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.errno, error.strerror) from error


@contextmanager
def standard_streams() -> Iterator[None]:
    """For the whole of a command; what cannot be written to its output ends it with one line, or none for a pipe."""
    _open_closed()
    try:
        _check_words()
        yield
    except OutputError as error:
        _give_up(error)
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            _give_up(error)


def _open_closed() -> None:
    """Give the null device to what is closed: the next file would get its number, and what a library prints."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or os.fdopen(os.open(os.devnull, os.O_RDONLY), closefd=False)
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)
    else:
        output, encoding = _Output(io.FileIO(sys.stdout.fileno(), "w", closefd=False)), sys.stdout.encoding
        sys.stdout = io.TextIOWrapper(output, encoding, line_buffering=sys.stdout.isatty())
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(errors="backslashreplace")  # where the encoding is Latin-1, a dash is no error


def _check_words() -> None:
    """A name that is no text could be opened, but not be written into any file of ours."""
    for word in sys.argv[1:]:
        if not word.isascii():
            try:
                word.encode()
            except UnicodeEncodeError:
                _end(f"{word.encode(errors='backslashreplace').decode()}: is not UTF-8; give the file another name")
    try:
        Path.cwd()
    except OSError as error:
        _end(f"the current directory: {error.strerror}; change to one that is there")


def _give_up(error: OSError) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())  # what is left in the buffer would be tried again at the end
    os.close(null)
    if isinstance(error, BrokenPipeError):
        raise SystemExit(UNREAD) from None
    _end(f"standard output: {error.strerror}; write it to another place")


def _end(line: str) -> None:
    print(line, file=sys.stderr)
    raise SystemExit(USER_ERROR) from None
