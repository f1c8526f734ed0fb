"""Stop grid points whose race is decided: a sequential test on paired answers that is valid whenever one looks; pure.

All points answer the same questions in the same random order, so each question compares a point with its rival: it
changed the score by something from -1 to +1; right or wrong answers by -1, 0 or +1. The hypothesis about a point is
that over *all* N questions of the sweep it is no more than ``margin`` less accurate than its rival. Somebody who bets
against that, fairly under the hypothesis, multiplies the stake by E; the chance that E ever reaches 1 / a is at most a,
however often it is looked at (Ville). So points may be stopped at any time, and a resumed run comes to the same
decisions.

- The bet is on drawing without replacement: the mean of what is still to come follows from what was seen. Nothing is
  assumed about how images resemble each other, only that their order is random (`shuffled`).
- Questions about one image are one draw: what they changed together, divided by the most questions that an image has,
  so that it lies between -1 and +1. The order is one of images, and a look counts those that are settled whole.
- It is spread over several stakes (`BETS`), because how far a point is behind is not known; on the questions whose
  answer changed this is McNemar's test as a likelihood ratio, mixed over the share of changes for the worse.
- ``against: best``: the rivals are all pruned points; their E are averaged, of which only the leaders' are computed
  (leaving out others makes E smaller, never wrong). ``against: baseline``: the rival is the un-pruned model.
- Holm over the points. Together: the chance that any point is stopped that is truly within ``margin`` of the best one
  (of the un-pruned model) is at most ``alpha``.

Sources: Waudby-Smith and Ramdas, Confidence sequences for sampling without replacement, NeurIPS 2020, and Estimating
means of bounded random variables by betting, JRSS B 2024; Vovk and Wang, E-values: calibration, combination and
applications, Annals of Statistics 2021; Holm 1979. Shape letters: P points, S questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from results.analysis.significance import Bools, Floats, Ints
from workers.tasks.base import Sample

BETS = (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95)  # shares of the highest stake allowed
LEADERS = 3  # rivals whose E are computed
FIRST_LOOK = 16  # image questions; then 24, 32, 48, 64, ...
LEAST_SAVED = (
    0.25  # of a point's questions; near the end nearly all are decided, and nothing is gained by stopping them
)
TINY = 1e-9
LOG_MAX = 700.0  # of a float64


@dataclass(frozen=True, slots=True, kw_only=True)
class RacingRule:
    """When a point may be stopped."""

    against: Literal["best", "baseline"] = "best"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05  # chance that any point is stopped wrongly
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0  # a difference of accuracies (0 to 1) that is no reason to stop

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Race:
    """Decides at a few numbers of questions which points go on. The same answers always lead to the same decisions."""

    def __init__(
        self, rule: RacingRule, points: int, total: int, baseline: int = 0, cluster_S: Ints | None = None
    ) -> None:
        """Start with all points racing.

        Args:
            rule: What to test.
            points: Number of grid points.
            total: Image questions of the sweep.
            baseline: Row of the un-pruned model, which is never stopped.
            cluster_S: The image that each question is about, those about an image next to each other; by default each
                has its own.
        """
        own_S = np.arange(total) if cluster_S is None else cluster_S
        self._end_G = np.append(np.flatnonzero(np.diff(own_S)) + 1, [total] * (total > 0)).astype(np.int64)
        assert len(self._end_G) == len(np.unique(own_S)), "questions about an image are asked one after the other"
        self._most = int(np.diff(self._end_G, prepend=0).max(initial=1))  # questions of an image
        self._rule, self._total, self._baseline = rule, total, baseline
        self._racers = np.array([row for row in range(points) if row != baseline], dtype=int)
        self._looks = looks(total)
        self._looked = 0
        self.stopped: dict[int, int] = {}  # row -> image questions after which it was stopped

    def decide(self, score_PS: Floats, answered_PS: Bools, settled: int) -> dict[int, int]:
        """Look at the answers, if there are enough new ones.

        Args:
            score_PS: 0 to 1 for each image question, in the order in which they are asked; right or wrong is 1 or 0.
            answered_PS: Which exist; a question that failed counts as answered alike by all.
            settled: So many of the first questions are answered (or failed) for every point that goes on.

        Returns:
            The points stopped now: row -> after how many questions.
        """
        new: dict[int, int] = {}
        for look in self._looks:
            if not self._looked < look <= settled:
                continue
            self._looked = look
            for row in self._losers(np.where(answered_PS[:, :look], score_PS[:, :look], 0.0), answered_PS[:, :look]):
                self.stopped[row] = new[row] = look
        return new

    def _losers(self, score_PS: Floats, answered_PS: Bools) -> list[int]:
        live = np.array([row for row in self._racers if row not in self.stopped], dtype=int)
        if live.size < 2 and self._rule.against == "best":
            return []
        if self._rule.against == "baseline":
            rivals, weight = [self._baseline], 1.0
        else:
            order = np.argsort(-score_PS[live].sum(axis=1), kind="stable")
            rivals, weight = live[order[:LEADERS]].tolist(), 1 / self._racers.size
        images = int(np.searchsorted(self._end_G, score_PS.shape[1], side="right"))  # that are settled whole
        if not images:
            return []
        start_G = np.append(0, self._end_G[: images - 1])
        margin = self._rule.margin * (self._total / (self._most * len(self._end_G)))
        whole = slice(self._end_G[images - 1])
        score_PS, answered_PS = score_PS[:, whole], answered_PS[:, whole]
        stake_P = np.zeros(live.size)
        for chunk in np.array_split(np.arange(live.size), max(1, live.size * score_PS.shape[1] // 200_000)):
            rows = live[chunk]
            stakes = np.zeros((rows.size, images))
            for rival in rivals:
                change = score_PS[rows] - score_PS[rival]
                change[~(answered_PS[rows] & answered_PS[rival])] = 0
                change = np.add.reduceat(change, start_G, axis=1) / self._most
                stakes += weight * stakes_on_the_way(change, len(self._end_G), margin)
            stake_P[chunk] = stakes.max(axis=1, initial=0.0)
        losers: list[int] = []
        for place in np.argsort(-stake_P, kind="stable"):
            if stake_P[place] < (live.size - len(losers)) / self._rule.alpha:
                break
            losers.append(int(live[place]))
        return losers


def stakes_on_the_way(change_PS: Floats, total: int, margin: float) -> Floats:
    """What a stake of 1 has become after each question, betting that a point is more than ``margin`` worse.

    Args:
        change_PS: -1 to +1 for each question so far: the point's score less its rival's.
        total: Questions of the whole sweep, of which these are the first in random order.
        margin: 0 <= margin < 1.

    Returns:
        (P, S) >= 0; infinite where the questions left cannot make up for it any more.
    """
    change_PS = np.asarray(change_PS, dtype=np.float64)
    before_PS = np.cumsum(change_PS, axis=1) - change_PS
    left_S = total - np.arange(change_PS.shape[1])
    mean_PS = (-margin * total - before_PS) / left_S  # of what is to come, if the point is just as good as it must be
    room_PS = 1 - mean_PS
    surprise_PS = np.where(room_PS > TINY, (change_PS - mean_PS) / np.maximum(room_PS, TINY), 0.0)
    result = np.zeros(change_PS.shape)
    for bet in BETS:
        result += np.exp(np.minimum(np.cumsum(np.log1p(-bet * surprise_PS), axis=1), LOG_MAX))
    result /= len(BETS)
    over_PS = -margin * total - (before_PS + change_PS) > left_S - 1 + TINY
    result[np.maximum.accumulate(over_PS, axis=1)] = np.inf
    return result


def looks(total: int) -> tuple[int, ...]:
    """After how many questions is looked: 16, 24, 32, 48, ... as long as a stop saves `LEAST_SAVED` of a point."""
    sizes = []
    size = FIRST_LOOK
    while size < total:
        sizes += [size, size * 3 // 2]
        size *= 2
    return tuple(size for size in sizes if size <= (1 - LEAST_SAVED) * total)


def shuffled(samples: Sequence[Sample], seed: int, images: Sequence[str] = ()) -> tuple[Sample, ...]:
    """Images in random order, and the questions of each: a file is sorted by who knows what, the test needs chance.

    Args:
        samples: Of the sweep.
        seed: Of the order.
        images: What each sample's image is recognised by, "" for none; empty: each question has its own.
    """
    names = images or [""] * len(samples)
    first: dict[str, str] = {}  # of each image the question that is its name here
    for sample, image in zip(samples, names, strict=True):
        first[image] = min(sample.id, first.get(image, sample.id))
    named = [first[image] if image else sample.id for sample, image in zip(samples, names, strict=True)]

    def place(pair: tuple[Sample, str]) -> tuple[bytes, str, bytes]:
        return _drawn(seed, pair[1]), pair[1], _drawn(seed, pair[0].id)

    return tuple(sample for sample, _ in sorted(zip(samples, named, strict=True), key=place))


def _drawn(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()
