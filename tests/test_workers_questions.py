"""Several questions about one image: its rows are computed once, and every cell is the naive forward's."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import workers.encoding
from admitted import admitted
from examples import few
from small_clip import make_clip
from small_llava import make_checkpoint
from strategies.catalog import CATALOG, Strategy
from strategies.evidence import CLASS_ATTENTION
from strategies.view import Evidence
from test_strategies_catalog import CHOOSING, make_view, some_params
from test_workers_engine import any_point, assert_equals_naive, make_engine
from test_workers_waves import GRID, HEADS, LAYERS, LLAVA_7B, ONE_FORK, VISUAL, caches_away, prepared, taken
from workers.decoder import Decoder
from workers.engine import Engine
from workers.evidence import reads_question
from workers.filling import Filling
from workers.flash import block, tiles
from workers.forecast import forecast
from workers.image_digests import sample_digest
from workers.memory import Budget, RowBytes, footprint
from workers.runnable import complaint
from workers.sequences import numbers
from workers.slow_path import slow_answer
from workers.work import GridPoint, MeasureSpec, ModelSpec, SpectrumSpec, WorkUnit, unpruned_point

SHOWN = {"a1": "1", "b1": "2", "a2": "1", "c1": "3", "a3": "1", "b2": "2", "text": "6"}  # question -> whose image


def asking(checkpoint, data, **changes) -> Engine:
    """An engine whose samples ask different questions about three images."""
    engine = make_engine(checkpoint, data, **changes)
    of_image = dict(engine.samples)
    engine.samples = {
        id: replace(of_image[shown], id=id, question=" ".join([of_image[shown].question, *["square"] * place]))
        for place, (id, shown) in enumerate(SHOWN.items())
    }
    return engine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("questions"), seed=5, layers=LAYERS)


@pytest.fixture(scope="module")
def engines(checkpoint, small_scienceqa, tmp_path_factory) -> dict[int, Engine]:
    model = ModelSpec(path=str(checkpoint), text_tower=str(make_clip(tmp_path_factory.mktemp("clip"))))
    return {tokens: asking(checkpoint, small_scienceqa, max_new_tokens=tokens, model=model) for tokens in (1, 4)}


@pytest.fixture
def rows(monkeypatch) -> Counter[int]:
    """Rows that went through each layer but the last."""
    seen: Counter[int] = Counter()
    finish = Decoder.finish_layer

    def counted(self, layer, hidden, *rest):
        seen[layer] += hidden.shape[0]
        return finish(self, layer, hidden, *rest)

    monkeypatch.setattr(Decoder, "finish_layer", counted)
    return seen


@settings(max_examples=few(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@example(data=None)
def test_any_questions_points_and_budget_equal_naive(engines, data):
    if data is None:  # every fork in a wave of its own
        ids = ["a1", "text", "b1", "a2"]
        points, tokens, budget, micro_batch = GRID, 4, ONE_FORK, len(ids)
    else:
        tokens = data.draw(st.sampled_from([1, 4]), label="max_new_tokens")
        ids = data.draw(st.lists(st.sampled_from(list(SHOWN)), min_size=2, max_size=5, unique=True), label="ids")
        points = data.draw(
            st.lists(any_point(LAYERS, VISUAL, HEADS), min_size=1, max_size=4, unique_by=lambda p: p.key),
            label="points",
        )
        rows = data.draw(st.sampled_from([1, 60, 130, 300, 10**9]), label="rows")
        budget = Budget(rows, data.draw(st.sampled_from([1, 10**6, 3 * 10**6, 10**9]), label="bytes"))
        micro_batch = data.draw(st.sampled_from([len(ids), None]), label="micro batch")  # None: as the budget says
    engine = engines[tokens]
    engine.micro_batch, engine.budget = micro_batch, budget
    away = tokens > 1 and (data is None or data.draw(st.booleans(), label="caches in host memory"))
    with caches_away(engine, away):
        assert_equals_naive(engine, ids, points)


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_strategy_equals_naive(engines, name):
    engine = engines[4]
    engine.micro_batch, engine.budget = 3, Budget()
    params = {
        "ablation": (("heads_kept", 2),),
        "himap": (("second_layer", 3), ("second_rank", 2)),
        "pyramiddrop": (("second_layer", 3), ("third_layer", 4)),
        "vscan": (("second_layer", 2),),
        "sparsevlm_plus": (("second_layer", 3), ("second_rank", 2), ("third_layer", 4), ("third_rank", 0)),
        "sparsevlm": (("second_layer", 3), ("second_rank", 2), ("third_layer", 4), ("third_rank", 0)),
        "v2drop": (("second_layer", 3), ("third_layer", 0)),
    }.get(name, ())
    points = [
        GridPoint(strategy=name, layer=layer, rank=admitted(CATALOG[name], rank, VISUAL), params=params)
        for layer in (0, 2)
        if complaint(CATALOG[name], dict(params), layer=layer) is None
        for rank in ((max(2, CATALOG[name].least), 9) if CATALOG[name].fixed_rank is None else (0,))
    ]
    assert_equals_naive(engine, ["a1", "a2", "a3"], points)


def answered(engine: Engine, ids, points, images=()) -> dict:
    outcome = engine.run(WorkUnit(samples=tuple(ids), points=tuple(points), images=tuple(images)))
    assert outcome.failures == ()
    return {(cell.sample, cell.point): cell for cell in outcome.outcomes}


def alone_and_together(
    engine: Engine, ids, points, rows: Counter[int]
) -> tuple[list[int], list[int], tuple[dict, dict]]:
    """Rows of each layer but the last, and cells, with images shared and without."""
    engine.micro_batch, found = len(ids), []
    for shares in (False, True):
        engine.shares_images = shares
        rows.clear()
        cells = answered(engine, ids, points)
        found.append(([rows[layer] for layer in range(LAYERS - 1)], cells))
    (apart, first), (shared, second) = found
    return apart, shared, (first, second)


@pytest.mark.parametrize(
    ("points", "saved"),
    [
        ([unpruned_point(LAYERS, VISUAL)], [VISUAL] * 3),
        ([GridPoint(strategy="l2_norm", layer=0, rank=5)], [5] * 3),
        ([GridPoint(strategy="image_column_sum", layer=2, rank=7)], [VISUAL, VISUAL, 7]),
        ([GridPoint(strategy="fastv", layer=2, rank=7)], [VISUAL, VISUAL, 0]),
        ([GridPoint(strategy="cutoff", layer=1, rank=0)], [VISUAL, 0, 0]),
        ([unpruned_point(LAYERS, VISUAL), GridPoint(strategy="fps_merged", layer=1, rank=4)], [VISUAL, 20, 20]),
    ],
)
def test_rows_that_read_no_question_are_computed_once(engines, rows, points, saved):
    """Two further questions save twice the rows; one that is asked alone saves none."""
    engine = engines[1]
    for budget in (Budget(), ONE_FORK):
        engine.budget = budget
        apart, shared, (before, now) = alone_and_together(engine, ["a1", "c1", "a2", "a3"], points, rows)
        assert [2 * one for one in saved] == [a - b for a, b in zip(apart, shared, strict=True)]
        for key, cell in now.items():
            assert cell.kept_mask == before[key].kept_mask
            assert (cell.answer, cell.tokens_kept) == (before[key].answer, before[key].tokens_kept)
            assert cell.option_logits == pytest.approx(before[key].option_logits, abs=1e-4)


def test_images_that_are_asked_about_once_change_no_bit(engines, rows):
    """The same rows in the same order: one question an image is what it was."""
    engine = engines[4]
    for budget in (Budget(), ONE_FORK):
        engine.budget = budget
        apart, shared, (before, now) = alone_and_together(engine, ["a1", "text", "b1", "c1"], GRID, rows)
        assert shared == apart
        assert now == before


def test_questions_that_keep_the_same_tokens_by_chance_share_them(engines, rows, monkeypatch):
    """Asked twice in the same words they do; a draw is each sample's own, so that they do not."""
    engine = engines[1]
    engine.budget = Budget()
    monkeypatch.setitem(engine.samples, "again", replace(engine.samples["a1"], id="again"))
    drawn = (("start", "drawn"),)
    for name, params, kept in (("fastv", (), 6), ("text_weighted", (), 6), ("random", (), 0), ("fps", drawn, 0)):
        point = GridPoint(strategy=name, layer=1, rank=6, params=params)
        apart, shared, _ = alone_and_together(engine, ["a1", "again"], [point], rows)
        assert [a - b for a, b in zip(apart, shared, strict=True)] == [VISUAL, kept, kept]
        assert_equals_naive(engine, ["a1", "again"], [point])


