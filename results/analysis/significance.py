"""Intervals and tests for scores from 0 to 1: how sure an accuracy is, and whether two of them differ.

Everything is vectorised over configurations and needs numpy only. Shape letters: P configurations, S samples,
B bootstrap replicates. All intervals are at 95 %.

Wilson and McNemar are for answers that are right or wrong; the bootstrap takes any score. Where all resamples are alike
its interval has no width, which says only that nothing else was seen: the rule of three then says what may have been
missed. What an interval or a p value was made by comes with it, so that nobody else has to know.

Several questions about one image count together (``cluster_S``, see `results.analysis.clusters`), because their answers
are alike. Wilson's interval is that of fewer questions, by the design effect of the accuracy; the bootstrap draws
images; McNemar's coin is tossed once for each image and turns all its flips around. That is McNemar's exact test where
images have one question each, and needs no large number of images, as Obuchowski's chi-square does.

Sources: Wilson 1927 (score interval); McNemar 1947 in its exact binomial form; Holm 1979; Efron's percentile bootstrap
on paired samples; Hanley and Lippman-Hand 1983 (JAMA 249, rule of three). Of images: Korn and Graubard, Survey
Methodology 24 (1998), effective sample size with Student's t, of which we differ by Wilson's interval; Hesterberg, What
teachers should know about the bootstrap, The American Statistician 69 (2015), expanded percentiles; Fisher's
randomisation test; Obuchowski, Statistics in Medicine 17 (1998).
"""

from __future__ import annotations

from math import erfc, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from results.analysis.clusters import BY_IMAGE, Groups, groups_of, per_image
from results.analysis.effective_size import Z, design_effect, t_quantile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Names = NDArray[np.str_]

LEVEL = 0.95
ALPHA = 0.05  # a corrected p value below it is called significant
RESAMPLED = 2**22  # draws that are made at a time, where there are many images
P_REPLICATES = 10_000  # of the bootstrap test: its smallest p is 2 / 10,001
NO_WIDTH = 2e-6  # in float32 the resamples of equal scores differ by so much; one flip in a million by more
WILSON, BOOTSTRAP, PAIRED, THREE = "Wilson", "bootstrap", "paired bootstrap", "rule of three"
MCNEMAR = "McNemar, exact"
CLUSTERED = f", clustered by {BY_IMAGE}"  # after the name of a rule that counts questions about an image together


class Interval(NamedTuple):
    """Lower and upper end, in the unit of the estimate. NaN where there is nothing to estimate from."""

    low: Floats
    high: Floats
    by: Names  # which rule made each; "" where there is none


class Tested(NamedTuple):
    """p values, and the test that made them."""

    p: Floats
    by: str


class PairedBands(NamedTuple):
    """Bootstrap intervals against the baseline, one row per configuration."""

    difference: Interval  # accuracy minus the baseline's, -1 to 1
    drop: Interval  # percent of the baseline's accuracy that is lost; negative is a gain


