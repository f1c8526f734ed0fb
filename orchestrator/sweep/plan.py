"""From a sweep to units of work, and what they will cost; pure.

Work is counted in token-layers: one row of the token matrix through one decoder layer. No tokenizer is loaded for
that, so prompt lengths, and with them all the costs here, are estimates.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from workers.evidence import point_reads_question
from workers.families.config import ModelConfig
from workers.tasks.base import Sample
from workers.tasks.prompts import IMAGE_MARKER, build_prompt
from workers.work import GridPoint, TaskSpec, WorkUnit

UNITS_PER_WORKER = 4  # at least, of what is left: progress shows, a lost unit costs little, all end together
MAX_SHARD = 16  # images, or samples without: one micro-batch on a GPU
MAX_CELLS = 4096  # of a unit: seconds on a GPU, and a file of a few hundred kB
CHARACTERS_PER_TOKEN = 4  # of English text, with LLaMA's vocabulary
CELL_BYTES = 21  # zstd, without its mask: measured on 50 files of the embedded model's layer cut-off
UNIT_BYTES = 6600  # the fixed part of a unit's two files: measured there too

Done = Mapping[str, frozenset[str]]  # sample -> keys of the points that have a cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An amount of work, counted for the two ways of doing it."""

    shared: int  # token-layers: one trunk a sample, a fork for each point, and what is shared of an image once
    separate: int  # token-layers: each point on its own, from the first layer

    @property
    def saving(self) -> float:
        """How many times less the shared way costs; 1.0 where there is nothing to do."""
        return self.separate / self.shared if self.shared else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be computed, in the order of dispatch, and an estimate of its cost."""

    units: tuple[WorkUnit, ...]
    cells: int  # of the whole sweep
    missing: int  # cells to compute
    work: Work  # of the missing cells
    bytes_on_disk: int  # that the missing cells will take
    notes: tuple[str, ...] = ()  # one for each file of cells that cannot be read


def make_plan(
    points: Sequence[GridPoint],
    samples: Sequence[Sample],
    done: Done,
    config: ModelConfig,
    task: TaskSpec,
    workers: int,
    images: Mapping[str, str] | None = None,
    visual: Mapping[str, int] | None = None,
) -> Plan:
    """Plan a sweep.

    Args:
        points: The grid, baseline first, each once.
        samples: In the order in which they are asked, those about an image next to each other.
        done: Cells that exist.
        config: Sizes of the model.
        task: How samples are asked, for the length of prompts.
        workers: Number of engines.
        images: By sample what its image is recognised by, "" for none.
        visual: By sample its visual tokens, where images differ in theirs.
    """
    visual = visual or {}
    units = make_units(points, [sample.id for sample in samples], done, workers, images)
    missing = sum(unit.cells for unit in units)
    return Plan(
        units=units,
        cells=len(points) * len(samples),
        missing=missing,
        work=estimate_work(units, samples, config, task, visual),
        bytes_on_disk=estimate_bytes(units, config, visual),
    )


def make_units(
    points: Sequence[GridPoint],
    samples: Sequence[str],
    done: Done,
    workers: int,
    images: Mapping[str, str] | None = None,
) -> tuple[WorkUnit, ...]:
    """Cut the missing cells into units: shards of samples that lack the same points, with all these points.

    Units come in the order of their first sample, so that the curves of all grid points grow together, and become
    smaller towards the end, so that all workers end together. Every missing (sample, point) is in exactly one unit, and
    no other is in any. They are cut between images; an image with more questions than two units take is cut as well.

    Source: Polychronopoulos and Kuck, Guided self-scheduling, IEEE Transactions on Computers 36 (1987).
    """
    images = images or {}
    keys = [point.key for point in points]
    lacking: dict[str, tuple[int, ...]] = {}  # sample -> indices of its missing points
    waiting: dict[tuple[int, ...], deque[str]] = {}
    for sample in samples:
        have = done.get(sample, frozenset())
        if missing := tuple(place for place, key in enumerate(keys) if key not in have):
            lacking[sample] = missing
            waiting.setdefault(missing, deque()).append(sample)
    questions = len(lacking) // len({images.get(one) or one for one in lacking}) if lacking else 1  # an image
    units: list[WorkUnit] = []
    left = len(lacking)
    for sample, missing in lacking.items():
        alike = waiting[missing]
        if not alike or alike[0] != sample:
            continue  # taken along with an earlier one
        # A worker alone has nobody to wait for: its units stay as large as they begin.
        size = shard_size(left if workers > 1 else len(lacking), len(missing), workers, questions)
        most = min(2 * size, max(size, MAX_CELLS // len(missing)))
        count = _between_images([images.get(one, "") for one in islice(alike, most + 1)], size, most)
        taken = tuple(alike.popleft() for _ in range(count))
        shown = tuple(images[one] for one in taken) if images else ()
        units.append(WorkUnit(samples=taken, points=tuple(points[place] for place in missing), images=shown))
        left -= len(taken)
    return tuple(units)


def _between_images(images: Sequence[str], size: int, most: int) -> int:
    """How many of the first samples make a unit that ends with an image.

    Args:
        images: Of the first ``most`` samples, and of the one after them if there is one; "" for none.
        size: So many, or fewer; more only where they all show one image.
        most: No more than these; an image that has more is cut after ``size``.
    """
    ends = [place for place in range(1, len(images)) if images[place] == "" or images[place] != images[place - 1]]
    ends += [len(images)] * (len(images) <= most)
    fitting = [place for place in ends if place <= size]
    return fitting[-1] if fitting else ends[0] if ends else size


def by_image(samples: Sequence[Sample], images: Sequence[str]) -> tuple[Sample, ...]:
    """Samples in the order of the first one about each image, those about an image next to each other.

    Args:
        samples: In the order of the benchmark's file.
        images: What each one's image is recognised by; "" for none.
    """
    together: dict[str, list[Sample]] = {}
    for sample, image in zip(samples, images, strict=True):
        together.setdefault(image or f"\0{sample.id}", []).append(sample)
    return tuple(sample for group in together.values() for sample in group)


def shard_size(samples: int, points: int, workers: int, questions: int = 1) -> int:
    """Samples of a unit: what a micro-batch takes, fewer where those left would make too few or too large units.

    Args:
        samples: That are left.
        points: Of each.
        workers: That share them.
        questions: About an image, whose rows they share in a micro-batch.
    """
    fair = math.ceil(samples / (UNITS_PER_WORKER * workers))
    return max(1, min(MAX_SHARD * questions, fair, MAX_CELLS // max(1, points)))


@dataclass(frozen=True, slots=True)
class _Forks:
    """What the points of a unit that prune an image of some tokens have in common."""

    pruning: int  # points
    full_layers: int  # that all of them run on the whole sequence
    visual: int  # token-layers of what they keep
    blind: int  # the same of those that read no question

    @classmethod
    def of(cls, points: Sequence[GridPoint], layers: int, visual: int) -> _Forks:
        own = [point.of(visual) for point in points]
        pruning = [point for point in own if point.layer < layers and point.rank < visual]
        kept = {point: (layers - point.layer) * point.rank for point in pruning}
        return cls(
            pruning=len(pruning),
            full_layers=sum(point.layer for point in pruning),
            visual=sum(kept.values()),
            blind=sum(rows for point, rows in kept.items() if not point_reads_question(point)),
        )


def estimate_work(
    units: Sequence[WorkUnit],
    samples: Sequence[Sample],
    config: ModelConfig,
    task: TaskSpec,
    image_tokens: Mapping[str, int] | None = None,
) -> Work:
    """Token-layers of the prefill of some units, shared and separate.

    A point that prunes nothing (rank N, layer L, or a sample without an image) is answered by the trunk. Questions of a
    unit about the same image share its rows, and those of what is kept by points that read no question: on a GPU, where
    they go through the model together.
    """
    by_id = {sample.id: sample for sample in samples}
    shared = separate = 0
    for unit in units:
        of_visual: dict[int, _Forks] = {}
        seen: set[str] = set()
        for sample_id, image in zip(unit.samples, images_of(unit, by_id), strict=True):
            system, visual, text = prompt_lengths(by_id[sample_id], config, task, image_tokens or {})
            full = system + visual + text
            trunk = config.layers * full
            if not visual:
                shared += trunk
                separate += trunk * len(unit.points)
                continue
            if visual not in of_visual:
                of_visual[visual] = _Forks.of(unit.points, config.layers, visual)
            here = of_visual[visual]
            fork_layers = config.layers * here.pruning - here.full_layers
            # The system part of a fork is read from the trunk's keys and values; run alone it has to be computed.
            forks = here.visual + fork_layers * text
            again = config.layers * visual + here.blind if image in seen else 0
            seen.add(image)
            shared += trunk + forks - again
            separate += trunk * (len(unit.points) - here.pruning) + here.full_layers * full
            separate += forks + fork_layers * system
    return Work(shared=shared, separate=separate)


def images_of(unit: WorkUnit, samples: Mapping[str, Sample]) -> tuple[str, ...]:
    """What each sample of a unit shows, '' for nothing: by its pixels where they are known, else by its file."""
    return unit.images or tuple(samples[id].shown for id in unit.samples)


def questions_per_image(samples: Sequence[Sample]) -> float:
    """Mean over the images that are asked about, by their files; 1 where there are none."""
    files = [sample.shown for sample in samples if sample.image is not None]
    return len(files) / len(set(files)) if files else 1.0


def estimate_bytes(
    units: Sequence[WorkUnit], config: ModelConfig, image_tokens: Mapping[str, int] | None = None
) -> int:
    """Bytes that the cells and masks of some units take. A mask of scattered tokens does not compress."""
    visual = image_tokens or {}
    total = 0
    for unit in units:
        scattered = sum(0 < point.rank < config.visual_tokens for point in unit.points)
        tokens = sum(visual.get(sample, config.visual_tokens) for sample in unit.samples)
        total += UNIT_BYTES + unit.cells * CELL_BYTES + tokens * scattered // 8
    return total


def prompt_lengths(
    sample: Sample, config: ModelConfig, task: TaskSpec, image_tokens: Mapping[str, int]
) -> tuple[int, int, int]:
    """Estimated tokens before the image, of the image, and after it; without an image all text counts as after.

    ``image_tokens`` are by sample; one that is not there has as many as the model's largest image.
    """
    prompt = build_prompt(sample, task)
    before, _, after = prompt.partition(IMAGE_MARKER) if sample.image is not None else ("", "", prompt)
    after = after.replace(IMAGE_MARKER, "")
    return (
        math.ceil(len(before) / CHARACTERS_PER_TOKEN),
        image_tokens.get(sample.id, config.visual_tokens * len(sample.images)),
        math.ceil(len(after) / CHARACTERS_PER_TOKEN),
    )
