"""The known name that a mistyped one is most like."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(name: str, known: Iterable[str]) -> str:
    """``. Did you mean 'x'?``, to end a sentence about ``name``; nothing where no known name is like it."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f". Did you mean '{found[0]}'?" if found else ""
