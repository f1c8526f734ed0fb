"""An engine as a plain class that Ray (or anything else) can hold in another process."""

from __future__ import annotations

import gc
import os
import platform
from dataclasses import replace

import torch
import transformers

from workers.engine import Engine
from workers.fingerprint import sources_hash
from workers.gpu_use import BusyWatch, driver_of
from workers.rules import NUMERICS
from workers.saccade_version import saccade_version
from workers.work import EngineSpec, UnitOutcome, WorkUnit


class EngineActor:
    """Loads once, then answers units. It computes only: what it returns is written by the driver."""

    def __init__(self, spec: EngineSpec, device: str | None = None, threads: int | None = None) -> None:
        """Load model and benchmark.

        Args:
            spec: model, benchmark, prompt and scoring.
            device: as torch names it; None takes the GPU that was given to this process, else the CPU.
            threads: CPU threads of torch in this process; None leaves torch's choice.

        Raises:
            ModelError, DataError: files are missing or broken.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self._engine = Engine.load(spec, device)
        gc.freeze()  # what was loaded stays, and is much: to look through it for cycles again takes a tenth of a second
        place = self._engine.model.device
        on_gpu = place.type == "cuda"
        self._device_bytes = torch.cuda.get_device_properties(place).total_memory if on_gpu else 0
        self._busy = BusyWatch(driver_of(place))
        self._worker = f"{platform.node()} {place} {os.getpid()}"
        self._made_by = {
            "saccade": saccade_version(),
            "sources": sources_hash(),
            "numerics": str(NUMERICS),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": torch.cuda.get_device_name(place) if on_gpu else f"CPU, {platform.machine()}",
        }

    def identity(self) -> dict[str, str]:
        """What the driver compares with its own before it trusts this process, and records."""
        return {
            "sources_hash": self._made_by["sources"],
            "device": str(self._engine.model.device),
            "host": platform.node(),
            "pid": str(os.getpid()),
        }

    def turn_to(self, spec: EngineSpec) -> None:
        """Answer another benchmark's units from now on, with the model that is loaded.

        Raises:
            DataError: it cannot be read.
        """
        self._engine = self._engine.turned_to(spec)

    def run(self, unit: WorkUnit) -> UnitOutcome:
        """Answer a unit; given twice it gives the same cells: on a GPU up to rounding, as others are in the batch."""
        self._busy.start()
        try:
            outcome = self._engine.run(unit)
        finally:
            busy = self._busy.stop()
        return replace(
            outcome,
            worker=self._worker,
            made_by=tuple(self._made_by.items()),
            device_bytes=self._device_bytes,
            busy=busy,
        )
