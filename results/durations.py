"""How long, in words."""

from __future__ import annotations

import time


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def since(moment: float) -> str:
    """How long ago a file was written: ``45 s ago``.

    Args:
        moment: In seconds since the epoch, by a clock that may be ahead of this machine's.
    """
    age = time.time() - moment
    return f"{duration(age)} ago" if age > -1 else f"{duration(-age)} in the future (the clocks differ)"
