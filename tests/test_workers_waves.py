"""Forks in several waves: the naive forward's answers at every budget, and nothing computed twice."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef

import workers.engine
import workers.memory
import workers.prefill
from examples import few
from small_clip import make_clip
from small_llava import make_checkpoint
from test_workers_engine import any_point, assert_equals_naive, make_engine
from workers.decode import Decoding
from workers.decoder import Decoder
from workers.families.config import ModelConfig
from workers.families.model import Encoded
from workers.filling import Filling, PreparedSample, rounds
from workers.forecast import forecast
from workers.memory import ENOUGH_WAVES, RIDING_WAVES, Budget, Footprint, RowBytes, arrange, footprint
from workers.sequences import Packing
from workers.shown import Shown
from workers.speed_test.workloads import make_workloads
from workers.tasks.base import Sample
from workers.work import GridPoint, MeasureSpec, ModelSpec, SpectrumSpec, WorkUnit, unpruned_point

LAYERS, VISUAL, HEADS = 4, 16, 4
STAGED = [
    GridPoint(strategy="himap", layer=1, rank=9, params=(("second_layer", layer), ("second_rank", rank)))
    for layer in (2, 3)
    for rank in (1, 4, 6)
]
GRID = [
    unpruned_point(LAYERS, VISUAL),
    *(GridPoint(strategy="fastv", layer=layer, rank=rank) for layer in (1, 3) for rank in (2, 5, 9)),
    *(GridPoint(strategy="random", layer=layer, rank=6) for layer in range(LAYERS)),
    GridPoint(strategy="l2_norm", layer=0, rank=5),  # positions are renumbered
    GridPoint(strategy="fps_merged", layer=2, rank=4),  # rows are rewritten
    # Rows are made of the tower's features, and of the parent's in another order, when a fork enters.
    *(GridPoint(strategy=name, layer=0, rank=rank) for name in ("visionzip", "holov") for rank in (4, 9)),
    *(GridPoint(strategy="scope", layer=0, rank=rank) for rank in (3, 7)),  # chosen for several images at once
    *STAGED,
    # Of the layer before: its keys, what entered it, its attention; and rows that a stage has merged, merged again.
    GridPoint(strategy="dart", layer=2, rank=6),
    GridPoint(strategy="v2drop", layer=1, rank=9, params=(("second_layer", 3), ("third_layer", 0))),
    GridPoint(
        strategy="sparsevlm",
        layer=1,
        rank=9,
        params=(("second_layer", 2), ("second_rank", 5), ("third_layer", 3), ("third_rank", 3)),
    ),
    GridPoint(strategy="sparsevlm_plus_stage", layer=2, rank=6, params=(("heads", 2),)),
]
ONE_FORK = Budget(1, 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("waves"), seed=5, layers=LAYERS)


@pytest.fixture(scope="module")
def engines(checkpoint, small_scienceqa, tmp_path_factory):
    model = ModelSpec(path=str(checkpoint), text_tower=str(make_clip(tmp_path_factory.mktemp("clip"))))
    return {tokens: make_engine(checkpoint, small_scienceqa, max_new_tokens=tokens, model=model) for tokens in (1, 4)}


@pytest.fixture
def waves(monkeypatch) -> list[int]:
    """Sequences answered by each wave."""
    seen: list[int] = []
    real = workers.engine.prefill

    def counted(*args):
        for start in real(*args):
            seen.append(len(start.sequences))
            yield start

    monkeypatch.setattr(workers.engine, "prefill", counted)
    return seen


@settings(max_examples=few(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@example(data=None)
def test_any_budget_equals_naive(engines, data):
    if data is None:  # every fork in a wave of its own
        points, tokens, micro_batch, budget = GRID, 4, 2, ONE_FORK
    else:
        tokens = data.draw(st.sampled_from([1, 4]), label="max_new_tokens")
        micro_batch = data.draw(st.integers(1, 3), label="micro batch")
        points = data.draw(
            st.lists(any_point(LAYERS, VISUAL, HEADS), min_size=1, max_size=6, unique_by=lambda p: p.key),
            label="points",
        )
        rows = data.draw(st.sampled_from([1, 60, 130, 300, 10**9]), label="rows")
        bytes, host = (st.sampled_from([1, 10**5, 10**6, 3 * 10**6, 10**9]) for _ in range(2))
        budget = Budget(rows, data.draw(bytes, label="bytes"), data.draw(host, label="host bytes"))
    engine = engines[tokens]
    engine.micro_batch, engine.budget = micro_batch, budget
    away = tokens > 1 and (data is None or data.draw(st.booleans(), label="caches in host memory"))
    with caches_away(engine, away):
        assert_equals_naive(engine, ["1", "3", "6"], points)


def test_renumbered_forks_in_waves_of_their_own_equal_naive(engines):
    """They decode by caches of earlier waves, in which positions go on from others than their own."""
    points = [
        GridPoint(strategy="fps", layer=layer, rank=4, positions=how) for layer in (0, 2) for how in ("keep", "compact")
    ]
    points += [replace(point, positions="compact") for point in STAGED[::2]]
    stages = (("second_layer", 2), ("third_layer", 3))  # each reads the layer that comes next, prefixes' keys with it
    points += [GridPoint(strategy="pyramiddrop", layer=1, rank=rank, params=stages) for rank in (8, 12)]
    engine = engines[4]
    engine.micro_batch, engine.budget = 2, ONE_FORK
    for away in (False, True):
        with caches_away(engine, away):
            assert_equals_naive(engine, ["1", "3"], points)


@contextmanager
def caches_away(engine, away: bool = True):
    own = engine.row
    engine.row = own.riding(away=True) if away else own
    try:
        yield
    finally:
        engine.row = own


@pytest.mark.parametrize("tokens", [1, 4])
def test_no_row_of_a_layer_is_computed_twice(engines, waves, monkeypatch, tokens):
    """In waves of one fork as many rows go through each layer as in one wave, and the answers are the same."""
    engine, rows = engines[tokens], Counter()
    finish = Decoder.finish_layer
    monkeypatch.setattr(
        Decoder,
        "finish_layer",
        lambda self, layer, hidden, attended, *piece: (
            rows.update({layer: hidden.shape[0]}),
            finish(self, layer, hidden, attended, *piece),
        )[1],
    )
    unit, found = WorkUnit(samples=("1", "2"), points=tuple(GRID)), []
    for budget in (Budget(), ONE_FORK):
        engine.micro_batch, engine.budget = 2, budget
        rows.clear()
        cells = engine.run(unit).outcomes
        prefilled = {layer: rows[layer] for layer in range(LAYERS - 1)}
        found.append((len(waves), [(cell.point, cell.sample, cell.answer, cell.kept_mask) for cell in cells]))
        if tokens == 1:  # else decoding adds its own
            found[-1] += (prefilled,)
        waves.clear()
    assert found[0][0] == 1
    assert found[1][0] > 2 * (len(GRID) - len(STAGED) - 2)
    # The first stage of a method of two is run on alone where its second is still to come: one fork a wave.
    assert found[0][1:] == found[1][1:]


def test_one_budget_gives_the_same_bits_again(engines):
    engine = engines[4]
    unit = WorkUnit(samples=("1", "2", "3"), points=tuple(GRID))
    engine.micro_batch, engine.budget = 3, Budget(200, 10**9)
    assert engine.run(unit).outcomes == engine.run(unit).outcomes


SOME_FORKS = Budget(200, 10**9)


@pytest.mark.parametrize("budget", [Budget(), SOME_FORKS, ONE_FORK])
def test_caches_in_host_memory_change_no_bit(engines, monkeypatch, budget):
    """The same kernels on the same rows. Each wave but the last decodes beside the next one's prefill, a token long.

    Where some forks wait and others do not, those that run together are of a sample, not of a layer: a library's matrix
    products may sum in another order then, 1e-6 of a logit, by the processor.
    """
    engine, steps = engines[4], []
    reach = Decoding.reach
    monkeypatch.setattr(
        Decoding, "reach", lambda self, layer: (steps.append((self._reached, layer)), reach(self, layer))[1]
    )
    engine.micro_batch, engine.budget = 3, budget
    unit = WorkUnit(samples=("1", "2", "3"), points=tuple(GRID))
    here = engine.run(unit).outcomes
    assert {layer for _, layer in steps} == {LAYERS - 1}
    steps.clear()
    with caches_away(engine):
        there = engine.run(unit).outcomes
    if budget == SOME_FORKS:
        for one, other in zip(there, here, strict=True):
            assert one.option_logits == pytest.approx(other.option_logits, abs=1e-5)
            assert replace(one, option_logits=(), margin=0.0) == replace(other, option_logits=(), margin=0.0)
    else:
        assert there == here
    beside = [layer for reached, layer in steps if layer < LAYERS - 1 and reached <= layer]
    assert bool(beside) == (budget != Budget())


@pytest.mark.parametrize("tokens", [1, 4])
def test_rounds_of_a_micro_batch_ride_on_one_another(engines, waves, tokens):
    """Trunks of all samples would not fit one wave; those of each round do, and all are answered as alone."""
    engine = engines[tokens]
    engine.budget, samples = Budget(200, 10**9), ["1", "2", "3", "6"]
    engine.micro_batch = 1
    unit = WorkUnit(samples=tuple(samples), points=tuple(GRID[:4]))
    alone = engine.run(unit).outcomes
    engine.micro_batch = None
    waves.clear()
    with caches_away(engine):
        outcomes = engine.run(unit).outcomes
        assert len(waves) > 2
        assert_equals_naive(engine, samples, GRID[:4])
    for cell, other in zip(outcomes, alone, strict=True):
        assert (cell.sample, cell.point, cell.answer, cell.kept_mask) == (
            *(other.sample, other.point, other.answer, other.kept_mask),
        )


def prepared(need: Footprint, count: int, further: Footprint | None = None, image: str = "") -> list[PreparedSample]:
    """Samples with other names that ask for so much."""
    samples = (Sample(id=str(number), question="", label="A", image=None) for number in range(count))
    return [
        PreparedSample(sample, Encoded.in_order((), ()), image, need, further or need, Shown(0, 0, None, ()))
        for sample in samples
    ]


def taken(filling: Filling, items: list[PreparedSample]) -> list[PreparedSample]:
    return list(takewhile(filling.takes, items))


def test_a_micro_batch_whose_waves_ride_has_several_rounds():
    budget, small, large = Budget(1000, 1000), Footprint(450, 450, 450, 0), Footprint(1500, 1500, 600, 0)
    together = taken(Filling(budget, rides=True), prepared(small, 50))
    assert rounds(budget, together) == [2] * RIDING_WAVES
    assert len(taken(Filling(budget), prepared(small, 50))) == 2
    assert rounds(budget, prepared(large, 3)) == [1] * 3  # trunks that no wave holds together
    assert len(taken(Filling(budget, rides=True), prepared(large, 50))) == RIDING_WAVES // 2
    assert rounds(budget, []) == []


def test_the_first_micro_batch_of_two_lanes_is_half_as_large(engines, monkeypatch):
    engine, items = engines[4], prepared(Footprint(10, 10, 10, 0), 50)
    engine.micro_batch, engine.budget = None, Budget(200, 10**9)
    assert len(taken(engine._filling(first=True), items)) == 20
    monkeypatch.setattr(engine._lanes, "count", 2)
    assert [len(taken(engine._filling(first), items)) for first in (True, False)] == [10, 20]


def test_a_round_counts_an_image_once():
    """And the next one again."""
    budget, further = Budget(1000, 1000), Footprint(100, 100, 100, 0)
    items = prepared(Footprint(450, 450, 450, 0), 200, further, image="one")
    together = taken(Filling(budget, rides=True), items)
    assert rounds(budget, together) == [6] * RIDING_WAVES
    assert len(taken(Filling(budget), items)) == 6


@pytest.mark.parametrize("away", [False, True])
def test_caches_go_when_their_wave_is_answered_and_at_once_without_decoding(engines, monkeypatch, away):
    """What is held between waves is what the forks to come read: trunks before their layers, prefixes behind.

    On the device the forks have the keys of their prefixes beside their own.
    """
    from workers.prefill import _Waves

    def rows(part):
        return sum(map(len, part.blocks)) if away else part.packing.total

    held: list[list[int]] = []
    prefixes: list[list[int]] = []
    hold = _Waves.hold

    def look(self, done):
        hold(self, done)
        held.append([sum(map(rows, parts)) for parts in self._held])
        prefixes.append([part.packing.total if part else 0 for part in self._prefixes])
        assert self._caches == [[]] * LAYERS
        assert done is None or done.caches == []
        assert not away or all(part.nbytes == 0 for parts in self._held for part in parts)

    monkeypatch.setattr(_Waves, "hold", look)
    points = tuple(GridPoint(strategy="fastv", layer=2, rank=rank) for rank in range(1, 12))
    for tokens in (4,) if away else (1, 4):
        engine = engines[tokens]
        engine.micro_batch, engine.budget = 1, ONE_FORK
        with caches_away(engine, away):
            engine.run(WorkUnit(samples=("1",), points=points))
            prompt = engine.run(WorkUnit(samples=("1",), points=points[:1])).outcomes[0].prompt_tokens
            system = prefixes[0][-1]
            assert 0 < system < prompt
            before = prompt if tokens > 1 else 0
            behind = system if away else 0
            assert all(layers == [before] * 2 + [behind] * (LAYERS - 2) for layers in held)
            assert all(layers == [0] * 2 + [system] * (LAYERS - 2) for layers in prefixes)
            held.clear(), prefixes.clear()
            later = [GridPoint(strategy="fastv", layer=layer, rank=5) for layer in (1, 3)]
            engine.run(WorkUnit(samples=("1",), points=(unpruned_point(LAYERS, VISUAL), *later)))
            after = prompt if tokens > 1 else 0
            assert held == [[after] * 3 + [behind], [after] * 3 + [behind]]
            assert prefixes == [[0] + [system] * 3] * 2
            held.clear(), prefixes.clear()


def test_spectra_are_measured_in_every_wave(checkpoint, small_scienceqa):
    specs = tuple(
        SpectrumSpec(matrix=matrix, layer=layer, threshold=1e-3, power=1)
        for matrix in ("attention_weights", "hidden_states", "attention_output")
        for layer in (0, 2, LAYERS - 1)
    )
    engine = make_engine(checkpoint, small_scienceqa, measure=MeasureSpec(spectra=specs, quality=True))
    unit, found = WorkUnit(samples=("1", "2"), points=tuple(GRID)), []
    for budget in (Budget(), ONE_FORK):
        engine.budget = budget
        outcome = engine.run(unit)
        assert outcome.failures == ()
        found.append({(cell.sample, cell.point): dict(cell.measures) for cell in outcome.outcomes})
    assert found[0].keys() == found[1].keys()
    for key, measures in found[0].items():
        assert measures.keys() == found[1][key].keys()
        for name, value in measures.items():
            assert found[1][key][name] == pytest.approx(value, abs=1e-3, rel=1e-3), name


def test_spectra_are_measured_where_no_trunk_answers(checkpoint, small_scienceqa):
    """All forks of the first wave wait, so that it ends with shared prefixes alone."""
    spec = SpectrumSpec(matrix="hidden_states", layer=LAYERS - 1, threshold=1e-3, power=1)
    engine = make_engine(checkpoint, small_scienceqa, measure=MeasureSpec(spectra=(spec,)))
    points, engine.budget = GRID[1:4], ONE_FORK
    outcome = engine.run(WorkUnit(samples=("1",), points=tuple(points)))
    assert outcome.failures == ()
    assert [cell.point for cell in outcome.outcomes if cell.measures] == [point.key for point in points]


@pytest.mark.parametrize("budget", [Budget(), ONE_FORK])
def test_rows_go_when_they_have_been_read(engines, monkeypatch, budget):
    """The trunks' rows when somebody forked, those that forks start from when the last has entered, logits at once."""
    rows, starts, logits, alive = [], [], [], Counter()
    storage = lambda tensor: StorageWeakRef(tensor.untyped_storage())  # noqa: E731
    embed, start, prefill = workers.engine.embed_trunks, workers.prefill._Waiting, workers.engine.prefill
    finish = Decoder.finish_layer

    def embedded(*args):
        made = embed(*args)
        rows.append(storage(made))
        return made

    def started(sequence, start_RD, *rest):
        starts.append(storage(start_RD))
        return start(sequence, start_RD, *rest)

    def waves(*args):
        made = prefill(*args)
        del args
        for done in made:
            logits.append(storage(done.logits_NC))
            yield done
            del done

    def finished(self, layer, *args):
        if layer == 3:
            alive["waves"] += 1
            alive["rows"] += not rows[0].expired()
            alive["logits"] += sum(not one.expired() for one in logits)
            alive["starts"] = sum(not one.expired() for one in starts)  # in the last wave
        return finish(self, layer, *args)

    monkeypatch.setattr(workers.engine, "embed_trunks", embedded)
    monkeypatch.setattr(workers.engine, "prefill", waves)
    monkeypatch.setattr(workers.prefill, "_Waiting", started)
    monkeypatch.setattr(Decoder, "finish_layer", finished)
    points = (*(GridPoint(strategy="fastv", layer=2, rank=rank) for rank in (3, 9)), GRID[-len(STAGED) - 1])
    engines[1].budget, engines[1].micro_batch = budget, 1
    assert engines[1].run(WorkUnit(samples=("1",), points=points)).failures == ()
    assert alive == {"waves": 1 if budget == Budget() else 3, "rows": 0, "starts": 0, "logits": 0}
    assert bool(starts) == (budget == ONE_FORK)


