"""An experiment whose answers are given as a matrix, for tests that must know every number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fake_experiment import LAYERS, SIZES, fake_manifest
from results.experiment import Experiment
from workers.tasks.base import Sample
from workers.work import GridPoint, SampleFailure, SampleOutcome, UnitOutcome, WorkUnit

MISSING = -1


def write_matrix(
    path: Path,
    points: tuple[GridPoint, ...],
    right_PS: np.ndarray,
    *,
    text_only: tuple[int, ...] = (),
    failed: tuple[int, ...] = (),
    question: str = "Which colour is it?",
    wrong: str = "B",
    name: str = "matrix",
    model: str = "0123456789abcdef",
    layers: int = LAYERS,
) -> Experiment:
    """Write an experiment.

    Args:
        path: Directory to make.
        points: The grid, baseline first.
        right_PS: 1 right, 0 wrong, MISSING no cell; one row per point, one column per sample s0, s1, ...
        text_only: Columns of samples without an image.
        failed: Columns of samples that have a failure record.
        question: Of every sample.
        wrong: The answer text of a wrong cell; a right one is "A".
        name: Of the experiment.
        model: Fingerprint of its model.
        layers: Of its model.
    """
    count = right_PS.shape[1]
    samples = tuple(
        Sample(
            id=f"s{i}", question=question, choices=("red", "green"), label="A",
            image=None if i in text_only else Path(f"/nowhere/{i}.png"),
        )
        for i in range(count)
    )  # fmt: skip
    config = {**SIZES, "layers": layers}
    manifest = fake_manifest(points, name=name, model_fingerprint=model, config=config)
    experiment = Experiment.create(path, manifest, samples)
    cells = tuple(
        SampleOutcome(
            point=point.key, sample=f"s{i}", answer="A" if right else wrong, parsed="A" if right else None,
            correct=bool(right), first_token=1, option_logits=(0.0, 0.0), margin=0.0, tokens_kept=0, kept_mask=b"",
            decoded_tokens=2, prompt_tokens=40, visual_tokens=0 if i in text_only else points[0].rank,
        )
        for point, row in zip(points, right_PS, strict=True)
        for i, right in enumerate(row)
        if right != MISSING
    )  # fmt: skip
    failures = tuple(
        SampleFailure(sample=f"s{i}", kind="OSError", message="cannot identify <image> file", traceback="")
        for i in failed
    )
    unit = WorkUnit(samples=tuple(sample.id for sample in samples), points=points)
    experiment.write(unit, UnitOutcome(unit=unit.key, outcomes=cells, failures=failures))
    return experiment
