"""How numbers are written for people. A missing number is a dash, never 0."""

from __future__ import annotations

import math

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


def _minus(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _signed(value: float, digits: int) -> str:
    text = _minus(value, digits)
    return text if text[0] == "−" or float(text) == 0 else f"+{text}"
