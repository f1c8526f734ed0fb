"""The patch on stock transformers against the engine: the same tokens kept, the same answers, the same logits.

The engine itself is compared with a naive forward in ``test_workers_engine.py``; the two share the strategies, and no
code that drops, masks or places tokens.
"""

from __future__ import annotations

import inspect
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from admitted import admitted
from small_clip import make_clip
from small_llava import make_checkpoint
from strategies import catalog
from strategies.catalog import Strategy
from strategies.stages import Stage
from test_workers_engine import assert_equals_naive, make_engine
from workers import evidence
from workers.encoding import encode_sample, question_of
from workers.image_digests import sample_digest
from workers.layer_calls import CACHE_NAMES, UnknownCallError, cache_of, go_on
from workers.patch import pruned
from workers.sites import Questions
from workers.work import GridPoint, ModelSpec, WorkUnit, unpruned_point

# Kernels differ in the order of their sums only; the weights are scaled up, so logits reach 1e2.
LOGIT_TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}
TEXT_ONLY = "6"


@pytest.fixture(scope="module")
def engine(small_checkpoint, small_scienceqa):
    return make_engine(small_checkpoint, small_scienceqa, max_new_tokens=4)


@pytest.fixture(scope="module")
def deep_engine(tmp_path_factory, small_scienceqa):
    """Three layers, and answers that run to the end of the budget."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("deep"), seed=3, layers=3, end_bias=-0.9)
    model = ModelSpec(path=str(checkpoint), text_tower=str(make_clip(tmp_path_factory.mktemp("clip"), seed=3)))
    return make_engine(checkpoint, small_scienceqa, max_new_tokens=12, model=model)


def batch_inputs(engine, ids, side: str = "left", extra: int = 0) -> dict[str, torch.Tensor]:
    """What a processor would give: expanded image tokens, padding on one side, a mask, the pixels of all images."""
    rows, pictures = [], []
    for id in ids:
        sample = engine.samples[id]
        prompt = encode_sample(engine.model, sample, engine.spec.task, "pad")
        rows.append(list(prompt.ids))
        if prompt.images:
            pictures.append(prompt.pixels[0].values)
    width = max(map(len, rows)) + extra
    fill = [[0] * (width - len(row)) for row in rows]
    ones = [[1] * len(row) for row in rows]
    join = (lambda pad, row: pad + row) if side == "left" else (lambda pad, row: row + pad)
    inputs = {
        "input_ids": torch.tensor([join(pad, row) for pad, row in zip(fill, rows, strict=True)]),
        "attention_mask": torch.tensor([join(pad, one) for pad, one in zip(fill, ones, strict=True)]),
    }
    return inputs | ({"pixel_values": torch.stack(pictures)} if pictures else {})


def patched_answers(engine, ids, point: GridPoint, **changes):
    """(texts, first-token logits, kept) of the model's own generate inside the block."""
    inputs = batch_inputs(engine, ids)
    arguments = {"do_sample": False, "max_new_tokens": engine.spec.max_new_tokens, "pad_token_id": 0} | changes
    asked = None
    if evidence.reads_text_tower(evidence.needed([point])):
        words = [question_of(engine.samples[id], engine.spec.task) for id in ids]
        asked = Questions(words, engine.model.text_tower)
    named = {"sample_ids": ids, "image_ids": [sample_digest(engine.samples[id]) for id in ids], "asked": asked}
    with pruned(
        engine.model.module, point.strategy, point.layer, point.rank, **named, **dict(point.settings)
    ) as report:
        out = engine.model.module.generate(**inputs, **arguments, output_logits=True, return_dict_in_generate=True)
    answers = out.sequences[:, inputs["input_ids"].shape[1] :]
    texts = [text.strip() for text in engine.model.tokenizer.batch_decode(answers, skip_special_tokens=True)]
    return texts, out.logits[0], report.kept


