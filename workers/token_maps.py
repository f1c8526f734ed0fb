"""Where an image's visual tokens lie in it: as one or two maps of the whole image, each with a token in every place.

A model that cuts images into tiles sees them twice: in tiles, and once as a whole. Only the standard library is
imported: a planner counts tokens and pages draw what experiments recorded, both without a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class TokenMap:
    """Rows and columns of tokens that together show the whole image."""

    first: int  # its first token
    rows: int
    columns: int
    tile: int = 0  # tokens of a tile, one side, where tiles come one after another; 0: row comes after row
    ends: int = 0  # tokens behind each row that show nothing
    overview: int = 0  # 1: the image squeezed into one tile, beside its tiles
    image: int = 0  # which of a prompt's images it is of

    def token(self, row: Any, column: Any) -> Any:
        """Which token is at a place, or at each of some places, where these are arrays."""
        if not self.tile:
            return self.first + row * (self.columns + self.ends) + column
        tile = row // self.tile * (self.columns // self.tile) + column // self.tile
        return self.first + (tile * self.tile + row % self.tile) * self.tile + column % self.tile

    @property
    def stated(self) -> tuple[int, ...]:
        """Its fields, without the image where that is the first: tables of one image stay as they were."""
        fields = astuple(self)
        return fields if self.image else fields[:-1]

    @property
    def last(self) -> int:
        """Its last token."""
        return int(self.token(self.rows - 1, self.columns - 1))


def written(maps: Iterable[TokenMap]) -> str | None:
    """As a table keeps them; None where there are none."""
    return ";".join(" ".join(map(str, one.stated)) for one in maps) or None


def read_maps(text: str | None, visual: int) -> tuple[TokenMap, ...]:
    """From a table, perhaps of others; none where it says what an image with so many tokens cannot have."""
    try:
        maps = tuple(TokenMap(*map(int, one.split())) for one in text.split(";")) if text else ()
    except (TypeError, ValueError):
        return ()
    whole = all(min(astuple(one)) >= 0 < one.rows * one.columns and _of_whole_tiles(one) for one in maps)
    apart = whole and all(one.last < other.first for one, other in pairwise(sorted(maps)))
    return maps if apart and all(one.last < visual for one in maps) else ()


def _of_whole_tiles(one: TokenMap) -> bool:
    return not one.tile or not (one.rows % one.tile or one.columns % one.tile or one.ends)
