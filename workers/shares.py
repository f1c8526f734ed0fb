"""How many visual tokens are kept, as people ask for it: a number, a share of each image's own, or an average."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from strategies.budget import rank_for_average, rank_of_share, share_for_average
from strategies.errors import UsageError

FEW = 4  # rows that every method without a parameter of its own for them can keep
USUAL = 128
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,12})?)\s*%")


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays of an image: so many tokens, or a share of its own."""

    rank: int = 0
    share: float | None = None

    def of(self, visual: int) -> int:
        """The rank on an image with so many tokens."""
        return self.rank if self.share is None else rank_of_share(self.share, visual)

    @classmethod
    def asked(
        cls, rank: int | str | None, tokens: float | str | None, layer: int, layers: int, visual: int | None
    ) -> Kept:
        """What a caller asks for.

        Args:
            rank: a number, or a share such as ``22.2%``; None: ``USUAL``, where ``tokens`` says nothing either.
            tokens: the same as an average over the layers, in place of ``rank``.
            layer, layers: from which layer on tokens go, and how many there are.
            visual: of each image; None: images differ in theirs, and an average can only be a share.

        Raises:
            UsageError: both are given, a share is none, or there is no such rank.
        """
        if rank is not None and tokens is not None:
            raise UsageError("rank and tokens say the same in two ways; give one")
        try:
            if tokens is None:
                found = cls(share=share_of(str(rank))) if is_share(rank) else cls(USUAL if rank is None else int(rank))
            elif is_share(tokens):
                found = cls(share=share_for_average(share_of(str(tokens)), layer, layers))
            elif visual is None:
                what = "is an average over a fixed number of visual tokens, and this model's images differ in theirs"
                raise ValueError(f"{what}; give a share of each image's own, such as 33.3%, or rank")
            else:
                found = cls(rank_for_average(float(tokens), layer, layers, visual))
        except ValueError as error:
            raise UsageError(f"{'rank' if tokens is None else 'tokens'}: {error}") from error
        return found


def is_share(value: Any) -> bool:
    return isinstance(value, str) and value.strip().endswith("%")


def share_of(text: str) -> float:
    """``22.2%`` as 0.222.

    Raises:
        ValueError: it is no percentage of 0 to 100.
    """
    match = _PERCENT.fullmatch(text.strip())
    if match is None or float(match[1]) > 100:
        raise ValueError(f"{text[:20]!r} is no share between 0% and 100%")
    return float(Decimal(match[1]) / 100)  # as it is written: 22.2 / 100 in binary is not 0.222
