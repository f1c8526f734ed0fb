"""A pool of actors of a Ray cluster. Ray is imported inside functions: `joining.start_ray` comes before it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.dispatch import Dispatch, Job
from orchestrator.cluster.joining import PoolError, resource, start_ray
from orchestrator.cluster.losses import (
    MACHINE_GONE,
    OUT_OF_REACH,
    NoAnswer,
    given_up,
    no_answer,
    reason_of,
    remedy_of,
    told_of,
)
from orchestrator.cluster.pool import UNITS_OF_A_GPU, Pool, PoolOptions, log
from orchestrator.cluster.seat import Seat
from results.durations import duration
from workers.families.catalog import open_checkpoint
from workers.families.config import ModelError
from workers.fingerprint import sources_hash
from workers.tasks.base import DataError
from workers.work import DeviceLostError, EngineSpec, UnitOutcome, WorkUnit

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

MAX_FAILED_STARTS = 3  # in a row, of workers that die before their first answer
GRACE_S = 1.0  # how often a waiting pool wakes up: Ctrl-C, a slow worker, a machine that has joined
STAFF_S = 5.0  # how often the cluster is asked how many workers it has room for
PATIENCE_S = 60.0  # without any worker, before that is said
PROCESS_BYTES = 2**30  # of an engine besides its weights
ASK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class _Share:
    """What one worker takes of a cluster. A little less than whole CPUs: Ray Tune's mirror needs a sliver of one."""

    gpus: float  # of one GPU; 0: it computes on CPUs
    cpus: float  # as Ray counts them: fractions below one, whole numbers above
    threads: int | None  # of torch; None: its own choice

    @classmethod
    def of_gpu(cls, gpus: float) -> _Share:
        return cls(gpus=gpus, cpus=0.99 * gpus, threads=None)

    @classmethod
    def of_cores(cls, cores: float) -> _Share:
        return cls(gpus=0, cpus=int(cores - 0.01) if cores > 1 else int(cores * 990) / 1000, threads=max(1, int(cores)))


@dataclass(slots=True, eq=False)
class _Worker:
    """An actor, and what is known of it."""

    actor: ActorHandle
    name: str = ""  # for people; empty until it has loaded the model, and may be given work
    loading_since: float | None = None  # None: it has no place in the cluster yet, or has loaded
    silent: bool = False  # out of reach: Ray does not know yet whether it lives


