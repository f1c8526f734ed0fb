r"""A table for a paper: booktabs, in ``\footnotesize``, as wide as a page of ``article``, with its notes below."""

from __future__ import annotations

import re
from collections.abc import Sequence

from results.escaping import latex_cell
from results.exchange.point_names import PointName

Column = tuple[str, Sequence[str]]  # title in plain text, cells in LaTeX

PAGE = 345.0  # pt, the text width of article on letter paper at 10 pt; on others it is larger
GAP = 4.0  # pt, between two columns
SIGNS = {2.6: ".,:;'|!il()[]- ", 6.6: "mwMW%−ABCDEFGHKLNOPQRSTUVXYZ"}  # pt, of those that are no 4.3 wide
SIZES = {sign: width for width, signs in SIGNS.items() for sign in signs}
SPAN = "95 %"  # the interval of the column before, which it stays beside
AT_THE_LEFT = ("experiment", "model", "method", "parameters")
COMMAND = re.compile(r"\\[a-z]+|[\\{}$]")
TALL = 4  # signs of a title that stay on one line


def booktabs(
    names: Sequence[Column],
    columns: Sequence[Column],
    breaks: Sequence[int],
    notes: Sequence[str] = (),
    aside: Sequence[str] = (),
) -> str:
    r"""The table in a group of its own, to be ``\input``; what is too wide goes on below, under the names again.

    Args:
        names: Columns that say what a row is.
        columns: The others; those without any text are left out, here and there.
        breaks: Rows that a line stands above.
        notes: Below the table, in LaTeX.
        aside: Text in comments.
    """
    names, columns = ([one for one in some if any(one[1])] for some in (names, columns))
    lines = [r"% needs \usepackage{booktabs}", r"{\noindent\footnotesize\setlength{\tabcolsep}{2pt}%"]
    for place, panel in enumerate(_balanced(columns, PAGE - sum(map(_width, names)))):
        lines += [r"\medskip\noindent"] if place else []
        lines += _tabular([*names, *panel], breaks)
    lines += [rf"\smallskip\noindent\parbox{{\linewidth}}{{\raggedright {note}}}\par" for note in notes]
    return "\n".join([*lines, "}", *(f"% {latex_cell(line)}" for line in aside), ""])


def name_columns(names: Sequence[PointName]) -> list[Column]:
    """The parts of grid points' names; a kind of budget, or of parameter, is said only where there are several."""
    kinds = {name.budget.partition("=")[0] for name in names if name.budget}
    told = {word.partition("=")[0] for name in names for word in name.settings.split(" ") if word}
    alone = len(told) == 1
    texts = {
        "method": [name.strategy for name in names],
        "layer": [name.layer for name in names],
        "tokens": [name.budget.partition("=")[2] if len(kinds) == 1 else name.budget for name in names],
        told.pop() if alone else "parameters": [
            name.settings.partition("=")[2] if alone else name.settings for name in names
        ],
    }
    return [(title, [latex_cell(text) for text in column]) for title, column in texts.items()]


def _tabular(columns: Sequence[Column], breaks: Sequence[int]) -> list[str]:
    kinds = "".join("l" if title in AT_THE_LEFT else "r" for title, _ in columns)
    lines = [r"\begin{tabular}{@{}" + kinds + "@{}}", r"\toprule"]
    lines += [" & ".join(_stacked(title) for title, _ in columns) + r" \\"]
    for place, cells in enumerate(zip(*(column for _, column in columns), strict=True)):
        lines += [r"\midrule"] if place in (0, *breaks) else []
        lines.append(" & ".join(cells) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}\par"]


def _stacked(title: str) -> str:
    """A title of several words above each other, so that its column is no wider than its numbers."""
    words = r" \\ ".join(latex_cell(word) for word in _words(title))
    return words if len(_words(title)) == 1 else rf"\shortstack[r]{{{words}}}"


def _words(title: str) -> list[str]:
    return [title] if len(title) <= TALL else title.split(" ")


def _balanced(columns: Sequence[Column], room: float) -> list[list[Column]]:
    """As few parts as fit into the room, none much wider than it has to be."""
    parts = _panels(columns, room)
    while len(parts) > 1 and len(narrower := _panels(columns, room := 0.95 * room)) == len(parts) and room > 1:
        parts = narrower
    return parts


def _panels(columns: Sequence[Column], room: float) -> list[list[Column]]:
    """The columns in their order, an interval beside its figure."""
    parts: list[list[Column]] = [[]]
    for place, column in enumerate(columns):
        if column[0] == SPAN and place:
            parts[-1].append(column)
            continue
        together = [column, *(one for one in columns[place + 1 : place + 2] if one[0] == SPAN)]
        if parts[-1] and sum(map(_width, [*parts[-1], *together])) > room:
            parts.append([])
        parts[-1].append(column)
    return parts


def _width(column: Column) -> float:
    """About; in pt."""
    texts = [*_words(column[0]), *(COMMAND.sub("", text.replace("$-$", "−")) for text in column[1])]
    return GAP + max(sum(SIZES.get(sign, 4.3) for sign in text) for text in texts)
