"""Text of users and data inside the notations that we write, where a sign of it might mean something.

HTML has `html.escape`; matplotlib is told to take no dollar for mathematics (``text.parse_math``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

FORMULA = tuple("=+-@\t\n\uff1d\uff0b\uff0d\uff20")  # how a spreadsheet's formula may begin; the last four are wide
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\n": " ",
    "\r": " ",
    **{sign: f"${sign}$" for sign in "<>|"},  # in its usual encoding other signs
    "\u00a0": "~",
    "\u2009": r"\,",
    "–": "--",
    "−": "$-$",
    "…": r"\dots{}",
}


def csv_text(table: pd.DataFrame) -> str:
    """A table for spreadsheets: text that would be a formula there is led by an apostrophe, numbers stay numbers."""
    texts = [name for name in table.columns if table[name].dtype.kind not in "biuf"]
    safe = table.assign(**{name: table[name].map(_csv_cell) for name in texts})
    return safe.rename(columns=_csv_cell).to_csv(index=False, lineterminator="\n")


def latex_cell(text: str) -> str:
    """Text as LaTeX prints it, on one line."""
    return "".join(LATEX.get(sign, sign) for sign in text)


def markdown_cell(text: str) -> str:
    """Text as one cell of a Markdown table."""
    return re.sub(r"([\\`*\[\]<|])", r"\\\1", " ".join(text.splitlines()))


def terminal_text(text: str) -> str:
    r"""Text whose control characters, which colour a terminal or move its cursor, are written out: ``\x1b``."""
    return CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # outside quotes a return would begin a row
    return f"'{text}" if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else text