def assert_equals_engine(engine, ids, points, **changes) -> None:
    cells = {(c.sample, c.point): c for c in engine.run(WorkUnit(samples=tuple(ids), points=tuple(points))).outcomes}
    for point in points:
        texts, logits, kept = patched_answers(engine, ids, point, **changes)
        for row, id in enumerate(ids):
            cell = cells[id, point.key]
            letters = engine.letter_tokens[: len(cell.option_logits)]
            assert texts[row] == cell.answer, point.label
            assert int(logits[row].argmax()) == cell.first_token
            torch.testing.assert_close(
                logits[row, letters], torch.tensor(cell.option_logits), **LOGIT_TOLERANCE, msg=point.label
            )
            first, second = logits[row].topk(2).values.tolist()
            assert first - second == pytest.approx(cell.margin, abs=1e-4, rel=1e-5)
            if kept:  # nothing is reported where nothing ever prunes, at layer L
                mask = np.unpackbits(np.frombuffer(cell.kept_mask, np.uint8))[: cell.visual_tokens]
                assert kept[row].tolist() == np.flatnonzero(mask).tolist(), point.label


def points_of(layers: int, visual: int, ranks=(1, 5)) -> list[GridPoint]:
    points = []
    for layer in range(layers + 1):
        points.append(GridPoint(strategy="cutoff", layer=layer, rank=0))
        for name in ("fastv", "random") if layer else ("random",):
            points += [GridPoint(strategy=name, layer=layer, rank=rank) for rank in (0, *ranks, visual - 1, visual)]
    return points


@pytest.mark.parametrize("ids", [["1"], ["1", TEXT_ONLY, "2"]], ids=["alone", "padded"])
def test_equals_engine(engine, ids):
    assert_equals_engine(engine, ids, points_of(2, 16))


@pytest.mark.parametrize("ids", [["1"], [TEXT_ONLY, "1", "2"]], ids=["alone", "padded"])
def test_long_answers_equal_engine(deep_engine, ids):
    """A dozen decoded tokens, in which every cached key is read."""
    assert_equals_engine(deep_engine, ids, points_of(3, 16, ranks=(4,)))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "text_model", "change"),
    [(4, 4, "llama", {}), (2, 1, "mistral", {}), (8, 2, "qwen2", {}), (4, 2, "mistral", {"sliding_window": 200})],
)
def test_other_decoders_equal_engine(tmp_path, small_scienceqa, heads, kv_heads, text_model, change):
    checkpoint = make_checkpoint(
        tmp_path, seed=7, layers=4, heads=heads, kv_heads=kv_heads, side=3, text_model=text_model, end_bias=-0.9
    )
    engine = make_engine(checkpoint, small_scienceqa, max_new_tokens=3)
    for name, value in change.items():
        setattr(engine.model.module.config.text_config, name, value)
    stages = (("cutoff_layer", 3), ("second_layer", 2), ("second_rank", 3))
    points = [GridPoint(strategy="fastv", layer=layer, rank=4) for layer in (1, 3)]
    points.append(GridPoint(strategy="himap", layer=1, rank=9, params=stages))
    assert_equals_engine(engine, ["1", TEXT_ONLY, "2"], points)


STAGES = {
    "himap": (("second_layer", 2), ("second_rank", 3)),
    "pyramiddrop": (("second_layer", 2), ("third_layer", 3)),
    "vscan": (("second_layer", 2),),
    "sparsevlm_plus": (("second_layer", 2), ("second_rank", 3), ("third_layer", 3), ("third_rank", 2), ("heads", 2)),
    "sparsevlm": (("second_layer", 2), ("second_rank", 4), ("third_layer", 3), ("third_rank", 2)),
    "fitprune": (("left", "4-2"),),
    "v2drop": (("second_layer", 2), ("second_share", 0.6), ("third_layer", 0)),
}
EVERY = [
    GridPoint(strategy=name, layer=int(strategy.layers != "input"), rank=admitted(strategy, 6, 16), params=params)
    for name, strategy in catalog.CATALOG.items()
    for params in [STAGES.get(name, ())]
    if strategy.check(dict(params)) is None and not strategy.smaller
]