def test_a_feed_forward_in_pieces_is_the_same(engines, monkeypatch):
    """Matrix products of other numbers of rows may differ in their last bits."""
    engine = engines[4]
    engine.micro_batch, engine.budget = 2, Budget(10**9, 10**9)
    unit = WorkUnit(samples=("1", "2"), points=tuple(GRID))
    whole = engine.run(unit).outcomes
    monkeypatch.setattr(workers.memory, "PIECE_STEP", 7)
    monkeypatch.setattr(workers.memory, "FEED_FORWARD_ROWS", 7)
    for cell, other in zip(whole, engine.run(unit).outcomes, strict=True):
        assert (cell.point, cell.answer, cell.kept_mask) == (other.point, other.answer, other.kept_mask)
        logits = torch.tensor(cell.option_logits), torch.tensor(other.option_logits)
        torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


def test_pieces_of_the_feed_forward_fit_small_budgets(engines):
    row = RowBytes.of(engines[1].model.config, 2, 2)
    assert row.within(Budget()).piece == 16_384
    assert row.within(Budget(1, 8 * 5000 * row.wide)).piece == 4 * 1024
    assert row.within(Budget(1, 1)).piece == 1024


def test_a_micro_batch_is_one_wave_where_it_can_be_else_a_few():
    budget = Budget(1000, 1000)

    def samples(rows: int, trunk: int = 10, held: int = 1) -> int:
        one, total, count = Footprint(rows, rows, trunk, held), Footprint(0, 0, 0, 0), 0
        while count == 0 or budget.takes(total, one):
            total, count = total + one, count + 1
        return count

    assert samples(100) == 10
    assert samples(300) == 3  # 0.9 of a wave: nothing is broken up for the rest
    assert samples(700) == ENOUGH_WAVES * 1000 // 700 + 1
    assert samples(900) == 1
    assert samples(10_000) == 1
    assert samples(1500, trunk=400) == 2  # no third trunk fits the first wave
    assert samples(700, held=150) == 2  # two fifths of the memory may be held


