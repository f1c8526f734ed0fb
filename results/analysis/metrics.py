"""Cells -> what the sweep says: accuracy, its interval, and the paired difference to the un-pruned model.

Everything is computed from one (configuration x sample) matrix of scores. Where all are 0 or 1, intervals are Wilson's
and tests McNemar's; benchmarks whose scores lie between (VQA's soft accuracy) have bootstrap intervals and tests. Which
it was stands beside each number: what shows it reads that and knows no rule.
Samples without an image have nothing to prune; they are counted apart, and every number is over the image questions
unless its name says ``text_only``. A number that cannot be given is missing (NaN, <NA>), never 0. Shape letters: P grid
points, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from results.analysis.clusters import BY_IMAGE, clusters_of, image_names
from results.analysis.effective_size import design_effect
from results.analysis.matrix import UNKNOWN, Answers, CellMatrix, cells_of
from results.analysis.significance import (
    CLUSTERED,
    WILSON,
    Bools,
    Floats,
    Ints,
    bootstrap_mean,
    holm,
    paired_bootstrap,
    paired_test,
    wilson_mean,
)
from results.experiment import Experiment
from results.stops import STOPPED, stopped_points
from results.wording import percent
from workers.work import UNPRUNED

FLAT_POINTS = 4  # a whole curve of at least so many points with one and the same accuracy is suspicious
RISE_Z = 4.0  # standard errors: once in 30,000 comparisons by chance, and the questions are the same ones besides
LITTLE = 0.01  # of the questions: so many answers may be lacking before a point is not compared with others any more
ZERO_ANSWERS = 10  # so many answers without a right one are suspicious; fewer happen


def answers(experiment: Experiment) -> Answers:
    """Read the cells into matrices."""
    matrix = cells_of(experiment)
    return answers_of(experiment, matrix, open_failures(experiment, matrix))


def open_failures(experiment: Experiment, matrix: CellMatrix) -> pd.DataFrame:
    """`Experiment.failures`, without reading the cells again."""
    samples = experiment.samples["id"]
    return experiment.failures(set(samples.to_numpy()[~matrix.answered_PS.all(axis=0)]))


def answers_of(experiment: Experiment, matrix: CellMatrix, failures: pd.DataFrame) -> Answers:
    """What has been read so far. The matrices are copies, so that reading may go on."""
    samples = experiment.samples
    # What the model saw decides; the sample's own image is the word only where nothing has been answered yet.
    image = np.where(matrix.visual_S == UNKNOWN, samples["image"].notna(), matrix.visual_S > 0).astype(bool)
    names, clustered_by = image_names(samples)
    return Answers(
        points=experiment.points,
        samples=tuple(samples["id"]),
        answered_PS=matrix.answered_PS.copy(),
        correct_PS=matrix.correct_PS.copy(),
        score_PS=matrix.score_PS,
        unread_PS=matrix.unread_PS.copy(),
        image_S=image,
        failed_S=samples["id"].isin(failures["sample"]).to_numpy(),
        cluster_S=clusters_of(names, samples["id"].tolist()),
        clustered_by=clustered_by,
        stopped=stopped_points(experiment),
    )


def on_common_questions(table: Answers) -> Answers:
    """Only the image questions that all points have answered, but for those that lack more than a few (`LITTLE`)."""
    rows = summarise(table)
    whole = (rows["lacking"] <= LITTLE * (rows["n"] + rows["lacking"]).max()).to_numpy() & (rows["n"] > 0).to_numpy()
    return table.on(~table.image_S | table.answered_PS[whole].all(axis=0)) if whole.any() else table


def scores(cells: pd.DataFrame) -> Floats:
    """Each cell's score (columns correct, score): 0 or 1 as ``correct`` says where there is none of its own."""
    own, counted = cells["score"].to_numpy(dtype=np.float64), cells["correct"].to_numpy(dtype=np.float64)
    return np.where(np.isnan(own), counted, own)


def summary(experiment: Experiment) -> pd.DataFrame:
    """One row per grid point, in the order of the grid. See `summarise` for the columns."""
    return summarise(answers(experiment))


