"""Which tokens were kept, judged after the run: do they hold the answer, and do two methods keep the same ones?

Computed from the masks of the cells, with numpy alone. Shape letters: P grid points, S image questions, V visual
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from results.analysis.matrix import Matrix
from results.analysis.significance import Bools, Floats
from results.experiment import Experiment
from workers.families.config import RecordedConfig
from workers.token_maps import TokenMap, read_maps
from workers.work import UNPRUNED, GridPoint

Ints = NDArray[np.int64]
COVERAGE_CELLS = 4  # the image as 4 x 4 cells


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMasks:
    """Masks of all cells with an image. Where samples differ in their visual tokens, V is the most that one has."""

    points: tuple[GridPoint, ...]
    samples: tuple[str, ...]
    known_PS: Bools  # a cell exists
    mask_PSV: Bools
    answer_SV: Bools  # tokens that hold the answer
    answered_S: Bools  # whether that is known
    visual_S: Ints  # visual tokens
    cell_SV: Ints  # which cell of the image a token shows, of COVERAGE_CELLS squared; -1: it is not known, or none


def kept_masks(experiment: Experiment) -> KeptMasks | None:
    """Read the masks; None where no cell has an image."""
    kept = experiment.kept()
    kept = kept[kept["visual_tokens"] > 0]
    if kept.empty:
        return None
    if not experiment.config.varies:
        kept = kept[kept["visual_tokens"] == kept["visual_tokens"].mode()[0]]
    visual = int(kept["visual_tokens"].max())
    table = experiment.samples.set_index("id")
    asked = set(kept["sample"])
    samples = [name for name in table.index if name in asked]
    row = pd.Index([point.key for point in experiment.points]).get_indexer(pd.Index(kept["point"]))
    column = pd.Index(samples).get_indexer(pd.Index(kept["sample"]))
    width = -(-visual // 8)
    packed = np.frombuffer(b"".join(mask.ljust(width, b"\0") for mask in kept["kept_mask"]), dtype=np.uint8)
    cells = Matrix((len(experiment.points), len(samples)), mask=(bool, (visual,)))
    cells.enter(row, column, mask=np.unpackbits(packed.reshape(-1, width), axis=1, count=visual))
    answer, answered = np.zeros((len(samples), visual), bool), np.zeros(len(samples), bool)
    for place, patches in enumerate(table.loc[samples, "patches"]):
        if patches is not None and len(patches) and max(patches) < visual:
            answer[place, np.asarray(patches, dtype=int)] = True
            answered[place] = True
    of_sample = kept.drop_duplicates("sample").set_index("sample").loc[samples]
    visual_S = of_sample["visual_tokens"].to_numpy(dtype=np.int64)
    cell_SV = np.full((len(samples), visual), -1)
    for place, (text, tokens) in enumerate(zip(of_sample["maps"], visual_S.tolist(), strict=True)):
        for one in token_maps(experiment.config, text, tokens):
            cell_SV[place][one.token(*np.indices((one.rows, one.columns)))] = _cells(one)
    return KeptMasks(
        points=experiment.points, samples=tuple(samples), known_PS=cells.known_PS,
        mask_PSV=cells.values["mask"], answer_SV=answer,
        answered_S=answered, visual_S=visual_S, cell_SV=cell_SV,
    )  # fmt: skip


def token_maps(config: RecordedConfig, recorded: object, visual: int) -> tuple[TokenMap, ...]:
    """Where an image's tokens lie in it: as its cells say, else as all images of the model have them."""
    if isinstance(recorded, str):
        return read_maps(recorded, visual)
    if config.grid is None or config.grid[0] * config.grid[1] > visual:
        return ()
    return (TokenMap(0, *config.grid),)


def _cells(one: TokenMap) -> Ints:
    """(rows, columns) which cell each place of a map lies in; each of a prompt's images has cells of its own."""
    row, column = (np.arange(side) * COVERAGE_CELLS // side for side in (one.rows, one.columns))
    return row[:, None] * COVERAGE_CELLS + column[None, :] + one.image * COVERAGE_CELLS**2


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
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = common_PS / kept_PS
        values = {
            "precision": precision,
            "recall": common_PS / answer_S,
            "iou": common_PS / (kept_PS + answer_S - common_PS),
            "lift": precision * masks.visual_S / answer_S,
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
    rows["coverage"] = _mean(_coverage(masks), masks.known_PS)
    return rows


def agreement(masks: KeptMasks) -> pd.DataFrame:
    """Jaccard of the tokens that two grid points keep, mean over samples; only of points with equal layer and rank.

    Returns:
        Rows layer, rank, left, right (labels), jaccard, identical (share of samples with the very same tokens), n. Sets
        that are both empty, or both everything, say nothing and are left out.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for row, point in enumerate(masks.points):
        if point.strategy != UNPRUNED and point.rank:
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
            both_S = both_S & (union_S > 0) & (together_S < masks.visual_S)
            if both_S.any():
                ratio = together_S[both_S] / union_S[both_S]
                labels = (masks.points[members[left]].label, masks.points[members[right]].label)
                found.append((layer, rank, *labels, ratio.mean(), (ratio == 1).mean(), int(both_S.sum())))
    return pd.DataFrame(found, columns=["layer", "rank", "left", "right", "jaccard", "identical", "n"])


def _coverage(masks: KeptMasks) -> Floats:
    """(P, S) share of the image's cells that hold a kept token; NaN where it is not known where tokens lie."""
    touched_PS, there_S = np.zeros(masks.mask_PSV.shape[:2]), np.zeros(len(masks.samples))
    for cell in range(masks.cell_SV.max(initial=-1) + 1):
        inside_SV = masks.cell_SV == cell
        touched_PS += (masks.mask_PSV & inside_SV).any(axis=2)
        there_S += inside_SV.any(axis=1)
    return np.divide(touched_PS, there_S, out=np.full(touched_PS.shape, np.nan), where=there_S > 0)


def _mean(value_PS: Floats, usable_PS: Bools) -> Floats:
    """(P,) mean over usable samples with a value; NaN where there is none."""
    used = usable_PS & ~np.isnan(value_PS)
    count = used.sum(axis=1)
    total = np.where(used, value_PS, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
