"""Whether a value is one that a strategy's parameter may have."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args, get_origin

from strategies.suggestion import near


def misfit(hint: Any, value: Any, heads: int | None) -> str | None:
    """Why a value is none that a parameter may have, as its type says; None where it is one.

    Args:
        hint: a type of Python's, a ``Literal``, or one of them ``Annotated`` with limits.
        value: what was given.
        heads: of the model, where they are known.
    """
    if get_origin(hint) is Literal:
        words = get_args(hint)
        if value in words:
            return None
        return f"{value!r} is none of {', '.join(map(repr, words))}{near(str(value), words)}"
    if get_origin(hint) is Annotated:
        kind, *limits = get_args(hint)
        limited = (complaint for limit in limits if (complaint := limit.complaint(value, heads)))
        return misfit(kind, value, heads) or next(limited, None)
    if hint is bool:
        return None if isinstance(value, bool) else f"{value!r} is neither true nor false"
    if hint is int:
        return None if isinstance(value, int) and not isinstance(value, bool) else f"{value!r} is not a whole number"
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return None if number else f"{value!r} is not a number"
    if hint is str:
        return None if isinstance(value, str) else f"{value!r} is not a text; put it in quotes"
    return None if isinstance(value, hint) else f"{value!r} is not {hint.__name__}"