class RayPool(Pool):
    """Actors on a Ray cluster, one engine each; a lost one is replaced and its units given out again.

    Each node's actors map the same safetensors files, so a node reads them from its disk once, and the page cache
    serves the others. Machines that join are used, and those that go not waited for.
    """

    def __init__(
        self,
        spec: EngineSpec,
        options: PoolOptions,
        *,
        on_event: Callable[[str], None] = log.warning,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Join or start a cluster. Actors start with the first unit.

        Raises:
            PoolError: There is no cluster at the address, or not what is asked of it.
        """
        super().__init__(spec, options, on_event=on_event, on_ready=on_ready)
        self._owns_cluster = start_ray(options.address)
        self._workers: set[_Worker] = set()
        self._fixed = options.workers
        try:
            self._share = self._fair_share(options.gpus_per_worker)
        except PoolError:
            self.close()
            raise
        self.workers = self._wanted()
        self._in_hand = UNITS_OF_A_GPU if self._share.gpus else 1
        self._refs: dict[ObjectRef, tuple[_Worker, Job | None]] = {}  # None: the worker is starting
        self._failed_starts = 0
        self._is_ready = False
        self._alone_since: float | None = time.monotonic()  # nobody has loaded; None: it was said

    def results(self, units: Iterable[WorkUnit], tried: Collection[str] = ()) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        dispatch: Dispatch[_Worker] = Dispatch(units, self._in_hand, self._options.limits.sample_s, tried)
        asked = -math.inf
        while not dispatch.finished:
            now = time.monotonic()
            if now - asked > STAFF_S:
                self._hire()
                asked = now
            self._hand_out(dispatch, now)
            if dispatch.finished:
                return
            lost: dict[_Worker, Exception] = {}
            yield from self._collect(dispatch, lost)
            self._find_the_stuck(dispatch, lost)
            for worker, error in lost.items():
                yield from self._bury(worker, error, dispatch)
            if lost:
                self._hire()
            self._say_if_alone(now)

    def gather(self) -> None:
        self._hire()

    def turn_to(self, spec: EngineSpec) -> None:
        import ray

        self._spec = spec
        self._is_ready = False  # for these questions nobody has loaded
        for worker in list(self._workers):
            if worker.name and not worker.silent:
                worker.name, worker.loading_since = "", time.monotonic()
                self._refs[worker.actor.turn_to.remote(spec)] = (worker, None)
            else:  # it loads for the questions before, and another will take its place
                ray.kill(worker.actor)
                self._workers.discard(worker)
        self._refs = {ref: (worker, job) for ref, (worker, job) in self._refs.items() if worker in self._workers}

    def _collect(
        self, dispatch: Dispatch[_Worker], lost: dict[_Worker, Exception]
    ) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        """What has been answered; who turns out to be ``lost``, and why, is added there."""
        import ray

        for ref in _ready(self._refs):
            worker, job = self._refs.pop(ref)
            try:
                value = ray.get(ref)
            except ray.exceptions.ActorUnavailableError:
                self._ask_again(worker)
                continue
            except _lost_errors() as error:
                lost.setdefault(worker, error)
                continue
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, DeviceLostError):
                    lost.setdefault(worker, error.cause)
                    continue
                if isinstance(error.cause, ModelError | DataError | PoolError):
                    raise error.cause from None
                raise
            if worker.silent:  # alive after all, but what it answered meanwhile is lost
                lost.setdefault(worker, ConnectionError(OUT_OF_REACH))
            elif job is None:
                self._greet(worker, value)
            elif dispatch.answer(worker, job, time.monotonic()):
                yield job.unit, value

    def _find_the_stuck(self, dispatch: Dispatch[_Worker], lost: dict[_Worker, Exception]) -> None:
        """Say who is waited for, and add to ``lost`` whom nobody should wait for any more."""
        now = time.monotonic()
        for worker, job, age in dispatch.slow(now):
            limit = duration(dispatch.limit(job))
            self._on_event(f"{worker.name}: {no_answer(age, [job])}; it is replaced after {limit}")
        for worker, jobs in dispatch.stuck(now).items():
            if not self._has_answered(worker, jobs):
                lost.setdefault(worker, NoAnswer(max(map(dispatch.limit, jobs)), jobs))
        load_s = self._options.limits.load_s
        for worker in self._workers:
            late = worker.loading_since is not None and now - worker.loading_since > load_s
            if late and not self._has_answered(worker, [None]):
                lost.setdefault(worker, TimeoutError(f"the model was not there after {duration(load_s)}"))

    def _has_answered(self, worker: _Worker, jobs: Sequence[Job | None]) -> bool:
        """Whether one of these answers waits to be read: then this process was held up, not the worker."""
        import ray

        refs = [ref for ref, (other, job) in self._refs.items() if other is worker and job in jobs]
        return bool(refs and ray.wait(refs, timeout=0)[0])

    def _say_if_alone(self, now: float) -> None:
        if any(worker.name for worker in self._workers):
            self._alone_since = now
        elif self._alone_since is not None and now - self._alone_since > PATIENCE_S:
            self._alone_since = None
            if self._is_ready:
                what = "no worker is left: waiting until the cluster has room for one; what is finished is on disk"
            else:
                loading = any(worker.loading_since is not None for worker in self._workers)
                what = "load the model" if loading else "get a place in the cluster"
                what = f"still waiting for the first of {self.workers} workers to {what}"
            self._on_event(what)

    def release(self) -> None:
        import ray

        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers = set()

    def close(self) -> None:
        import ray

        self.release()
        if self._owns_cluster:
            ray.shutdown()

    def _fair_share(self, gpus_per_worker: float | None) -> _Share:
        gpus = resource("GPU")
        if gpus_per_worker is not None and not 0 < gpus_per_worker <= 1:
            raise PoolError(f"--gpus-per-worker {gpus_per_worker}: give a part of a GPU, above 0 and at most 1")
        if gpus_per_worker is not None and not gpus and (self._owns_cluster or not self._fixed):
            raise PoolError(
                f"--gpus-per-worker {gpus_per_worker}: there is no GPU; leave it out to use CPUs, or where machines "
                "join on demand say with --workers how many to ask for"
            )
        if not gpus and gpus_per_worker is None:
            cores = self._cores()
            # One thread each: measured on 2 busy cores, two engines of one thread do 5 times what one of two does.
            return _Share.of_cores(cores / (self._fixed or self._cpu_workers()))
        share = _Share.of_gpu(gpus_per_worker or 1.0)
        room = int(gpus) * int(1 / share.gpus)
        if self._owns_cluster and self._fixed and self._fixed > room:  # others may still be joined by machines
            raise PoolError(
                f"--workers {self._fixed}: this machine's {int(gpus)} GPUs have room for {room}, and no more can join"
            )
        return share

    def _wanted(self) -> int:
        """How many actors there should be, those included that wait for a machine: they tell an autoscaler."""
        if self._fixed:
            return self._fixed
        return int(resource("GPU")) * int(1 / self._share.gpus) if self._share.gpus else self._cpu_workers()

    def _cpu_workers(self) -> int:
        return min(self._cores(), _room(self._spec, resource("memory")))

    def _cores(self) -> int:
        return max(1, int(resource("CPU")) - (1 if self._owns_cluster else 0))  # see start_ray

    def _hire(self) -> None:
        """Start the actors that are missing: after a loss, or because a machine has joined."""
        import ray

        share = self._share
        options: dict[str, Any] = {"num_gpus": share.gpus, "num_cpus": share.cpus, "max_concurrency": self._in_hand}
        remote = ray.remote(max_restarts=0, max_task_retries=0, **options)(Seat)
        for _ in range(self._wanted() - len(self._workers)):
            actor: Any = remote.remote(self._options.engine, self._spec, share.threads, share.gpus)
            worker = _Worker(actor)
            self._workers.add(worker)
            self._refs[actor.here.remote()] = self._refs[actor.identity.remote()] = (worker, None)

    def _ask_again(self, worker: _Worker) -> None:
        """One is out of reach. The answer to another call says whether it is dead, and whether alone."""
        worker.silent = True
        if (worker, None) not in self._refs.values():
            time.sleep(ASK_AGAIN_S)
            self._refs[worker.actor.identity.remote()] = (worker, None)

    def _has_ray(self) -> bool:
        """Whether the raylet lives that this process talks to."""
        import ray

        home = ray.get_runtime_context().get_node_id()
        return any(node["Alive"] and node["NodeID"] == home for node in ray.nodes())

    def _hand_out(self, dispatch: Dispatch[_Worker], now: float) -> None:
        """Give units to all who have room, in rounds, so that nobody goes without while another one has two."""
        for _ in range(self._in_hand):
            free = [worker for worker in self._workers if worker.name and not worker.silent]
            for worker in sorted(free, key=dispatch.load):
                if (job := dispatch.take(worker, now)) is not None:
                    self._refs[worker.actor.run.remote(job.unit)] = (worker, job)

    def _greet(self, worker: _Worker, identity: dict[str, str] | None) -> None:
        """One has its place, or has loaded the model. Trust it if it runs the code that this process planned with."""
        if identity is None:
            worker.loading_since = time.monotonic()
            return
        if identity["sources_hash"] != sources_hash():
            raise PoolError(
                f"a worker on {identity.get('host', 'another host')} runs another version of strategies/ and workers/ "
                "than this process; install the same version there, or submit with `ray job submit --working-dir .`"
            )
        self._failed_starts = 0
        worker.loading_since = None
        worker.name = f"process {identity.get('pid', '?')} on {identity.get('host', '?')}"
        if not self._is_ready:
            self._is_ready = True
            self._on_ready()

    def _bury(
        self, worker: _Worker, error: Exception, dispatch: Dispatch[_Worker]
    ) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        """One is lost, or gives no answer: end it, and see to its units."""
        import ray

        ray.kill(worker.actor)  # it may only be out of reach, or hang, and hold its GPU for ever
        self._workers.discard(worker)
        self._refs = {ref: (other, job) for ref, (other, job) in self._refs.items() if other is not worker}
        reason = reason_of(error)
        if reason == MACHINE_GONE and not self._has_ray():
            raise PoolError(
                "Ray's process on this machine has ended, and no worker can start without it; what was answered is "
                "kept: give the same command again"
            )
        if not worker.name:
            self._on_event(f"a worker was lost while it loaded the model ({reason}); starting another")
            self._failed_starts += reason != MACHINE_GONE
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise PoolError(
                    f"{self._failed_starts} workers in a row were lost while loading the model ({reason}); "
                    f"{remedy_of(error)}"
                )
            return
        stuck = error.jobs if isinstance(error, NoAnswer) else ()
        loss = dispatch.lose(worker, machine=reason in (MACHINE_GONE, OUT_OF_REACH), stuck=stuck)
        what = f"{worker.name} was ended" if stuck else "a worker was lost"
        self._on_event(told_of(f"{what} ({reason})", loss))
        for unit in loss.given_up:
            yield unit, given_up(unit, error)


def _room(spec: EngineSpec, memory_bytes: float) -> int:
    """How many engines fit into half of the memory: their weights, in a wider type perhaps, and a process around."""
    weights = sum(file.stat().st_size for file in open_checkpoint(spec.model).files)
    return max(1, int(memory_bytes / 2 / (2 * weights + PROCESS_BYTES)))


def _ready(refs: Iterable[ObjectRef]) -> list[ObjectRef]:
    """All that is finished; waits for the first. Ray's default would return one, and leave the others unread."""
    import ray

    refs = list(refs)
    if not refs:
        time.sleep(GRACE_S)  # no worker, and no room for one
        return []
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
