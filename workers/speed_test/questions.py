"""Several questions about each image: the engine against itself without sharing, in one run, and what could be saved.

Questions are short, as GQA's and POPE's are, so that the image is most of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from workers.encoding import encode_sample
from workers.engine import Engine
from workers.families.model import Model
from workers.speed_test.random_llava import text_tokens
from workers.speed_test.samples import drawn_images, filler, hand_out_pixels, side_of
from workers.speed_test.timing import Timing
from workers.speed_test.workloads import BUDGETS, LinearSizes, Workload, make_workloads, needed, scaled
from workers.tasks.base import LETTERS, Sample
from workers.work import EngineSpec, GridPoint, UnitOutcome, WorkUnit, unpruned_point

TEXT_TOKENS = 30  # after the image
BLIND = "l2_norm"  # scores once for all ranks, so that what is timed are the rows


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionsRow:
    """The engine on one workload with so many questions an image."""

    workload: str
    what: str
    questions: int  # about each image
    images: int
    timing: Timing  # of one ``Engine.run`` over all samples
    apart: Timing  # as if no two samples showed the same image
    ms_per_cell: float
    ratio: float  # how many times longer it takes apart
    rows: int  # through decoder layers, summed, of all samples, with what is shared counted once
    rows_apart: int
    limit: float  # of the ratio: the linear maps of the decoder apart over those with sharing, decoding included
    notes: tuple[str, ...]

    @property
    def line(self) -> str:
        """For people."""
        cell = f"{self.ms_per_cell:.3g} ms a cell, x{self.ratio:.3g} of x{self.limit:.3g}"
        return f"{self.workload}, {self.questions} questions an image: {cell}"

    @property
    def limit_share(self) -> float:
        """How much of the possible ratio is reached."""
        return self.ratio / self.limit


def question_workloads(layers: int, heads: int, visual: int) -> dict[str, Workload]:
    """Nothing pruned; pruned by a rule that reads no question, by one that does, and layer by layer."""
    baseline, layer = unpruned_point(layers, visual), min(2, layers)
    average = [scaled(rank, visual) for rank in BUDGETS]
    kept = [scaled(rank, visual) for rank in BUDGETS.values()]
    blind = [GridPoint(strategy=BLIND, layer=0, rank=rank) for rank in average]
    reading = [GridPoint(strategy="fastv", layer=layer, rank=rank) for rank in kept]
    named = (
        ("unpruned", "un-pruned alone", ()),
        ("blind", f"{BLIND} at layer 0, ranks {', '.join(map(str, average))} + un-pruned", blind),
        ("fastv", f"fastv at layer {layer}, ranks {', '.join(map(str, kept))} + un-pruned", reading),
    )
    made = {name: Workload(name=name, what=what, points=(*points, baseline)) for name, what, points in named}
    return made | {"cutoffs": make_workloads(layers, heads, visual)["cutoffs"]}


def drawn_questions(
    model: Model, spec: EngineSpec, count: int, questions: int, seed: int, folder: Path, in_memory: bool
) -> list[Sample]:
    """At least so many samples, in whole images; those of an image one after the other, no two of the same words."""
    images = drawn_images(ceil(count / questions), side_of(model.config), seed, folder)
    characters = next(length for length in range(1000) if text_tokens(length) == TEXT_TOKENS)
    samples = [
        Sample(
            id=f"question-{place}-{number}",
            question=f"{place} {number} {filler(characters)}"[: len(filler(characters))],
            choices=tuple(LETTERS[:4]),
            label="A",
            image=image,
        )
        for place, image in enumerate(images)
        for number in range(questions)
    ]
    return hand_out_pixels(model, spec, samples, folder) if in_memory else samples


def question_rows(
    model: Model,
    spec: EngineSpec,
    samples: Sequence[Sample],
    names: Sequence[str],
    timed: Callable[[Callable[[], object]], Timing],
    micro_batch: int | None,
) -> Iterator[QuestionsRow | str]:
    """A row for each workload, or a line that says why there is none.

    Args:
        model: that answers.
        spec: how samples are asked.
        samples: as ``drawn_questions`` gives them.
        names: of the workloads.
        timed: runs something by the clock.
        micro_batch: of the engine; None: as it plans.
    """
    images = {sample.id: sample.shown for sample in samples}
    first = encode_sample(model, samples[0], spec.task, spec.model.image_mode)
    system, sizes = dict.fromkeys(images, first.system), LinearSizes.of(model.config)
    workloads = question_workloads(model.config.layers, model.config.heads, model.config.visual_tokens)
    for workload in map(workloads.__getitem__, names):
        unit = WorkUnit(samples=tuple(images), points=workload.points, images=tuple(images.values()))
        engine = Engine(spec, model, samples, micro_batch)
        engine.shares_images = False
        apart, _ = _answered(engine, unit, timed)
        engine.shares_images = True
        timing, outcome = _answered(engine, unit, timed)
        if outcome.failures:
            one = outcome.failures[0]
            yield f"{workload.name}: {len(outcome.failures)} samples failed; first: {one.kind}: {one.message[:200]}"
            continue
        before, now = (needed(sizes, unit.points, outcome.outcomes, system, shown) for shown in (None, images))
        yield QuestionsRow(
            workload=workload.name,
            what=workload.what,
            questions=len(samples) // len(set(unit.images)),
            images=len(set(unit.images)),
            timing=timing,
            apart=apart,
            ms_per_cell=1e3 * timing.median_s / unit.cells,
            ratio=apart.median_s / timing.median_s,
            rows=now.rows,
            rows_apart=before.rows,
            limit=(before.prefill_flop + before.decode_flop) / (now.prefill_flop + now.decode_flop),
            notes=outcome.notes,
        )


def _answered(
    engine: Engine, unit: WorkUnit, timed: Callable[[Callable[[], object]], Timing]
) -> tuple[Timing, UnitOutcome]:
    answered: list[UnitOutcome] = []

    def answer() -> None:
        engine.forget_images()
        answered[:] = [engine.run(unit)]

    return timed(answer), answered[0]