@pytest.mark.parametrize("ids", [["1"], ["2", TEXT_ONLY, "3"]], ids=["alone", "padded"])
def test_every_strategy_equals_engine(deep_engine, ids):
    """Scores, greedy orders, several stages, merged tokens, renumbered positions."""
    named = {"himap", "fps_merged", "divprune", "text_weighted", "visionzip", "trim", "vscan", "pyramiddrop"}
    assert named <= {point.strategy for point in EVERY}
    assert_equals_engine(deep_engine, ids, EVERY)


POSITIONS = [
    *(GridPoint(strategy="divprune", layer=0, rank=5, positions=how) for how in ("keep", "compact")),
    *(GridPoint(strategy="random", layer=layer, rank=5, positions="compact") for layer in (0, 1, 2)),
    *(GridPoint(strategy="cutoff", layer=layer, rank=0, positions="compact") for layer in (1, 2)),
    GridPoint(strategy="himap", layer=1, rank=9, params=(("second_layer", 2), ("second_rank", 3)), positions="compact"),
    GridPoint(strategy="tome_merged", layer=1, rank=6, positions="compact"),
    GridPoint(strategy="vscan", layer=0, rank=9, params=(("second_layer", 2),), positions="compact"),
]


@pytest.mark.parametrize("ids", [["1"], ["2", TEXT_ONLY, "3"]], ids=["alone", "padded"])
def test_positions_of_the_readers_choice_equal_engine(deep_engine, ids):
    """In the input and later, over several stages, a dozen decoded tokens in layers that number them differently."""
    assert_equals_engine(deep_engine, ids, POSITIONS)


def test_renumbering_ends_the_gaps_of_earlier_stages_too(deep_engine):
    """A stage that keeps ids, then one that does not, and the other way: fork, patch and naive forward agree."""
    renumbering = replace(catalog.get("random"), name="random_compact", positions="compact")
    stages = {
        "gaps_then_none": (Stage("random", 1, 9), Stage("random_compact", 2, 5)),
        "none_then_gaps": (Stage("random_compact", 1, 9), Stage("random", 2, 5)),
    }
    mixed = [
        Strategy(name=name, schedule=lambda layer, rank, made=made: made, source="") for name, made in stages.items()
    ]
    points = [GridPoint(strategy=one.name, layer=1, rank=9) for one in mixed]
    try:
        for one in (renumbering, *mixed):
            catalog.admit(one)
        assert_equals_engine(deep_engine, ["2", TEXT_ONLY, "3"], points)
        assert_equals_naive(deep_engine, ["2"], points)
    finally:
        catalog.ADMITTED.clear()


NAMED_FORMS = [
    GridPoint(strategy=name, layer=0 if catalog.get(name).layers == "input" else 1, rank=10, params=(params,))
    for name, params in (
        ("visionzip", ("contextual", 0.4)),
        ("vispruner", ("important", 0.2)),
        ("cdpruner", ("long_text", "segments")),
        ("cdpruner", ("sign", "positive")),
        ("trim", ("similarity", "cosine")),
        ("trim", ("count", "adaptive")),
        ("prumerge", ("count", "adaptive")),
        ("prumerge_plus", ("count", "adaptive")),
        ("holov", ("form", "literal")),
        ("holov", ("form", "paper")),
        ("holov", ("fed", "raster")),
        ("scope", ("alpha", 0.5)),
        ("hiprune", ("edges", "drop")),
        ("dart", ("form", "literal")),
        ("dart", ("text_pivots", 1)),
    )
]


def test_every_named_form_equals_engine(deep_engine):
    """Literal forms, and counts of the method's own, which may be fewer than the rank; none is taken for another."""
    ids = ["2", TEXT_ONLY, "3"]
    assert_equals_engine(deep_engine, ids, NAMED_FORMS)
    cells = deep_engine.run(WorkUnit(samples=("2",), points=tuple(NAMED_FORMS))).outcomes
    kept = {cell.point: cell.tokens_kept for cell in cells}
    adaptive = [point for point in NAMED_FORMS if ("count", "adaptive") in point.params]
    assert all(2 <= kept[point.key] <= 10 for point in adaptive)
    assert all(kept[point.key] == 10 for point in NAMED_FORMS if point not in adaptive)


