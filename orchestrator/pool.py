"""Where units of work are answered: in this process, or by actors of a Ray cluster. One interface for both.

Only a lost machine or process is a reason to try again; an engine reports a sample it cannot answer in its outcome.
Ray is imported inside functions: some of its settings are read once, when it is imported, and `LocalPool` needs none.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import secrets
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import workers
from workers.checkpoints.layout import open_checkpoint
from workers.fingerprint import sources_hash
from workers.models import ModelError
from workers.prefetch import ahead
from workers.tasks.base import DataError
from workers.work import DeviceLostError, EngineSpec, SampleFailure, UnitOutcome, WorkUnit

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

log = logging.getLogger(f"saccade.{__name__}")

ENGINE = "workers.actor:EngineActor"
UNITS_IN_FLIGHT = 3  # of a GPU: one for each lane (workers/lanes.py), and the next is there before it is needed
MAX_ATTEMPTS = 3  # of a unit whose worker is lost; after the second it is tried sample by sample
MAX_FAILED_STARTS = 3  # in a row, of workers that die before their first answer
GRACE_S = 5.0  # how often a waiting pool wakes up, so that Ctrl-C and a lost cluster are noticed
PATIENCE_S = 60.0  # without any worker, before that is said
CONNECT_S = 5.0  # to the head of a cluster
OBJECT_STORE_BYTES = 200 * 2**20  # units and outcomes are small; Ray would take 30% of the memory
PROCESS_BYTES = 2**30  # of an engine besides its weights


class PoolError(ValueError):
    """The pool cannot work. The message names the cause and the remedy; exit code 2."""


class EngineLike(Protocol):
    """What a pool runs; `workers.actor.EngineActor` is one."""

    def identity(self) -> dict[str, str]: ...

    def run(self, unit: WorkUnit) -> UnitOutcome: ...


EngineFactory = Callable[..., EngineLike] | str  # (spec, device, threads), or where it is: "module:Class"


class Pool(AbstractContextManager["Pool"]):
    """Answers units. Use it as a context manager."""

    workers: int

    def results(self, units: Iterable[WorkUnit]) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        """Answer units, in any order, each exactly once; a unit may come back in parts.

        Args:
            units: Taken one by one, when there is somebody free to answer: what comes next may still be decided then.

        Raises:
            ModelError, DataError: An engine could not be built.
            PoolError: There is nobody to answer.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of engines and cluster."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalPool(Pool):
    """One engine in this process: for debuggers, and where Ray is not wanted."""

    def __init__(self, spec: EngineSpec, engine: EngineFactory = ENGINE, device: str | None = None) -> None:
        self.workers = 1
        self._engine = _factory(engine)(spec, device, None)

    def results(self, units: Iterable[WorkUnit]) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        if not self._engine.identity()["device"].startswith("cuda"):
            for unit in units:
                yield unit, self._engine.run(unit)
            return
        with ThreadPoolExecutor(UNITS_IN_FLIGHT) as pool:
            yield from ahead(pool, lambda unit: (unit, self._engine.run(unit)), units, UNITS_IN_FLIGHT)


@dataclass(frozen=True, slots=True)
class _Job:
    unit: WorkUnit
    losses: int = 0  # workers lost while they had it


@dataclass(eq=False, slots=True)
class _Worker:
    """An actor, and how many units it has."""

    actor: ActorHandle
    has: int = 0
    alone: bool = False  # one of them was with a lost worker before: if this one is lost too, that is the unit to blame

    def takes(self, job: _Job, depth: int) -> bool:
        return not self.has if job.losses else self.has < depth and not self.alone


class _Seat:
    """What an actor holds: an engine, or the reason why there is none.

    Ray hands on an exception of a constructor as text only; kept here, it reaches the driver as it was raised.
    """

    def __init__(self, engine: EngineFactory, spec: EngineSpec, device: str | None, threads: int | None) -> None:
        self._error: ValueError | None = None
        try:
            self._engine = _factory(engine)(spec, device, threads)
        except (ModelError, DataError) as error:
            self._error = error.with_traceback(None)

    def identity(self) -> dict[str, str]:
        if self._error is not None:
            raise self._error
        return self._engine.identity()

    def run(self, unit: WorkUnit) -> UnitOutcome:
        try:
            return self._engine.run(unit)
        except DeviceLostError:
            log.exception("the device is lost, and with it this worker")
            os._exit(1)  # the pool replaces a lost process; one that lives on would fail every unit at once