@pytest.mark.parametrize("tokens", [1, 2])
def test_the_plan_bounds_what_a_wave_holds(engines, tokens):
    """Rows and cached rows of a packing, counted by hand; points that share a fork are counted apart."""
    config = engines[1].model.config
    row = RowBytes.of(config, 4, tokens)
    points = (
        unpruned_point(LAYERS, VISUAL),
        GridPoint(strategy="fastv", layer=1, rank=4),
        GridPoint(strategy="cutoff", layer=3, rank=0),
        GridPoint(strategy="random", layer=1, rank=16),
        GridPoint(strategy="random", layer=LAYERS, rank=3),
    )
    need = footprint(row, points, prompt=60, visual=16, system=10)
    assert need.rows == 60 + (4 + 44) + 44
    cached = 60 * 4 + 48 * 3 + 44
    key_values = 2 * config.kv_heads * config.head_dim * 4
    assert row.cached == key_values
    assert need.bytes == row.wave(cached, need.rows, 3)
    assert row.wave(cached, 100, 3) - row.wave(cached - 1, 100, 3) == (key_values if tokens > 1 else 0)
    assert need.trunk_bytes == row.wave(240, 60, 1)
    before, behind = (3 * 60, 10) if tokens > 1 else (0, 4 * 10)
    starts = (44 + 4) + 44  # of each layer's forks, not all rows of the trunk
    assert need.held_bytes == key_values * (before + behind) + starts * config.hidden * 4
    merged = (GridPoint(strategy="visionzip", layer=0, rank=4),)
    assert footprint(row, merged, prompt=60, visual=16).held_bytes >= 60 * config.hidden * 4  # of all patches
    staged = (GridPoint(strategy="vscan", layer=0, rank=16, params=(("second_layer", 2),)),)  # prunes at layer 2 first
    assert footprint(row, staged, prompt=60, visual=16).rows == 60 + 44 + 5
    text = footprint(row, points, prompt=60, visual=0)
    assert (text.rows, text.held_bytes) == (60, 0)


