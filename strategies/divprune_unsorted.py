"""DivPrune as its authors' code feeds it: the tokens of ``divprune`` in the order in which they were chosen.

Source: as in ``diversity.py``; the indices are not sorted before the tokens are taken. The decoder then sees parts of
the image in an order that means nothing; ``divprune`` keeps them from left to right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strategies import several
from strategies.diversity import divprune
from strategies.evidence import EvidenceView
from strategies.several import Views


def divprune_unsorted(view: EvidenceView, keep: int) -> Tensor:
    """The places that ``divprune`` keeps.

    Returns:
        (keep,) int64, ascending, unique.
    """
    return _order(view, keep).sort().values


def divprune_unsorted_rows(views: Views, kept_BK: Tensor) -> Tensor:
    """(B, K, D) the first choice first."""
    order_BK = torch.stack([_order(view, kept_BK.shape[1]) for view in views])
    return several.taken((view.hidden_VD for view in views), order_BK)


def _order(view: EvidenceView, keep: int) -> Tensor:
    return view.once(("divprune", keep), lambda: divprune(view, keep))