def summarise(table: Answers, references: Sequence[int | None] = ()) -> pd.DataFrame:
    """Every number that is shown of a grid point.

    Args:
        table: All answers.
        references: Of each row that of its baseline, where there are several; else it is the first un-pruned one.

    Returns:
        Columns, over the image questions unless said otherwise:
        key, baseline (bool), strategy, layer, rank, alpha (NaN where there is none), params ("name=value ...", with
        positions where they are not the method's own), label;
        n, n_expected, correct (scores of at least half), failed (samples without an answer because they failed), state
        ("complete": every sample has its answer or has failed, "partial", "missing",
        or "stopped early" by racing);
        accuracy, ci_low, ci_high (mean score, 0 to 1; 95 %), interval (what made the latter: "Wilson", for soft scores
        "bootstrap", where these are all equal "rule of three"; "" without answers; where an image has several questions
        ", clustered by image" is added, or ", clustered by image file" if only names of files tell images apart);
        n_images (images that these answers are about), design_effect (by how much the variance of the accuracy is
        greater than if each question had an image of its own, at least 1);
        n_paired, lost, gained (samples shared with the baseline; those with a lower and a higher score than it has),
        difference, diff_low, diff_high (-1 to 1, 95 %), diff_interval ("paired bootstrap", or "rule of three" where
        nothing flipped), relative_drop, drop_low, drop_high (percent of the baseline's accuracy, on the shared
        samples, 95 %), p, test ("McNemar, exact", or "paired bootstrap" for soft scores), p_holm (corrected across the
        grid);
        lacking (image questions that points have answered which racing did not stop, and this one has not), short
        (bool: more than `LITTLE` of them, and not because it was stopped: its accuracy is one of other, perhaps
        easier, questions);
        no_option (0 to 1, of the answers: the scorer found none of the options, or nothing else to judge; they count as
        wrong);
        n_text_only, accuracy_text_only; flags ("; "-joined, empty where nothing is suspicious).
        The comparison is missing for the baseline itself.
    """
    images, texts = table.of_images(True), table.of_images(False)
    n = images.answered_PS.sum(axis=1)
    correct = images.correct_PS.sum(axis=1)
    failed = (~images.answered_PS & images.failed_S).sum(axis=1)
    n_text = texts.answered_PS.sum(axis=1)
    state = _states(images, n, failed)
    asked_S = images.answered_PS[state != STOPPED].any(axis=0)
    lacking = (asked_S & ~images.answered_PS).sum(axis=1)
    found = images.score_PS, images.answered_PS
    interval = (wilson_mean if images.binary else bootstrap_mean)(*found, cluster_S=images.cluster_S)
    effect, seen = design_effect(*found, images.cluster_S)
    rows = pd.DataFrame(
        {
            "key": [point.key for point in table.points],
            "baseline": [point.strategy == UNPRUNED for point in table.points],
            "strategy": [point.strategy for point in table.points],
            "layer": [point.layer for point in table.points],
            "rank": [point.rank for point in table.points],
            "alpha": np.array([point.alpha for point in table.points], dtype=float),
            "params": [point.said for point in table.points],
            "label": [point.label for point in table.points],
            "n": n,
            "n_expected": len(images.samples),
            "correct": correct,
            "failed": failed,
            "state": state,
            "accuracy": _share(images.score_PS.sum(axis=1), n),
            "ci_low": interval.low,
            "ci_high": interval.high,
            "interval": made_by(interval.by, images),
            "n_images": seen,
            "design_effect": effect,
            **compared(images, references or [table.baseline] * len(table.points)),
            "lacking": lacking,
            "short": (lacking > LITTLE * asked_S.sum()) & (state != STOPPED) & (n > 0),
            "no_option": _share(images.unread_PS.sum(axis=1), n),
            "n_text_only": n_text,
            "accuracy_text_only": _share(texts.score_PS.sum(axis=1), n_text),
        }
    )
    rows["flags"] = suspicions(rows)
    return rows


def _states(images: Answers, n: Ints, failed: Ints) -> np.ndarray:
    """How far each point is."""
    stopped = np.array([point.key in images.stopped for point in images.points], dtype=bool)
    conditions = [(n == 0) & ~stopped, n + failed == len(images.samples), stopped]
    return np.select(conditions, ["missing", "complete", STOPPED], "partial")


def flips(table: Answers) -> pd.DataFrame:
    """How often the score of each image question flipped between the un-pruned model and the other grid points.

    Returns:
        Columns sample, flips, lost, gained (grid points), in the order of the file; all 0 without a baseline.
    """
    images = table.of_images(True)
    lost, gained = flip_matrices(images)
    counts = {"lost": lost.sum(axis=0), "gained": gained.sum(axis=0)}
    return pd.DataFrame({"sample": images.samples, "flips": counts["lost"] + counts["gained"], **counts})


def flip_matrices(table: Answers) -> tuple[Bools, Bools]:
    """(lost_PS, gained_PS): a lower score than un-pruned, and a higher one, where both have answered."""
    if table.baseline is None:
        nothing = np.zeros_like(table.answered_PS)
        return nothing, nothing
    shared_PS = table.answered_PS & table.answered_PS[table.baseline]
    before_S, after_PS = table.score_PS[table.baseline], table.score_PS
    return shared_PS & (after_PS < before_S), shared_PS & (after_PS > before_S)


