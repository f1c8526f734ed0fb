"""JSON and text from files of others: bounded in size and depth, text that can be written, any fault in one line."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from strategies.errors import SaccadeError

MAX_BYTES = 4 * 2**30  # VQAv2's annotations of train have 0.4 GB
MAX_DEPTH = 64  # the deepest published file that we read has 6
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # half of a pair, or both halves: the text tells


class UnreadableError(SaccadeError):
    """A file is not what it should be. The message names it and says why, without a remedy: the caller knows that."""


def read_bytes(place: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file; a pipe or a device, which may never end, is refused.

    Raises:
        UnreadableError: It is missing, no file, too large, or may not be read.
    """
    try:
        status = place.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError(f"{place}: is not a file")
        if status.st_size > max_bytes:
            raise UnreadableError(f"{place}: has {status.st_size:,} bytes, more than {max_bytes:,}")
        return place.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableError(f"{place}: no such file") from error
    except OSError as error:
        raise UnreadableError(f"{place}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"{str(place)!r}: is not a file name: {error}") from error  # NUL, half a surrogate pair


def read_text(place: Path, max_bytes: int = MAX_BYTES) -> str:
    """The content of a text file, UTF-8 with or without a byte-order mark.

    Raises:
        UnreadableError: See ``read_bytes``; or it is another encoding's.
    """
    try:
        return read_bytes(place, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{place}: is not a UTF-8 text file") from error


def read_json(place: Path, max_bytes: int = MAX_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        UnreadableError: See ``read_bytes`` and ``parse_json``.
    """
    content = read_bytes(place, max_bytes)
    try:
        return parse_json(content)
    except UnreadableError as error:
        raise UnreadableError(f"{place}: {error}") from error


def parse_json(content: bytes) -> Any:
    """The value in a JSON text.

    Args:
        content: UTF-8, with or without a byte-order mark.

    Raises:
        UnreadableError: It is no JSON, nested deeper than ``MAX_DEPTH``, or holds half of a surrogate pair, which no
            file of ours could hold.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
        if SURROGATE.search(content):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise UnreadableError(f"is nested deeper than {MAX_DEPTH} levels") from error
    except UnicodeEncodeError as error:
        raise UnreadableError("holds half of a surrogate pair, which is no text") from error
    except ValueError as error:
        raise UnreadableError(f"is not valid JSON: {error}") from error
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise UnreadableError(f"is nested deeper than {MAX_DEPTH} levels")
