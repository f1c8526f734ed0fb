"""How long a sweep will take on the devices here, by what `saccade bench --calibrate` has measured of them."""

from __future__ import annotations

import os

from orchestrator.sweep.plan import Plan
from orchestrator.sweep.prepare import Prepared
from results.durations import duration
from workers.card_speed import device_name, read_speed


def time_text(plan: Plan, prepared: Prepared, workers: int | None) -> str:
    """For people; empty where nothing is to be computed.

    Args:
        plan: Of the missing cells.
        prepared: The sweep.
        workers: That share the work; None: one for each GPU here, or core.
    """
    if not plan.missing:
        return ""
    device, here = _devices()
    count = workers or here
    speed = read_speed(device, prepared.spec.engine.model.dtype)
    if speed is None:
        return f"not known of a {device}: `saccade bench --calibrate` measures it, once, in about a minute"
    alone = speed.seconds(plan.work.shared, plan.missing, prepared.spec.config)
    return (
        f"about {duration(alone / count)} once the model is loaded, on {count} x {device}, if answers are short "
        f"(estimate, within a factor of two, from {speed.model} on {speed.date})"
    )


def _devices() -> tuple[str, int]:
    """What this machine would compute on: its name, and how many there are."""
    import torch

    if torch.cuda.is_available():
        return device_name("cuda:0"), torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return device_name("cpu"), cores