COUNTS = ("n_paired", "lost", "gained")
NUMBERS = ("difference", "diff_low", "diff_high", "relative_drop", "drop_low", "drop_high", "p", "p_holm")
NAMES = ("diff_interval", "test")
Column = NDArray[Any] | pd.Series


def compared(table: Answers, references: Sequence[int | None]) -> dict[str, Column]:
    """The columns that compare rows with others, on the samples that both have answered.

    Args:
        table: Of the questions that count.
        references: Of each row that which it is compared with; itself or None: with none.

    Returns:
        The columns of `summarise` from n_paired to p_holm, which is corrected over all that are compared here.
    """
    columns = _blank(len(references))
    for reference in dict.fromkeys(row for row in references if row is not None):
        rows = [row for row, against in enumerate(references) if against == reference != row]
        for name, values in _against(table, reference, rows).items():
            columns[name][rows] = values
    return _counted({**columns, "p_holm": holm(columns["p"])})


def compared_with_none(rows: int) -> dict[str, Column]:
    """The same columns where there are no answers to compare."""
    return _counted(_blank(rows))


def _blank(rows: int) -> dict[str, NDArray[Any]]:
    numbers = {name: np.full(rows, np.nan) for name in (*COUNTS, *NUMBERS)}
    return {**numbers, **{name: np.full(rows, "", dtype=object) for name in NAMES}}


def _counted(columns: Mapping[str, NDArray[Any]]) -> dict[str, Column]:
    return {**columns, **{name: pd.Series(columns[name]).astype("Int64") for name in COUNTS}}


