"""The speed of a card for `saccade plan`: the engine on three grids of different character, in about a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from strategies.errors import UsageError
from workers.card_speed import CardSpeed, device_name, fitted
from workers.embedded.location import DATA_DIR, MODEL_DIR
from workers.families.model import default_device
from workers.speed_test.bench import bench
from workers.speed_test.options import BenchSpec
from workers.speed_test.report import Report

GRIDS = ("one", "cutoffs", "strategies")  # many rows a cell, few rows a cell, and between
SECONDS = 8.0  # for each


def calibrate(spec: BenchSpec, progress: Callable[[Report, str], None]) -> CardSpeed:
    """Measure a device as one worker of a sweep.

    Args:
        spec: Device, dtype, and the model: on a CPU the embedded one where none is named.
        progress: As for `bench`.

    Raises:
        UsageError: A grid could not be computed, so that nothing is known.
    """
    device = spec.device or default_device()
    if device == "cpu":
        torch.set_num_threads(1)  # as a sweep's workers, one a core
        if spec.model is None:
            spec = replace(spec, model=str(MODEL_DIR), data=str(DATA_DIR), samples=4)
    asked = replace(spec, workloads=GRIDS, baselines=False, agreement=0, seconds=SECONDS, device=device)
    report = bench(asked, progress)
    if len(report.engine) < len(GRIDS):
        raise UsageError(f"--calibrate: {'; '.join(report.notes)}")
    times = [row.timing.median_s for row in report.engine]
    cells = [row.configurations * report.samples for row in report.engine]
    tflop_s, cell_s = fitted([row.needed_tflop for row in report.engine], cells, times)
    return CardSpeed(
        device=device_name(device),
        dtype=report.dtype,
        tflop_s=tflop_s,
        cell_s=cell_s,
        model="the embedded model" if spec.model == str(MODEL_DIR) else report.model,
        date=time.strftime("%Y-%m-%d"),
    )
