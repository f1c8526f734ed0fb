"""Where this user's machine keeps what can be made again: working copies of buckets, the speed of cards, kernels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

KERNELS = "kernels"


def keep_kernels() -> None:
    """Have Triton keep what it compiles in our folder, on each machine its own; a user's TRITON_CACHE_DIR stands."""
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_folder(KERNELS) / "triton"))


def kept_bytes(name: str, key: bytes, make: Callable[[], bytes]) -> bytes:
    """What takes seconds to make and depends on ``key`` alone: from its file, else made, and kept if possible.

    Args:
        name: Of the file, for people.
        key: All that the content depends on.
        make: Makes it.
    """
    file = cache_folder(KERNELS) / f"{name}-{hashlib.sha256(key).hexdigest()[:24]}"
    with suppress(OSError):
        return file.read_bytes()
    content = make()
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        draft.replace(file)
    return content


def cache_folder(name: str) -> Path:
    """A folder of ours in ``XDG_CACHE_HOME``, or ``~/.cache``; not made here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saccade" / name
