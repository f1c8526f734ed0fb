"""How fast a device answers: `saccade bench --calibrate` measures it once, this user's cache keeps it for `plan`.

A sweep's time is taken for arithmetic at the device's rate and a fixed time for each cell, which both hold what comes
with them: vision tower, attention, decoding of a short answer, the host. So it is an estimate, within a factor of two.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from strategies.errors import UsageError
from workers.families.config import ModelConfig
from workers.json_file import UnreadableError, read_json
from workers.user_cache import cache_folder

FOLDER = "cards"
MAX_BYTES = 2**16
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSpeed:
    """Of one worker: a GPU, or one core."""

    device: str  # its name
    dtype: str
    tflop_s: float  # seconds for 10 ** 12 operations of the decoder's linear maps
    cell_s: float  # besides, for each cell
    model: str  # that it was measured on
    date: str  # of that day: 2026-11-28

    def seconds(self, token_layers: int, cells: int, config: ModelConfig) -> float:
        """For one worker, from a loaded model to the last cell.

        Args:
            token_layers: Rows of the decoder through one layer each, as `orchestrator.sweep.plan` counts them.
            cells: That are to be computed.
            config: Of the model.
        """
        tflop = 2 * token_layers * config.parameters / config.layers / 1e12
        return self.tflop_s * tflop + self.cell_s * cells


def fitted(tflops: Sequence[float], cells: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Seconds for each TFLOP and for each cell that explain some runs best, by relative error; neither is below 0."""
    times = np.array(seconds)
    work = np.stack([np.array(tflops) / times, np.array(cells) / times], axis=1)
    rates = np.linalg.lstsq(work, np.ones(len(times)), rcond=None)[0]
    for left in (0, 1):
        if rates[1 - left] < 0:
            alone = work[:, left]
            rates = np.zeros(2)
            rates[left] = alone.sum() / (alone**2).sum()
    return float(rates[0]), float(rates[1])


def device_name(device: str) -> str:
    """What a device is called, for people and for the name of a file.

    Args:
        device: As torch names it: ``cpu`` or ``cuda:0``.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        named = re.search(r"^model name\s*: (.+)$", CPU_INFO.read_text(), re.M)
    except OSError:
        named = None
    return f"core of {named[1] if named else platform.processor() or platform.machine()}"


def speed_file(device: str, dtype: str) -> Path:
    """Where the speed of a device of this name is kept."""
    return cache_folder(FOLDER) / (re.sub(r"[^A-Za-z0-9]+", "_", f"{device} {dtype}") + ".json")


def write_speed(speed: CardSpeed) -> Path:
    """Keep it.

    Raises:
        UsageError: This user has no cache that can be written.
    """
    file = speed_file(speed.device, speed.dtype)
    draft = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(speed), indent=1) + "\n", encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        remedy = "set XDG_CACHE_HOME to a folder that can"
        raise UsageError(f"{file}: cannot be written: {error.strerror}; {remedy}") from error
    return file


def read_speed(device: str, dtype: str) -> CardSpeed | None:
    """What was measured of devices of this name; None where nothing was, or nothing that can be read."""
    try:
        speed = CardSpeed(**read_json(speed_file(device, dtype), MAX_BYTES))
        assert speed.tflop_s >= 0
        assert speed.cell_s >= 0
    except (UnreadableError, TypeError, AssertionError):  # of another version, or damaged: measured again
        return None
    return speed