def test_the_plan_counts_what_strategies_choose_by_and_logits():
    """Evidence is read while no feed-forward runs, logits are had when no layer does."""
    row = RowBytes.of(LLAVA_7B, 2, 2)
    choosing = row.within(Budget(), 10**9)
    wide = row.wide * 100
    assert choosing.wave(0, 100, 0) - row.wave(0, 100, 0) == 10**9 - wide
    assert row.within(Budget(), wide - 1).wave(0, 100, 0) == row.wave(0, 100, 0)
    keeping = row.within(Budget(), entered=True)  # what entered a layer, beside what leaves it
    assert keeping.wave(0, 100, 0) - row.wave(0, 100, 0) == 100 * row.start
    assert row.wave(0, 1, 1000) == 1000 * (row.decoded + 32064 * (2 + 3 * 4))
    assert RowBytes.of(LLAVA_7B, 2, 1).wave(0, 0, 1000) == 1000 * 32064 * (2 + 4)


def test_a_micro_batch_leaves_room_for_the_evidence_of_one_sequence():
    budget, one = Budget(10**6, 1000), Footprint(1, 100, 10, 1, evidence_bytes=350)
    assert one + one == Footprint(2, 200, 20, 2, evidence_bytes=350)
    total, count = one, 1
    while budget.takes(total, one):
        total, count = total + one, count + 1
    assert count == 6


