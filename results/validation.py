"""What pydantic finds wrong with the files of others, for a line."""

from __future__ import annotations

from pydantic import ValidationError


def first_fault(error: ValidationError) -> str:
    """Place and kind of the first mistake: ``rows.3.key: Input should be a valid string``."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