def test_eager_equals_engine(deep_engine):
    model = deep_engine.model.module
    points = [GridPoint(strategy=name, layer=layer, rank=4) for name in ("fastv", "text_sum") for layer in (1, 2)]
    points.append(GridPoint(strategy="divprune", layer=0, rank=4))
    model.set_attn_implementation("eager")
    try:
        assert_equals_engine(deep_engine, ["1"], points)
        assert_equals_engine(deep_engine, ["1", TEXT_ONLY, "2"], points)
    finally:
        model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("name", ["fastv", "l2_norm"])
def test_right_padding_equals_engine(deep_engine, name):
    """Forward by forward, as a harness that pads on the right would do it: the last true row gives the next token."""
    model, ids = deep_engine.model.module, ["1", TEXT_ONLY, "2"]
    inputs = batch_inputs(deep_engine, ids, side="right", extra=3)
    point = GridPoint(strategy=name, layer=0 if name == "l2_norm" else 1, rank=5)
    cells = {c.sample: c for c in deep_engine.run(WorkUnit(samples=tuple(ids), points=(point,))).outcomes}
    mask, lengths = inputs["attention_mask"], inputs["attention_mask"].sum(dim=1)
    answers = []
    with pruned(model, name, point.layer, 5, sample_ids=ids), torch.inference_mode():
        out = model(**inputs, use_cache=True)
        assert out.logits.shape[1] == mask.shape[1]
        logits = out.logits[torch.arange(3), lengths - 1]
        first = logits
        for step in range(deep_engine.spec.max_new_tokens):
            answers.append(logits.argmax(dim=-1))
            mask = torch.cat((mask, torch.ones(3, 1, dtype=torch.int64)), dim=1)
            logits = model(
                input_ids=answers[-1][:, None],
                attention_mask=mask,
                position_ids=(lengths + step)[:, None],
                **go_on(model, out),
            ).logits[:, -1]
    for row, id in enumerate(ids):
        tokens = torch.stack(answers)[: cells[id].decoded_tokens, row]
        assert deep_engine.model.tokenizer.decode(tokens, skip_special_tokens=True).strip() == cells[id].answer
        letters = deep_engine.letter_tokens[: len(cells[id].option_logits)]
        torch.testing.assert_close(first[row, letters], torch.tensor(cells[id].option_logits), **LOGIT_TOLERANCE)


def test_several_new_tokens_at_once_equal_one_by_one(deep_engine):
    model, new = deep_engine.model.module, torch.tensor([[9, 11, 4]])
    inputs = batch_inputs(deep_engine, ["1"])
    with pruned(model, "fastv", 1, 4), torch.inference_mode():
        together = model(input_ids=new, **go_on(model, model(**inputs))).logits
        cache = go_on(model, model(**inputs))
        alone = [model(input_ids=new[:, i : i + 1], **cache).logits for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), **LOGIT_TOLERANCE)


@pytest.mark.parametrize(("name", "layer"), [("random", 0), ("fastv", 1)])
def test_dropped_tokens_are_not_in_the_cache(deep_engine, name, layer):
    model, inputs = deep_engine.model.module, batch_inputs(deep_engine, ["1"])
    length = inputs["input_ids"].shape[1]
    with pruned(model, name, layer, 4):
        made = model.generate(
            **inputs, do_sample=False, min_new_tokens=5, max_new_tokens=5, pad_token_id=0, return_dict_in_generate=True
        )
    cache = cache_of(made)
    decoded = 4  # the fifth token was never fed
    held = [length if index < layer else length - 12 for index in range(3)]
    assert [kv.keys.shape[-2] for kv in cache.layers] == [count + decoded for count in held]
    assert cache.get_seq_length() == length + decoded  # of the whole sequence: position ids follow it
    reference = weakref.ref(cache.layers[0])
    del cache, made
    assert reference() is None  # no cycle keeps the keys alive