def test_a_draw_for_each_image_is_that_of_its_pixels(engines, rows):
    """However a unit names its images, in whatever company and by either way; another image draws otherwise."""
    engine, point = engines[1], GridPoint(strategy="random_per_image", layer=1, rank=6)
    ids, engine.budget = ["a1", "b1", "a2"], Budget()
    apart, shared, both = alone_and_together(engine, ids, [point], rows)
    assert [a - b for a, b in zip(apart, shared, strict=True)] == [VISUAL, 6, 6]
    named = answered(engine, ids, [point], [sample_digest(engine.samples[id]) for id in ids])
    alone = answered(engine, ["a2"], [point])
    first, other, second = (named[id, point.key].kept_mask for id in ids)
    assert first == second == alone["a2", point.key].kept_mask != other
    assert [[cells[id, point.key].kept_mask for id in ids] for cells in both] == 2 * [[first, other, second]]
    slow = slow_answer(engine.model, engine.spec, engine.samples["a2"], point, engine.letter_tokens[:3])
    assert slow.kept_mask == second
    assert reads_question(CATALOG["random"])


def test_what_reads_no_question_is_said_by_its_evidence():
    looking_at_nothing = {"cutoff", "vtw", "evenly_spaced", "first_k", "random_per_image", "downsample"}
    at_the_image = {
        "image_column_sum",
        "state_change",
        "l2_norm",
        "divprune",
        "divprune_unsorted",
        "fps",
        "fps_merged",
        "tome_centres",
        "tome_merged",
        "pool",
        "downsample_features",
    }
    at_the_tower = {"fastervlm", "visionzip", "vispruner", "prumerge", "prumerge_plus", "holov", "scope", "hiprune"}
    expected = looking_at_nothing | at_the_image | at_the_tower | {"prunesid", "vscan_tower", "divprune_unsorted"}
    assert {name for name in CHOOSING if not reads_question(CATALOG[name])} == expected
    of_tower = Strategy(name="t", score=lambda view: view, needs=frozenset({CLASS_ATTENTION}), source="test")
    assert not reads_question(of_tower)
    assert reads_question(replace(of_tower, needs=of_tower.needs | {Evidence.LAST_ROW}))
    assert reads_question(replace(of_tower, draws=True))


