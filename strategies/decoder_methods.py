"""The methods inside the decoder that the field compares: rows of the table in ``catalog.py``, as arguments of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strategies import dart, fitprune, sparsevlm, v2drop, vtw

SPARSEVLM = "SparseVLM, arXiv:2410.04417"
V2DROP = "V2Drop, arXiv:2509.01552"
FITPRUNE = "FitPrune, arXiv:2409.10197"


def _stages(lists: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, tuple[tuple[str, int], ...]], ...]:
    """What is left after three stages, as ranks with their parameters."""
    return tuple((rank, (("second_rank", second), ("third_rank", third))) for rank, second, third in lists)


METHODS: tuple[dict[str, Any], ...] = (
    {"name": "vtw", "score": vtw.vtw, "fixed_rank": 0, "source": "VTW, arXiv:2405.05803"},
    {
        "name": "dart",
        "select": dart.dart,
        "needs": dart.NEEDS,
        "published": tuple((rank, (("form", "literal"),)) for rank in (196, 132, 68)),
        "source": "DART, arXiv:2502.11494",
    },
    {
        "name": "sparsevlm_stage",
        "select": sparsevlm.sparsevlm_stage,
        "rows": sparsevlm.sparsevlm_rows,
        "fed": True,
        "needs": sparsevlm.NEEDS,
        "positions": "compact",
        "source": SPARSEVLM,
    },
    {
        "name": "sparsevlm",
        "schedule": sparsevlm.sparsevlm,
        "published": _stages(sparsevlm.LISTS),
        "source": SPARSEVLM,
    },
    {
        "name": "sparsevlm_plus_stage",
        "order": sparsevlm.sparsevlm_plus_stage,
        "needs": sparsevlm.PLUS_NEEDS,
        "source": SPARSEVLM,
    },
    {
        "name": "sparsevlm_plus",
        "schedule": sparsevlm.sparsevlm_plus,
        "published": _stages(sparsevlm.PLUS_LISTS),
        "source": SPARSEVLM,
    },
    {"name": "state_change", "score": v2drop.state_change, "needs": v2drop.NEEDS, "source": V2DROP},
    {
        "name": "v2drop",
        "schedule": v2drop.v2drop,
        "published": tuple((rank, (("second_share", share),)) for rank, share in v2drop.SHARES),
        "source": V2DROP,
    },
    {"name": fitprune.STAGE, "score": fitprune.fitprune_stage, "needs": fitprune.NEEDS, "source": FITPRUNE},
    {
        "name": "fitprune",
        "schedule": fitprune.fitprune,
        "published": fitprune.published(),
        "source": FITPRUNE,
    },
)
