"""The methods inside the decoder that the field compares: rows of the table in ``catalog.py``, as arguments of one."""

from __future__ import annotations

from typing import Any

from strategies import dart, vtw

METHODS: tuple[dict[str, Any], ...] = (
    {"name": "vtw", "score": vtw.vtw, "fixed_rank": 0, "source": "VTW, arXiv:2405.05803"},
    {
        "name": "dart",
        "select": dart.dart,
        "needs": dart.NEEDS,
        "published": tuple((rank, (("form", "literal"),)) for rank in (196, 132, 68)),
        "source": "DART, arXiv:2502.11494",
    },
)