@pytest.mark.parametrize("name", [n for n in CHOOSING if not (reads_question(CATALOG[n]) or CATALOG[n].draws)])
def test_what_reads_no_question_chooses_the_same_for_every_sample(name):
    """Neither the seed nor how long the question is may count: a rule that draws has to say so."""
    views = [replace(make_view(36, text=text), seed=seed) for text, seed in ((7, 0), (1, 0), (7, 5))]
    views = [
        replace(view, visual_attention_HVV=views[0].visual_attention_HVV, hidden_states_VD=views[0].hidden_states_VD)
        for view in views
    ]
    params = some_params(name)
    rank = admitted(CATALOG[name], 9, 36) if CATALOG[name].fixed_rank is None else 0
    first, *others = [CATALOG[name].choose(view, [rank], params)[0].tolist() for view in views]
    assert others == [first, first]


def test_a_rule_that_reads_no_question_chooses_once_for_an_image(engines, monkeypatch):
    asked: Counter[str] = Counter()
    for name in ("image_column_sum", "fastv"):
        score = CATALOG[name].score

        def counted(view, name=name, score=score):
            asked[name] += 1
            return score(view)

        monkeypatch.setitem(CATALOG, name, replace(CATALOG[name], score=counted))
    engine = engines[1]
    engine.micro_batch, engine.budget, engine.shares_images = 4, Budget(), True
    points = [GridPoint(strategy=name, layer=1, rank=rank) for name in ("image_column_sum", "fastv") for rank in (3, 5)]
    answered(engine, ["a1", "a2", "b1", "a3"], points)
    assert asked == {"image_column_sum": 2, "fastv": 4}


