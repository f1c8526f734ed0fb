"""The methods before the decoder: their rows of the table in ``catalog.py``, as arguments of a ``Strategy``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strategies import (
    cdpruner,
    divprune_unsorted,
    fastervlm,
    hiprune,
    holov,
    prumerge,
    prunesid,
    scope,
    trim,
    visionzip,
    vispruner,
    vscan,
)
from strategies.view import Evidence

PRUMERGE = "PruMerge, arXiv:2403.15388"
PRUNESID = "PruneSID, arXiv:2603.09480"
VSCAN = "VScan, arXiv:2505.22654"


def _tower(name: str, ranks: Sequence[int] = (), **how: Any) -> dict[str, Any]:
    """What is left of the image is numbered without gaps."""
    published = tuple((rank, ()) for rank in ranks)
    return {"name": name, "positions": "compact", "layers": "input", "published": published, **how}


TABLES = (192, 128, 64)  # the budgets of most papers' tables
ADAPTIVE = ((575, (("count", "adaptive"),)),)  # as many as a method finds for each image, of 576

METHODS: tuple[dict[str, Any], ...] = (
    _tower(
        "fastervlm",
        ranks=(288, 144, 58, 29),
        score=fastervlm.fastervlm,
        together=fastervlm.together,
        needs=fastervlm.NEEDS,
        source="FasterVLM, arXiv:2412.01818",
    ),
    _tower(
        "visionzip",
        ranks=TABLES,
        select=visionzip.visionzip,
        together=visionzip.together,
        rows=visionzip.visionzip_rows,
        needs=visionzip.NEEDS,
        source="VisionZip, arXiv:2412.04467",
    ),
    _tower(
        "vispruner",
        published=((128, (("important", 0.5),)), (64, (("important", 0.75),))),
        select=vispruner.vispruner,
        together=vispruner.together,
        needs=vispruner.NEEDS,
        source="VisPruner, arXiv:2412.01818v2",
    ),
    _tower(
        "cdpruner",
        ranks=TABLES,
        order=cdpruner.cdpruner,
        together=cdpruner.together,
        needs=cdpruner.NEEDS,
        source="CDPruner, arXiv:2506.10967",
    ),
    _tower(
        "trim",
        select=trim.trim,
        together=trim.together,
        rows=trim.trim_rows,
        needs=trim.NEEDS,
        published=ADAPTIVE,
        least=2,
        source="TRIM, arXiv:2409.10994",
    ),
    _tower(
        "prumerge",
        select=prumerge.prumerge,
        together=prumerge.together,
        rows=prumerge.prumerge_rows,
        needs=prumerge.NEEDS,
        published=ADAPTIVE,
        least=2,
        source=PRUMERGE,
    ),
    _tower(
        "prumerge_plus",
        select=prumerge.prumerge_plus,
        together=prumerge.plus_together,
        rows=prumerge.prumerge_plus_rows,
        needs=prumerge.NEEDS,
        published=ADAPTIVE,
        least=2,
        source=PRUMERGE,
    ),
    _tower(
        "holov",
        ranks=TABLES,
        select=holov.holov,
        together=holov.together,
        rows=holov.holov_rows,
        needs=holov.NEEDS,
        source="HoloV, arXiv:2510.02912",
    ),
    _tower(
        "scope",
        ranks=TABLES,
        order=scope.scope,
        together=scope.together,
        needs=scope.NEEDS,
        source="SCOPE, arXiv:2510.24214",
    ),
    _tower(
        "hiprune",
        ranks=TABLES,
        select=hiprune.hiprune,
        together=hiprune.together,
        needs=hiprune.NEEDS,
        source="HiPrune, arXiv:2508.00553",
    ),
    _tower(
        "prunesid",
        ranks=TABLES,
        select=prunesid.prunesid,
        together=prunesid.together,
        rows=prunesid.prunesid_rows,
        needs=prunesid.NEEDS,
        least=4,
        source=PRUNESID,
    ),
    _tower(
        "prunesid_drawn",
        draws=True,
        ranks=TABLES,
        select=prunesid.prunesid_drawn,
        together=prunesid.drawn_together,
        rows=prunesid.prunesid_drawn_rows,
        needs=prunesid.DRAWN_NEEDS,
        least=4,
        source=PRUNESID,
    ),
    _tower(
        "divprune_unsorted",
        select=divprune_unsorted.divprune_unsorted,
        rows=divprune_unsorted.divprune_unsorted_rows,
        needs=frozenset({Evidence.HIDDEN}),
        source="DivPrune, arXiv:2503.02175",
    ),
    _tower(
        "vscan_tower",
        select=vscan.vscan_tower,
        together=vscan.together,
        rows=vscan.vscan_rows,
        needs=vscan.NEEDS,
        source=VSCAN,
    ),
    dict(
        name="vscan",
        schedule=vscan.vscan,
        layers="input",
        published=((288, ()), (192, ()), (96, ())),  # 192, 128 and 64 on average
        source=VSCAN,
    ),
)
