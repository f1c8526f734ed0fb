"""How many independent answers those about images are worth, and how sure one may be of few images.

Source: Korn and Graubard, Survey Methodology 24 (1998). Shape letters: P configurations, S samples, G images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from results.analysis.clusters import groups_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

Z = 1.959963984540054  # standard normal quantile of 0.975, for intervals at 95 %


def design_effect(score_PS: Floats, answered_PS: Bools, cluster_S: Ints | None = None) -> tuple[Floats, Ints]:
    """By how much the variance of a mean score is greater than that of as many questions about different images.

    The linearised variance of a ratio over images, divided by that of a share; at least 1. Where all answers are right,
    or none is, nothing tells how alike they are: then an image counts as one answer.

    Args:
        score_PS, answered_PS, cluster_S: As `wilson_mean` takes them.

    Returns:
        (P,) >= 1, and how many images have an answer.
    """
    groups = groups_of(cluster_S)
    n = answered_PS.sum(axis=1)
    if groups is None:
        return np.ones(len(n)), n
    score_PG, answers_PG = groups.sum(score_PS.astype(np.float64)), groups.sum(answered_PS)
    images = (answers_PG > 0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = score_PG.sum(axis=1) / n
        beyond_PG = score_PG - share[:, None] * answers_PG
        variance = images / (images - 1) * (beyond_PG**2).sum(axis=1) / n**2
        effect = variance / (share * (1 - share) / (n - 1))
        alike = (answers_PG.astype(np.float64) ** 2).sum(axis=1) / n
        effect = np.where((share > 0) & (share < 1) & (images > 1), np.maximum(effect, 1.0), alike)
    return np.where(images < n, effect, 1.0), images


def t_quantile(freedom: Ints) -> Floats:
    """Of Student's t what Z is of the normal one: 0.003 too small at 5 degrees of freedom (Cornish-Fisher)."""
    v = np.maximum(freedom, 1).astype(np.float64)
    return (
        Z
        + (Z**3 + Z) / (4 * v)
        + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * v**2)
        + (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / (384 * v**3)
    )
