"""`saccade verify --recompute N`: random cells of a finished sweep once more, through the slow path.

A digest proves that a file is as it was written, not that the model answers what was written. This checks it, for
anybody who has the model and the data: cells drawn at random are computed again by transformers' own ``generate`` with
``workers.patch`` (`workers/slow_path.py`) and compared with the stored ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.sweep.spec import EMBEDDED
from results.disk import StoreError
from results.experiment import Experiment
from results.inventory import Finding
from results.tables import unpacked
from results.wording import figures, percent
from strategies import catalog
from strategies.errors import UsageError
from workers.embedded.location import DATA_DIR, MODEL_DIR
from workers.families.catalog import load_model, open_checkpoint
from workers.families.model import default_device
from workers.fingerprint import is_same_data, model_fingerprint
from workers.runnable import complaint
from workers.slow_path import SlowAnswer, slow_answer
from workers.tasks.base import LETTERS, Sample
from workers.tasks.catalog import load_samples, scorer_of
from workers.work import UNPRUNED, EngineSpec, GridPoint

SHARE = 0.01  # of the cells: forgeries as rare as this are what the printed probability is for


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far two computations of a cell may differ that multiply the same weights in another order."""

    logits: float  # largest difference of a first-token logit, as a share of the largest of them, at least of 1
    kept: float  # share of the kept tokens, one at least, where the scores of both are as good as equal
    choices: float  # share of the cells whose choice may be quite another: a strategy may pick a head by its maximum


