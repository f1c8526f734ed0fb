"""A pool on several machines that come and go: raylets of this host with made-up GPUs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import orchestrator.cluster.ray_pool
from fake_experiment import fake_manifest, fake_points
from orchestrator.cluster.joining import PoolError, has_gpu, join_named
from orchestrator.cluster.pool import LocalPool, PoolOptions
from orchestrator.cluster.ray_pool import RayPool
from ray_cluster import machines
from stub_engine import StubEngine
from waiting import PATIENCE_S
from workers.work import EngineSpec, UnitOutcome, WorkUnit

pytestmark = [pytest.mark.ray, pytest.mark.system]

POINTS = fake_points()
Results = list[tuple[WorkUnit, UnitOutcome]]


class Feed:
    """Units for as long as a test needs: machines take their time to come up, more of it on a busy host."""

    def __init__(self, at_least: int = 24) -> None:
        self.given: list[WorkUnit] = []
        self.results: Results = []
        self._at_least, self._enough = at_least, False

    def __iter__(self) -> Iterator[WorkUnit]:
        deadline = time.monotonic() + PATIENCE_S
        while len(self.given) < self._at_least or not self._enough:
            assert time.monotonic() < deadline, "it did not come to pass"
            first = 2 * len(self.given)
            self.given.append(WorkUnit(samples=(f"s{first}", f"s{first + 1}"), points=POINTS))
            yield self.given[-1]

    def enough(self) -> None:
        self._enough = True

    def answered_by(self, pool: RayPool) -> Iterator[int]:
        """Number of results so far, after each."""
        for result in pool.results(self):
            self.results.append(result)
            yield len(self.results)

    @property
    def seats(self) -> set[str]:
        """Node, GPU and process of whoever has answered."""
        return {outcome.worker for _, outcome in self.results}

    @property
    def gpus(self) -> set[str]:
        return {seat.rpartition(" ")[0] for seat in self.seats}

    def check(self, spec: EngineSpec) -> None:
        """All units answered, each once, as an undisturbed pool answers them."""
        with LocalPool(spec, PoolOptions(engine=StubEngine)) as pool:
            assert cells(self.results) == cells(list(pool.results(self.given)))
        assert Counter(unit.key for unit, _ in self.results) == Counter(unit.key for unit in self.given)


def cells(results: Results) -> list[tuple[str, str, str]]:
    return sorted((cell.sample, cell.point, cell.answer) for _, outcome in results for cell in outcome.outcomes)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without GPUs and two machines of two GPUs each."""
    with machines(2, 2) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrator.cluster.ray_pool, "STAFF_S", 0.5)


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    spec = fake_manifest(POINTS).engine
    return replace(spec, task=replace(spec.task, data=str(tmp_path)))


def test_every_gpu_of_the_cluster_has_an_actor(cluster, spec):
    join_named(None)
    assert has_gpu()  # though this process, on the head, has none
    feed = Feed()
    with RayPool(spec, PoolOptions(engine="stub_engine:Seated")) as pool:
        assert pool.workers == 4
        for _ in feed.answered_by(pool):
            if len(feed.seats) == 4:
                feed.enough()
    feed.check(spec)
    assert len(feed.gpus) == 4  # none has two


def test_two_actors_share_a_gpu(cluster, spec):
    feed = Feed()
    with RayPool(spec, PoolOptions(engine="stub_engine:Seated", gpus_per_worker=0.5)) as pool:
        assert pool.workers == 8
        for _ in feed.answered_by(pool):
            if len(feed.seats) == 8:
                feed.enough()
    feed.check(spec)
    assert len(feed.gpus) == 4


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_is_a_part_of_a_gpu(cluster, spec, share):
    with pytest.raises(PoolError, match=f"--gpus-per-worker {share}: give a part of a GPU"):
        RayPool(spec, PoolOptions(engine=StubEngine, gpus_per_worker=share))


def test_machines_that_join_are_used_and_those_that_vanish_are_not_waited_for(cluster, spec):
    """A machine joins in the middle; when it has answered, it goes with all that it has in hand."""
    feed, events = Feed(), []
    with RayPool(spec, PoolOptions(engine="stub_engine:Seated"), on_event=events.append) as pool:
        for count in feed.answered_by(pool):
            if count == 8:
                joined = cluster.add_node(num_cpus=4, num_gpus=2)
            if len(feed.gpus) == 6 and joined:
                cluster.remove_node(joined, allow_graceful=False)
                joined = None
            if events:
                feed.enough()
    feed.check(spec)
    assert not any(outcome.failures for _, outcome in feed.results)
    assert events
    assert all("its machine is gone" in event for event in events), events  # charged to no unit


def test_a_pool_that_nobody_is_left_in_says_so_and_waits(cluster, spec, monkeypatch):
    monkeypatch.setattr(orchestrator.cluster.ray_pool, "PATIENCE_S", 2.0)
    feed, events = Feed(), []

    def hear(event: str) -> None:
        events.append(event)
        if event.startswith("no worker is left: waiting until the cluster has room for one"):
            feed.enough()
            for _ in range(2):
                cluster.add_node(num_cpus=4, num_gpus=2)

    with RayPool(spec, PoolOptions(engine="stub_engine:Seated"), on_event=hear) as pool:
        for count in feed.answered_by(pool):
            if count == 4:
                for node in list(cluster.worker_nodes):
                    cluster.remove_node(node, allow_graceful=False)
    feed.check(spec)
    assert sum("no worker is left" in event for event in events) == 1
    assert not any(outcome.failures for _, outcome in feed.results)


def test_a_silent_worker_does_not_hold_up_the_end(cluster, spec, monkeypatch):
    monkeypatch.setattr("orchestrator.cluster.dispatch.SLOW_S", 1.0)
    feed = Feed()
    feed.enough()
    with RayPool(spec, PoolOptions(engine="stub_engine:SilentEngine")) as pool:  # who would sleep for an hour
        assert list(feed.answered_by(pool))[-1] == 24
    feed.check(spec)
