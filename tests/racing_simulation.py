"""How often racing errs and what it saves, on simulated sweeps.

    PYTHONPATH=.:tests python tests/racing_simulation.py [SWEEPS]

Answers have the shape of real ones: questions differ in difficulty, so that points agree more than by chance. In the
null sweeps all points are just as accurate as they must be - ties over all questions, or exactly ``margin`` behind -
and every stop is an error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from results.analysis.racing import Race, RacingRule
from results.analysis.significance import Bools, wilson

Draw = np.random.Generator


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of many simulated sweeps."""

    sweeps: int
    erred: int  # with at least one point stopped that should not have been
    saved: float  # share of the grid's cells never asked
    best_kept: float  # share of sweeps in which a truly best point survived

    @property
    def interval(self) -> tuple[float, float]:
        low, high, _ = wilson(np.array([self.erred]), np.array([self.sweeps]))
        return float(low[0]), float(high[0])

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"erred in {self.erred} of {self.sweeps} ({self.erred / self.sweeps:.2%}, 95 % {low:.2%} .. {high:.2%}), "
            f"saved {self.saved:.1%} of the cells, kept a best point in {self.best_kept:.2%}"
        )


def answers(draw: Draw, accuracies: np.ndarray, questions: int, exact: bool) -> Bools:
    """(P, S) right answers with a shared difficulty; ``exact``: each point has just its accuracy over all questions."""
    ability = np.log(accuracies / (1 - accuracies)) * 1.6
    score_PS = ability[:, None] - 2 * draw.normal(size=questions) + draw.logistic(size=(accuracies.size, questions))
    if not exact:
        return score_PS > 0
    right_PS = np.zeros(score_PS.shape, dtype=bool)
    for row, count in enumerate(np.round(accuracies * questions).astype(int)):
        right_PS[row, np.argsort(-score_PS[row])[:count]] = True
    return right_PS


def simulate(
    rule: RacingRule,
    make: Callable[[Draw], Bools],
    sweeps: int,
    seed: int = 0,
    lag: int = 0,
    an_image: int = 1,
    told: bool = True,
) -> Outcome:
    """Race many sweeps; row 0 is the un-pruned model.

    Args:
        rule: Of the race.
        make: Draws the answers of a sweep.
        sweeps: How many.
        seed: Of all draws.
        lag: Questions under way at a decision: they are answered too.
        an_image: Questions about each image, which come one after the other.
        told: Whether the race knows of them.
    """
    draw = np.random.default_rng(seed)
    erred = best_kept = 0
    saved = 0.0
    for _ in range(sweeps):
        right_PS = make(draw)
        points, questions = right_PS.shape
        cluster_S = np.arange(questions) // an_image
        order_G = draw.permutation(questions // an_image)
        right_PS = right_PS.reshape(points, -1, an_image)[:, order_G].reshape(points, questions)
        race = Race(rule, points, questions, cluster_S=cluster_S if told else None)
        race.decide(right_PS.astype(float), np.ones_like(right_PS), questions)
        final_P = right_PS.mean(axis=1)
        best = final_P[1:].max() if rule.against == "best" else final_P[0]
        erred += any(final_P[row] >= best - rule.margin - 1e-9 for row in race.stopped)
        best_kept += any(row not in race.stopped for row in 1 + np.flatnonzero(final_P[1:] == final_P[1:].max()))
        saved += sum(max(0, questions - stop - lag) for stop in race.stopped.values()) / right_PS.size
    return Outcome(sweeps, erred, saved / sweeps, best_kept / sweeps)


def null(points: int, questions: int, rule: RacingRule) -> Callable[[Draw], Bools]:
    """As bad as may be: ``against: best`` all tied (with a margin: one ahead by it); else all ``margin`` behind."""
    margin = np.ceil(rule.margin * questions - 1e-9) / questions if rule.margin else 0.0
    accuracies = np.full(points + 1, 0.7)
    accuracies[1 if rule.against == "best" else 0] += np.floor(margin * questions) / questions
    return lambda draw: answers(draw, accuracies, questions, exact=True)


def alike(points: int, images: int, an_image: int) -> Callable[[Draw], Bools]:
    """All tied, and each right or wrong on all questions about an image: the order of the questions knows a lot."""

    def make(draw: Draw) -> Bools:
        right_PG = np.stack([draw.permutation(images) < 0.7 * images for _ in range(points + 1)])
        return np.repeat(right_PG, an_image, axis=1)

    return make


def spread(points: int, questions: int, low: float, high: float) -> Callable[[Draw], Bools]:
    """Accuracies evenly from ``low`` to ``high``, the un-pruned model above them."""
    accuracies = np.concatenate([[min(0.99, high + 0.02)], np.linspace(low, high, points)])
    return lambda draw: answers(draw, accuracies, questions, exact=False)


def main(sweeps: int) -> None:
    for against in ("best", "baseline"):
        for margin in (0.0, 0.05):
            for points, questions in ((8, 200), (30, 400)):
                rule = RacingRule(against=against, margin=margin)
                began = time.monotonic()
                result = simulate(rule, null(points, questions, rule), sweeps)
                print(f"null, {against}, margin {margin}, {points} points x {questions}: {result} "
                      f"[{time.monotonic() - began:.0f} s]", flush=True)  # fmt: skip
    for against in ("best", "baseline"):
        for an_image, told in ((6, True), (6, False)):
            rule = RacingRule(against=against)
            result = simulate(rule, alike(8, 100, an_image), sweeps, an_image=an_image, told=told)
            print(f"null, {against}, 8 points x 100 images x {an_image}, known: {told}: {result}", flush=True)
    for against, margin, points, questions, low, high in (
        ("best", 0.0, 30, 400, 0.50, 0.95),
        ("best", 0.0, 30, 2000, 0.50, 0.95),
        ("best", 0.0, 30, 2000, 0.65, 0.70),
        ("baseline", 0.05, 30, 2000, 0.50, 0.95),
    ):
        rule = RacingRule(against=against, margin=margin)  # type: ignore[arg-type]
        result = simulate(rule, spread(points, questions, low, high), max(20, sweeps // 10), lag=64)
        print(
            f"accuracies {low} .. {high}, {against}, margin {margin}, {points} points x {questions}: {result}",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