def test_sampling_beams_and_copies(deep_engine):
    """Whatever ``generate`` does with rows, a sample's copies keep the sample's tokens."""
    model, inputs = deep_engine.model.module, batch_inputs(deep_engine, ["1", "2"])
    for sample_ids in (["1", "2"], None):
        with pruned(model, "random", 1, 4, sample_ids=sample_ids) as report:
            torch.manual_seed(0)
            model.generate(**inputs, do_sample=True, num_return_sequences=2, max_new_tokens=3, pad_token_id=0)
            first, copy, second, _ = (kept.tolist() for kept in report.kept)
            assert first == copy
            assert first != second
    with pruned(model, "fastv", 1, 4):
        beams = model.generate(**inputs, num_beams=2, do_sample=False, max_new_tokens=4, pad_token_id=0)
        rows = [
            model.generate(**batch_inputs(deep_engine, [id]), num_beams=2, do_sample=False, max_new_tokens=4)[0]
            for id in ("1", "2")
        ]
    assert [row[row != 0].tolist() for row in beams] == [row[row != 0].tolist() for row in rows]


def test_without_ids_a_draw_depends_on_the_sample_only(deep_engine):
    model = deep_engine.model.module
    with pruned(model, "random", 1, 4) as report:
        model(**batch_inputs(deep_engine, ["1", TEXT_ONLY, "2"]))
        together = [kept.tolist() for kept in report.kept]
        model(**batch_inputs(deep_engine, ["2"]))
        assert report.kept[0].tolist() == together[2]
    assert together[1] == []
    with pruned(model, "random", 1, 4, seed=1) as report:
        model(**batch_inputs(deep_engine, ["2"]))
        assert report.kept[0].tolist() != together[2]


def test_without_names_of_images_a_draw_depends_on_the_pixels_only(deep_engine):
    model, inputs = deep_engine.model.module, batch_inputs(deep_engine, ["1", "2"])
    other = {**inputs, "input_ids": inputs["input_ids"].roll(1, dims=0).where(inputs["input_ids"] != 5, 6)}
    with pruned(model, "random_per_image", 1, 4, sample_ids=["1", "2"]) as report:
        model(**inputs)
        first = [kept.tolist() for kept in report.kept]
        model(**other)
        assert [kept.tolist() for kept in report.kept] == first
    assert first[0] != first[1]
    with pytest.raises(ValueError, match="3 image_ids were given for a batch of 2"):  # noqa: SIM117
        with pruned(model, "random_per_image", 0, 4, image_ids=["1", "2", "3"]):
            model(**inputs)


def test_without_a_cache_the_first_token_is_the_same(deep_engine):
    model, inputs = deep_engine.model.module, batch_inputs(deep_engine, ["1"])
    arguments = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True, "pad_token_id": 0}
    with pruned(model, "fastv", 1, 4):
        cached = model.generate(**inputs, **arguments, max_new_tokens=1)
        again = model.generate(**inputs, **arguments, max_new_tokens=6, use_cache=False)
    torch.testing.assert_close(cached.logits[0], again.logits[0], **LOGIT_TOLERANCE)


