"""Which tokens were kept, judged after the run: do they hold the answer, and do two methods keep the same ones?

Computed from the masks of the cells, with numpy alone. Shape letters: P grid points, S image questions, V visual
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from results.analysis.significance import Bools, Floats
from results.experiment import Experiment
from workers.families.config import recorded_grid
from workers.work import UNPRUNED, GridPoint

COVERAGE_CELLS = 4  # the image as 4 x 4 cells


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMasks:
    """Masks of all cells with an image. Every sample has the same number of visual tokens."""

    points: tuple[GridPoint, ...]
    samples: tuple[str, ...]
    known_PS: Bools  # a cell exists
    mask_PSV: Bools
    answer_SV: Bools  # tokens that hold the answer
    answered_S: Bools  # whether that is known
    grid: tuple[int, int] | None  # rows and columns of the image that the tokens are


def kept_masks(experiment: Experiment) -> KeptMasks | None:
    """Read the masks; None where no cell has an image, or where images are cut into tiles of differing number."""
    sizes = experiment.meta["model_facts"]
    if sizes.get("varies") or sizes.get("pinpoints"):
        return None
    kept = experiment.kept()
    kept = kept[kept["visual_tokens"] > 0]
    if kept.empty:
        return None
    visual = int(kept["visual_tokens"].mode()[0])
    kept = kept[kept["visual_tokens"] == visual]
    table = experiment.samples.set_index("id")
    samples = [name for name in table.index if name in set(kept["sample"])]
    row = pd.Index([point.key for point in experiment.points]).get_indexer(pd.Index(kept["point"]))
    column = pd.Index(samples).get_indexer(pd.Index(kept["sample"]))
    packed = np.frombuffer(b"".join(kept["kept_mask"]), dtype=np.uint8).reshape(len(kept), -1)
    shape = (len(experiment.points), len(samples))
    known, mask = np.zeros(shape, bool), np.zeros((*shape, visual), bool)
    known[row, column] = True
    mask[row, column] = np.unpackbits(packed, axis=1, count=visual).astype(bool)
    answer, answered = np.zeros((len(samples), visual), bool), np.zeros(len(samples), bool)
    for place, patches in enumerate(table.loc[samples, "patches"]):
        if patches is not None and len(patches) and max(patches) < visual:
            answer[place, np.asarray(patches, dtype=int)] = True
            answered[place] = True
    return KeptMasks(
        points=experiment.points, samples=tuple(samples), known_PS=known, mask_PSV=mask, answer_SV=answer,
        answered_S=answered, grid=recorded_grid(sizes),
    )  # fmt: skip


def overlap(masks: KeptMasks) -> pd.DataFrame:
    """How far the kept tokens are those that hold the answer, mean over samples.

    Returns:
        One row per grid point: key, label, n (samples), n_answer (of these, with known patches); kept (tokens),
        precision, recall, iou and lift (precision over a random choice's; 1 is chance) over the latter; coverage
        (share of the image's 4 x 4 cells with a kept token; NaN where the tokens are no grid). A ratio without a
        denominator is missing.
    """
    kept_PS = masks.mask_PSV.sum(axis=2)
    common_PS = (masks.mask_PSV & masks.answer_SV).sum(axis=2)
    answer_S = masks.answer_SV.sum(axis=1)
    visual = masks.mask_PSV.shape[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = common_PS / kept_PS
        values = {
            "precision": precision,
            "recall": common_PS / answer_S,
            "iou": common_PS / (kept_PS + answer_S - common_PS),
            "lift": precision * visual / answer_S,
        }
    usable = masks.known_PS & masks.answered_S
    rows = pd.DataFrame(
        {
            "key": [point.key for point in masks.points],
            "label": [point.label for point in masks.points],
            "n": masks.known_PS.sum(axis=1),
            "n_answer": usable.sum(axis=1),
            "kept": _mean(kept_PS.astype(float), masks.known_PS),
        }
    )
    for name, value in values.items():
        rows[name] = _mean(value, usable)
    rows["coverage"] = _mean(_coverage(masks.mask_PSV, masks.grid), masks.known_PS)
    return rows


def agreement(masks: KeptMasks) -> pd.DataFrame:
    """Jaccard of the tokens that two grid points keep, mean over samples; only of points with equal layer and rank.

    Returns:
        Rows layer, rank, left, right (labels), jaccard, identical (share of samples with the very same tokens), n. Sets
        that are both empty, or both everything, say nothing and are left out.
    """
    visual = masks.mask_PSV.shape[2]
    groups: dict[tuple[int, int], list[int]] = {}
    for row, point in enumerate(masks.points):
        if point.strategy != UNPRUNED and 0 < point.rank < visual:
            groups.setdefault((point.layer, point.rank), []).append(row)
    found = []
    for (layer, rank), members in groups.items():
        common = np.zeros((len(members), len(members), len(masks.samples)))
        for place in range(len(masks.samples)):
            mask_MV = masks.mask_PSV[members, place].astype(np.float32)
            common[:, :, place] = mask_MV @ mask_MV.T
        for left, right in combinations(range(len(members)), 2):
            both_S = masks.known_PS[members[left]] & masks.known_PS[members[right]]
            together_S = common[left, right]
            union_S = common[left, left] + common[right, right] - together_S
            both_S = both_S & (union_S > 0)
            if both_S.any():
                ratio = together_S[both_S] / union_S[both_S]
                labels = (masks.points[members[left]].label, masks.points[members[right]].label)
                found.append((layer, rank, *labels, ratio.mean(), (ratio == 1).mean(), int(both_S.sum())))
    return pd.DataFrame(found, columns=["layer", "rank", "left", "right", "jaccard", "identical", "n"])


def _coverage(mask_PSV: Bools, grid: tuple[int, int] | None) -> Floats:
    """(P, S) share of the image's cells that hold a kept token; NaN where the tokens are no grid."""
    visual = mask_PSV.shape[2]
    if grid is None or grid[0] * grid[1] != visual:
        return np.full(mask_PSV.shape[:2], np.nan)
    row, column = (np.arange(side) * min(COVERAGE_CELLS, side) // side for side in grid)
    cell_V = (row[:, None] * (column[-1] + 1) + column[None, :]).ravel()
    touched = [mask_PSV[:, :, cell_V == cell].any(axis=2) for cell in range(cell_V[-1] + 1)]
    return np.mean(touched, axis=0)


def _mean(value_PS: Floats, usable_PS: Bools) -> Floats:
    """(P,) mean over usable samples with a value; NaN where there is none."""
    used = usable_PS & ~np.isnan(value_PS)
    count = used.sum(axis=1)
    total = np.where(used, value_PS, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
