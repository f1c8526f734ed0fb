"""How numbers are written for people. A missing number is a dash, never 0."""

from __future__ import annotations

import math
from collections.abc import Iterable

MISSING = "–"


def percent(share: float, digits: int = 1) -> str:
    """0.679 -> "67.9 %", with a space that does not break."""
    return MISSING if math.isnan(share) else f"{_minus(100 * share, digits)}\u00a0%"


def percent_span(low: float, high: float, digits: int = 1) -> str:
    """0.659, 0.699 -> "65.9 to 69.9 %"."""
    return MISSING if math.isnan(low) else f"{_minus(100 * low, digits)} to {percent(high, digits)}"


def points(difference: float, digits: int = 1) -> str:
    """-0.035 -> "−3.5", in percentage points and with its sign."""
    return MISSING if math.isnan(difference) else _signed(100 * difference, digits)


def points_span(low: float, high: float, digits: int = 1) -> str:
    """-0.053, -0.018 -> "−5.3 to −1.8"."""
    return MISSING if math.isnan(low) else f"{_signed(100 * low, digits)} to {_signed(100 * high, digits)}"


def number(value: float, digits: int = 1) -> str:
    """-3.14 -> "−3.1"."""
    return MISSING if math.isnan(value) else _minus(value, digits)


def figures(value: float, digits: int = 3) -> str:
    """0.01234 -> "0.0123", 1234.5 -> "1,234": a quantity to so many figures, and the whole of a large one."""
    if math.isnan(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}".replace("-", "−")


def p_value(p: float) -> str:
    """0.0004 -> "< 0.001"."""
    if math.isnan(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(value: int) -> str:
    """2017 -> "2,017"."""
    return f"{value:,}"


def plural(value: int, noun: str) -> str:
    """1, "answer" -> "1 answer"; 2 -> "2 answers"."""
    return f"{count(value)} {noun}" + ("" if value == 1 else "s")


def shortened(text: str, length: int) -> str:
    """One line of at most ``length`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def told_apart(names: Iterable[str], length: int) -> list[str]:
    """Names of one picture, as far as possible of at most ``length`` characters, and as different as they were.

    A name that is too long loses what all names with its first word have in common, from the right, and then the
    middle of words that are too long alone: ``ablation layer=2 … head=sum``. What tells it from others stays, and may
    be longer; where two would be equal, all stay as they are.
    """
    lines = [" ".join(name.split()) for name in names]
    common: dict[str, set[str]] = {}
    for first, *rest in (line.split(" ") for line in lines):
        common[first] = common.get(first, set(rest)) & set(rest)
    texts = [_without(line, common[line.split(" ")[0]], length) for line in lines]
    return texts if len(set(texts)) == len(set(lines)) else lines


def _without(line: str, common: set[str], length: int) -> str:
    words = line.split(" ")
    for place in range(len(words) - 1, 0, -1):
        if len(" ".join(words)) <= length:
            break
        if words[place] in common:
            words[place : place + 1] = [] if words[place + 1 : place + 2] == ["…"] else ["…"]
    tail = length // 2
    cut = [word if len(word) <= length else f"{word[: length - tail - 1]}…{word[-tail:]}" for word in words]
    return " ".join(cut)


def _minus(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _signed(value: float, digits: int) -> str:
    text = _minus(value, digits)
    return text if text[0] == "−" or float(text) == 0 else f"+{text}"
