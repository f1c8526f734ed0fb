"""Prompts of several images, on a tiny random model of each family: listed means tested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from against_naive import assert_every_cell_is_naive
from examples import few
from naive import naive_answer
from small_qwen import noise
from strategies import catalog as rules
from test_workers_families import KINDS, MADE
from workers.encoding import encode_sample
from workers.engine import Engine
from workers.families.catalog import load_model, open_checkpoint
from workers.forks import Placement, Seeds
from workers.memory import Budget, RowBytes
from workers.patch import pruned
from workers.prefill import prefill
from workers.runnable import Facts, complaint
from workers.slow_path import slow_answer
from workers.tasks.base import Sample
from workers.trunks import embed_trunks, make_trunks
from workers.work import EngineSpec, GridPoint, ModelSpec, TaskSpec, WorkUnit, unpruned_point

SIZES = {"a": (100, 150), "b": (30, 30), "c": (61, 200)}  # height and width
USUAL = ("llava", "llava_onevision", "qwen3_vl", "internvl")  # the others are of the same families
TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}  # float32: other shapes of the same sums


def samples_in(folder: Path) -> list[Sample]:
    """One to three images, before the question or where it says; two questions about the same two."""
    files = {name: folder / f"{name}.png" for name in SIZES}
    for name, size in SIZES.items():
        noise(size).save(files[name])
    common = Sample(id="one", question="what is it ?", choices=("red", "blue"), label="A", image=files["a"])
    a, b, c = files.values()
    return [
        common,
        replace(common, id="two", question="which is red ?", more=(b,)),
        replace(common, id="again", question="which one is blue ?", more=(b,)),
        replace(common, id="placed", question="the square <image> or <image> and <image> ?", image=c, more=(b, a)),
        replace(common, id="lost", question="the square <image> or what ?", more=(b,)),
    ]


@pytest.fixture(
    scope="module", params=[kind if kind in USUAL else pytest.param(kind, marks=pytest.mark.system) for kind in KINDS]
)
def engine(request, tmp_path_factory) -> Engine:
    return made(request.param, tmp_path_factory.mktemp(request.param))


def made(kind: str, folder: Path) -> Engine:
    path = MADE[kind](folder / "model")
    checkpoint = open_checkpoint(ModelSpec(path=str(path)))
    model = ModelSpec(path=str(path), image_mode=checkpoint.image_mode)
    task = TaskSpec(name="scienceqa", data=str(folder), conversation=checkpoint.conversation)
    spec = EngineSpec(model=model, task=task, max_new_tokens=2)
    return Engine(spec, load_model(model, "cpu"), samples_in(folder), None)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Engine:
    return made("qwen2_5_vl", tmp_path_factory.mktemp("drawn"))


def encoded(engine: Engine, id: str):
    return encode_sample(engine.model, engine.samples[id], engine.spec.task, engine.spec.model.image_mode)


def test_the_whole_is_the_stock_models(engine):
    """Features, logits and tokens, by transformers' own ``generate``."""
    points = (unpruned_point(engine.model.config.layers, engine.model.visual_tokens),)
    outcome = engine.run(WorkUnit(samples=("one", "two", "again", "placed"), points=points))
    assert outcome.failures == ()
    for cell in outcome.outcomes:
        prompt = encoded(engine, cell.sample)
        assert len(prompt.images) == len(engine.samples[cell.sample].images)
        assert prompt.words_between or cell.sample != "placed"
        made = engine.model.module.generate(
            **engine.model.inputs(prompt),
            attention_mask=torch.ones(1, prompt.length, dtype=torch.int64),
            do_sample=False,
            max_new_tokens=2,
            return_dict_in_generate=True,
            output_logits=True,
        )
        ids = made.sequences[0, prompt.length :]
        assert (cell.answer, cell.first_token) == (engine.model.text(ids.tolist()), int(ids[0]))
        letters = made.logits[0][0][engine.letter_tokens[:2]]
        torch.testing.assert_close(torch.tensor(cell.option_logits), letters, **TOLERANCE)


def fitting(engine: Engine) -> list[GridPoint]:
    """Every strategy that runs on the model, at each layer where it may, and one in two stages."""
    config, made = engine.model.config, []
    facts = replace(Facts.of(config, several=True), clip=False, position_parts=1)
    for strategy in rules.CATALOG.values():
        for layer in range(config.layers if strategy.layers == "any" and not strategy.schedule else 1):
            rank = 5 if strategy.fixed_rank is None else 0
            if complaint(strategy, {}, facts, layer=layer, rank=rank) is None:
                made.append(GridPoint(strategy=strategy.name, layer=layer, rank=rank))
    stages = (("second_layer", 2), ("second_rank", 3))
    return [*made, GridPoint(strategy="himap", layer=1, rank=7, params=stages)]


@pytest.mark.system  # of all kinds half a minute
def test_every_rule_and_layer_is_the_naive_forward(engine):
    assert_every_cell_is_naive(engine, ("two", "again", "placed"), fitting(engine), **TOLERANCE)


