"""Published figures of LLaVA-1.5-7B, to be shown beside one's own: three lineages that must not be mixed.

Printed in papers and repository pages of the methods named, collected by search; they cannot be re-derived from result
files here. Quote the papers themselves in anything public. ScienceQA is its image questions; MME is perception plus
cognition, in lineage B perception alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TASKS = ("scienceqa_img", "mmbench", "textvqa", "pope", "mme")  # of each cell below, in this order


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A method at a budget."""

    method: str  # as its authors call it
    tokens: int  # visual tokens on average over the layers
    figures: Mapping[str, float]  # by task: percent, of MME points


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Figures that belong together."""

    kind: str  # of every row: copied, or re-run
    origin: str  # the same in full
    unpruned: Mapping[str, float]
    mme: str  # which of MME's figures: total or perception
    rows: tuple[Published, ...]


def _lineage(kind: str, origin: str, unpruned: str, mme: str, budgets: tuple[int, ...], text: str) -> Lineage:
    rows = []
    for line in text.strip().splitlines():
        method, *cells = (part.strip() for part in line.split("|"))
        for tokens, cell in zip(budgets, cells, strict=True):
            if cell:
                rows.append(Published(method=method, tokens=tokens, figures=_figures(cell)))
    return Lineage(kind=kind, origin=origin, unpruned=_figures(unpruned), mme=mme, rows=tuple(rows))


def _figures(cell: str) -> dict[str, float]:
    return {task: float(value) for task, value in zip(TASKS, cell.split("/"), strict=True) if value}


# What is printed of the un-pruned model, by benchmark and figure: the least and the most of the lineages below, of
# LLaVA's own table, and of lmms-eval's.
UNPRUNED = {
    ("scienceqa_img", ""): (66.8, 69.6),
    ("mmbench", ""): (64.3, 64.7),
    ("textvqa", ""): (58.2, 58.2),
    ("pope", ""): (85.9, 85.9),
    ("gqa", ""): (62.0, 62.0),
    ("mme", ""): (1859.0, 1862.0),
    ("mme", "perception"): (1510.7, 1513.4),
}

PAPERS = {  # by the first word of a method: where it was published; rows are printed in others' papers too
    "FastV": "arXiv:2403.06764",
    "SparseVLM": "arXiv:2410.04417",
    "PyramidDrop": "arXiv:2410.17247",
    "VisionZip": "arXiv:2412.04467",
    "HiRED": "arXiv:2408.10945",
    "DivPrune": "arXiv:2503.02175",
    "MMTok": "arXiv:2508.18264",
    "VScan": "arXiv:2505.22654",
    "DART": "arXiv:2502.11494",
    "HoloV": "arXiv:2510.02912",
    "SCOPE": "arXiv:2510.24214",
    "V2Drop": "arXiv:2509.01552",
    "PruMerge+": "arXiv:2403.15388",
    "HiPrune": "arXiv:2508.00553",
    "CDPruner": "arXiv:2506.10967",
    "VisPruner": "arXiv:2412.01818",
}

LINEAGES = {
    "A": _lineage(
        "copied",
        "copied from paper to paper",
        "69.5/64.7/58.2/85.9/1862",
        "total",
        (192, 128, 64),
        """
        FastV | 67.3/61.2/52.5/64.8/1612 | 60.2/56.1/50.6/59.6/1490 | 51.1/48.0/47.8/48.0/1256
        SparseVLM v1 | 69.1/62.5/56.1/83.6/1721 | 67.1/60.0/54.9/80.5/1696 | 62.2/56.2/51.8/75.1/1505
        SparseVLM v1.5 | 68.7/64.1/57.8/85.3/1787 | 68.6/64.5/56.7/85.0/1746 | 69.8/60.1/53.4/77.5/1589
        PyramidDrop | /63.2/56.1/82.3/1766 | /61.1/55.1/82.3/ | /33.3/45.9/55.9/1092
        VisionZip | 68.9/63.0/57.3/85.3/1783 | 68.9/62.0/56.8/83.2/1762 | 69.0/60.1/55.5/77.0/1690
        HiRED | 68.4/62.8/47.4/82.8/1737 | |
        DivPrune (MMTok's run) | 68.7/62.5/57.0/87.0/1762 | 68.7/62.0/56.1/86.7/1718 | 68.1/59.3/54.7/85.6/1674
        MMTok | 68.8/63.4/57.7/86.4/1774 | 68.8/62.3/57.0/86.3/1779 | 69.2/61.2/56.0/85.8/1715
        VScan | 68.6/63.9/57.7/86.2/1806 | 68.9/63.0/57.3/86.1/1792 | 69.1/62.1/55.6/85.0/1698
        DART | 69.8/63.6/57.4/82.8/1856 | 69.1/63.2/56.4/80.1/1840 | 69.8/60.6/54.4/73.9/1765
        HoloV | 69.8/65.4/57.4/85.6/1820 | 69.8/63.9/56.8/84.0/1802 | 69.5/63.3/55.4/80.3/1715
        SCOPE | 68.8/63.6/57.7/86.4/1804 | 68.4/62.5/57.2/86.1/1776 | 68.6/61.7/56.6/83.9/1698
        V2Drop | 69.3/63.7/55.6/85.1/1826 | 68.8/61.8/53.8/80.9/1712 | 68.9/55.2/51.8/75.1/1470
        """,
    ),
    "B": _lineage(
        "copied",
        "copied, CDPruner's protocol",
        "69.6/64.7/58.2/85.9/1513.4",
        "perception",
        (128, 64),
        """
        FastV | 68.7/62.5/55.6/70.0/1343.6 | 68.7/49.6/52.1/37.2/992.1
        PyramidDrop | 69.5/62.1/56.1/77.9/1421.9 | 68.3/48.3/51.1/40.1/1004.4
        SparseVLM | 69.3/62.2/56.0/83.3/1408.3 | 69.0/58.0/52.5/70.2/1192.9
        PruMerge+ | 68.6/62.0/54.3/83.2/1411.9 | 69.2/59.2/52.1/76.3/1310.5
        VisionZip | 68.9/61.5/55.9/84.8/1423.7 | 69.0/60.3/55.0/77.9/1362.2
        DART | 69.1/60.7/55.8/81.2/1415.1 | 68.7/59.3/54.3/74.3/1371.3
        DivPrune | 68.2/61.5/55.3/86.8/1405.1 | 68.0/60.1/54.5/85.5/1356.2
        HiPrune | 68.3/62.2/56.2/82.8/1364.4 | 68.9/59.5/54.2/73.0/1236
        CDPruner | 69.0/62.4/56.0/87.3/1431.4 | 68.1/61.1/54.7/87.0/1399.1
        VisPruner (lmms-eval) | 69.1/62.5/57.2/85.0/1421 | 68.5/59.6/55.9/80.4/1357
        """,
    ),
    "C": _lineage(
        "re-run",
        "re-run with the authors' code",
        "////",  # not recorded
        "total",
        (192, 128, 64),
        """
        FastV | 68.9/64.4/57.8/75.8/1821 | 69.3/63.1/56.3/68.3/1694 | 69.9/51.4/51.6/36.1/1284
        PyramidDrop | 68.9/62.9/57.1/84.0/1790 | 68.8/54.9/52.6/67.8/1403 | 69.5/55.6/50.6/55.5/1404
        SparseVLM | 68.7/64.2/57.7/85.4/1782 | 68.7/64.4/56.6/85.0/1761 | 69.7/60.2/53.5/77.5/1591
        VisionZip | 68.7/62.5/55.8/85.2/1749 | 68.8/61.4/55.6/83.2/1705 | 69.5/60.5/53.8/78.2/1690
        DivPrune | 69.0/63.1/55.7/86.5/1723 | 68.9/63.7/55.2/86.5/1702 | 68.3/60.2/54.5/85.3/1653
        VisPruner | 68.3/62.5/57.7/86.0/1784 | 68.8/61.9/56.9/84.5/1778 | 68.5/60.0/55.6/80.5/1670
        HoloV | 67.3/62.6/55.8/85.0/1779 | 69.0/62.5/55.6/82.2/1761 | 68.6/60.0/54.9/76.8/1699
        """,
    ),
}