def wilson(correct: Ints | Floats, n: Ints | Floats, z: float | Floats = Z) -> Interval:
    """Wilson score interval of a share.

    Args:
        correct: (P,) right answers, 0 <= correct <= n.
        n: (P,) answers.
        z: Quantile of the estimate's standardised error.

    Returns:
        Ends in [0, 1]; NaN where ``n`` is 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = correct / n
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At 0 and n right answers the formula gives 0 and 1 up to rounding; say so exactly.
    return Interval(
        np.where(correct == 0, np.where(n > 0, 0.0, np.nan), centre - half),
        np.where((correct == n) & (n > 0), 1.0, centre + half),
        np.where(n > 0, WILSON, ""),
    )


def wilson_mean(score_PS: Floats, answered_PS: Bools, cluster_S: Ints | None = None) -> Interval:
    """Wilson score interval of each configuration's mean score, of as many answers as its images are worth.

    Of soft scores it is too wide, never too narrow: 0 and 1 vary most.

    Args:
        score_PS: 0 to 1; 0 where not answered.
        answered_PS: Which cells exist.
        cluster_S: The image that each question is about.
    """
    total, n = score_PS.sum(axis=1, dtype=np.float64), answered_PS.sum(axis=1)
    effect, images = design_effect(score_PS, answered_PS, cluster_S)
    shared = images < n
    plain = wilson(total, n)
    if not shared.any():
        return plain
    with np.errstate(divide="ignore", invalid="ignore"):
        worth = n / effect
        wide = wilson(np.where(total == n, worth, total / n * worth), worth, t_quantile(images - 1))
    return Interval(
        np.where(shared, wide.low, plain.low),
        np.where(shared, wide.high, plain.high),
        np.where(shared, WILSON + CLUSTERED, plain.by),
    )


def mcnemar(lost: Ints, gained: Ints) -> Floats:
    """Exact two-sided McNemar test: could as many answers have flipped one way by tossing a fair coin?

    Args:
        lost: (P,) samples right without pruning and wrong with it.
        gained: (P,) the reverse.

    Returns:
        (P,) p values in (0, 1]; 1 where no answer flipped.
    """
    flips = lost + gained
    fewer = np.minimum(lost, gained)
    # log k! as a table: 2**-n underflows a float at n = 1075, and benchmarks have more samples than that.
    log_factorial = _log_factorials(int(flips.max(initial=0)))
    pairs, where = np.unique(np.stack([flips, fewer]), axis=1, return_inverse=True)
    p = np.empty(pairs.shape[1])
    for i, (n, k) in enumerate(pairs.T):
        heads = np.arange(k + 1)
        log_choose = log_factorial[n] - log_factorial[heads] - log_factorial[n - heads]
        p[i] = min(1.0, 2 * np.exp(log_choose - n * np.log(2)).sum())
    return p[where.reshape(-1)]


def mcnemar_of_images(net_PG: Ints) -> Floats:
    """Exact two-sided McNemar test of images: could the answers have flipped so by tossing a fair coin for each image?

    The sum of all flips is held against those of all ways to turn the flips of single images around.

    Args:
        net_PG: Questions about an image that were gained less those that were lost.

    Returns:
        (P,) p values in (0, 1]; 1 where the flips of each image cancel. `mcnemar`'s where no net flip is above 1.
    """
    size_PG = np.abs(net_PG)
    count_PK = np.stack([(size_PG == size).sum(axis=1) for size in range(1, int(size_PG.max(initial=1)) + 1)], axis=1)
    seen = np.column_stack([count_PK, np.abs(net_PG.sum(axis=1))])
    log_factorial = _log_factorials(int(count_PK.max(initial=0)))
    kinds, where = np.unique(seen, axis=0, return_inverse=True)
    p = np.array([_coins_p(kind[:-1], int(kind[-1]), log_factorial) for kind in kinds])
    return p[where.reshape(-1)]


def _coins_p(count_K: Ints, observed: int, log_factorial: Floats) -> float:
    """How often the sum of +-1, +-2, ..., each tossed so many times, is as far from 0 as ``observed``."""
    chance = np.ones(1)  # of 0, 1, 2, ... flips among all that are for the worse
    for size, count in enumerate(count_K.tolist(), start=1):
        if count:
            heads = np.arange(count + 1)
            tossed = np.zeros(size * count + 1)
            log_choose = log_factorial[count] - log_factorial[heads] - log_factorial[count - heads]
            tossed[::size] = np.exp(log_choose - count * np.log(2))
            chance = np.convolve(chance, tossed)
    fewer = (len(chance) - 1 - observed) // 2
    return min(1.0, 2 * float(chance[: fewer + 1].sum()))


def _log_factorials(most: int) -> Floats:
    """log k! of 0 to ``most``."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])


def paired_test(change_PS: Floats, binary: bool, cluster_S: Ints | None = None) -> Tested:
    """Whether scores changed by more than chance.

    Args:
        change_PS: Score minus that of the reference; 0 where one of the two is missing.
        binary: Every score is 0 or 1.
        cluster_S: The image that each question is about.
    """
    groups = groups_of(cluster_S)
    if not binary:
        return Tested(bootstrap_p(per_image(change_PS, groups)), _named(PAIRED, groups))
    if groups is None:
        return Tested(mcnemar((change_PS < 0).sum(axis=1), (change_PS > 0).sum(axis=1)), MCNEMAR)
    return Tested(mcnemar_of_images(groups.sum(np.sign(change_PS).astype(np.int64))), MCNEMAR + CLUSTERED)


def _named(rule: str, groups: Groups | None) -> str:
    return rule if groups is None else rule + CLUSTERED


