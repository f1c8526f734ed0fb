"""Where units of work are answered: in this process, or by actors of a Ray cluster. One interface for both.

Only a lost machine or process is a reason to try again; an engine reports a sample it cannot answer in its outcome.
Ray is imported inside functions: `cluster.start_ray` comes before it, and `LocalPool` needs none.
"""

from __future__ import annotations

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from orchestrator.cluster import PoolError, resource, start_ray
from orchestrator.dispatch import Dispatch, Job
from orchestrator.limits import Limits, TimeLimit, alarm
from orchestrator.losses import MACHINE_GONE, OUT_OF_REACH, given_up, no_answer, reason_of, timed_out, told
from orchestrator.progress import duration
from orchestrator.seat import ENGINE, EngineFactory, Seat, engine_of
from workers.checkpoints.layout import open_checkpoint
from workers.fingerprint import sources_hash
from workers.models import ModelError
from workers.prefetch import ahead
from workers.tasks.base import DataError
from workers.work import EngineSpec, UnitOutcome, WorkUnit

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

log = logging.getLogger(f"saccade.{__name__}")

UNITS_OF_A_GPU = 3  # in flight: one for each lane (workers/lanes.py), and the next is there before it is needed
MAX_FAILED_STARTS = 3  # in a row, of workers that die before their first answer
GRACE_S = 1.0  # how often a waiting pool wakes up: Ctrl-C, a slow worker, a machine that has joined
STAFF_S = 5.0  # how often the cluster is asked how many workers it has room for
PATIENCE_S = 60.0  # without any worker, before that is said
PROCESS_BYTES = 2**30  # of an engine besides its weights
ASK_AGAIN_S = 0.2


