"""How often intervals hold the truth, and tests find what is not there, where several questions are about one image.

    PYTHONPATH=.:tests python tests/cluster_simulation.py [REPLICATIONS]

draws answers whose chance of being right varies from image to image, so that those about an image are alike: by
``alike`` (the intraclass correlation). Changes are drawn in the same way, with a chance of being for the better that
varies between images and is one half in the mean.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

import numpy as np

from results.analysis.significance import (
    ALPHA,
    Floats,
    Interval,
    Ints,
    bootstrap_mean,
    paired_bootstrap,
    paired_test,
    wilson_mean,
)

FLIPPED = 0.2  # of the answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A benchmark."""

    images: int
    questions: int  # about an image; ``uneven``: in the mean, from 1 on
    alike: float  # 0 to 1
    share: float  # of right answers
    uneven: bool = False

    def clusters(self, draw: np.random.Generator) -> Ints:
        sizes = draw.integers(1, 2 * self.questions, self.images) if self.uneven else self.questions
        return np.repeat(np.arange(self.images), sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Shares of the replications, 0 to 1."""

    wilson: float  # intervals that hold the truth
    bootstrap: float
    paired: float
    mcnemar: float  # tests that reject what is true
    bootstrap_test: float


def shares(draw: np.random.Generator, mean: float, alike: float, replications: int, cluster_S: Ints) -> Floats:
    """(R, S) chances that vary from image to image: beta, so that single answers have this mean and correlation."""
    weight = (1 - alike) / alike
    return draw.beta(mean * weight, (1 - mean) * weight, (replications, cluster_S.max() + 1))[:, cluster_S]


def simulate(design: Design, replications: int, seed: int = 0, clustered: bool = True) -> Rates:
    """Many benchmarks at once, one in each row; ``clustered`` False: as if each question had its own image."""
    draw = np.random.default_rng(seed)
    cluster_S = design.clusters(draw)
    told = cluster_S if clustered else None
    drawn = shares(draw, design.share, design.alike, replications, cluster_S)
    right_RS = (draw.random(drawn.shape) < drawn).astype(float)
    all_RS = np.ones(right_RS.shape, dtype=bool)
    better = draw.random(drawn.shape) < shares(draw, 0.5, design.alike, replications, cluster_S)
    change_RS = np.where(draw.random(drawn.shape) < FLIPPED, np.where(better, 1.0, -1.0), 0.0)
    half_RS = np.vstack([np.zeros(cluster_S.size), change_RS])  # row 0: what they are changes of
    paired = paired_bootstrap(half_RS, np.ones(half_RS.shape, dtype=bool), 0, cluster_S=told).difference
    return Rates(
        wilson=_holds(wilson_mean(right_RS, all_RS, told), design.share),
        bootstrap=_holds(bootstrap_mean(right_RS, all_RS, cluster_S=told), design.share),
        paired=_holds(Interval(paired.low[1:], paired.high[1:], paired.by[1:]), 0.0),
        mcnemar=float((paired_test(change_RS, True, told).p <= ALPHA).mean()),
        bootstrap_test=float((paired_test(change_RS, False, told).p <= ALPHA).mean()),
    )


def _holds(interval: Interval, truth: float) -> float:
    return float(((interval.low <= truth) & (truth <= interval.high)).mean())


def main(replications: int) -> None:
    names = [field.name for field in fields(Rates)]
    print("images x questions, alike, share:", ", ".join(names), "| as if each question had its own image")
    for images in (50, 100, 500):
        for questions, alike, share, uneven in (
            (2, 0.5, 0.6, False), (6, 0.3, 0.85, False), (6, 0.3, 0.6, True), (31, 0.1, 0.6, True),
        ):  # fmt: skip
            design = Design(images=images, questions=questions, alike=alike, share=share, uneven=uneven)
            found = (simulate(design, replications, clustered=clustered) for clustered in (True, False))
            texts = [" ".join(f"{100 * getattr(rates, name):5.1f}" for name in names) for rates in found]
            mean = "about " if uneven else ""
            print(f"{images} x {mean}{questions}, {alike}, {share}: {' | '.join(texts)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