def holm(p: Floats) -> Floats:
    """Holm's step-down correction: p values that may be compared with 0.05 however many were looked at.

    NaN marks a test that was not made: it stays NaN and does not count.
    """
    corrected = np.full(p.shape, np.nan)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    scaled = p[order] * np.arange(order.size, 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return corrected


def resample_counts(samples: int, replicates: int, seed: int) -> NDArray[np.float32]:
    """(B, S): how often each sample is drawn when ``samples`` are drawn with replacement, ``replicates`` times."""
    return _counts(np.random.default_rng(seed), samples, replicates)


def _counts(rng: np.random.Generator, samples: int, replicates: int) -> NDArray[np.float32]:
    draws = rng.integers(0, samples, size=(replicates, samples))
    flat = draws + samples * np.arange(replicates)[:, None]
    return np.bincount(flat.ravel(), minlength=replicates * samples).reshape(replicates, samples).astype(np.float32)


def resampled_sums(replicates: int, seed: int, *matrices_PG: Floats) -> list[NDArray[np.float32]]:
    """(P, B) sums over images as `resample_counts` draws them, of each matrix; a block of replicates at a time."""
    images = matrices_PG[0].shape[1]
    rng = np.random.default_rng(seed)
    step = max(1, RESAMPLED // max(images, 1))
    blocks = []
    for first in range(0, replicates, step):
        counts_BG = _counts(rng, images, min(step, replicates - first))
        blocks.append([matrix_PG.astype(np.float32) @ counts_BG.T for matrix_PG in matrices_PG])
    return [np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True)]


def bootstrap_mean(
    score_PS: Floats, answered_PS: Bools, replicates: int = 1000, seed: int = 0, cluster_S: Ints | None = None
) -> Interval:
    """Percentile bootstrap interval of each configuration's mean score.

    Args:
        score_PS: 0 to 1; 0 where not answered.
        answered_PS: Which cells exist.
        replicates, seed, cluster_S: As in `paired_bootstrap`.

    Returns:
        Ends in [0, 1] of shape (P,), NaN where nothing was answered; by the rule of three where all scores are equal.
    """
    if not score_PS.shape[1]:
        return _unknown(score_PS.shape[0])
    groups = groups_of(cluster_S)
    score_PG, answers_PG = per_image(score_PS, groups), per_image(answered_PS, groups)
    counts_GB = resample_counts(score_PG.shape[1], replicates, seed).T
    n = answered_PS.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = _percentiles(
            (score_PG.astype(np.float32) @ counts_GB) / (answers_PG.astype(np.float32) @ counts_GB), BOOTSTRAP, groups
        )
        return _with_width(resampled, score_PS.sum(axis=1) / n, missed((answers_PG > 0).sum(axis=1)), 0.0, 1.0)


def bootstrap_p(change_PS: Floats, seed: int = 0) -> Floats:
    """Two-sided paired bootstrap test: how often do resampled questions show no change, or the opposite one?

    Twice the smaller share of replicates on either side of 0, those on it counted on both, with one added to every
    count, so that p is never 0 (Davison and Hinkley 1997, 4.4).

    Args:
        change_PS: Score minus the baseline's; 0 where one of the two is missing. Of images: its sums.

    Returns:
        (P,) in (0, 1]; 1 where no score changed.
    """
    points, samples = change_PS.shape
    below, above = np.zeros(points), np.zeros(points)
    step = 1000  # replicates at a time, for memory
    for part in range(P_REPLICATES // step if samples else 0):
        total_PB = change_PS.astype(np.float32) @ resample_counts(samples, step, seed + part).T
        below += (total_PB <= 0).sum(axis=1)
        above += (total_PB >= 0).sum(axis=1)
    p = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (P_REPLICATES + 1))
    return np.where((change_PS != 0).any(axis=1), p, 1.0)


def paired_bootstrap(
    score_PS: Floats | Bools,
    answered_PS: Bools,
    baseline: int,
    replicates: int = 1000,
    seed: int = 0,
    cluster_S: Ints | None = None,
) -> PairedBands:
    """Percentile bootstrap of the paired difference to one configuration, and of the share of it that is lost.

    The same resampled questions are used for every configuration, so one matrix product does all of them. Each
    configuration is compared on the samples that it and the baseline have both answered. Where all changed alike - most
    often: where no answer flipped - the ends are those of the rule of three.

    Args:
        score_PS: 0 to 1, or right and wrong; 0 where not answered.
        answered_PS: Which cells exist.
        baseline: Row of the un-pruned model.
        replicates: 1000 gives ends good to about a tenth of the interval's width.
        seed: Of the resampling, so that a page written twice shows the same numbers.
        cluster_S: The image that each question is about; images are drawn, with all their questions.

    Returns:
        Two intervals of shape (P,), NaN where no sample is shared; ``drop`` also without a right answer to lose.
    """
    columns = np.flatnonzero(answered_PS[baseline])
    points = score_PS.shape[0]
    if not columns.size:
        return PairedBands(_unknown(points), _unknown(points))
    shared_PS = answered_PS[:, columns]
    base_S = score_PS[baseline, columns].astype(np.float32)
    change_PS = score_PS[:, columns].astype(np.float32) - base_S
    change_PS[~shared_PS] = 0.0
    groups = groups_of(None if cluster_S is None else cluster_S[columns])
    change_PG, shared_PG, base_G = (per_image(value, groups) for value in (change_PS, shared_PS, base_S))
    counts_GB = resample_counts(base_G.size, replicates, seed).T

    gain_PB = change_PG @ counts_GB  # of right and wrong whole numbers below 2**24: exact in float32
    answers_PB = np.broadcast_to(shared_PG[baseline].astype(np.float32) @ counts_GB, gain_PB.shape)
    right_PB = np.broadcast_to(base_G @ counts_GB, gain_PB.shape)
    unfinished = ~shared_PS.all(axis=1)
    if unfinished.any():
        answers_PB, right_PB = answers_PB.copy(), right_PB.copy()
        answers_PB[unfinished] = shared_PG[unfinished].astype(np.float32) @ counts_GB
        right_PB[unfinished] = per_image(shared_PS[unfinished] * base_S, groups) @ counts_GB

    with np.errstate(divide="ignore", invalid="ignore"):
        difference = _percentiles(gain_PB / answers_PB, PAIRED, groups)
        drop = _percentiles(np.where(right_PB > 0, -100 * gain_PB / right_PB, np.nan), PAIRED, groups)
        n, change, base = shared_PS.sum(axis=1), change_PS.sum(axis=1), (shared_PS * base_S).sum(axis=1)
        unseen = missed((shared_PG > 0).sum(axis=1))
        return PairedBands(
            _with_width(difference, change / n, unseen, -1.0, 1.0),
            _with_width(drop, -100 * change / base, 100 * unseen * n / base, -np.inf, 100.0, scale=100.0),
        )


def missed(n: Ints) -> Floats:
    """The rule of three: what none of ``n`` images has shown is true of at most this share of all, at 95 %."""
    with np.errstate(divide="ignore"):
        return np.minimum(1.0, 3 / n)


def _with_width(
    interval: Interval, value: Floats, missed: Floats, lowest: float, highest: float, scale: float = 1.0
) -> Interval:
    """The rule of three in the place of intervals without width.

    Args:
        interval: Of a bootstrap.
        value: (P,) what was estimated.
        missed: (P,) by how much the questions that were not seen may move it.
        lowest, highest: What it can be.
        scale: Of the unit; rounding is relative to it.
    """
    narrow = interval.high - interval.low <= NO_WIDTH * scale  # NaN is not
    return Interval(
        np.where(narrow, np.maximum(value - missed, lowest), interval.low),
        np.where(narrow, np.minimum(value + missed, highest), interval.high),
        np.where(narrow, THREE, interval.by),
    )


def _unknown(points: int) -> Interval:
    nothing = np.full(points, np.nan)
    return Interval(nothing, nothing, np.full(points, ""))


def expanded_tails(images: int) -> tuple[float, float]:
    """The shares of resamples at which a central 95 % of so many images ends: of few, further out."""
    tail = erfc(float(t_quantile(np.array(images - 1))) * sqrt(images / max(images - 1, 1)) / sqrt(2)) / 2
    return tail, 1 - tail


def _percentiles(replicates_PB: NDArray[np.float32], rule: str, groups: Groups | None) -> Interval:
    """Ends of the central 95 %, ignoring replicates that drew none of a configuration's samples.

    Of images there may be few, whose resamples vary too little: the ends then lie as much further out.
    """
    by, tails = _named(rule, groups), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    if groups is not None:
        tails = [*expanded_tails(len(groups.start_G))]
    low, high = np.quantile(replicates_PB.astype(np.float64), tails, axis=1)  # NaN rows stay NaN
    holes = np.flatnonzero(np.isnan(low))
    for row in holes:  # nanquantile is slow, so only where it is needed
        drawn = replicates_PB[row][~np.isnan(replicates_PB[row])]
        if drawn.size:
            low[row], high[row] = np.quantile(drawn, tails)
    return Interval(low, high, np.where(np.isnan(low), "", by))