@pytest.mark.parametrize("strategy", ["fastv", "image_column_sum"])
def test_a_forecast_has_room_for_evidence(strategy):
    """2,880 visual tokens' attention to one another, in 32 heads, is 1 GiB, and there are two of it at a time."""
    found = {}
    for name in ("random", strategy):
        points = (GridPoint(strategy=name, layer=2, rank=100),)
        lengths = {"prompt": 3012, "visual": 2880, "system": 35}
        found[name] = [
            forecast(LLAVA_7B, points, card << 30, host=0, **lengths, value_bytes=2, max_new_tokens=2, samples=50)
            for card in (18, 24, 80)
        ]
    more = [now.least - before.least for before, now in zip(*found.values(), strict=True)]
    assert len(set(more)) == 1
    assert (more[0] > 2 * 2**30) == (strategy == "image_column_sum")
    assert all(one.peak <= card << 30 for card, one in zip((18, 24, 80), found[strategy], strict=True))
    assert found[strategy][0].samples <= found["random"][0].samples


def test_the_engine_plans_for_what_its_strategies_choose_by(engines, monkeypatch):
    given, engine = [], engines[1]
    engine.budget, engine.micro_batch = Budget(), 2
    real = workers.engine.prefill
    monkeypatch.setattr(workers.engine, "prefill", lambda *args: (given.append(args[4].evidence), real(*args))[1])
    for name in ("random", "fastv", "image_column_sum"):
        engine.run(WorkUnit(samples=("1", "6"), points=(GridPoint(strategy=name, layer=1, rank=4),)))
    assert given[0] == 0 < given[1] < given[2]


