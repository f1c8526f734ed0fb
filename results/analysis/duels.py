"""Many pairs of grid points held against one another at once, each on the questions that both have answered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from results.analysis.matrix import Answers
from results.analysis.metrics import made_by
from results.analysis.significance import holm, paired_bootstrap, paired_test


def duels(table: Answers, first: Sequence[int], second: Sequence[int]) -> pd.DataFrame:
    """The first of each pair against the second.

    One resampling serves all pairs: their differences are what is resampled, against a row of noughts.

    Args:
        table: All answers; the image questions count.
        first, second: Rows of the grid points, pair by pair.

    Returns:
        One row a pair, as `results.analysis.metrics.compared` names them: n_paired, lost, gained, difference, diff_low,
        diff_high, diff_interval, p, test, p_holm (over these pairs). NaN where no question is shared.
    """
    images = table.of_images(True)
    both_PS = images.answered_PS[list(first)] & images.answered_PS[list(second)]
    change_PS = np.where(both_PS, images.score_PS[list(first)] - images.score_PS[list(second)], 0.0)
    asked_S = both_PS.any(axis=0, keepdims=True)
    nought_S = np.zeros((1, change_PS.shape[1]))
    bands = paired_bootstrap(
        np.concatenate([nought_S, change_PS]), np.concatenate([asked_S, both_PS]), 0, cluster_S=images.cluster_S
    ).difference
    tested = paired_test(change_PS, images.binary, images.cluster_S)
    n = both_PS.sum(axis=1)
    with np.errstate(invalid="ignore"):
        difference = change_PS.sum(axis=1) / n
    p = np.where(n > 0, tested.p, np.nan)
    return pd.DataFrame(
        {
            "n_paired": n,
            "lost": (change_PS < 0).sum(axis=1),
            "gained": (change_PS > 0).sum(axis=1),
            "difference": difference,
            "diff_low": bands.low[1:],
            "diff_high": bands.high[1:],
            "diff_interval": made_by(bands.by[1:], images),
            "p": p,
            "test": made_by(np.where(n > 0, tested.by, ""), images),
            "p_holm": holm(p),
        }
    )
