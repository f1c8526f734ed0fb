"""The methods inside the decoder that the field compares: rows of the table in ``catalog.py``, as arguments of one."""

from __future__ import annotations

from typing import Any

from strategies import vtw

METHODS: tuple[dict[str, Any], ...] = (
    {"name": "vtw", "score": vtw.vtw, "fixed_rank": 0, "source": "VTW, arXiv:2405.05803"},
)