def test_a_rule_of_each_kind_is_the_naive_forward(engine):
    """That reads what is before, ahead, of the tower, or nothing; feeds rows of its own, renumbers, or has stages."""
    kinds = ("cutoff", "image_column_sum", "pyramiddrop_stage", "sparsevlm_stage", "hiprune", "himap")
    points = [point for point in fitting(engine) if point.strategy in kinds and point.layer == min(1, point.layer)]
    assert_every_cell_is_naive(engine, ("placed",), points, **TOLERANCE)
    engine.budget = Budget(rows=1)  # a fork a wave
    assert_every_cell_is_naive(engine, ("two", "again"), points, **TOLERANCE)
    engine.budget = None


@settings(deadline=None, max_examples=few(4))
@given(data=st.data())
def test_any_images_anywhere_are_the_naive_forward(data, qwen):
    """Where they stand, of which sizes, whatever is kept from which layer on."""
    sizes = data.draw(st.lists(st.tuples(st.integers(28, 150), st.integers(28, 150)), min_size=1, max_size=3))
    words = data.draw(st.lists(st.sampled_from(["", "red", "what is it", "the blue square"]), min_size=1, max_size=4))
    text = "<image>".join([*words, *["or"] * (len(sizes) + 1)][: len(sizes) + 1]) + " ?"
    prompt = qwen.model.encode(qwen.model.chat(text, len(sizes)), [noise(size) for size in sizes], "native", True)
    name, layer = (
        data.draw(st.sampled_from(["fastv", "random", "fps_merged", "text_sum"])),
        data.draw(st.integers(1, 2)),
    )
    point = GridPoint(strategy=name, layer=layer, rank=data.draw(st.integers(0, prompt.visual)))
    with torch.inference_mode():
        answers = engine_answer(qwen, prompt, point)
        slow = naive_answer(qwen.model, prompt, point, Seeds("a", "b"), 1)
    assert answers[0] == slow.kept
    torch.testing.assert_close(answers[1], slow.first_logits, **TOLERANCE)


def engine_answer(engine: Engine, prompt, point: GridPoint) -> tuple[list[int], torch.Tensor]:
    """Kept tokens and first logits, by the shared forward."""
    decoder, trunks = engine.model.decoder, make_trunks([prompt])
    rows_RD = embed_trunks(decoder, trunks, [prompt], engine.model.image_features([prompt]))
    placement = Placement(trunks, [point], [Seeds("a", "b")], [{}])
    (done,) = prefill(decoder, rows_RD, trunks, placement, RowBytes.of(engine.model.config, 4, 1))
    return placement.sequence_of[0, 0].visual_K.tolist(), done.logits_NC[0]


def test_their_own_generate_is_pruned_alike(engine):
    """By ``workers.patch``, which shares none of the engine's forward."""
    names = ("fastv", "sparsevlm_stage", "image_column_sum", "pyramiddrop_stage", "dart")
    points: list[GridPoint] = [GridPoint(strategy=name, layer=1, rank=6) for name in names]
    points += [GridPoint(strategy=name, layer=0, rank=6) for name in ("divprune", "hiprune", "random_per_image")]
    points += [GridPoint(strategy="random", layer=1, rank=0), unpruned_point(3, engine.model.visual_tokens)]
    if engine.model.config.class_token:
        points += [GridPoint(strategy=name, layer=0, rank=6) for name in ("prunesid", "visionzip", "vscan_tower")]
    cells = engine.run(WorkUnit(samples=("placed",), points=tuple(points))).outcomes
    for cell, point in zip(cells, points, strict=True):
        sample = engine.samples[cell.sample]
        slow = slow_answer(engine.model, engine.spec, sample, point, engine.letter_tokens[: len(sample.choices)])
        assert cell.kept_mask == slow.kept_mask, point.label
        assert (cell.answer, cell.first_token, cell.decoded_tokens) == (slow.text, slow.ids[0], len(slow.ids))
        torch.testing.assert_close(cell.option_logits, slow.option_logits, **TOLERANCE)


def test_prompts_of_one_and_of_several_images_are_pruned_in_one_batch(engine):
    prompts = [encoded(engine, id) for id in ("placed", "one", "two")]
    if "batch_num_images" in engine.model.inputs(prompts[0]):
        prompts = prompts[::2]  # tiles of one image would have to be padded
    module, width = engine.model.module, max(prompt.length for prompt in prompts)
    ids_BS = torch.tensor([[0] * (width - one.length) + list(one.ids) for one in prompts])
    alive_BS = torch.tensor([[0] * (width - one.length) + [1] * one.length for one in prompts])
    each = [engine.model.inputs(prompt) for prompt in prompts]
    words = {"input_ids", "mm_token_type_ids"}
    further = {name: torch.cat([one[name] for one in each]) for name in each[0].keys() - words}
    if "mm_token_type_ids" in each[0]:
        further["mm_token_type_ids"] = (ids_BS == engine.model.image_token).int()
    with torch.inference_mode(), pruned(module, "hiprune", 0, 9) as report:
        module(input_ids=ids_BS, attention_mask=alive_BS, **further)
        together = [kept.tolist() for kept in report.kept]
        for inputs, kept in zip(each, together, strict=True):
            module(**inputs)
            assert report.kept[0].tolist() == kept
