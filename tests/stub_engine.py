"""Engines without a model, for tests of what happens around them."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fake_experiment import fake_outcome
from strategies import catalog
from workers.families.config import ModelError
from workers.fingerprint import sources_hash
from workers.tasks import catalog as tasks
from workers.work import EngineSpec, UnitOutcome, WorkUnit

MODULE = "stub_engine"


class StubEngine:
    """Answers at once, the same for the same cell."""

    def __init__(self, spec: EngineSpec, device: str | None = None, threads: int | None = None) -> None:
        self.spec = spec

    def identity(self) -> dict[str, str]:
        return {"sources_hash": sources_hash(), "host": "here", "device": "none", "pid": str(os.getpid())}

    def run(self, unit: WorkUnit) -> UnitOutcome:
        return fake_outcome(unit)

    def turn_to(self, spec: EngineSpec) -> None:
        self.spec = spec


class Asked(StubEngine):
    """Says in each cell's place which benchmark it was last turned to, and how often it was made."""

    made = 0

    def __init__(self, spec: EngineSpec, device: str | None = None, threads: int | None = None) -> None:
        super().__init__(spec)
        type(self).made += 1

    def run(self, unit: WorkUnit) -> UnitOutcome:
        return replace(super().run(unit), worker=f"{self.spec.task.data} {self.made}")


class KnowingEngine(StubEngine):
    """Knows a rule and a benchmark that its process was sent, or cannot be made."""

    def __init__(self, spec: EngineSpec, device: str | None = None, threads: int | None = None) -> None:
        super().__init__(spec)
        catalog.get("my_rule.py:my_rule")
        tasks.get("my_task.py:load")


class SlowEngine(StubEngine):
    """Takes a moment over each unit."""

    def run(self, unit: WorkUnit) -> UnitOutcome:
        time.sleep(0.3)
        return super().run(unit)


class BriefEngine(StubEngine):
    """Takes a little time over each sample, so that there is something to disturb."""

    def run(self, unit: WorkUnit) -> UnitOutcome:
        time.sleep(0.04 * len(unit.samples))
        return super().run(unit)


class Seated(StubEngine):
    """Says where it sits: node, GPU and process. Takes a moment over each unit, so that every worker has some."""

    def run(self, unit: WorkUnit) -> UnitOutcome:
        import ray

        time.sleep(0.3)
        context = ray.get_runtime_context()
        seat = f"{context.get_node_id()} {context.get_accelerator_ids()['GPU']} {os.getpid()}"
        return replace(super().run(unit), worker=seat)


class SilentEngine(SlowEngine):
    """Whoever gets sample s5 first never answers; the folder ``spec.task.data`` remembers that there was one."""

    def run(self, unit: WorkUnit) -> UnitOutcome:
        mark = Path(self.spec.task.data) / "silent"
        if "s5" in unit.samples and not mark.exists():
            mark.touch()
            time.sleep(3600)
        return super().run(unit)


class DyingEngine(StubEngine):
    """Is killed once, over the unit that holds sample s5. The folder ``spec.task.data`` remembers that it was."""

    def run(self, unit: WorkUnit) -> UnitOutcome:
        mark = Path(self.spec.task.data) / "killed"
        if "s5" in unit.samples and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(unit)


class KilledOnce(SlowEngine):
    """Is killed over its third unit, unless another one was before it."""

    runs = 0

    def run(self, unit: WorkUnit) -> UnitOutcome:
        KilledOnce.runs += 1
        # Only the parent is known to all workers of a cluster, and there is one cluster for one test.
        mark = Path(tempfile.gettempdir()) / f"saccade-killed-{os.getppid()}"
        if KilledOnce.runs == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(unit)


class PoisonedEngine(StubEngine):
    """Sample s5 kills whoever answers it."""

    def run(self, unit: WorkUnit) -> UnitOutcome:
        if "s5" in unit.samples:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(unit)


class BrokenModel(StubEngine):
    def __init__(self, spec: EngineSpec, device: str | None = None, threads: int | None = None) -> None:
        raise ModelError("/models/x/model.safetensors: is truncated, 12 bytes are missing; download it again")


class FaultyLoader(StubEngine):
    """Cannot load its model for a reason that nobody foresaw."""

    def __init__(self, spec: EngineSpec, device: str | None = None, threads: int | None = None) -> None:
        raise ZeroDivisionError("float division\nby zero")


class OtherSources(StubEngine):
    def identity(self) -> dict[str, str]:
        return {**super().identity(), "sources_hash": "0" * 16, "host": "node-7"}


class BuggyEngine(StubEngine):
    def run(self, unit: WorkUnit) -> UnitOutcome:
        raise IndexError("a bug of ours")


class HangingEngine(StubEngine):
    """Sample s5 is read from a pipe that nobody writes to. The folder ``spec.task.data`` holds a mark of each try."""

    def run(self, unit: WorkUnit) -> UnitOutcome:
        if "s5" in unit.samples:
            folder = Path(self.spec.task.data)
            with suppress(FileExistsError):
                os.mkfifo(folder / "pipe")
            (folder / f"hangs-{'-'.join(unit.samples)}-{os.getpid()}").touch()
            (folder / "pipe").open().read()
        return super().run(unit)


class StoppedEngine(StubEngine):
    """Whoever gets sample s5 first is stopped. The folder ``spec.task.data`` holds a mark of its process."""

    def run(self, unit: WorkUnit) -> UnitOutcome:
        folder = Path(self.spec.task.data)
        if "s5" in unit.samples and not list(folder.glob("hangs-*")):
            (folder / f"hangs-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().run(unit)


class NeverLoaded(StubEngine):
    """The first one never gets its model. The folder ``spec.task.data`` remembers that there was one."""

    def __init__(self, spec: EngineSpec, device: str | None = None, threads: int | None = None) -> None:
        super().__init__(spec)
        mark = Path(spec.task.data) / "loading"
        if not mark.exists():
            mark.touch()
            time.sleep(3600)


class NoMemory(StubEngine):
    """Does not fit."""

    def __init__(self, spec: EngineSpec, device: str | None = None, threads: int | None = None) -> None:
        raise MemoryError("cannot allocate 14 GB")
