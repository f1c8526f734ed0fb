"""The numbers of a sweep file: ``3``, ``3N/4``, ``L/32+1``, ``2..L``, ``576..16 step -10``, ``0.1..0.9 step 0.2``.

    value := term | term .. term | term .. term step INTEGER | [value, ...]
    term  := INTEGER | [INTEGER] SYMBOL [/ INTEGER] [+ INTEGER | - INTEGER]      (3N/4 is 3N over 4, rounded down)
    fractions := DECIMAL .. DECIMAL step DECIMAL

Ranges include both ends, as far as the step meets the last one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from decimal import Decimal

MAX_NUMBERS = 100_000  # of one value; a model has some hundred layers and some thousand visual tokens
MAX_LENGTH = 100  # characters of a term or a range

_TERM = re.compile(
    r"(?P<number>-?\d+)"
    r"|(?P<factor>\d+)?\s*(?P<symbol>[A-Za-z]\w*)(?:\s*/\s*(?P<divisor>\d+))?(?:\s*(?P<sign>[-+])\s*(?P<shift>\d+))?"
)
_RANGE = re.compile(r"(?P<first>.+?)\s*\.\.\s*(?P<last>.+?)(?:\s+step\s+(?P<step>[-+]?\d+))?")

_DECIMAL = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_FRACTIONS = re.compile(rf"(?P<first>{_DECIMAL})\s*\.\.\s*(?P<last>{_DECIMAL})\s+step\s+(?P<step>{_DECIMAL})")

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
        numbers = list(itertools.islice((n for item in value for n in expand(item, symbols)), MAX_NUMBERS + 1))
        if len(numbers) > MAX_NUMBERS:
            raise ValueError(f"stands for more than {MAX_NUMBERS:,} numbers")
        return tuple(numbers)
    if isinstance(value, int):
        return (value,)
    text = value.strip()
    if len(text) > MAX_LENGTH:
        raise ValueError(f"{text[:20] + '...'!r} has {len(text):,} characters, and no number or range is so long")
    if ".." not in text:
        return (_term(text, symbols),)
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"{value!r} is not a range; write for example 2..L or 576..16 step -10")
    first, last = _term(match["first"], symbols), _term(match["last"], symbols)
    step = 1 if match["step"] is None else int(match["step"])
    if step == 0:
        raise ValueError(f"{value!r} has step 0")
    count = (last - first) // step + 1  # len() of a range ends at 2 ** 63
    if count > MAX_NUMBERS:
        raise ValueError(f"{value!r} stands for {count:,} numbers, more than {MAX_NUMBERS:,}")
    if count < 1:
        direction = f"counts down from {first} to {last}" if first > last else f"counts up from {first} to {last}"
        sign = "-1" if first > last else "1"
        raise ValueError(f"{value!r} is empty: it {direction}; add for example 'step {sign}'")
    return tuple(range(first, last + (1 if step > 0 else -1), step))


def fractions(text: str) -> tuple[float, ...]:
    """The numbers of a range such as ``0.1..0.9 step 0.2``, each as it would be written: 0.3, not 0.30000000000000004.

    Raises:
        ValueError: It is no such range, or is empty. The message quotes it.
    """
    match = _FRACTIONS.fullmatch(text.strip()) if len(text) <= MAX_LENGTH else None
    if match is None:
        raise ValueError(f"{text[:MAX_LENGTH]!r} is not a range of numbers; write for example 0.1..0.9 step 0.2")
    first, last, step = (Decimal(match[name]) for name in ("first", "last", "step"))
    count = int((last - first) / step) + 1 if step and (last - first) / step >= 0 else 0
    if not 1 <= count <= MAX_NUMBERS:
        what = "is empty" if count < 1 else f"stands for {count:,} numbers, more than {MAX_NUMBERS:,}"
        raise ValueError(f"{text!r} {what}: from {first} to {last} in steps of {step}")
    return tuple(float(first + place * step) for place in range(count))


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
