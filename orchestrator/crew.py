"""Engines that answer one sweep after the other: a model is loaded once for all sweeps that ask it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType

from orchestrator.cluster.pool import LocalPool, Pool, PoolOptions
from orchestrator.cluster.ray_pool import RayPool
from orchestrator.cluster.seat import WithOwn
from orchestrator.followers.base import Followers
from orchestrator.sweep.spec import SweepSpec


class Crew(AbstractContextManager["Crew"]):
    """At most one pool at a time."""

    def __init__(self, options: PoolOptions, local: bool) -> None:
        """Nobody is hired yet.

        Args:
            options: Who answers.
            local: In this process, without Ray.
        """
        self._options, self._local = options, local
        self._pool: Pool | None = None
        self._spec: SweepSpec | None = None  # that the pool was last turned to
        self._followers: Followers | None = None  # of this sweep

    def for_sweep(self, spec: SweepSpec, followers: Followers) -> Pool:
        """Those who answer a sweep: the same as before, where they have its model and know its rules and its benchmark.

        Args:
            spec: Of the sweep.
            followers: Told of losses, and when the first engine is ready.
        """
        self._followers = followers
        before = self._spec
        if self._pool is not None and before is not None:
            if (before.engine.model, before.rules, before.tasks) == (spec.engine.model, spec.rules, spec.tasks):
                self._pool.turn_to(spec.engine)
                self._spec = spec
                return self._pool
            self._pool.close()
        options = self._options
        if spec.rules or spec.tasks:
            options = replace(options, engine=WithOwn(spec.rules, spec.tasks, options.engine))
        kind = LocalPool if self._local else RayPool
        self._pool = kind(spec.engine, options, on_event=self._event, on_ready=self._ready)
        self._spec = spec
        return self._pool

    def release(self) -> None:
        """Let go of the engines, but not of their cluster."""
        if self._pool is not None:
            self._pool.release()

    def _event(self, line: str) -> None:
        assert self._followers is not None
        self._followers.event(line)

    def _ready(self) -> None:
        assert self._followers is not None
        self._followers.ready()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)
