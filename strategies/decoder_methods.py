"""The methods inside the decoder that the field compares: rows of the table in ``catalog.py``, as arguments of one."""

from __future__ import annotations

from typing import Any

from strategies import dart, v2drop, vtw

V2DROP = "V2Drop, arXiv:2509.01552"

METHODS: tuple[dict[str, Any], ...] = (
    {"name": "vtw", "score": vtw.vtw, "fixed_rank": 0, "source": "VTW, arXiv:2405.05803"},
    {
        "name": "dart",
        "select": dart.dart,
        "needs": dart.NEEDS,
        "published": tuple((rank, (("form", "literal"),)) for rank in (196, 132, 68)),
        "source": "DART, arXiv:2502.11494",
    },
    {"name": "state_change", "score": v2drop.state_change, "needs": v2drop.NEEDS, "source": V2DROP},
    {
        "name": "v2drop",
        "schedule": v2drop.v2drop,
        "published": tuple((rank, (("second_share", share),)) for rank, share in v2drop.SHARES),
        "source": V2DROP,
    },
)