def hooks_of(model) -> list[int]:
    """Everything that a block might leave behind, in every module."""
    return [
        (name, sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


def test_the_model_is_as_before(deep_engine):
    model, inputs = deep_engine.model.module, batch_inputs(deep_engine, ["1", TEXT_ONLY, "2"])
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=2, do_sample=False, pad_token_id=0)
        before, state = model(**inputs).logits, hooks_of(model)
        with pruned(model, "fastv", 1, 4):
            inside = model(**inputs).logits
            assert hooks_of(model) != state
        assert hooks_of(model) == state
        assert torch.equal(model(**inputs).logits, before)
        assert not torch.equal(inside[0, -1], before[0, -1])
        with pytest.raises(KeyError), pruned(model, "random", 0, 4):
            raise KeyError
        with pytest.raises(ValueError, match="sample_ids"), pruned(model, "random", 0, 4, sample_ids=["1", "2"]):
            model(**inputs)
        assert hooks_of(model) == state
        assert torch.equal(model(**inputs).logits, before)


def test_layer_l_and_rank_v_are_the_untouched_model(deep_engine):
    model, inputs = deep_engine.model.module, batch_inputs(deep_engine, ["1"])
    with torch.inference_mode():
        whole = model(**inputs).logits
        for layer, rank in ((3, 2), (1, 16)):
            with pruned(model, "fastv", layer, rank):
                assert torch.equal(model(**inputs).logits, whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "fastw"}, "unknown strategy 'fastw'. Did you mean 'fastv'"),
        ({"layer": 4}, "layer 4 is outside 0..3"),
        ({"layer": -1}, "layer -1 is outside 0..3"),
        ({"rank": 17}, "rank 17 is outside 0..16"),
        ({"rank": -1}, "rank -1 is outside 0..16"),
        ({"alpha": 1}, "has no parameter 'alpha'"),
        ({"strategy": "divprune"}, "layer is 0, not 1"),
        ({"strategy": "himap", "second_layer": 1}, "second_layer: 1 is not above layer 1"),
        ({"positions": "kept"}, "positions: 'kept' is none of keep, compact. Did you mean 'keep'"),
        ({"strategy": "visionzip", "layer": 0, "positions": "keep"}, "which have no place to keep"),
    ],
)
def test_mistakes_are_one_line(deep_engine, arguments, message):
    with (
        pytest.raises(ValueError, match=message) as caught,
        pruned(deep_engine.model.module, **{"layer": 1, "rank": 4, **arguments}),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_tokens_chosen_elsewhere_are_kept_instead_of_the_strategys(deep_engine):
    model, inputs = deep_engine.model.module, batch_inputs(deep_engine, ["1", TEXT_ONLY, "2"])
    arguments = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0}
    with pruned(model, "fps_merged", 1, 4, sample_ids=["1", TEXT_ONLY, "2"]) as report:
        chosen = model.generate(**inputs, **arguments)
    own = report.kept
    with pruned(model, "fps_merged", 1, 4, kept=own) as report:
        assert torch.equal(model.generate(**inputs, **arguments), chosen)
    other = [torch.arange(4), torch.arange(0), torch.arange(4) * 3]
    with pruned(model, "fastv", 1, 4, kept=other) as report:
        model.generate(**inputs, **arguments)
    assert [kept_K.tolist() for kept_K in report.kept] == [kept_K.tolist() for kept_K in other]
    for wrong in (
        [torch.arange(3)] * 3,
        [torch.tensor([0, 1, 2, 16])] * 3,
        [torch.tensor([3, 2, 1, 0])] * 3,
        other[:2],
    ):
        with pruned(model, "fastv", 1, 4, kept=wrong), pytest.raises(ValueError, match="kept: "):
            model(**inputs)
    with (
        pytest.raises(ValueError, match="2 stages"),
        pruned(model, "himap", 1, 4, kept=other, second_layer=2, second_rank=2),
    ):
        pass


def test_what_cannot_be_pruned_is_refused(deep_engine):
    model, inputs = deep_engine.model.module, batch_inputs(deep_engine, ["1"])
    with pytest.raises(ValueError, match=r"LlavaForConditionalGen.*, got Linear"), pruned(torch.nn.Linear(1, 1)):
        pass
    outside = go_on(model, model(**inputs))
    with pruned(model, "fastv", 1, 4):
        with pytest.raises(ValueError, match="already pruned"), pruned(model, "fastv", 1, 4):
            pass
        with pytest.raises(ValueError, match="outside this block"):
            model(input_ids=torch.tensor([[5]]), **outside)
        with pytest.raises(ValueError, match="input_ids"):
            model(inputs_embeds=torch.zeros(1, 4, 32))
        with pytest.raises(ValueError, match="image tokens"):
            model(input_ids=torch.tensor([[1, 3, 3, 5]]))
        with pytest.raises(ValueError, match="StaticCache"):
            model.generate(**inputs, cache_implementation="static", max_new_tokens=2, disable_compile=True)
        inside = go_on(model, model(**inputs))
        with pytest.raises(ValueError, match="an image after"):
            model(input_ids=torch.tensor([[3, 3]]), **inside)
        model(input_ids=torch.tensor([[3]]), **inside)  # decoded by chance: no image, as for the engine
    assert_equals_engine(deep_engine, ["1"], [GridPoint(strategy="fastv", layer=1, rank=4)])  # nothing stayed behind


