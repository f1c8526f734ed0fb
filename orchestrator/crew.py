"""Engines that answer one sweep after the other: a model is loaded once for all sweeps that ask it.

A cluster takes seconds to start, weights to load, and both to go. So whoever knows the model early calls the engines
then and reads the benchmark beside it, and shows the results while the cluster goes. What is wrong with the benchmark
is told at once all the same: nobody waits for a cluster that is not needed.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import TracebackType

from orchestrator.cluster.given_up import end_with_process
from orchestrator.cluster.pool import LocalPool, Pool, PoolOptions
from orchestrator.cluster.ray_pool import RayPool
from orchestrator.cluster.seat import WithOwn
from orchestrator.ending import own_handler
from orchestrator.followers.base import Followers
from orchestrator.sweep.spec import SweepSpec
from results.timeline import Timeline

_COMING = threading.RLock()  # a process has one Ray at a time


class Crew(AbstractContextManager["Crew"]):
    """At most one pool at a time."""

    def __init__(
        self, options: PoolOptions, local: bool, stays: bool = False, timeline: Timeline | None = None
    ) -> None:
        """Nobody is hired yet.

        Args:
            options: Who answers.
            local: In this process, without Ray.
            stays: For other sweeps, after one that is answered.
            timeline: Of the run.
        """
        self._options, self._local = options, local
        self.stays = stays
        self.timeline = timeline or Timeline()
        self._pool: Pool | None = None
        self._called: Future[Pool] | None = None  # a pool that is being made
        self._spec: SweepSpec | None = None  # that the pool was last turned to
        self._followers: Followers | None = None  # of this sweep
        self._awaited = "model"  # what engines do before their first answer
        self._called_s = 0.0
        self._going: threading.Thread | None = None
        self._over = threading.Event()
        self._turn = threading.Lock()  # of who sets `_over` and who looks at it

    def call(self, spec: SweepSpec) -> None:
        """Have those come who will answer a sweep, beside what the caller does; `for_sweep` waits for them.

        What goes wrong is raised there. In this process nothing is called: the engine would take the caller's time. If
        the caller fails meanwhile, nobody waits: those who come then go at once, by themselves or with the process.
        """
        if self._local or self._pool is not None or self._called is not None:
            return
        called: Future[Pool] = Future()

        def make() -> None:
            with _COMING:
                try:
                    pool = self._made(spec)
                except BaseException as error:  # whatever it is: the thread that asks for the pool is told
                    called.set_exception(error)
                    return
                with self._turn:
                    if not self._over.is_set():
                        called.set_result(pool)
                if not called.done():
                    pool.close()
                    return
            self._over.wait()  # Linux ends Ray's processes with the thread that has started them

        self._called, self._spec = called, spec
        threading.Thread(target=make, name="saccade-call", daemon=True).start()

    def for_sweep(self, spec: SweepSpec, followers: Followers) -> Pool:
        """Those who answer a sweep: the same as before, where they have its model and know its rules and its benchmark.

        Args:
            spec: Of the sweep.
            followers: Told of losses, and when the first engine is ready.
        """
        self._followers = followers
        if self._called is not None:
            called, self._called = self._called, None
            with own_handler():  # Ray's, of the thread that starts it, is taken out where signals arrive
                self._pool = called.result()
            if self._spec == spec:
                return self._pool
        before = self._spec
        if self._pool is not None and before is not None:
            if (before.engine.model, before.rules, before.tasks) == (spec.engine.model, spec.rules, spec.tasks):
                self._awaited, self._called_s = "questions", self.timeline.now_s
                self._pool.turn_to(spec.engine)
                self._spec = spec
                return self._pool
            self._pool.close()
        self._pool, self._spec = self._made(spec), spec
        return self._pool

    def _made(self, spec: SweepSpec) -> Pool:
        options = self._options
        if spec.rules or spec.tasks:
            options = replace(options, engine=WithOwn(spec.rules, spec.tasks, options.engine))
        kind = LocalPool if self._local else RayPool
        with nullcontext() if self._local else self.timeline.span("Ray"), _COMING:
            pool = kind(spec.engine, options, on_event=self._event, on_ready=self._ready)
        self._awaited, self._called_s = "model", self.timeline.now_s
        pool.gather()
        return pool

    def release(self) -> None:
        """Let go of the engines, but not of their cluster."""
        if self._pool is not None:
            self._pool.release()

    def go(self) -> None:
        """End the cluster, beside what the caller does; `wait` and the block's end wait for it."""
        if self._pool is not None and self._going is None:
            pool = self._pool

            def close() -> None:
                with self.timeline.span("Ray's end"):
                    pool.close()

            self._pool = None
            self._going = threading.Thread(target=close, name="saccade-go", daemon=True)
            self._going.start()

    def wait(self) -> None:
        """Until a cluster that goes has gone."""
        if self._going is not None:
            self._going.join()

    def _event(self, line: str) -> None:
        assert self._followers is not None
        self._followers.event(line)

    def _ready(self) -> None:
        assert self._followers is not None
        self.timeline.add(self._awaited, self._called_s)
        self._followers.ready()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._called is not None:
            called, self._called = self._called, None
            with self._turn:
                if not called.done():
                    self._over.set()
                    end_with_process()
                    return
            if called.exception() is None:
                self._pool = called.result()
        self.wait()
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)
        self._over.set()