def test_given_prefixes_lie_before_the_rows(engines):
    from workers.sequences import new_prefix, new_trunk

    prefix = new_prefix(torch.arange(5)[None])
    trunks = [new_trunk(number, prefix, 4, torch.arange(12)[None], 12) for number in range(2)]
    packing = Packing(trunks, given=[prefix])
    assert [packing.own(trunk) for trunk in trunks] == [slice(0, 7), slice(7, 14)]
    assert [packing.own_keys(one) for one in (prefix, *trunks)] == [slice(0, 5), slice(5, 12), slice(12, 19)]
    assert packing.keys(trunks[0]) == (slice(0, 12),)
    assert packing.keys(trunks[1]) == (slice(0, 5), slice(12, 19))
    assert [rows for rows, _ in packing.blocks()] == [slice(0, 7), slice(7, 14)]


LLAVA_7B = ModelConfig(
    layers=32, heads=32, kv_heads=32, head_dim=128, hidden=4096, ffn=11008, vocab=32064, image_size=336, patch_size=14,
    visual_tokens=576, parameters=32 * (4 * 4096**2 + 3 * 4096 * 11008),
)  # fmt: skip


def on_a_card(points, gib: float, tokens: int = 2, host: float = 0):
    lengths = {"prompt": 708, "visual": 576, "system": 35}
    room = {"host": int(host * 2**30), "value_bytes": 2, "max_new_tokens": tokens, "samples": 2000}
    return forecast(LLAVA_7B, points, int(gib * 2**30), **lengths, **room)


