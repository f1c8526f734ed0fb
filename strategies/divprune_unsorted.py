"""DivPrune as its authors' code feeds it: the tokens of ``divprune`` in the order in which they were chosen.

Source: as in ``diversity.py``; the indices are not sorted before the tokens are taken. The decoder then sees parts of
the image in an order that means nothing; ``divprune`` keeps them from left to right.
"""

from __future__ import annotations

from torch import Tensor

from strategies.diversity import divprune
from strategies.evidence import EvidenceView


def divprune_unsorted(view: EvidenceView, keep: int) -> Tensor:
    """The places that ``divprune`` keeps.

    Returns:
        (keep,) int64, ascending, unique.
    """
    return _order(view, keep).sort().values


def divprune_unsorted_rows(view: EvidenceView, kept_K: Tensor) -> Tensor:
    """(K, D) the first choice first."""
    return view.hidden_VD[_order(view, len(kept_K))]


def _order(view: EvidenceView, keep: int) -> Tensor:
    return view.once(("divprune", keep), lambda: divprune(view, keep))
