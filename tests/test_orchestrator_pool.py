"""Pools: every unit answered once, whatever happens to the workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import orchestrator.cluster.ray_pool
import stub_engine
from fake_experiment import fake_manifest, fake_points
from orchestrator.cluster.joining import PoolError
from orchestrator.cluster.limits import Limits
from orchestrator.cluster.pool import LocalPool, PoolOptions
from orchestrator.cluster.ray_pool import RayPool
from orchestrator.cluster.seat import WithOwn
from own_rules import PEAKED, forgotten
from own_tasks import MY_TASK, forgotten_tasks
from processes import alive
from ray_cluster import local_cluster
from strategies.own import from_text, travelling
from waiting import wait_for
from workers.families.config import ModelError
from workers.tasks import own as own_tasks
from workers.work import EngineSpec, UnitOutcome, WorkUnit

POINTS = fake_points()
UNITS = tuple(
    WorkUnit(samples=tuple(f"s{place}" for place in range(first, first + 3)), points=POINTS)
    for first in range(0, 15, 3)
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_cluster():
        yield


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    spec = fake_manifest(POINTS).engine
    return replace(spec, task=replace(spec.task, data=str(tmp_path)))


def cells(results: list[tuple[WorkUnit, UnitOutcome]]) -> list[tuple[str, str, str]]:
    return sorted((cell.sample, cell.point, cell.answer) for _, outcome in results for cell in outcome.outcomes)


@pytest.fixture
def expected(spec: EngineSpec) -> list[tuple[str, str, str]]:
    with LocalPool(spec, PoolOptions(engine=stub_engine.StubEngine)) as pool:
        return cells(list(pool.results(UNITS)))


def hangs(spec: EngineSpec) -> list[str]:
    """Of each sample or worker that hangs, a mark."""
    return sorted(mark.name for mark in Path(spec.task.data).glob("hangs-*"))


@pytest.fixture
def hours(spec: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour passes whenever somebody begins to hang; with one worker nothing else is under way then."""
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600 * len(hangs(spec)), sleep=time.sleep)
    monkeypatch.setattr(orchestrator.cluster.ray_pool, "time", clock)


def test_local_pool_answers_each_unit_once_in_order(spec, expected):
    assert len(expected) == len(set(expected)) == 15 * len(POINTS)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense"])
def test_no_cluster_at_the_address_is_said_at_once(spec, address):
    with pytest.raises(PoolError, match=f"{address}"):
        RayPool(spec, PoolOptions(engine=stub_engine.StubEngine, workers=1, address=address))