class RayPool(Pool):
    """Actors on a Ray cluster, one engine each; a lost one is replaced and its unit given out again."""

    def __init__(
        self,
        spec: EngineSpec,
        engine: EngineFactory = ENGINE,
        *,
        workers: int | None = None,
        address: str | None = None,
        on_event: Callable[[str], None] = log.warning,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Join or start a cluster. Actors start with the first unit.

        Args:
            spec: For every engine.
            engine: Class, or where it is.
            workers: Number of actors; by default one for each GPU, or for each CPU core if memory allows.
            address: Of a running cluster; by default ``RAY_ADDRESS``, else a private cluster on this machine.
            on_event: Told one line for each loss.
            on_ready: Called when the first engine is loaded.
        """
        self._owns_cluster = start_ray(address)
        import ray

        resources = ray.cluster_resources()
        self.gpus = int(resources.get("GPU", 0))
        cores = int(resources.get("CPU", 1)) - (1 if self._owns_cluster else 0)  # see start_ray
        # One thread each: measured on 2 busy cores, two engines of one thread do 5 times what one of two threads does.
        self.workers = workers or self.gpus or min(cores, _room(spec, resources.get("memory", math.inf)))
        if self.gpus:
            if self.workers > self.gpus:
                self.close()
                raise PoolError(f"--workers {self.workers}: the cluster has {self.gpus} GPUs, and each takes one")
            options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 1}
            self._threads = None
        else:
            share = cores / self.workers
            # More workers than cores share them: Ray takes fractions below one, whole numbers above.
            options = {"num_cpus": int(share) if share >= 1 else int(share * 1000) / 1000}
            self._threads = max(1, int(share))
        self._depth = UNITS_IN_FLIGHT if self.gpus else 1
        options["max_concurrency"] = self._depth
        self._remote = ray.remote(max_restarts=0, max_task_retries=0, **options)(_Seat)
        self._engine, self._spec = engine, spec
        self._on_event, self._on_ready = on_event, on_ready
        self._is_ready = False
        self._actors: set[ActorHandle] = set()
        self._failed_starts = 0

    def results(self, units: Iterable[WorkUnit]) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        import ray

        coming = iter(units)
        job = _next_job(coming)
        if job is None:
            return
        again: deque[_Job] = deque()
        free: list[_Worker] = []  # those with room for a unit
        busy: dict[ObjectRef, tuple[_Worker, _Job | None]] = {}  # None: the worker is starting
        waiting_since: float | None = time.monotonic()
        for _ in range(self.workers):
            self._start(busy)
        while True:
            if free and job is None:
                job = again.popleft() if again else _next_job(coming)
            free.sort(key=lambda worker: worker.has)
            if job and free and free[0].takes(job, self._depth):
                worker = free[0]
                busy[worker.actor.run.remote(job.unit)] = (worker, job)
                worker.has, worker.alone = worker.has + 1, bool(job.losses)
                job = None
                if worker.has == self._depth:
                    free.remove(worker)
                continue
            if free and not job and not any(has for _, has in busy.values()):
                return  # somebody is free and there is nothing to do; whoever is still starting is not needed
            ready = _ready(busy)
            if waiting_since is not None and time.monotonic() - waiting_since > PATIENCE_S:
                self._on_event(
                    f"still waiting for the first of {self.workers} workers: loading, or no room in the cluster"
                )
                waiting_since = None
            for ref in ready:
                worker, answered = busy.pop(ref)
                try:
                    value = ray.get(ref)
                except _lost_errors() as error:
                    if worker in free:
                        free.remove(worker)
                    yield from self._lost(answered, _reason(error), again)
                    if worker.actor in self._actors:  # the first of its units to be noticed
                        self._actors.discard(worker.actor)
                        self._start(busy)
                    continue
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, ModelError | DataError):
                        raise error.cause from None
                    raise
                waiting_since = None
                if worker not in free and worker.actor in self._actors:
                    free.append(worker)
                if answered is None:
                    self._greet(value)
                else:
                    worker.has, worker.alone = worker.has - 1, False
                    yield answered.unit, value

    def close(self) -> None:
        import ray

        for actor in getattr(self, "_actors", ()):
            ray.kill(actor)
        self._actors = set()
        if self._owns_cluster:
            ray.shutdown()

    def _start(self, busy: dict[ObjectRef, tuple[_Worker, _Job | None]]) -> None:
        actor: Any = self._remote.remote(self._engine, self._spec, None, self._threads)
        self._actors.add(actor)
        busy[actor.identity.remote()] = (_Worker(actor), None)

    def _greet(self, identity: dict[str, str]) -> None:
        """Trust an actor only if it runs the code that this process planned with."""
        self._failed_starts = 0
        if identity["sources_hash"] != sources_hash():
            raise PoolError(
                f"a worker on {identity.get('host', 'another host')} runs other sources of strategies/ and workers/ "
                "than this process; install the same version there, or submit with `ray job submit --working-dir .`"
            )

        if not self._is_ready:
            self._is_ready = True
            self._on_ready()

    def _lost(self, job: _Job | None, reason: str, again: deque[_Job]) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        """Decide what becomes of the unit of a lost worker: again, again in parts, or given up."""
        if job is None:
            self._failed_starts += 1
            self._on_event(f"a worker was lost while it loaded the model ({reason}); starting another")
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise PoolError(
                    f"{self._failed_starts} workers in a row were lost while loading the model ({reason}); "
                    "is there memory enough? Fewer --workers need less"
                )
            return
        losses = job.losses + 1
        count = f"{len(job.unit.samples)} sample{'s' if len(job.unit.samples) > 1 else ''}"
        if losses >= MAX_ATTEMPTS:
            self._on_event(f"a worker was lost again ({reason}); {count} recorded as failed")
            yield job.unit, _given_up(job.unit, losses, reason)
            return
        parts = [job.unit]
        if losses == MAX_ATTEMPTS - 1:  # one bad sample must not take its neighbours along
            parts = [WorkUnit(samples=(sample,), points=job.unit.points) for sample in job.unit.samples]
        singly = ", one by one" if len(parts) > 1 else ""
        self._on_event(f"a worker was lost ({reason}); it is replaced, and {count} tried again{singly}")
        again.extend(_Job(part, losses) for part in parts)


def start_ray(address: str | None = None) -> bool:
    """Join the cluster that is meant, or start a private one on this machine.

    Returns:
        Whether a cluster was started, which then has to be shut down.

    Raises:
        PoolError: There is no cluster at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning: CUDA stays visible to the driver
    private = address in (None, "local")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of the other workers, when the first one says it all
    # Said twice otherwise: a lost worker is reported by the pool, in one line and with what is done about it.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing")
    if private:
        # Read when ray is imported: every port on 127.0.0.1, where all but the dashboard listen on all addresses.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 starves the engines beside any other load
        if "RAY_AUTH_MODE" not in os.environ:
            # Other users of this machine reach loopback too. A token for this run alone, in the environment, leaves
            # no file behind; Ray's own choice is ~/.ray/auth_token, readable by all.
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    elif address != "auto":
        _check_reachable(str(address))
    import ray

    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if private:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options |= {
            "include_dashboard": False,
            "num_cpus": cores + 1,  # one more than there are: the engines take all, Tune's mirror a sliver
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    with tempfile.TemporaryDirectory(prefix="saccade-empty-") as empty:  # uploaded by init, then not needed
        if _may_be_shadowed():
            options["runtime_env"] = {"working_dir": empty}
        try:
            ray.init(address="local" if private else address, **options)
        except (ConnectionError, ValueError) as error:
            raise PoolError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from error
    return private


def _check_reachable(address: str) -> None:
    """Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise PoolError(
            f"--address {address}: give HOST:PORT of a Ray cluster's head, or `auto` on one of its machines"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise PoolError(
            f"no Ray cluster at {address} ({error}); check --address and RAY_ADDRESS, or leave both out to use this "
            "machine"
        ) from error


def _may_be_shadowed() -> bool:
    """Whether actors need an empty working directory, because the current one might hold a `workers/` too.

    Ray puts the driver's folder ahead of site-packages on the actors' path, and what lies there would be taken. A
    submitted job brings its own working directory.
    """
    assert workers.__file__
    root = Path(workers.__file__).resolve().parent.parent
    return Path.cwd().resolve() != root and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ


def _room(spec: EngineSpec, memory_bytes: float) -> int:
    """How many engines fit into half of the memory: their weights, in a wider type perhaps, and a process around."""
    weights = sum(file.stat().st_size for file in open_checkpoint(spec.model).files)
    return max(1, int(memory_bytes / 2 / (2 * weights + PROCESS_BYTES)))


def _factory(engine: EngineFactory) -> Callable[..., EngineLike]:
    if not isinstance(engine, str):
        return engine
    module, _, name = engine.partition(":")
    factory: Callable[..., EngineLike] = getattr(importlib.import_module(module), name)
    return factory


def _next_job(coming: Iterator[WorkUnit]) -> _Job | None:
    unit = next(coming, None)
    return None if unit is None else _Job(unit)


def _ready(busy: Iterable[ObjectRef]) -> list[ObjectRef]:
    """All that is finished; waits for the first. Ray's default would return one, and leave the others unread."""
    import ray

    refs = list(busy)
    first, _ = ray.wait(refs, num_returns=1, timeout=GRACE_S)
    return ray.wait(refs, num_returns=len(refs), timeout=0)[0] if first else []


def _lost_errors() -> tuple[type[Exception], ...]:
    """What Ray raises for a lost process or machine, and for nothing else."""
    from ray import exceptions

    return (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
    )


def _reason(error: Exception) -> str:
    """Why a worker died, from the many lines that Ray writes."""
    text = str(error)
    if "memory" in text and "threshold" in text:
        return "killed by Ray because memory ran out"
    if "End of file" in text:
        return "its process ended without a word: killed, or out of memory"
    if "node" in text and ("died" in text or "dead" in text or "terminated" in text):
        return "its machine is gone"
    return " ".join(text.split())[:160]


def _given_up(unit: WorkUnit, losses: int, reason: str) -> UnitOutcome:
    message = f"{losses} workers were lost over it ({reason})"
    failures = tuple(
        SampleFailure(sample=sample, kind="WorkerLost", message=message, traceback="") for sample in unit.samples
    )
    return UnitOutcome(unit=unit.key, outcomes=(), failures=failures)
