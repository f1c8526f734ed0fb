"""What a person can mend is told in one line, whatever the text of files and users that it quotes."""

from __future__ import annotations

import re

# Control characters, what else ends a line, and halves of surrogate pairs, which no output can hold.
UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
LONGEST = 1000  # characters; a quotation may be of any length


class Complaint(ValueError):
    """A message for people: one line, whose unshowable characters are written out."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    r"""Text with its unshowable characters written out (``\n``), and its middle left out where it is very long."""
    shown = UNSHOWABLE.sub(lambda sign: ascii(sign[0])[1:-1], text)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 :]}"
