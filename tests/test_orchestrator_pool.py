"""Pools: every unit answered once, whatever happens to the workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import stub_engine
from fake_experiment import fake_manifest, fake_points
from orchestrator.limits import Limits
from orchestrator.pool import LocalPool, PoolError, RayPool
from processes import gone
from ray_cluster import local_cluster
from workers.models import ModelError
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
    with LocalPool(spec, stub_engine.StubEngine) as pool:
        return cells(list(pool.results(UNITS)))


def tries(spec: EngineSpec) -> int:
    return len(list(Path(spec.task.data).glob("try-*")))


def test_a_sample_that_never_answers_is_broken_off_in_this_process_too(spec, expected):
    """Twice, the second time alone; and once where an earlier run has tried."""
    for tried in ((), ("s5",)):
        before, events = tries(spec), []
        pool = LocalPool(spec, stub_engine.HangingEngine, limits=Limits(sample_s=1), on_event=events.append)
        results = list(pool.results(UNITS, tried))
        failures = [failure for _, outcome in results for failure in outcome.failures]
        assert [(failure.sample, failure.kind) for failure in failures] == [("s5", "TimeoutError")]
        assert "no answer within 1 s; --sample-timeout" in failures[0].message
        assert cells(results) == [cell for cell in expected if cell[0] != "s5"]
        assert tries(spec) - before == len(events) == (1 if tried else 2)
        assert results[-1][0].samples == ("s5",) or not tried, "what hung before comes last"


def test_local_pool_answers_each_unit_once_in_order(spec, expected):
    assert len(expected) == len(set(expected)) == 15 * len(POINTS)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense"])
def test_no_cluster_at_the_address_is_said_at_once(spec, address):
    with pytest.raises(PoolError, match=f"{address}"):
        RayPool(spec, stub_engine.StubEngine, workers=1, address=address)


@pytest.mark.ray
class TestRayPool:
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: None) -> None: ...

    def test_answers_equal_those_of_the_local_pool(self, spec, expected):
        with RayPool(spec, "stub_engine:StubEngine", workers=2) as pool:
            assert cells(list(pool.results(UNITS))) == expected

    def test_units_are_taken_only_when_somebody_is_free(self, spec):
        taken = []

        def units() -> Iterator[WorkUnit]:
            for unit in UNITS:
                taken.append(unit.key)
                yield unit

        with RayPool(spec, stub_engine.SlowEngine, workers=1) as pool:
            results = pool.results(units())
            next(results)
            assert len(taken) <= 2
            assert len(list(results)) == len(UNITS) - 1

    def test_a_killed_worker_changes_nothing(self, spec, expected):
        events: list[str] = []
        with RayPool(spec, stub_engine.DyingEngine, workers=2, on_event=events.append) as pool:
            results = list(pool.results(UNITS))
        assert cells(results) == expected
        assert len(events) == 1
        assert "a worker was lost (its process ended without a word: killed, or out of memory)" in events[0]

    def test_a_poisonous_sample_fails_alone(self, spec, expected):
        events: list[str] = []
        with RayPool(spec, stub_engine.PoisonedEngine, workers=2, on_event=events.append) as pool:
            results = list(pool.results(UNITS))
        failures = [failure for _, outcome in results for failure in outcome.failures]
        assert [(failure.sample, failure.kind) for failure in failures] == [("s5", "WorkerLost")]
        assert cells(results) == [cell for cell in expected if cell[0] != "s5"]
        assert len(events) == 3

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_sample_that_never_answers_is_a_record_and_its_workers_are_replaced(self, spec, expected, workers):
        events: list[str] = []
        limits = Limits(sample_s=4)
        with RayPool(spec, stub_engine.HangingEngine, workers=workers, limits=limits, on_event=events.append) as pool:
            results = list(pool.results(UNITS))
        failures = [failure for _, outcome in results for failure in outcome.failures]
        assert [(failure.sample, failure.kind) for failure in failures] == [("s5", "TimeoutError")]
        assert cells(results) == [cell for cell in expected if cell[0] != "s5"]
        assert any("no answer for" in event and "3 samples, s3 to s5; it is replaced" in event for event in events)
        assert any(event.startswith("process ") and event.endswith("tried again, one by one") for event in events)
        assert any("over sample s5), 1 sample recorded as failed" in event for event in events)
        assert tries(spec) <= 4, "the unit and the sample, each with a second worker at most"

    def test_a_stopped_worker_is_replaced(self, spec, expected):
        with RayPool(spec, stub_engine.StoppedEngine, workers=1, limits=Limits(sample_s=4)) as pool:
            assert cells(list(pool.results(UNITS))) == expected
        assert gone({int((Path(spec.task.data) / "stopped").read_text())}, within_s=60)

    def test_a_model_that_never_loads_is_not_waited_for(self, spec, expected):
        events: list[str] = []
        limits = Limits(load_s=5)
        with RayPool(spec, stub_engine.NeverLoaded, workers=1, limits=limits, on_event=events.append) as pool:
            assert cells(list(pool.results(UNITS))) == expected
        assert any("the model was not there after 5 s); starting another" in event for event in events)

    def test_a_broken_model_is_told_as_it_was_raised(self, spec):
        with RayPool(spec, stub_engine.BrokenModel, workers=2) as pool, pytest.raises(ModelError) as caught:
            list(pool.results(UNITS))
        assert str(caught.value) == (
            "/models/x/model.safetensors: is truncated, 12 bytes are missing; download it again"
        )

    def test_other_sources_on_a_worker_are_refused(self, spec):
        with (
            RayPool(spec, stub_engine.OtherSources, workers=1) as pool,
            pytest.raises(PoolError, match="a worker on node-7 runs other sources of strategies/ and workers/"),
        ):
            list(pool.results(UNITS))

    def test_our_own_bugs_keep_their_type_and_traceback(self, spec):
        with (
            RayPool(spec, stub_engine.BuggyEngine, workers=1) as pool,
            pytest.raises(IndexError, match=r"stub_engine\.py"),
        ):
            list(pool.results(UNITS))

    def test_nothing_to_do_starts_no_actor(self, spec):
        with RayPool(spec, stub_engine.BrokenModel, workers=1) as pool:
            assert list(pool.results([])) == []