def _against(table: Answers, reference: int, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
    """What `compared` says of some rows; missing where one shares no sample with the reference."""
    score_PS, answered_PS = table.score_PS[[reference, *rows]], table.answered_PS[[reference, *rows]]
    shared_PS = answered_PS & answered_PS[0]
    change_PS = np.where(shared_PS, score_PS - score_PS[0], 0.0)
    base = np.where(shared_PS, score_PS[0], 0.0).sum(axis=1)
    change, n = change_PS.sum(axis=1), shared_PS.sum(axis=1)
    bands = paired_bootstrap(score_PS, answered_PS, 0, cluster_S=table.cluster_S)
    tested = paired_test(change_PS, table.binary, table.cluster_S)
    values = {
        "n_paired": n,
        "lost": (change_PS < 0).sum(axis=1),
        "gained": (change_PS > 0).sum(axis=1),
        "difference": _share(change, n),
        "diff_low": bands.difference.low,
        "diff_high": bands.difference.high,
        "relative_drop": 100 * _share(0 - change, base),
        "drop_low": bands.drop.low,
        "drop_high": bands.drop.high,
        "p": tested.p,
    }
    numbers = {name: np.where(n > 0, value, np.nan)[1:] for name, value in values.items()}
    tests = np.where(n > 0, tested.by, "")
    return {**numbers, "diff_interval": made_by(bands.difference.by[1:], table), "test": made_by(tests[1:], table)}


def made_by(names: Iterable[str], table: Answers) -> NDArray[Any]:
    """What numbers were made by, with what told the images apart."""
    said = CLUSTERED.replace(BY_IMAGE, table.clustered_by)
    return np.array([str(name).replace(CLUSTERED, said) for name in names], dtype=object)


def contrast(table: Answers, rows: Sequence[int], reference: int) -> pd.DataFrame:
    """Compare grid points with one of them instead of the un-pruned model, on the image questions both have answered.

    Args:
        table: All answers.
        rows: Which grid points, by row.
        reference: Row of what they are compared with.

    Returns:
        One row per entry of ``rows`` with the columns of `compared`; missing for the reference itself.
    """
    images = table.of_images(True)
    part = images.of([reference, *rows])
    found = pd.DataFrame(compared(part, [None, *(None if row == reference else 0 for row in rows)]))
    return found.iloc[1:].reset_index(drop=True)


def spoken(names: Iterable[str]) -> str:
    """What the numbers of several rows were made by, in words: "Wilson", "paired bootstrap or rule of three"."""
    return " or ".join(dict.fromkeys(name for name in names if name)) or "-"


def share_images(rows: pd.DataFrame) -> bool:
    """Whether some of a summary's questions are about the same image, so that n is not all there is to say."""
    return bool((rows["n_images"] < rows["n"]).any())


def is_soft(rows: pd.DataFrame) -> bool:
    """Whether scores of a summary lie between 0 and 1, so that its accuracy is no share of right answers."""
    return not rows["interval"].map(lambda by: not by or by.startswith(WILSON)).all()


def suspicions(rows: pd.DataFrame) -> list[str]:
    """What cannot be, or hardly can, of each row: a broken run looks like a result until somebody says so.

    Args:
        rows: With baseline, strategy, params, layer, rank, n, correct, accuracy, interval, lost, gained and
            design_effect, and of our own runs lacking, short and failed; may come from a file that states accuracies
            without counts behind them.

    Returns:
        One text per row, empty where nothing is suspicious.
    """
    found: list[list[str]] = [[] for _ in range(len(rows))]
    counted = not is_soft(rows)  # an accuracy is a share of the answers
    base = rows[rows["baseline"]]
    full_layer, full_rank = (base["layer"].max(), base["rank"].max()) if len(base) else (np.inf, np.inf)
    untouched = (rows["layer"] >= full_layer) | (rows["rank"] >= full_rank)
    for place, (n, correct, accuracy, lost, gained, is_base, same) in enumerate(
        zip(
            rows["n"], rows["correct"], rows["accuracy"], rows["lost"], rows["gained"], rows["baseline"], untouched,
            strict=True,
        )
    ):  # fmt: skip
        if n >= ZERO_ANSWERS and correct == 0:
            found[place].append(f"none of {n} answers is right")
        if counted and n and not reachable(accuracy, n):
            found[place].append(f"no {n} answers give this accuracy")
        if same and not is_base and pd.notna(lost) and lost + gained > 0:
            found[place].append(f"nothing is pruned here, yet {lost + gained} answers differ from the un-pruned model")

    if "short" in rows:
        for texts, short, lacking, failed in zip(found, rows["short"], rows["lacking"], rows["failed"], strict=True):
            if short:
                why = f" ({failed} samples failed)" if failed else ""
                texts.append(f"lacks {lacking} answers that other settings have{why}")
    place_of = pd.Series(range(len(rows)), index=rows.index)
    pruned = rows[~rows["baseline"] & ~untouched & (rows["n"] > 0)]
    for other in ("rank", "layer"):  # a curve: all but the other axis held fixed
        for _, curve in pruned.groupby(["strategy", "params", other], sort=False):
            if len(curve) >= FLAT_POINTS and curve["accuracy"].nunique() == 1:
                for place in place_of[curve.index]:
                    found[place].append(f"the same accuracy to the last digit at {len(curve)} settings")
    worth = pruned["n"] / pruned["design_effect"]
    pruned = pruned.assign(place=place_of[pruned.index], worth=worth)
    ordered = pruned.sort_values("rank", ascending=False, kind="stable")
    for _, curve in ordered.groupby(["strategy", "params", "layer"], sort=False):
        for place, text in _rises(curve):
            found[place].append(f"accuracy rises as tokens are dropped, beyond chance: {text}")
    return ["; ".join(dict.fromkeys(texts)) for texts in found]


def _rises(curve: pd.DataFrame) -> list[tuple[int, str]]:
    """Points of a curve that lie far above one with more tokens: by `RISE_Z` standard errors of the difference.

    Args:
        curve: Rows of one strategy and layer, from many tokens to few, with their place and how many independent
            answers theirs are worth.

    Returns:
        Place, and what is above what.
    """
    found = []
    worst: tuple[float, float, int] | None = None  # accuracy, worth and rank of the lowest point so far
    for place, share, n, rank in zip(curve["place"], curve["accuracy"], curve["worth"], curve["rank"], strict=True):
        if worst is not None and rank < worst[2]:
            pooled = (share * n + worst[0] * worst[1]) / (n + worst[1])
            error = math.sqrt(max(pooled * (1 - pooled), 0.0) * (1 / n + 1 / worst[1]))
            if share - worst[0] > RISE_Z * max(error, 1e-9):
                text = f"{percent(share)} with {rank} tokens, but only {percent(worst[0])} with {worst[2]}"
                found.append((int(place), text))
        if worst is None or share < worst[0]:
            worst = float(share), float(n), int(rank)
    return found


def reachable(accuracy: float, n: int) -> bool:
    """Whether ``n`` answers can give this accuracy (0 to 1): it must be a whole number of them, up to rounding."""
    count = accuracy * n
    return 0 <= accuracy <= 1 and abs(count - round(count)) < 1e-6


def _share(part: np.ndarray, whole: np.ndarray) -> Floats:
    """part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=np.asarray(whole) > 0)
