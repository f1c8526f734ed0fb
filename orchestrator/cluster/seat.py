"""What a pool runs, in this process or in an actor: an engine, loaded where it runs."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orchestrator.cluster.faults import is_of_the_machine, told
from orchestrator.cluster.joining import PoolError
from workers.families.config import ModelError
from workers.tasks.base import DataError
from workers.work import DeviceLostError, EngineSpec, UnitOutcome, WorkUnit

if TYPE_CHECKING:
    from strategies.own import OwnRule
    from workers.tasks.own import OwnTask

log = logging.getLogger(f"saccade.{__name__}")

ENGINE = "workers.actor:EngineActor"


class EngineLike(Protocol):
    """What a pool runs; `workers.actor.EngineActor` is one."""

    def identity(self) -> dict[str, str]: ...

    def run(self, unit: WorkUnit) -> UnitOutcome: ...

    def turn_to(self, spec: EngineSpec) -> None: ...


EngineFactory = Callable[..., EngineLike] | str  # (spec, device, threads), or where it is: "module:Class"


@dataclass(frozen=True, slots=True)
class WithOwn:
    """An engine whose process first comes to know rules and benchmarks that are not of this project."""

    rules: tuple[OwnRule, ...]
    tasks: tuple[OwnTask, ...]
    engine: EngineFactory

    def __call__(self, spec: EngineSpec, device: str | None, threads: int | None) -> EngineLike:
        """Load the engine.

        Raises:
            PoolError: One cannot be used here.
        """
        from strategies import own  # brings torch along
        from workers.tasks import own as own_tasks

        try:
            own.admit(self.rules)
            own_tasks.admit(self.tasks)
        except (own.RuleError, own_tasks.TaskError) as error:
            what = "rule" if isinstance(error, own.RuleError) else "benchmark"
            raise PoolError(f"a worker cannot use a {what} of the sweep: {error}") from error
        return engine_of(self.engine)(spec, device, threads)


class Seat:
    """What an actor holds: an engine, loaded when it is asked who it is.

    Not in the constructor: Ray hands on its exceptions as text only, and nobody could tell an actor that loads from one
    that still waits for a place in the cluster.
    """

    def __init__(self, engine: EngineFactory, spec: EngineSpec, threads: int | None, gpu_share: float) -> None:
        self._arguments = (engine, spec, threads, gpu_share)
        self._engine: EngineLike | None = None
        self._turn = threading.Lock()  # who is asked again meanwhile does not load twice

    def here(self) -> None:
        """It has a place, and a process."""

    def identity(self) -> dict[str, str]:
        """Who it is, once the model is loaded.

        Raises:
            ModelError, DataError, PoolError: The next worker would fail over the same.
            DeviceLostError: Another one may do better.
        """
        with self._turn:
            if self._engine is None:
                self._engine = self._loaded(*self._arguments)
        return self._engine.identity()

    @staticmethod
    def _loaded(engine: EngineFactory, spec: EngineSpec, threads: int | None, gpu_share: float) -> EngineLike:
        try:
            if 0 < gpu_share < 1:
                from workers.memory import share_gpu  # brings torch along

                share_gpu(gpu_share)
            return engine_of(engine)(spec, None, threads)
        except (ModelError, DataError, PoolError):
            raise
        except Exception as error:  # whatever loading raises, the next worker would raise as well
            if is_of_the_machine(error):
                raise DeviceLostError(told(error)) from None
            raise PoolError(f"a worker could not load the model: {told(error)}") from None

    def turn_to(self, spec: EngineSpec) -> dict[str, str]:
        """Have the engine answer another benchmark, with the same model; who it is, as `identity` says.

        Raises:
            DataError: The next worker would fail over the same.
        """
        with self._turn:
            engine, _, threads, gpu_share = self._arguments
            self._arguments = engine, spec, threads, gpu_share
            if self._engine is not None:
                self._engine.turn_to(spec)
        return self.identity()

    def run(self, unit: WorkUnit) -> UnitOutcome:
        assert self._engine is not None, "only who has said who it is is given work"
        try:
            return self._engine.run(unit)
        except DeviceLostError:
            log.exception("the device is lost, and with it this worker")
            os._exit(1)  # the pool replaces a lost process; one that lives on would fail every unit at once


def engine_of(engine: EngineFactory) -> Callable[..., EngineLike]:
    if not isinstance(engine, str):
        return engine
    module, _, name = engine.partition(":")
    factory: Callable[..., EngineLike] = getattr(importlib.import_module(module), name)
    return factory
