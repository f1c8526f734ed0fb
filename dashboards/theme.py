"""How every picture looks: colours, type, one template in a light and a dark version.

Colours are Okabe-Ito without yellow, which is too light for a line: told apart by readers with any colour vision, and
never the only mark, because dashes differ too.
"""

from __future__ import annotations

from dataclasses import dataclass

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
ON_DARK = ("#4CA8E8", "#F0803C", "#2BC49A", "#E39CC4", "#F2B544", "#8CCBF2")  # COLOURS for a dark paper
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")  # see `line_look`
CONTEXT = "#9A9A9A"  # grey that stands on white and on near-black
REFERENCE = "#6E6E6E"  # also of words about the context, which need more contrast than lines
EMPTY = "#D5D8DC"  # what is not there yet
BAND_OPACITY = 0.16
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
LABEL_PX = 12  # font size of end labels
LABEL_GAP_PX = 16  # least distance of two

LOSS_TO_GAIN = (  # ColorBrewer RdBu: red is a loss, blue a gain, white none
    "#67001f", "#b2182b", "#d6604d", "#f4a582", "#fddbc7", "#f7f7f7", "#d1e5f0", "#92c5de", "#4393c3", "#2166ac",
    "#053061",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Ink:
    """The neutral colours of a page."""

    paper: str
    text: str
    muted: str
    grid: str
    dark: bool


LIGHT = Ink(paper="#ffffff", text="#1d2126", muted="#5c6570", grid="#e7e9ec", dark=False)
DARK = Ink(paper="#15181c", text="#e6e8ea", muted="#a0a8b1", grid="#2d3238", dark=True)


def line_look(place: int) -> tuple[str, str]:
    """Colour and dash of the n-th line of a picture, from 0: no two of the first 30 have both in common."""
    turn, hue = divmod(place, len(COLOURS))
    return COLOURS[hue], DASHES[(hue + turn) % len(DASHES)]


def verdict(difference: float, significant: bool) -> str:
    """The colour of a difference to the un-pruned model: grey where it is not significant."""
    if not significant:
        return CONTEXT
    return COLOURS[1] if difference < 0 else COLOURS[0]


def faded(colour: str, opacity: float) -> str:
    """``#0072B2`` and 0.16 -> ``rgba(0,114,178,0.16)``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def on_paper(ink: Ink) -> dict[str, str]:
    """Colours that stand on white -> the same hue where the paper is dark: as light as a line on it must be."""
    if ink is not DARK:
        return {}
    changed = {colour: light for colour, light in zip(COLOURS, ON_DARK, strict=True)} | {
        REFERENCE: "#A3ABB3",
        EMPTY: "#3A4048",
    }
    return changed | {_triple(colour): _triple(light) for colour, light in changed.items()}


def _triple(colour: str) -> str:
    """As `faded` writes it."""
    return faded(colour, 0).removesuffix("0)")