def test_a_name_that_a_new_transformers_gives_the_cache_is_refused(deep_engine, monkeypatch):
    """5.24 renamed the cache, and decoded tokens were silently taken for prompts: never again, by any name."""
    model, inputs = deep_engine.model.module, batch_inputs(deep_engine, ["1"])
    kind = type(model.model.language_model.layers[0])
    own = next(name for name in CACHE_NAMES if name in inspect.signature(kind.forward).parameters)

    def forward(self, hidden_states, attention_mask=None, position_ids=None, memory=None, position_embeddings=None):
        raise AssertionError("refused before it runs")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "forward", forward)
        words = f"transformers .*{kind.__name__}.forward has no argument for the key-value cache.*saccade doctor"
        with pytest.raises(ValueError, match=words), pruned(model, "fastv", 1, 4):
            pass
    # The name of the call alone has moved, behind a decorator that keeps the signature.
    decoder = type(model.model.language_model)

    def renamed(module, args, kwargs):
        return args, {"memory" if name == own else name: value for name, value in kwargs.items()}

    handle = model.model.language_model.register_forward_pre_hook(renamed, with_kwargs=True)
    try:
        words = f"called {decoder.__name__} with .*memory.*: expected one of cache and past_key_values"
        with pruned(model, "fastv", 1, 4), pytest.raises(UnknownCallError, match=words):
            model(**inputs)
    finally:
        handle.remove()
    with pytest.raises(UnknownCallError, match="Output has no field"):
        cache_of(type("Output", (), {})())
    assert_equals_engine(deep_engine, ["1"], [GridPoint(strategy="fastv", layer=1, rank=4)])


def test_the_unpruned_point_needs_no_block(deep_engine):
    """The engine's baseline is the model outside the block."""
    point = unpruned_point(3, 16)
    (cell,) = deep_engine.run(WorkUnit(samples=("1",), points=(point,))).outcomes
    logits = deep_engine.model.module(**batch_inputs(deep_engine, ["1"])).logits[0, -1]
    letters = deep_engine.letter_tokens[: len(cell.option_logits)]
    torch.testing.assert_close(logits[letters], torch.tensor(cell.option_logits), **LOGIT_TOLERANCE)


def test_beyond_a_sliding_window_is_refused(tmp_path, small_scienceqa):
    checkpoint = make_checkpoint(tmp_path, layers=2, text_model="mistral")
    engine = make_engine(checkpoint, small_scienceqa)
    model, inputs = engine.model.module, batch_inputs(engine, ["1"])
    model.config.text_config.sliding_window = inputs["input_ids"].shape[1] - 1
    with pruned(model, "fastv", 1, 4), pytest.raises(ValueError, match="sliding window"):
        model(**inputs)


def test_half_precision_runs(deep_engine):
    """bfloat16 weights: the dtype of masks and rows follows the model's."""
    spec = replace(deep_engine.spec.model, dtype="bfloat16")
    engine = make_engine(spec.path, deep_engine.spec.task.data, model=spec, max_new_tokens=3)
    for attention in ("sdpa", "eager"):
        engine.model.module.set_attn_implementation(attention)
        texts, logits, kept = patched_answers(
            engine, ["1", TEXT_ONLY, "2"], GridPoint(strategy="fastv", layer=1, rank=4)
        )
        assert len(texts) == 3
        assert torch.isfinite(logits).all()
        assert [len(tokens) for tokens in kept] == [4, 0, 4]