def test_spectra_and_quality_do_not_depend_on_who_shares_an_image(checkpoint, small_scienceqa):
    specs = tuple(
        SpectrumSpec(matrix=matrix, layer=layer, threshold=1e-3, power=1)
        for matrix in ("attention_weights", "hidden_states", "attention_output")
        for layer in (0, 2, LAYERS - 1)
    )
    measure = MeasureSpec(spectra=specs, quality=True)
    engine, found = asking(checkpoint, small_scienceqa, measure=measure), []
    ids, engine.micro_batch = ["a3", "a1", "b1", "a2", "c1"], 5
    engine.spectra_samples = frozenset({"a1", "a2", "c1"})  # not of the first that shows the image
    for engine.shares_images, engine.budget in ((False, Budget()), (True, Budget()), (True, ONE_FORK)):
        found.append({key: dict(cell.measures) for key, cell in answered(engine, ids, GRID[::2]).items()})
    assert len(found[0]["a1", GRID[0].key]) > 9 * 5 > len(found[0]["a3", GRID[0].key])
    for other in found[1:]:
        for key, measures in found[0].items():
            assert other[key] == pytest.approx(measures, abs=1e-3, rel=1e-3), key


def test_an_image_goes_through_the_tower_once(checkpoint, small_scienceqa, monkeypatch):
    """Within a micro-batch, for those that follow, and again only where something else is to be read of the tower."""
    engine, seen, read = asking(checkpoint, small_scienceqa), [], []
    load = workers.encoding.load_image
    monkeypatch.setattr(workers.encoding, "load_image", lambda source: (read.append(source), load(source))[1])
    see = engine.model.see
    monkeypatch.setattr(
        engine.model, "see", lambda prompts, readers: (seen.append(len(prompts)), see(prompts, readers))[1]
    )
    points = [unpruned_point(LAYERS, VISUAL)]
    engine.micro_batch = 3
    cells = answered(engine, ["a1", "b1", "a2", "a3", "b2", "text"], points)
    assert seen == [2]
    assert answered(engine, ["b2"], points)["b2", points[0].key].kept_mask == cells["b2", points[0].key].kept_mask
    assert seen == [2]
    reading = [GridPoint(strategy="class_mean", layer=1, rank=4)]
    strategy = Strategy(
        name="class_mean",
        score=lambda view: view.read(CLASS_ATTENTION).mean(dim=-1),
        needs=frozenset({CLASS_ATTENTION}),
        source="test",
    )
    monkeypatch.setitem(CATALOG, "class_mean", strategy)
    masks = {cell.kept_mask for cell in answered(engine, ["a1", "a2", "a3"], reading).values()}
    assert (len(masks), seen) == (1, [2, 1])
    answered(engine, ["c1", "b1"], points)
    assert seen == [2, 1, 1]
    assert len(read) == len(set(read)) == 3
    engine.forget_images()
    answered(engine, ["b1", "b2"], points)
    assert (seen, len(read)) == ([2, 1, 1, 1], 4)