@pytest.mark.ray
class TestRayPool:
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: None) -> None: ...

    def test_answers_equal_those_of_the_local_pool(self, spec, expected):
        with RayPool(spec, PoolOptions(engine="stub_engine:StubEngine", workers=2)) as pool:
            assert cells(list(pool.results(UNITS))) == expected

    def test_turns_to_another_benchmark_with_the_engines_that_are_there(self, spec):
        other, ready = replace(spec, task=replace(spec.task, data="/other")), []
        options = PoolOptions(engine=stub_engine.Asked, workers=2)
        with RayPool(spec, options, on_ready=lambda: ready.append(1)) as pool:
            first = {outcome.worker for _, outcome in pool.results(UNITS)}
            pool.turn_to(other)
            second = {outcome.worker for _, outcome in pool.results(UNITS)}
        assert {worker.split()[0] for worker in first} == {spec.task.data}
        assert second == {"/other 1"}  # by a process that has made one engine
        assert len(ready) == 2

    def test_units_are_taken_only_when_somebody_is_free(self, spec):
        taken = []

        def units() -> Iterator[WorkUnit]:
            for unit in UNITS:
                taken.append(unit.key)
                yield unit

        with RayPool(spec, PoolOptions(engine=stub_engine.SlowEngine, workers=1)) as pool:
            results = pool.results(units())
            next(results)
            assert len(taken) <= 2
            assert len(list(results)) == len(UNITS) - 1

    def test_a_killed_worker_changes_nothing(self, spec, expected):
        events: list[str] = []
        with RayPool(spec, PoolOptions(engine=stub_engine.DyingEngine, workers=2), on_event=events.append) as pool:
            results = list(pool.results(UNITS))
        assert cells(results) == expected
        assert len(events) == 1
        assert "a worker was lost (its process ended without a word: killed, or out of memory)" in events[0]

    def test_a_poisonous_sample_fails_alone(self, spec, expected):
        events: list[str] = []
        with RayPool(spec, PoolOptions(engine=stub_engine.PoisonedEngine, workers=2), on_event=events.append) as pool:
            results = list(pool.results(UNITS))
        failures = [failure for _, outcome in results for failure in outcome.failures]
        assert [(failure.sample, failure.kind) for failure in failures] == [("s5", "WorkerLost")]
        assert cells(results) == [cell for cell in expected if cell[0] != "s5"]
        assert len(events) == 3

    @pytest.mark.usefixtures("hours")
    @pytest.mark.system
    def test_a_sample_that_never_answers_is_a_record_and_its_worker_is_replaced(self, spec, expected):
        events: list[str] = []
        with RayPool(spec, PoolOptions(engine=stub_engine.HangingEngine, workers=1), on_event=events.append) as pool:
            results = list(pool.results(UNITS))
        failures = [failure for _, outcome in results for failure in outcome.failures]
        assert [(failure.sample, failure.kind) for failure in failures] == [("s5", "NoAnswer")]
        assert failures[0].message == "no answer within 10 min 00 s; --sample-timeout changes that"
        assert cells(results) == [cell for cell in expected if cell[0] != "s5"]
        first, alone = (mark.rpartition("-") for mark in hangs(spec))
        assert (first[0], alone[0]) == ("hangs-s3-s4-s5", "hangs-s5")
        ended = [event for event in events if "was ended" in event]
        assert len(ended) == 2
        assert ended[0].startswith(f"process {first[2]} on ")
        assert "(no answer for 10 min 00 s over 3 samples, s3 to s5), 3 samples tried again, one by one" in ended[0]
        assert "(no answer for 10 min 00 s over sample s5), 1 sample recorded as failed" in ended[1]
        wait_for(lambda: not alive({int(first[2]), int(alone[2])}))

    @pytest.mark.system
    @pytest.mark.usefixtures("hours")
    def test_a_stopped_worker_is_replaced_and_no_sample_blamed(self, spec, expected):
        with RayPool(spec, PoolOptions(engine=stub_engine.StoppedEngine, workers=1)) as pool:
            assert cells(list(pool.results(UNITS))) == expected
        (mark,) = hangs(spec)
        wait_for(lambda: not alive({int(mark.removeprefix("hangs-"))}))

    @pytest.mark.system
    def test_a_model_that_never_loads_is_not_waited_for(self, spec, expected):
        events: list[str] = []
        limits = Limits(load_s=5)
        with RayPool(
            spec, PoolOptions(engine=stub_engine.NeverLoaded, workers=1, limits=limits), on_event=events.append
        ) as pool:
            assert cells(list(pool.results(UNITS))) == expected
        assert "a worker was lost while it loaded the model (the model was not there after 5 s)" in events[0]

    @pytest.mark.system
    def test_a_model_that_does_not_fit_is_tried_again_and_then_told(self, spec):
        events: list[str] = []
        with (
            RayPool(spec, PoolOptions(engine=stub_engine.NoMemory, workers=1), on_event=events.append) as pool,
            pytest.raises(PoolError, match=r"3 workers in a row .*MemoryError: cannot allocate 14 GB.*Fewer --workers"),
        ):
            list(pool.results(UNITS))
        assert len(events) == 3

    def test_a_broken_model_is_told_as_it_was_raised(self, spec):
        with (
            RayPool(spec, PoolOptions(engine=stub_engine.BrokenModel, workers=2)) as pool,
            pytest.raises(ModelError) as caught,
        ):
            list(pool.results(UNITS))
        assert str(caught.value) == (
            "/models/x/model.safetensors: is truncated, 12 bytes are missing; download it again"
        )

    def test_whatever_loading_raises_is_told_at_once(self, spec):
        events = []
        with (
            RayPool(spec, PoolOptions(engine=stub_engine.FaultyLoader, workers=2), on_event=events.append) as pool,
            pytest.raises(PoolError, match=r"load the model: ZeroDivisionError: float division by zero \(.*stub_"),
        ):
            list(pool.results(UNITS))
        assert events == []

    def test_other_sources_on_a_worker_are_refused(self, spec):
        with (
            RayPool(spec, PoolOptions(engine=stub_engine.OtherSources, workers=1)) as pool,
            pytest.raises(PoolError, match="a worker on node-7 runs another version of strategies/ and workers/"),
        ):
            list(pool.results(UNITS))

    def test_our_own_bugs_keep_their_type_and_traceback(self, spec):
        with (
            RayPool(spec, PoolOptions(engine=stub_engine.BuggyEngine, workers=1)) as pool,
            pytest.raises(IndexError, match=r"stub_engine\.py"),
        ):
            list(pool.results(UNITS))

    def test_nothing_to_do_starts_no_actor(self, spec):
        with RayPool(spec, PoolOptions(engine=stub_engine.BrokenModel, workers=1)) as pool:
            assert list(pool.results([])) == []


@pytest.mark.ray
def test_rules_and_benchmarks_of_a_users_own_go_to_the_workers_with_the_job(cluster, spec):
    with forgotten():
        from_text("my_rule.py", PEAKED, "my_rule")
        rules = travelling(["my_rule.py:my_rule"])
    with forgotten_tasks():
        own_tasks.from_text("my_task.py", MY_TASK, "load")
        tasks = own_tasks.travelling("my_task.py:load")
    engine = WithOwn(rules, tasks, f"{stub_engine.MODULE}:KnowingEngine")
    with RayPool(spec, PoolOptions(engine=engine, workers=1)) as pool:
        assert len(list(pool.results(UNITS[:1]))) == 1