@pytest.mark.parametrize("host", [0, 8, 64])
@pytest.mark.parametrize("name", ["cutoffs", "ranks", "strategies", "one", "grid", "grid3000"])
@pytest.mark.parametrize("tokens", [1, 2])
def test_a_forecast_never_takes_more_than_the_card_and_less_memory_means_more_waves(name, tokens, host):
    points = make_workloads(32, 32, 576)[name].points
    found = [on_a_card(points, gib, tokens, host) for gib in (16, 24, 40, 80, 140)]
    for gib, one in zip((16, 24, 40, 80, 140), found, strict=True):
        assert one.least < one.peak <= gib * 2**30
        assert one.weights == pytest.approx(13.2 * 2**30, rel=0.01)  # LLaVA-1.5-7B, tower and projector included
        assert one.host <= host << 30
        assert not one.host or tokens > 1
    if host == 0:
        each = [one.waves / one.samples for one in found]
        assert each == sorted(each, reverse=True)
        assert [one.lanes for one in found] == sorted(one.lanes for one in found)


def test_caches_go_to_host_memory_where_the_card_is_small_and_the_host_is_not():
    """Those of 8,000 rows take 4 GiB in the 7B model; there are four of them."""
    row = RowBytes.of(LLAVA_7B, 2, 2)

    def found(free: float, host: float, streamed: bool = False) -> tuple[int, bool, bool]:
        count, made = arrange(int(free * 2**30), int(host * 2**30), row, streamed)
        return count, made.rides, made.away

    assert found(60, 64) == (2, False, False)
    assert found(8, 64) == (1, False, False)
    assert found(4, 17) == (1, True, True)
    assert found(4, 14) == (1, False, False)
    assert found(60, 64, streamed=True) == (1, True, False)
    assert found(8, 64, streamed=True) == (1, True, True)
    assert found(8, 14, streamed=True) == (1, True, False)
    assert not arrange(2**30, 2**40, RowBytes.of(LLAVA_7B, 2, 1), False)[1].away  # nothing outlives its layer


def test_the_smallest_card_holds_one_fork():
    points = make_workloads(32, 32, 576)["ranks"].points
    least = on_a_card(points, 80).least
    assert on_a_card(points, least / 2**30 + 0.1).peak <= least + 0.11 * 2**30
    assert on_a_card(points, 80, tokens=1).least < least