def test_images_are_the_same_by_their_pixels(engines, rows):
    """The digests that a unit names count; where it names none, the file does. They do not name its cells."""
    engine = engines[1]
    engine.micro_batch, engine.budget, engine.shares_images = 2, Budget(), True
    points = [unpruned_point(LAYERS, VISUAL)]
    found = []
    for ids, images in (
        (["a1", "a2"], ()),
        (["a1", "copy"], ()),
        (["a1", "copy"], ("d", "d")),
        (["a1", "a2"], ("d", "e")),
    ):
        engine.samples["copy"] = replace(engine.samples["a2"], id="copy", image=engine.samples["b1"].image)
        rows.clear()
        answered(engine, ids, points, images)
        found.append(rows[1])
    del engine.samples["copy"]
    assert [found[1] - one for one in found] == [VISUAL, 0, VISUAL, 0]
    units = [WorkUnit(samples=("a1", "a2"), points=tuple(points), images=images) for images in ((), ("d", "d"))]
    assert units[0].key == units[1].key


def test_rows_that_questions_share_leave_room_for_more_of_them(engines):
    """What the plan counts of a further question is what it adds to the rows of each layer."""
    config = engines[1].model.config
    row = RowBytes.of(config, 4, 2)
    points = (
        unpruned_point(LAYERS, VISUAL),
        GridPoint(strategy="fastv", layer=1, rank=4),
        GridPoint(strategy="divprune", layer=0, rank=5),
        GridPoint(strategy="himap", layer=1, rank=9, params=(("second_layer", 2), ("second_rank", 3))),
    )
    first, further = (footprint(row, points, prompt=60, visual=16, system=10, further=one) for one in (False, True))
    assert first.rows == 60 + (4 + 44) + (5 + 44) + (9 + 44)
    assert further.rows == 34 + (4 + 34) + 34 + (9 + 34)
    assert further.bytes < first.bytes
    assert further.trunk_bytes == row.wave(34 * LAYERS, 34, 1)

    def asked(images: list[str]) -> int:
        filling, points = Filling(Budget(500, 10**9)), (unpruned_point(LAYERS, VISUAL),)
        need, more = (footprint(row, points, prompt=60, visual=50, further=one) for one in (False, True))
        items = prepared(need, len(images), more)
        return len(taken(filling, [replace(item, image=image) for item, image in zip(items, images, strict=True)]))

    assert asked([""] * 200) == asked([str(place) for place in range(200)]) == 8
    assert asked(["one"] * 200) == 45
    assert asked([str(place // 4) for place in range(200)]) == 20


def test_a_forecast_takes_more_questions_of_one_image():
    room = {"host": 0, "prompt": 641, "visual": 576, "system": 35, "value_bytes": 2, "max_new_tokens": 2}
    points = (unpruned_point(32, 576), GridPoint(strategy="divprune", layer=0, rank=64))
    on_card = partial(forecast, LLAVA_7B, points, 80 << 30, **room, samples=10_000)
    one, six, more = (on_card(questions=questions) for questions in (1.0, 6.5, 31.0))
    assert 3 * one.samples < six.samples < more.samples
    assert max(one.peak, six.peak, more.peak) <= 80 << 30


@pytest.mark.parametrize("most", [2, 3])
def test_tiles_say_where_each_key_of_a_chain_lies(most):
    """What the kernel reads of a tile, done by hand: the n-th key's row, of one, two or three runs."""
    chains = [(slice(40, 47),), (slice(0, 5), slice(20, 31)), (slice(0, 5), slice(9, 12), slice(90, 97))][:most]
    blocks = [(slice(runs[-1].start + 2, runs[-1].stop), runs) for runs in chains]
    table = tiles([block(*one) for one in blocks], 3).tolist()
    assert {len(tile) for tile in table} == {6 if most == 2 else 8}
    answered = []
    for start, count, seen, first, length, second, *more in table:
        both, third = more or (10**6, 0)
        for query in range(count):
            rows = [
                first + key if key < length else second + key - length if key < both else third + key - both
                for key in range(seen + query + 1)
            ]
            (runs,) = (runs for queries, runs in blocks if queries.start <= start + query < queries.stop)
            assert rows == [row for row in numbers(*runs).tolist() if row <= start + query]
            answered.append(start + query)
    assert sorted(answered) == sorted(numbers(*(queries for queries, _ in blocks)).tolist())
