"""The whole numbers of a sweep file: ``3``, ``L``, ``3N/4``, ``L/32+1``, ``2..L``, ``576..16 step -10``.

    value := term | term .. term | term .. term step INTEGER | [value, ...]
    term  := INTEGER | [INTEGER] SYMBOL [/ INTEGER] [+ INTEGER | - INTEGER]      (3N/4 is 3N over 4, rounded down)

Ranges include both ends, as far as the step meets the last one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_TERM = re.compile(
    r"(?P<number>-?\d+)"
    r"|(?P<factor>\d+)?\s*(?P<symbol>[A-Za-z]\w*)(?:\s*/\s*(?P<divisor>\d+))?(?:\s*(?P<sign>[-+])\s*(?P<shift>\d+))?"
)
_RANGE = re.compile(r"(?P<first>.+?)\s*\.\.\s*(?P<last>.+?)(?:\s+step\s+(?P<step>[-+]?\d+))?")

IntegerValue = int | str | list[int | str]


def expand(value: IntegerValue, symbols: Mapping[str, int]) -> tuple[int, ...]:
    """All integers a value stands for, in the order written.

    Args:
        value: What the sweep file says.
        symbols: What ``L``, ``N`` and the like stand for.

    Raises:
        ValueError: It does not follow the grammar, or is an empty range. The message quotes it.
    """
    if isinstance(value, list):
        if not value:
            raise ValueError("is an empty list")
        return tuple(number for item in value for number in expand(item, symbols))
    if isinstance(value, int):
        return (value,)
    text = value.strip()
    if ".." not in text:
        return (_term(text, symbols),)
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"{value!r} is not a range; write for example 2..L or 576..16 step -10")
    first, last = _term(match["first"], symbols), _term(match["last"], symbols)
    step = 1 if match["step"] is None else int(match["step"])
    if step == 0:
        raise ValueError(f"{value!r} has step 0")
    numbers = range(first, last + (1 if step > 0 else -1), step)
    if not numbers:
        direction = f"counts down from {first} to {last}" if first > last else f"counts up from {first} to {last}"
        sign = "-1" if first > last else "1"
        raise ValueError(f"{value!r} is empty: it {direction}; add for example 'step {sign}'")
    return tuple(numbers)


def _term(text: str, symbols: Mapping[str, int]) -> int:
    known = " or ".join(symbols)
    match = _TERM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a whole number, {known}, or a range such as 2..L")
    if match["number"] is not None:
        return int(match["number"])
    if match["symbol"] not in symbols:
        raise ValueError(f"{match['symbol']!r} is not known here; use a whole number or {known}")
    size = int(match["factor"] or 1) * symbols[match["symbol"]]
    if match["divisor"] is not None:
        if int(match["divisor"]) == 0:
            raise ValueError(f"{text!r} divides by 0")
        size //= int(match["divisor"])
    shift = int(match["shift"] or 0)
    return size - shift if match["sign"] == "-" else size + shift