class Pool(AbstractContextManager["Pool"]):
    """Answers units. Use it as a context manager."""

    workers: int

    @abstractmethod
    def results(self, units: Iterable[WorkUnit], tried: Collection[str] = ()) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        """Answer units, in any order, each exactly once; a unit may come back in parts.

        Args:
            units: Taken one by one, when there is somebody free to answer: what comes next may still be decided then.
            tried: Samples that gave no answer in time in an earlier run: they come last, each alone.

        Raises:
            ModelError, DataError: An engine could not be built.
            PoolError: There is nobody to answer.
        """

    def release(self) -> None:
        """Let go of the engines and what they hold; the cluster, which Tune's callbacks may use too, stays."""

    def close(self) -> None:
        """Let go of engines and cluster."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalPool(Pool):
    """One engine in this process: for debuggers, and where Ray is not wanted."""

    def __init__(
        self,
        spec: EngineSpec,
        engine: EngineFactory = ENGINE,
        device: str | None = None,
        *,
        limits: Limits | None = None,
        on_event: Callable[[str], None] = log.warning,
    ) -> None:
        self.workers = 1
        self._limits, self._on_event = limits or Limits(), on_event
        self._engine = engine_of(engine)(spec, device, None)

    def results(self, units: Iterable[WorkUnit], tried: Collection[str] = ()) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        if not self._engine.identity()["device"].startswith("cuda"):
            yield from self._one_by_one(Dispatch(units, 1, self._limits.sample_s, tried))
            return
        with ThreadPoolExecutor(UNITS_OF_A_GPU) as pool:  # several at a time, which nothing can break off
            yield from ahead(pool, lambda unit: (unit, self._engine.run(unit)), units, UNITS_OF_A_GPU)

    def _one_by_one(self, dispatch: Dispatch[None]) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        while (job := dispatch.take(None, time.monotonic())) is not None:
            limit = dispatch.limit(job)
            try:
                with alarm(limit):
                    outcome = self._engine.run(job.unit)
            except TimeLimit:
                loss = dispatch.lose(None, machine=False, stuck=[job])
                self._on_event(told(f"broken off ({no_answer(limit, [job])})", loss))
                for unit in loss.given_up:
                    yield unit, timed_out(unit, limit)
            else:
                dispatch.answer(None, job, time.monotonic())
                yield job.unit, outcome


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


class RayPool(Pool):
    """Actors on a Ray cluster, one engine each; a lost one is replaced and its units given out again.

    Each node's actors map the same safetensors files, so a node reads them from its disk once, and the page cache
    serves the others. Machines that join are used, and those that go not waited for.
    """

    def __init__(
        self,
        spec: EngineSpec,
        engine: EngineFactory = ENGINE,
        *,
        workers: int | None = None,
        address: str | None = None,
        gpus_per_worker: float | None = None,
        limits: Limits | None = None,
        on_event: Callable[[str], None] = log.warning,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Join or start a cluster. Actors start with the first unit.

        Args:
            spec: For every engine.
            engine: Class, or where it is.
            workers: Number of actors; by default as many as there is room for, now and whenever a machine joins: one
                for each GPU, or for each CPU core if memory allows.
            address: Of a running cluster; by default ``RAY_ADDRESS``, else a private cluster on this machine.
            gpus_per_worker: 0 .. 1; by default 1 where there are GPUs.
            limits: After which a worker counts as hanging, and is replaced.
            on_event: Told one line for each loss.
            on_ready: Called when the first engine is loaded.

        Raises:
            PoolError: There is no cluster at the address, or not what is asked of it.
        """
        self._owns_cluster = start_ray(address)
        self._actors: set[ActorHandle] = set()
        self._spec, self._engine, self._fixed = spec, engine, workers
        self._limits = limits or Limits()
        self._on_event, self._on_ready = on_event, on_ready
        try:
            self._share = self._fair_share(gpus_per_worker)
        except PoolError:
            self.close()
            raise
        self.workers = self._wanted()
        self._in_hand = UNITS_OF_A_GPU if self._share.gpus else 1
        self._staff: set[ActorHandle] = set()  # those that have answered
        self._refs: dict[ObjectRef, tuple[ActorHandle, Job | None]] = {}  # None: the actor is starting
        self._placing: set[ObjectRef] = set()  # those that say that an actor has a place
        self._loading: dict[ActorHandle, float] = {}  # since when
        self._names: dict[ActorHandle, str] = {}  # for people
        self._silent: set[ActorHandle] = set()  # out of reach: Ray does not know yet whether they live
        self._failed_starts = 0
        self._is_ready = False

    def results(self, units: Iterable[WorkUnit], tried: Collection[str] = ()) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        import ray

        dispatch: Dispatch[ActorHandle] = Dispatch(units, self._in_hand, self._limits.sample_s, tried)
        asked = -math.inf
        alone_since, said = time.monotonic(), False
        while not dispatch.finished:
            now = time.monotonic()
            if now - asked > STAFF_S:
                self._hire()
                asked = now
            self._hand_out(dispatch, now)
            if dispatch.finished:
                return
            lost: dict[ActorHandle, Exception] = {}
            for ref in _ready(self._refs):
                actor, job = self._refs.pop(ref)
                try:
                    value = ray.get(ref)
                except ray.exceptions.ActorUnavailableError:
                    self._ask_again(actor)
                    continue
                except _lost_errors() as error:
                    lost.setdefault(actor, error)
                    continue
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, ModelError | DataError):
                        raise error.cause from None
                    raise
                if actor in self._silent:  # alive after all, but what it answered meanwhile is lost
                    lost.setdefault(actor, ConnectionError(OUT_OF_REACH))
                elif ref in self._placing:
                    self._placing.discard(ref)
                    self._loading[actor] = now
                elif job is None:
                    self._greet(actor, value)
                elif dispatch.answer(actor, job, time.monotonic()):
                    yield job.unit, value
            for actor, cause in lost.items():
                yield from self._bury(actor, cause, dispatch)
            yield from self._end_the_stuck(dispatch)
            if lost:
                self._hire()
            if self._staff:
                alone_since, said = now, False
            elif not said and now - alone_since > PATIENCE_S:
                self._on_event(
                    "no worker is left: waiting until the cluster has room for one; what is finished is on disk"
                    if self._is_ready
                    else f"still waiting for the first of {self.workers} workers: loading, or no room in the cluster"
                )
                said = True

    def release(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = set()

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
        for _ in range(self._wanted() - len(self._actors)):
            actor: Any = remote.remote(self._engine, self._spec, share.threads, share.gpus)
            self._actors.add(actor)
            placed = actor.here.remote()
            self._placing.add(placed)
            self._refs[placed] = self._refs[actor.identity.remote()] = (actor, None)

    def _ask_again(self, actor: ActorHandle) -> None:
        """An actor is out of reach. The answer to another call says whether it is dead, and whether alone."""
        self._silent.add(actor)
        if (actor, None) not in self._refs.values():
            time.sleep(ASK_AGAIN_S)
            self._refs[actor.identity.remote()] = (actor, None)

    def _has_ray(self) -> bool:
        """Whether the raylet lives that this process talks to."""
        import ray

        home = ray.get_runtime_context().get_node_id()
        return any(node["Alive"] and node["NodeID"] == home for node in ray.nodes())

    def _hand_out(self, dispatch: Dispatch[ActorHandle], now: float) -> None:
        """Give units to all who have room, in rounds, so that nobody goes without while another one has two."""
        for _ in range(self._in_hand):
            for actor in sorted(self._staff - self._silent, key=dispatch.load):
                if (job := dispatch.take(actor, now)) is not None:
                    self._refs[actor.run.remote(job.unit)] = (actor, job)

    def _greet(self, actor: ActorHandle, identity: dict[str, str]) -> None:
        """Trust an actor only if it runs the code that this process planned with."""
        if identity["sources_hash"] != sources_hash():
            raise PoolError(
                f"a worker on {identity.get('host', 'another host')} runs other sources of strategies/ and workers/ "
                "than this process; install the same version there, or submit with `ray job submit --working-dir .`"
            )
        self._failed_starts = 0
        self._loading.pop(actor, None)
        self._staff.add(actor)
        self._names[actor] = f"process {identity.get('pid', '?')} on {identity.get('host', '?')}"
        if not self._is_ready:
            self._is_ready = True
            self._on_ready()

    def _end_the_stuck(self, dispatch: Dispatch[ActorHandle]) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        """Say who is waited for, and end whom nobody should wait for any more."""
        import ray

        now = time.monotonic()
        for actor, job, age in dispatch.slow(now):
            limit = duration(dispatch.limit(job))
            self._on_event(f"{self._names[actor]}: {no_answer(age, [job])}; it is replaced after {limit}")
        stuck = dispatch.stuck(now)
        for actor, jobs in stuck.items():
            own = [ref for ref, (other, _) in self._refs.items() if other is actor]
            if own and ray.wait(own, timeout=0)[0]:
                continue  # it has answered: it was this process that was held up
            limit_s = max(dispatch.limit(job) for job in jobs)
            yield from self._bury(actor, TimeoutError(no_answer(limit_s, jobs)), dispatch, jobs, limit_s)
        slow = [actor for actor, since in self._loading.items() if now - since > self._limits.load_s]
        for actor in slow:
            error = TimeoutError(f"the model was not there after {duration(self._limits.load_s)}")
            yield from self._bury(actor, error, dispatch)
        if stuck or slow:
            self._hire()

    def _bury(
        self,
        actor: ActorHandle,
        error: Exception,
        dispatch: Dispatch[ActorHandle],
        stuck: Collection[Job] = (),
        limit_s: float = 0.0,
    ) -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        """An actor is lost, or was ended because it was ``stuck`` over some jobs: see to its units."""
        import ray

        ray.kill(actor)  # it may only be out of reach, and hold its GPU for ever
        self._actors.discard(actor)
        self._silent.discard(actor)
        self._loading.pop(actor, None)
        self._refs = {ref: (other, job) for ref, (other, job) in self._refs.items() if other is not actor}
        self._placing &= self._refs.keys()
        reason = str(error) if isinstance(error, TimeoutError) else reason_of(error)
        if reason == MACHINE_GONE and not self._has_ray():
            raise PoolError(
                "Ray's process on this machine has ended, and no worker can start without it; what was answered is "
                "kept: give the same command again"
            )
        if actor not in self._staff:
            self._on_event(f"a worker was lost while it loaded the model ({reason}); starting another")
            self._failed_starts += reason != MACHINE_GONE
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise PoolError(
                    f"{self._failed_starts} workers in a row were lost while loading the model ({reason}); "
                    "is there memory enough? Fewer --workers need less"
                )
            return
        self._staff.discard(actor)
        name = self._names.pop(actor)
        loss = dispatch.lose(actor, machine=reason in (MACHINE_GONE, OUT_OF_REACH), stuck=stuck)
        self._on_event(told(f"{name} was ended ({reason})" if stuck else f"a worker was lost ({reason})", loss))
        for unit in loss.given_up:
            yield unit, timed_out(unit, limit_s) if stuck else given_up(unit, reason)


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
