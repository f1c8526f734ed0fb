"""Text of a paper's figure as TeX sets it as it stands: our names have underscores, arrows and degrees."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from results.escaping import LATEX

SIGNS = {  # that pdfTeX lacks, or has only in mathematics
    "<": "$<$", ">": "$>$", "|": "$|$", "\u00a0": "~", "…": r"\dots{}", "°": r"$^\circ$", "·": r"$\cdot$",
    "\u2212": "$-$", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "←": r"$\leftarrow$",
    "→": r"$\rightarrow$", "α": r"$\alpha$", "Δ": r"$\Delta$",
}  # fmt: skip
KEPT = {**LATEX, **SIGNS, "\n": "\n"}  # matplotlib sets each line for itself


def for_tex(text: str) -> str:
    """The text, so that TeX prints each of its signs."""
    return "".join(KEPT.get(sign, sign) for sign in text)


def escape_for_tex(figure: Figure) -> None:
    """All text of a figure that is finished; numbers at ticks need nothing."""
    for text in figure.findobj(Text):
        text.set_text(for_tex(text.get_text()))
    for plot in figure.axes:
        for axis in (plot.xaxis, plot.yaxis):
            if isinstance(axis.get_major_locator(), FixedLocator):  # whose names are set anew at every drawing
                axis.set_ticklabels([for_tex(label.get_text()) for label in axis.get_ticklabels()])
