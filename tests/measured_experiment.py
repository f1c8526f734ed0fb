"""A made-up experiment with measures and a model's sizes, for tests of what is read from both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fake_experiment import fake_manifest, fake_outcome, fake_samples
from results.experiment import Experiment
from workers.work import GridPoint, MeasureSpec, UnitOutcome, WorkUnit, unpruned_point

LAYERS, VISUAL = 8, 64
SIZES = {
    "layers": LAYERS, "heads": 4, "kv_heads": 4, "head_dim": 32, "hidden": 128, "ffn": 256, "vocab": 320,
    "image_size": 112, "patch_size": 14, "visual_tokens": VISUAL, "parameters": 1000,
}  # fmt: skip
Measures = Callable[[GridPoint], tuple[tuple[str, float], ...]]


def write_measured(
    path: Path, points: tuple[GridPoint, ...], measures: Measures = lambda point: (), samples: int = 30
) -> Experiment:
    """Write an experiment of all points and the baseline, with what ``measures`` says for every image question."""
    grid = (unpruned_point(LAYERS, VISUAL), *points)
    manifest = fake_manifest(grid)
    engine = replace(manifest.engine, measure=MeasureSpec(quality=True))
    manifest = replace(manifest, engine=engine, model_facts=tuple(SIZES.items()))
    experiment = Experiment.create(path, manifest, fake_samples(samples))
    unit = WorkUnit(samples=tuple(f"s{place}" for place in range(samples)), points=grid)
    by_key = {point.key: point for point in grid}
    cells = tuple(
        replace(cell, measures=measures(by_key[cell.point]) if cell.visual_tokens else ())
        for cell in fake_outcome(unit).outcomes
    )
    experiment.write(unit, UnitOutcome(unit=unit.key, outcomes=cells))
    return experiment
