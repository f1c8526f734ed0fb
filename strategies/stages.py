"""A method that prunes more than once is a list of stages, each an ordinary strategy at a layer of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One pruning: ``strategy`` keeps ``rank`` of the visual tokens that still live before ``layer`` runs."""

    strategy: str  # a name of the catalog
    layer: int
    rank: int
    params: tuple[tuple[str, bool | int | float | str], ...] = ()