# What was seen of some thousand cells stands in docs/experiments.md.
TOLERANCES = {
    "float32": Tolerance(logits=1e-4, kept=0.0, choices=0.0),
    "float16": Tolerance(logits=1e-2, kept=0.1, choices=0.01),
    "bfloat16": Tolerance(logits=5e-2, kept=0.25, choices=0.02),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """What came out."""

    drawn: int
    cells: int  # of the experiment
    seed: int  # of the draw
    wrong: tuple[str, ...]  # a line for each cell that is not what the model answers
    other_choices: tuple[str, ...]  # a line for each cell whose tokens the slow path would not have chosen
    tolerance: Tolerance
    near_ties: int  # answers that differ where two tokens are as good as equal
    refused: tuple[str, ...] = ()  # labels of grid points that earlier versions ran and this one does not
    foreign: tuple[str, ...] = ()  # of those whose rule is a user's own

    def findings(self) -> Iterator[Finding]:
        """For people, the probability of overlooking included."""
        forged = max(1, round(SHARE * self.cells))
        chance = found_with(self.drawn, self.cells, forged)
        ties = f", {self.near_ties} of them at a tie of two tokens" if self.near_ties else ""
        allowed = math.ceil(self.tolerance.choices * self.drawn)
        too_many = len(self.other_choices) > allowed
        true = self.drawn - len(self.wrong) - too_many * len(self.other_choices)
        yield Finding(
            well=true == self.drawn,
            text=f"{true} of {self.drawn} cells drawn at random (--seed {self.seed}) are what transformers answers"
            f"{ties}; if {forged} of the {self.cells} cells were forged or stale, the chance to draw one of them was "
            f"{percent(chance)}",
        )
        if self.refused:
            more = f" and {len(self.refused) - 1} others" if self.refused[1:] else ""
            yield Finding(
                well=True,
                text=f"not checked: {self.refused[0]}{more}, whose tokens an earlier version drew at random under the "
                "name of a method; today only those draw that say so",
            )
        if self.foreign:
            more = f" and {len(self.foreign) - 1} others" if self.foreign[1:] else ""
            yield Finding(
                well=True,
                text=f"not checked: {self.foreign[0]}{more}, by a rule that Saccade does not have: no rule of an "
                "experiment is run",
            )
        for line in self.wrong:
            yield Finding(well=False, text=line)
        for line in self.other_choices:
            few = "" if too_many else f": {allowed} such cells may come of rounding in half precision"
            yield Finding(well=not too_many, text=f"{line}{few}")


def found_with(drawn: int, cells: int, forged: int) -> float:
    """Probability that a draw without replacement holds one of the forged cells at least."""
    if drawn > cells - forged:
        return 1.0
    none = math.lgamma(cells - forged + 1) - math.lgamma(cells - forged - drawn + 1)
    none += math.lgamma(cells - drawn + 1) - math.lgamma(cells + 1)
    return -math.expm1(none)


def recompute(
    experiment: Experiment,
    count: int,
    *,
    model: str | None = None,
    base: str | None = None,
    data: str | None = None,
    seed: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Recomputed:
    """Compute random cells again.

    Args:
        experiment: Finished or not; what is there is drawn from.
        count: Of cells; all, where there are no more.
        model, base, data: Where they are on this machine, instead of where the sweep found them.
        seed: Of the draw; None: one that nobody could know beforehand.
        progress: Told how many are done.

    Raises:
        StoreError: There are no cells, or model or data are not those that the cells were computed with.
        ModelError, DataError: The model or the data cannot be read, or the slow path cannot run the model.
    """
    spec = _here(experiment, model, base, data)
    samples = {sample.id: sample for sample in _checked_samples(experiment, spec)}
    points = {point.key: point for point in experiment.points if _runs(point)}
    cells = experiment.cells(points=points)
    if cells.empty:
        raise StoreError(f"{experiment.path}: has no cells to compute again")
    kept = experiment.kept().set_index(["point", "sample"])["kept_mask"]
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    chosen = sorted(random.Random(seed).sample(range(len(cells)), min(count, len(cells))))
    loaded = load_model(replace(spec.model, offload="never"), default_device())  # transformers' forward needs all
    score, letters = scorer_of(spec.task), loaded.letter_tokens(LETTERS)
    tolerance = TOLERANCES[spec.model.dtype]
    wrong, other_choices, near_ties = [], [], 0
    for done, place in enumerate(chosen):
        progress(done, len(chosen))
        cell = cells.iloc[place]
        sample, point = samples[cell["sample"]], points[cell["point"]]
        asked = partial(slow_answer, loaded, spec, sample, point, letters[: len(sample.choices)])
        where = f"{point.label}, question {sample.id}"
        slow, mask = asked(), kept.get((cell["point"], cell["sample"]))
        other = _choice_complaint(mask, slow, tolerance)
        if isinstance(mask, bytes) and len(mask) == len(slow.kept_mask) and mask != slow.kept_mask:
            # Other tokens give other logits: what the model answers to these very tokens is known once it is asked.
            with suppress(UsageError):  # a method of several stages, or a forged mask
                slow = asked(_indices(mask))
        if other:
            other_choices.append(f"{where}: {other}")
        compared = _Compared(cell, slow, tolerance)
        complaints = list(compared.complaints()) if mask == slow.kept_mask else []
        complaints += _verdict_complaints(cell, score(cell["answer"], sample))
        if complaints:
            wrong.append(f"{where}: {'; '.join(complaints)}")
        near_ties += compared.at_a_tie and not complaints
    progress(len(chosen), len(chosen))
    return Recomputed(
        drawn=len(chosen),
        cells=len(cells),
        seed=seed,
        wrong=tuple(wrong),
        other_choices=tuple(other_choices),
        tolerance=tolerance,
        near_ties=near_ties,
        refused=tuple(point.label for point in experiment.points if _is_ours(point) and not _runs(point)),
        foreign=tuple(point.label for point in experiment.points if not _is_ours(point)),
    )


def _is_ours(point: GridPoint) -> bool:
    """Whether Saccade has the rule; else it is a user's own."""
    return point.strategy in (UNPRUNED, *catalog.CATALOG)


def _runs(point: GridPoint) -> bool:
    """Whether this version would take the grid point into a sweep."""
    if point.strategy == UNPRUNED or not _is_ours(point):
        return point.strategy == UNPRUNED
    strategy, params = catalog.get(point.strategy), dict(point.params)
    positions = point.positions
    return complaint(strategy, params, layer=point.layer, rank=point.rank, positions=positions) is None


def _here(experiment: Experiment, model: str | None, base: str | None, data: str | None) -> EngineSpec:
    """The sweep's engine, with model and data where they are on this machine."""
    spec = experiment.spec
    if model is not None:
        spec = replace(spec, model=replace(spec.model, path=str(MODEL_DIR) if model == EMBEDDED else model))
    if base is not None:
        spec = replace(spec, model=replace(spec.model, base=base))
    if data is not None:
        spec = replace(spec, task=replace(spec.task, data=str(DATA_DIR) if data == EMBEDDED else data))
    return spec


def _checked_samples(experiment: Experiment, spec: EngineSpec) -> tuple[Sample, ...]:
    """The benchmark's samples, once model and data are known to be those of the cells."""
    recorded = experiment.manifest.context_parts
    samples = load_samples(spec.task)
    for what, place, option, same in (
        ("model", spec.model.path, "--model", model_fingerprint(open_checkpoint(spec.model)) == recorded.get("model")),
        ("data", spec.task.data, "--data", is_same_data(recorded.get("data"), samples)),
    ):
        if not same:
            raise StoreError(
                f"{what} {place}: is not what the cells of {experiment.path} were computed with; give the right one "
                f"with {option}"
            )
    return samples


class _Compared:
    """A cell beside the slow path's answer with the same tokens."""

    def __init__(self, cell: Any, slow: SlowAnswer, allowed: Tolerance) -> None:
        self._cell, self._slow = cell, slow
        own = np.array(cell["option_logits"], dtype=np.float64)
        self._gap = np.abs(own - np.array(slow.option_logits)) if len(own) == len(slow.option_logits) else None
        self._bound = allowed.logits * max(1.0, *map(abs, slow.option_logits), abs(slow.margins[0]))
        self.at_a_tie = cell["answer"] != slow.text and min(slow.margins) <= 2 * self._bound

    def complaints(self) -> Iterator[str]:
        cell, slow = self._cell, self._slow
        for name, value in (("prompt_tokens", slow.prompt_tokens), ("visual_tokens", slow.visual_tokens)):
            if cell[name] != value:
                yield f"{name} {cell[name]}, computed {value}"
        if self._gap is None:
            yield f"{len(cell['option_logits'])} option logits, computed {len(slow.option_logits)}"
        elif self._gap.size and not self._gap.max() <= self._bound:
            yield f"a first-token logit is off by {figures(self._gap.max())} (allowed: {figures(self._bound)})"
        if cell["answer"] != slow.text and not self.at_a_tie:
            yield f"the answer is {cell['answer'][:40]!r}, computed {slow.text[:40]!r}"


def _choice_complaint(mask: object, slow: SlowAnswer, allowed: Tolerance) -> str | None:
    """What is wrong with a cell's mask beside the tokens that the slow path chose by itself."""
    if not isinstance(mask, bytes) or len(mask) != len(slow.kept_mask):
        return "its mask of kept tokens is missing or of another size"
    count = int.from_bytes(slow.kept_mask, "big").bit_count()
    bound = max(1, int(allowed.kept * count))
    own, other = int.from_bytes(mask, "big"), int.from_bytes(slow.kept_mask, "big")
    swapped = max((own & ~other).bit_count(), (other & ~own).bit_count())
    return f"{swapped} of {count} kept tokens differ (allowed: {bound})" if swapped > bound else None


def _indices(mask: bytes) -> Tensor:
    return torch.from_numpy(np.flatnonzero(unpacked(mask)))


def _verdict_complaints(cell: Any, verdict: Any) -> Iterator[str]:
    stored = cell["score"] if cell["score"] == cell["score"] else float(cell["correct"])
    if bool(cell["correct"]) != verdict.correct or abs(stored - float(verdict.score)) > 1e-9:
        yield f"the answer {cell['answer'][:40]!r} is judged {stored:g}, and the rule gives {float(verdict.score):g}"
