"""Latency of grid points, one at a time: EXPERIMENT/latency.json. Without Ray: nothing else may run beside it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.sweep.prepare import Prepared
from orchestrator.sweep.spec import SpecError
from results.disk import write_whole
from results.exchange.point_names import is_chosen, names_of
from results.experiment import Experiment
from results.latencies import LATENCY_FILE, latency_record
from workers import evidence
from workers.families.catalog import load_model
from workers.families.model import default_device
from workers.latency import Latency, measure_latency, prepare_prompts
from workers.work import GridPoint


def chosen_points(points: Sequence[GridPoint], patterns: Sequence[str]) -> tuple[GridPoint, ...]:
    """The pruning points that have one of these names (`point_names`); all without one.

    Raises:
        SpecError: None does.
    """
    chosen = tuple(point for point in points[1:] if is_chosen(names_of(point), patterns))
    if not chosen:
        raise SpecError(f"--points {', '.join(patterns)}: no grid point matches, for example {points[-1].label!r}")
    return chosen


def write_latency(
    prepared: Prepared,
    out: Path,
    points: Sequence[GridPoint],
    *,
    images: int,
    repeats: int,
    warmup: int,
    decode_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, tuple[Latency, ...]]:
    """Measure and store; what was measured of other points in the same way stays in the file.

    Args:
        prepared: The sweep.
        out: Its experiment directory; made where it is missing.
        points: To measure, besides the un-pruned model.
        images: Questions to measure on: the first with an image.
        repeats, warmup, decode_tokens, progress: See `workers.latency.measure_latency`.

    Raises:
        SpecError: The sweep has no question with an image.
        StoreError: ``out`` holds another sweep.
        ModelError, DataError: The model or an image cannot be read.
    """
    experiment = Experiment.create(out, prepared.manifest, prepared.samples)
    spec = prepared.spec.engine
    asked = [sample for sample in prepared.samples if sample.image is not None][:images]
    if not asked:
        raise SpecError(f"{prepared.spec.name}: no question has an image, so that nothing is pruned")
    device = default_device()
    model = load_model(replace(spec.model, offload="never"), device)  # transformers' forward needs all layers there
    if spec.model.text_tower is not None and evidence.reads_text_tower(evidence.needed(points)):
        model.load_text_tower(spec.model.text_tower)
    prompts = prepare_prompts(model, asked, spec.task, spec.model.image_mode, points)
    measured = measure_latency(
        model, prompts, points, repeats=repeats, warmup=warmup, decode_tokens=decode_tokens, seed=spec.seed,
        progress=progress,
    )  # fmt: skip
    how = {
        "device": device, "machine": platform.machine(), "dtype": spec.model.dtype, "context": experiment.context,
        "samples": [sample.id for sample in asked], "repeats": repeats, "warmup": warmup,
        "decode_tokens": decode_tokens, "versions": experiment.manifest.versions,
    }  # fmt: skip
    rows = {row["key"]: row for row in _old_rows(experiment, how)}
    rows |= {one.point.key: {"key": one.point.key, "label": one.point.label, **one.to_json()} for one in measured}
    path = experiment.path / LATENCY_FILE
    write_whole(path, (json.dumps({"how": how, "rows": list(rows.values())}, indent=1) + "\n").encode())
    return path, measured


def _old_rows(experiment: Experiment, how: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows measured in the very same way; others must not stand beside new ones."""
    record = latency_record(experiment)
    return (
        [row.model_dump(exclude_unset=True) for row in record.rows] if record is not None and record.how == how else []
    )
