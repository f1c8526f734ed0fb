"""A made-up experiment directory with known accuracies, for tests that read results and need no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from results.experiment import Experiment
from results.manifest import Manifest
from results.tables import ADDED, SCHEMAS
from workers.tasks.base import LETTERS, Sample
from workers.work import (
    UNPRUNED,
    EngineSpec,
    GridPoint,
    ModelSpec,
    SampleFailure,
    SampleOutcome,
    TaskSpec,
    UnitOutcome,
    WorkUnit,
    content_key,
    unpruned_point,
)

LAYERS = 8
VISUAL_TOKENS = 64
SIZES = {"layers": LAYERS, "visual_tokens": VISUAL_TOKENS, "heads": 4, "hidden": 128, "grid": (8, 8)}


def fake_points(layers: int = LAYERS, visual_tokens: int = VISUAL_TOKENS) -> tuple[GridPoint, ...]:
    """Baseline, a layer cut-off curve over 2..L, two ranks of fastv and of random, and three alphas."""
    points = [unpruned_point(layers, visual_tokens)]
    points += [GridPoint(strategy="cutoff", layer=layer, rank=0) for layer in range(2, layers + 1)]
    points += [GridPoint(strategy=name, layer=2, rank=rank) for name in ("fastv", "random") for rank in (8, 32)]
    points += [
        GridPoint(strategy="weighted_combination", layer=2, rank=16, params=(("alpha", alpha),))
        for alpha in (0.3, 0.5, 0.7)
    ]
    return tuple(points)


def fake_samples(count: int) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            id=f"s{place}",
            question=f"Which colour is shape {place}?\nA. red\nB. green\nC. blue",
            choices=("red", "green", "blue"),
            label=LETTERS[place % 3],
            image=None if place % 10 == 9 else Path(f"/nowhere/images/{place}.png"),
            subject=("natural science", "social science", "language science")[place % 3],
            topic=f"topic {place % 4}",
            category=f"category {place % 5}",
            skill=f"skill {place % 6}",
            patches=(place % VISUAL_TOKENS, (place + 1) % VISUAL_TOKENS),
        )
        for place in range(count)
    )


def fake_manifest(
    points: tuple[GridPoint, ...], name: str = "fake", seed: int = 0, model: str = "0123456789abcdef"
) -> Manifest:
    return Manifest(
        name=name,
        engine=EngineSpec(
            model=ModelSpec(path="/nowhere/model"),
            task=TaskSpec(name="scienceqa", data="/nowhere/data"),
            max_new_tokens=16,
            seed=seed,
        ),
        points=points,
        sources=tuple("none" if point.strategy == UNPRUNED else f"source-of-{point.strategy}" for point in points),
        model_fingerprint=model,
        data_fingerprint="fedcba9876543210",
        prompt_fingerprint="0ff1ce0ff1ce0ff1",
        scorer_fingerprint="5c0e5c0e5c0e5c0e",
        model_facts=(
            ("layers", LAYERS),
            ("visual_tokens", VISUAL_TOKENS),
            ("heads", 4),
            ("hidden", 128),
            ("grid", (8, 8)),
        ),
        sources_hash="5eed",
        versions=(("python", "3.11"),),
    )


def fake_outcome(unit: WorkUnit, accuracy: dict[str, float] | None = None, count: int = 0) -> UnitOutcome:
    """Answer a unit: deterministic in (point, sample), whatever the unit.

    Args:
        unit: Samples must be named as `fake_samples` names them.
        accuracy: Of each point key; the first ``accuracy * count`` samples of the file are right. Default: drawn from
            the address of the cell, 70% right.
        count: Samples of the whole sweep, needed with ``accuracy``.
    """
    cells = []
    for sample in unit.samples:
        place = int(sample[1:])
        letter = LETTERS[place % 3]
        for point in unit.points:
            draw = np.random.default_rng([int(point.key, 16) % 2**32, place])
            drawn = bool(draw.random() < 0.7)
            correct = drawn if accuracy is None else place < round(accuracy[point.key] * count)
            answer = letter if correct else LETTERS[(place + 1) % 3]
            visual = 0 if place % 10 == 9 else VISUAL_TOKENS
            kept = np.zeros(visual, dtype=np.uint8)
            kept[draw.permutation(visual)[: min(point.rank, visual)]] = 1
            logits = [float(x) for x in draw.normal(size=3)]
            logits[LETTERS.index(answer)] = max(logits) + 0.5
            cells.append(
                SampleOutcome(
                    point=point.key,
                    sample=sample,
                    answer=answer,
                    parsed=answer,
                    correct=correct,
                    first_token=300 + LETTERS.index(answer),
                    option_logits=tuple(logits),
                    margin=0.5,
                    tokens_kept=int(kept.sum()),
                    kept_mask=np.packbits(kept).tobytes(),
                    decoded_tokens=2,
                    prompt_tokens=visual + 40,
                    visual_tokens=visual,
                )
            )
    return UnitOutcome(unit=unit.key, outcomes=tuple(cells), seconds=0.1, worker="fake")


def write_fake_experiment(
    path: Path,
    *,
    samples: int = 60,
    points: tuple[GridPoint, ...] | None = None,
    accuracy: dict[str, float] | None = None,
    done: int | None = None,
    failed: tuple[str, ...] = (),
    shard: int = 10,
) -> Experiment:
    """Write an experiment whose cells are known.

    Args:
        path: Directory to make.
        samples: Samples of the sweep.
        points: The grid, baseline first; `fake_points` by default.
        accuracy: Of each point key, see `fake_outcome`.
        done: Samples that have cells (the first ones of the file); all by default.
        failed: Ids of samples that have a failure record instead of cells.
        shard: Samples per file.
    """
    grid = fake_points() if points is None else points
    experiment = Experiment.create(path, fake_manifest(grid), fake_samples(samples))
    names = [f"s{place}" for place in range(samples if done is None else done)]
    for first in range(0, len(names), shard):
        whole = WorkUnit(samples=tuple(names[first : first + shard]), points=grid)
        answered = WorkUnit(samples=tuple(name for name in whole.samples if name not in failed), points=grid)
        outcome = fake_outcome(answered, accuracy, samples)
        failures = tuple(
            SampleFailure(sample=name, kind="ValueError", message="the image is damaged", traceback="Traceback ...")
            for name in whole.samples
            if name in failed
        )
        experiment.write(whole, UnitOutcome(unit=whole.key, outcomes=outcome.outcomes, failures=failures))
    return experiment


def into_format_1(path: Path) -> Experiment:
    """Make an experiment what versions before wrote: no digests, no later columns, addresses without rules."""
    place = path / "sweep.yaml"
    meta = yaml.safe_load(place.read_text())
    parts = {
        name: part for name, part in meta["context_parts"].items() if name not in ("prompt", "scoring", "numerics")
    }
    meta |= {"format": 1, "context_parts": parts, "context": content_key(parts)}
    for file in [*(file for folder in SCHEMAS for file in (path / folder).glob("*.parquet")), path / "samples.parquet"]:
        table = pq.read_table(file)
        table = table.drop_columns([name for name in ADDED if name in table.column_names])
        if "context" in table.column_names:
            table = table.set_column(0, "context", pa.array([meta["context"]] * len(table), pa.string()))
        pq.write_table(table, file)
    place.write_text(yaml.safe_dump(meta))
    return Experiment.open(path)
