"""Every unit is answered once or given up, whoever is lost, slow or silent; told in steps, without a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_experiment import fake_points
from orchestrator.cluster.dispatch import MAX_LOSSES, SLOW, Dispatch, Job, Loss
from orchestrator.cluster.limits import TIMES_USUAL
from workers.work import WorkUnit

POINTS = fake_points()[:2]
IN_HAND = 2


def make_units(count: int, size: int = 3) -> list[WorkUnit]:
    names = [f"s{place}" for place in range(count * size)]
    return [WorkUnit(samples=tuple(names[i : i + size]), points=POINTS) for i in range(0, len(names), size)]


def taken(dispatch: Dispatch[str], worker: str, now: float = 0.0) -> Job:
    job = dispatch.take(worker, now)
    assert job is not None
    return job


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_sample_is_answered_once_whatever_happens(data: st.DataObject) -> None:
    """Workers join, answer, die, and vanish with their machines in any order; in the end one good worker remains."""
    units = make_units(data.draw(st.integers(0, 8)))
    tried = data.draw(st.sets(st.sampled_from([f"s{place}" for place in range(24)])))
    dispatch: Dispatch[int] = Dispatch(units, IN_HAND, tried=tried)
    answered: Counter[str] = Counter()
    given_up: Counter[str] = Counter()
    hands: dict[int, list[Job]] = {0: []}
    now, joined = 0.0, 1

    def take(worker: int) -> None:
        while (job := dispatch.take(worker, now)) is not None:
            assert not any(other.losses for other in hands[worker])
            assert not (job.losses and hands[worker])
            hands[worker].append(job)
        assert len(hands[worker]) <= IN_HAND

    def answer(worker: int, place: int) -> None:
        job = hands[worker].pop(place)
        if dispatch.answer(worker, job, now):
            answered.update(job.unit.samples)

    for _ in range(data.draw(st.integers(0, 60))):
        now += data.draw(st.sampled_from([0.1, 1.0, 30.0]))
        worker = data.draw(st.sampled_from(sorted(hands)))
        act = data.draw(st.sampled_from(["take", "take", "answer", "answer", "die", "vanish", "hang", "join"]))
        if act == "take":
            take(worker)
        elif act == "answer" and hands[worker]:
            answer(worker, data.draw(st.integers(0, len(hands[worker]) - 1)))
        elif act in ("die", "vanish", "hang") and len(hands) > 1:
            stuck = hands.pop(worker)[:1] if act == "hang" else []
            hands.pop(worker, None)
            loss = dispatch.lose(worker, machine=act == "vanish", stuck=stuck)
            given_up.update(sample for unit in loss.given_up for sample in unit.samples)
        elif act == "join":
            hands[joined] = []
            joined += 1
    for _ in range(200):
        if dispatch.finished:
            break
        now += 1e4
        for worker in sorted(hands):
            take(worker)
            while hands[worker]:
                answer(worker, 0)
    assert dispatch.finished
    assert answered + given_up == Counter(sample for unit in units for sample in unit.samples)
    assert dispatch.take(99, now) is None


@pytest.mark.parametrize("poison", [{"s4"}, {"s0", "s1", "s2"}, {"s3", "s11"}])
def test_poison_costs_its_own_samples_and_nobody_elses(poison):
    dispatch: Dispatch[int] = Dispatch(make_units(4), IN_HAND)
    given_up: list[str] = []
    answered: list[str] = []
    losses = 0
    for worker in range(100):
        while not dispatch.finished:
            jobs = []
            while (job := dispatch.take(worker, 0.0)) is not None:
                jobs.append(job)
            if any(sample in poison for sample in jobs[0].unit.samples):
                losses += 1
                given_up += [s for unit in dispatch.lose(worker, machine=False).given_up for s in unit.samples]
                break
            for job in jobs[:1]:
                assert dispatch.answer(worker, job, 1.0)
                answered += job.unit.samples
            dispatch.lose(worker, machine=True)  # start afresh with empty hands
    assert sorted(given_up) == sorted(poison)
    assert sorted(answered + given_up) == sorted(s for unit in make_units(4) for s in unit.samples)
    assert losses <= 2 * MAX_LOSSES + len(poison)


def test_units_are_taken_when_somebody_is_free():
    seen: list[WorkUnit] = []

    def units() -> Iterator[WorkUnit]:
        for unit in make_units(5):
            seen.append(unit)
            yield unit

    dispatch: Dispatch[str] = Dispatch(units(), IN_HAND)
    assert len(seen) == 1
    taken(dispatch, "a")
    assert len(seen) == 1
    second = taken(dispatch, "a")
    assert len(seen) == 2
    assert dispatch.take("a", 0.0) is None  # hands full
    dispatch.answer("a", second, 1.0)
    taken(dispatch, "a")
    assert len(seen) == 3


def test_a_machine_that_goes_is_no_units_fault():
    dispatch: Dispatch[int] = Dispatch(make_units(2), IN_HAND)
    for worker in range(8):
        jobs = [taken(dispatch, worker), taken(dispatch, worker)]
        assert dispatch.lose(worker, machine=True) == Loss(again=6)
        assert [job.losses for job in jobs] == [0, 0]
    for worker in range(8, 16):  # but a unit under which machine after machine dies is suspected after all
        while dispatch.take(worker, 0.0):
            pass
        loss = dispatch.lose(worker, machine=True)
    assert loss.singly or loss.given_up


def test_a_suspect_is_tried_alone():
    dispatch: Dispatch[str] = Dispatch(make_units(4), IN_HAND)
    taken(dispatch, "a"), taken(dispatch, "a"), taken(dispatch, "b")
    assert dispatch.lose("a", machine=False) == Loss(again=6)
    beside = taken(dispatch, "b")
    assert not beside.losses  # b has something in hand, so it gets what is innocent
    suspect = taken(dispatch, "c")
    assert suspect.losses == 1
    assert dispatch.take("c", 0.0) is None


def test_at_the_end_the_free_answer_what_lies_behind_another_or_takes_too_long():
    dispatch: Dispatch[str] = Dispatch(make_units(5), 3)
    first, second, behind = (taken(dispatch, "slow") for _ in range(3))  # two are at work at a time
    jobs = [taken(dispatch, "quick"), taken(dispatch, "quick")]
    for job in jobs:
        assert dispatch.answer("quick", job, 10.0)
    assert taken(dispatch, "quick", 10.0) is behind
    assert dispatch.answer("quick", behind, 20.0)
    assert dispatch.take("quick", 10 * SLOW - 1) is None  # not long enough yet
    assert taken(dispatch, "quick", 10 * SLOW + 1) is first
    assert not dispatch.finished
    assert dispatch.answer("quick", first, 40.0)
    assert taken(dispatch, "quick", 41.0) is second
    assert dispatch.answer("quick", second, 42.0)
    assert dispatch.finished
    assert not dispatch.answer("slow", first, 50.0)  # too late, and not counted
    assert dispatch.lose("slow", machine=False) == Loss()


def test_who_gives_no_answer_is_named_and_its_units_are_cut_at_once():
    dispatch: Dispatch[str] = Dispatch(make_units(3), 3, limit_s=100)
    first, second, behind = (taken(dispatch, "a") for _ in range(3))
    assert dispatch.answer("a", second, 3.0)  # two are at work at a time, and now the third
    assert dispatch.slow(9.0) == []
    assert dispatch.slow(11.0) == [("a", first, 11.0)]
    assert dispatch.slow(12.0) == []  # said once
    assert dispatch.stuck(99.0) == {}
    assert dispatch.stuck(101.0) == {"a": [first]}
    assert dispatch.lose("a", machine=False, stuck=[first]) == Loss(again=6, singly=True)
    assert (first.losses, behind.losses, behind.moves) == (MAX_LOSSES - 1, 0, 1)
    alone = taken(dispatch, "b", 200.0)
    assert alone.unit.samples == ("s0",)
    assert dispatch.stuck(301.0) == {"b": [alone]}
    assert dispatch.lose("b", machine=False, stuck=[alone]) == Loss(given_up=(alone.unit,))


def test_where_units_take_long_more_is_allowed():
    dispatch: Dispatch[str] = Dispatch(make_units(3), 1, limit_s=100)
    assert dispatch.answer("a", taken(dispatch, "a"), 50.0)
    slow = taken(dispatch, "a", 50.0)
    assert dispatch.stuck(50.0 + TIMES_USUAL * 50 - 1) == {}
    assert dispatch.stuck(50.0 + TIMES_USUAL * 50 + 1) == {"a": [slow]}


def test_samples_that_hung_before_come_last_alone_and_once():
    dispatch: Dispatch[str] = Dispatch(make_units(3), 2, tried={"s1", "s6", "s7", "s8"})
    seen = []
    while (job := dispatch.take("a", 0.0)) is not None:
        seen.append(job.unit.samples)
        if job.losses:
            assert dispatch.take("a", 0.0) is None
            assert dispatch.lose("a", machine=False, stuck=[job]).given_up == (job.unit,)
        else:
            assert dispatch.answer("a", job, 1.0)
    assert seen == [("s0", "s2"), ("s3", "s4", "s5"), ("s1",), ("s6",), ("s7",), ("s8",)]
    assert dispatch.finished


def test_at_the_end_what_hangs_takes_two_workers_and_then_one():
    dispatch: Dispatch[int] = Dispatch(make_units(3), 1, limit_s=100)
    for _ in range(2):
        assert dispatch.answer(0, taken(dispatch, 0), 1.0)
    now, ended = 1.0, []
    for worker in range(1, 20):  # each ended one is replaced
        dispatch.take(worker, now)
        dispatch.take(worker + 100, now)
        now += 50
        for who, jobs in dispatch.stuck(now).items():
            loss = dispatch.lose(who, machine=False, stuck=jobs)
            ended.append((jobs[0].unit.samples, loss.again, len(loss.given_up)))
    assert dispatch.finished
    whole = ("s6", "s7", "s8")
    assert ended == [(whole, 0, 0), (whole, 3, 0), (("s6",), 0, 1), (("s7",), 0, 1), (("s8",), 0, 1)]


def test_at_the_end_a_suspect_gets_no_second_worker():
    dispatch: Dispatch[str] = Dispatch(make_units(1, size=1), 1)
    taken(dispatch, "a")
    assert dispatch.lose("a", machine=False) == Loss(again=1)
    suspect = taken(dispatch, "b")
    assert dispatch.take("c", 1e6) is None
    assert dispatch.stuck(1e6) == {"b": [suspect]}


def test_nothing_to_do_is_finished_at_once():
    dispatch: Dispatch[str] = Dispatch([], IN_HAND)
    assert dispatch.finished
    assert dispatch.take("a", 0.0) is None


def test_a_thousand_workers_that_ask_at_the_end_are_answered_at_once():
    """Each looked through all units in flight for each of them: a quarter of a second of CPU for every worker."""
    workers, in_hand = range(1000), 3
    dispatch: Dispatch[int] = Dispatch(make_units(1000 * in_hand, size=1), in_hand)
    jobs = [(worker, dispatch.take(worker, 0.0)) for _ in range(in_hand) for worker in workers]
    for worker, job in jobs[:500]:
        dispatch.answer(worker, job, 1.0)
    for worker in workers:
        assert dispatch.take(worker, 1.0) is None  # each still holds some
    for worker, job in jobs[500:]:
        dispatch.answer(worker, job, 1.0) if worker < 900 else None
    again = [dispatch.take(worker, 1.0) for worker in range(900)]
    assert sum(job is not None for job in again) == 100  # what lies behind two others in the hands of a hundred
    for _ in range(20):
        assert dispatch.take(899, 1.0) is None
    assert not dispatch.finished
    for worker, job in [*jobs[900:1000], *jobs[1900:2000], *jobs[2900:]]:
        dispatch.answer(worker, job, 2.0)
    assert dispatch.finished
