"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: sizes, positions, logits and tokens as transformers' own classes have them.

What every family promises stands in ``test_workers_families.py``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.vision_utils import get_vision_window_index

import workers.families.qwen.model as qwen_model
from against_naive import assert_every_cell_is_naive
from examples import few
from naive import naive_answer, seeds_of
from orchestrator.sweep.spec import load_sweep
from small_qwen import DEPTH, KINDS, LAYERS, make_qwen, noise
from strategies import catalog as rules
from strategies.budget import rank_of_share
from workers.added import AddedRows
from workers.cost import cost
from workers.encoding import encode_sample
from workers.engine import Engine
from workers.families.model import Encoded, SeenImage
from workers.families.qwen.resizing import MAX_RATIO, Resizing
from workers.families.qwen.tower import QwenTower
from workers.forks import Placement, Seeds
from workers.images import load_image
from workers.interop.answering import PrunedModel
from workers.memory import Budget, RowBytes, resident_bytes
from workers.patch import pruned
from workers.prefill import prefill
from workers.slow_path import slow_answer
from workers.tasks.base import DataError
from workers.tasks.prompts import build_prompt
from workers.token_maps import read_maps
from workers.trunks import embed_trunks, make_trunks
from workers.work import EngineSpec, GridPoint, ModelSpec, TaskSpec, WorkUnit, unpruned_point

SIZES = [(100, 150), (30, 30), (200, 20), (61, 300), (84, 56)]  # height and width; the last is whole tokens
PYRAMID = (("second_layer", 2), ("second_share", 0.5), ("third_layer", 3), ("third_share", 0.25))  # reads a layer ahead
TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}  # float32: other shapes of the same sums


@pytest.fixture(scope="module", params=list(KINDS))
def engine(request, tmp_path_factory, small_scienceqa) -> Engine:
    model = ModelSpec(path=str(make_qwen(tmp_path_factory.mktemp(request.param), request.param)), image_mode="native")
    task = TaskSpec(name="scienceqa", data=str(small_scienceqa), conversation="chat_template")
    return Engine.load(EngineSpec(model=model, task=task, max_new_tokens=4), device="cpu")


def asked(engine: Engine, image: Image.Image | None) -> Encoded:
    text = engine.model.chat("what colour is the square ?", image is not None)
    return engine.model.encode(text, image, "native", whole=True)


def asked_about(engine: Engine, id: str) -> Encoded:
    return encode_sample(engine.model, engine.samples[id], engine.spec.task, "native")


@settings(deadline=None, max_examples=few(200))
@given(
    short=st.integers(1, 900),
    ratio=st.floats(1, MAX_RATIO),
    least=st.integers(1, 400_000),
    more=st.sampled_from([0, 1, 5000, 2_000_000]),
)
def test_sizes_are_those_of_transformers(short, ratio, least, more):
    most = max(784, least + more)
    resizing, image = Resizing(14, 2, least, most), (short, int(short * ratio))
    assert resizing.scaled(image) == smart_resize(*image, 28, least, most)
    rows, columns = resizing.grid(image)
    assert 1 <= rows * columns <= resizing.most_tokens


def test_the_most_tokens_of_published_settings():
    assert Resizing(14, 2, 3136, 12845056).most_tokens == 16384
    assert Resizing(14, 2, 3136, 28 * 28 * 1280).most_tokens == 1280


@pytest.mark.parametrize("size", SIZES)
def test_a_prompt_is_that_of_transformers(engine, size):
    """Pixels, ids, positions and features, as processor and model have them."""
    model = engine.model
    prompt, module = asked(engine, noise(size)), model.module.model
    processor = Qwen2VLImageProcessorPil.from_pretrained(engine.spec.model.path)
    theirs = processor(images=noise(size), return_tensors="pt")
    torch.testing.assert_close(prompt.pixels[0].values, theirs["pixel_values"], atol=1e-6, rtol=0)
    grid = theirs["image_grid_thw"]
    assert prompt.visual == int(grid.prod()) // 4
    pads = "<|vision_start|>" + "<|image_pad|>" * prompt.visual + "<|vision_end|>"
    text = model.chat("what colour is the square ?", True).replace("<image>", pads)
    ids_BS = model.tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids_BS.tolist() == [list(prompt.ids)]
    kinds_BS = (ids_BS == model.image_token).int()
    positions_PBS, offset = module.get_rope_index(ids_BS, kinds_BS, image_grid_thw=grid)
    assert torch.equal(prompt.positions_PS, positions_PBS[:, 0])
    assert prompt.next_position == prompt.length + int(offset)


def test_logits_are_those_of_the_stock_model(engine):
    """Five sizes and a question without an image, together and un-pruned."""
    prompts = [*(asked(engine, noise(size)) for size in SIZES), asked(engine, None)]
    config, stock = engine.model.config, KINDS[engine.model.module.config.model_type][1]
    stock = stock.from_pretrained(engine.spec.model.path).eval()
    points = [unpruned_point(config.layers, config.visual_tokens)]
    with torch.no_grad():
        trunks = make_trunks(prompts)
        seen = [one or SeenImage(None) for one in engine.model.see(prompts, {})]
        rows_RD = embed_trunks(engine.model.decoder, trunks, prompts, [one.features_VD for one in seen])
        placement = Placement(trunks, points, [Seeds("", "")] * len(prompts), [{}] * len(prompts))
        row, added = RowBytes.of(config, 4, 1), AddedRows([one.added_JVD for one in seen])
        (done,) = prefill(engine.model.decoder, rows_RD, trunks, placement, row, added=added)
        for logits_C, prompt in zip(done.logits_NC, prompts, strict=True):
            theirs = stock(**engine.model.inputs(prompt)).logits[0, -1]
            torch.testing.assert_close(logits_C, theirs, **TOLERANCE)


@pytest.mark.parametrize("layer", range(LAYERS + 1))
def test_every_layer_and_rank_is_the_naive_forward(engine, layer):
    """Of methods that read attention, hidden states, the tower's evidence, or nothing; two merge or renumber."""
    names = ("fastv", "random", "divprune", "fps_merged", "text_sum", "hiprune")
    points = [
        GridPoint(strategy=name, layer=layer, rank=rank, params=tuple(rules.get(name).params.items()))
        for name in names
        for rank in (0, 1, 5)
        if (rules.get(name).layers != "input" or layer == 0) and (layer or name not in ("fastv", "text_sum"))
    ]
    assert_every_cell_is_naive(engine, ("1", "5"), points, **TOLERANCE)


def test_their_own_generate_answers_the_same(engine):
    """Un-pruned, and pruned by ``workers.patch``: kept tokens keep their positions, and what is decoded goes on."""
    config = engine.model.config
    points = (
        unpruned_point(config.layers, config.visual_tokens),
        GridPoint(strategy="fastv", layer=1, rank=5),
        GridPoint(strategy="sparsevlm_stage", layer=1, rank=6),  # feeds its tokens in an order of its own
        GridPoint(strategy="divprune", layer=0, rank=3),
        GridPoint(strategy="hiprune", layer=0, rank=5),
        GridPoint(strategy="random", layer=2, rank=1),
        GridPoint(strategy="pyramiddrop", layer=1, rank=6, params=PYRAMID),
        GridPoint(strategy="random_per_image", layer=0, rank=2),
        GridPoint(strategy="random", layer=0, rank=0),
        GridPoint(strategy="random", layer=0, rank=config.visual_tokens),
    )
    cells = engine.run(WorkUnit(samples=tuple(engine.samples), points=points)).outcomes
    for cell, point in zip(cells, itertools.cycle(points)):
        sample = engine.samples[cell.sample]
        slow = slow_answer(engine.model, engine.spec, sample, point, engine.letter_tokens[: len(sample.choices)])
        assert (cell.answer, cell.first_token, cell.decoded_tokens) == (slow.text, slow.ids[0], len(slow.ids))
        assert cell.kept_mask == slow.kept_mask, point.label
        shown = read_maps(cell.maps, cell.visual_tokens)
        assert sum(one.rows * one.columns for one in shown) == cell.visual_tokens
        torch.testing.assert_close(cell.option_logits, slow.option_logits, **TOLERANCE, msg=point.label)


@pytest.mark.parametrize("engine", ["qwen3_vl"], indirect=True)
def test_a_share_is_of_each_images_own_tokens(engine):
    """By the one rounding rule, in one stage or several, by the naive forward, transformers' own and the cells."""
    most = engine.model.config.visual_tokens
    points = tuple(
        GridPoint(strategy=name, layer=layer, rank=rank_of_share(share, most), share=share)
        for name, layer, share in (("fastv", 1, 0.25), ("divprune", 0, 0.5), ("random", 2, 0.0), ("random", 1, 1.0))
    )
    cells = engine.run(WorkUnit(samples=tuple(engine.samples), points=points)).outcomes
    assert len({cell.tokens_kept for cell in cells if cell.point == points[1].key}) > 2
    for cell, point in zip(cells, itertools.cycle(points)):
        assert cell.point == point.key
        assert cell.tokens_kept == math.floor(point.share * cell.visual_tokens + 0.5)
        sample, prompt = engine.samples[cell.sample], asked_about(engine, cell.sample)
        with torch.inference_mode():
            naive = naive_answer(engine.model, prompt, point, seeds_of(sample), 4)
        slow = slow_answer(engine.model, engine.spec, sample, point, engine.letter_tokens[: len(sample.choices)])
        assert (cell.kept_mask, cell.answer, naive.tokens) == (slow.kept_mask, slow.text, list(slow.ids)), point.label


def test_kept_tokens_inherit_their_positions(engine):
    prompt = asked(engine, noise(SIZES[0]))
    (trunk,) = make_trunks([prompt])
    point = GridPoint(strategy="divprune", layer=0, rank=4)
    placement = Placement([trunk], [point], [Seeds("0", "0")], [{}])
    with torch.no_grad():
        rows_RD = embed_trunks(engine.model.decoder, [trunk], [prompt], engine.model.image_features([prompt]))
        row = RowBytes.of(engine.model.config, 4, 1)
        list(prefill(engine.model.decoder, rows_RD, [trunk], placement, row))
    fork = placement.sequence_of[0, 0]
    image, start = prompt.positions_PS[:, prompt.system :], prompt.system
    expected = torch.cat((image[:, fork.visual_K], prompt.positions_PS[:, start + prompt.visual :]), dim=1)
    assert torch.equal(fork.positions_PR, expected)
    assert fork.next_position == prompt.next_position > prompt.system + max(engine.model._resizing.grid(SIZES[0]))


def test_questions_about_one_image_share_its_rows(engine):
    of_image, shown = engine.samples["5"], {f"q{n}": n for n in range(3)}
    samples = {id: replace(of_image, id=id, question=f"{of_image.question} {n}") for id, n in shown.items()}
    points = tuple(
        GridPoint(strategy=name, layer=layer, rank=4)
        for name, layer in (
            *(("fastv", 1), ("divprune", 0), ("hiprune", 0), ("l2_norm", 0), ("fastv", 2)),
            *(("fps_merged", 1), ("text_sum", 1), ("random", 2)),
        )
    )
    unit = WorkUnit(samples=tuple(samples), points=points, images=("same",) * 3)
    before, engine.samples = engine.samples, samples
    try:
        alone = engine.run(unit).outcomes
        engine.micro_batch = 3
        together = engine.run(unit).outcomes
        engine.budget = Budget(1, 1)  # of each image one fork at a time
        waiting = engine.run(unit).outcomes
    finally:
        engine.samples, engine.micro_batch, engine.budget = before, 1, None
    for one, other, last in zip(alone, together, waiting, strict=True):
        assert (one.kept_mask, one.answer) == (other.kept_mask, other.answer) == (last.kept_mask, last.answer)
        torch.testing.assert_close(one.option_logits, other.option_logits, **TOLERANCE)
        torch.testing.assert_close(one.option_logits, last.option_logits, **TOLERANCE)


def test_the_tower_is_that_of_transformers(engine):
    """Visual tokens and the states between all layers, of several images together, windows of one size together."""
    prompts, visual = [asked(engine, noise(size)) for size in SIZES], engine.model.module.model.visual
    towers: list[QwenTower] = []
    read = {"itself": lambda tower: (towers.append(tower), torch.zeros(1))[1]}
    with torch.no_grad():
        seen = engine.model.see(prompts, read)
        for image, tower, prompt in zip(seen, towers, prompts, strict=True):
            given = engine.model.inputs(prompt)
            made = visual(given["pixel_values"], grid_thw=given["image_grid_thw"], output_hidden_states=True)
            torch.testing.assert_close(image.features_VD, made.pooler_output, **TOLERANCE)
            deep = getattr(made, "deepstack_features", None)
            assert (image.added_JVD is None) == (deep is None)
            if deep:
                torch.testing.assert_close(image.added_JVD, torch.stack(deep), **TOLERANCE)
            for layer, theirs in enumerate(made.hidden_states):
                torch.testing.assert_close(tower._hidden_states[layer], theirs, **TOLERANCE)


def test_what_is_read_of_the_tower_is_what_it_computed(engine, monkeypatch):
    """Against its queries and keys as it hands them to attention, in the order that transformers says."""
    prompt, visual = asked(engine, noise(SIZES[0])), engine.model.module.model.visual
    towers: list[QwenTower] = []
    with torch.no_grad():
        engine.model.see([prompt], {"itself": lambda tower: (towers.append(tower), torch.zeros(1))[1]})
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, key, *rest, **how: (calls.append((query[0], key[0])), attend(query, key, *rest, **how))[1],
    )
    given, (tower,) = engine.model.inputs(prompt), towers
    with torch.no_grad():
        made = visual(given["pixel_values"], given["image_grid_thw"])
    order = torch.arange(prompt.visual)
    if hasattr(visual, "window_size"):
        order, _ = get_vision_window_index(given["image_grid_thw"], 2, visual.window_size, 14)
    back = order.argsort()
    for layer in range(DEPTH):
        here = []
        while sum(query.shape[1] for query, _ in here) < 4 * prompt.visual:
            here.append(calls.pop(0))  # a window each
        chunks = [(query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(-1) for query, key in here]
        weights_HSS = torch.stack([torch.block_diag(*[chunk[head] for chunk in chunks]) for head in range(2)])
        grouped = weights_HSS.unflatten(1, (-1, 4)).unflatten(3, (-1, 4))[:, back][:, :, :, back]
        torch.testing.assert_close(tower.attention(layer, slice(None))[0], grouped.sum(-1).mean(2), **TOLERANCE)
        torch.testing.assert_close(tower.received_attention(layer)[0], grouped.sum(-1).mean((1, 2)).T, **TOLERANCE)
        keys = torch.cat([key for _, key in here], dim=1).transpose(0, 1).unflatten(0, (-1, 4))[back]
        torch.testing.assert_close(tower.keys(layer)[0], keys.mean(1), **TOLERANCE)
    last = made.last_hidden_state.unflatten(0, (-1, 4))[back]
    torch.testing.assert_close(tower.hidden(-1)[0], last.mean(1), **TOLERANCE)
    torch.testing.assert_close(engine.model.project(tower.features()[0]), made.pooler_output, **TOLERANCE)
    assert tower.places()[0, -1].tolist() == [1, *tower.grid]
    assert float(tower.attention(0, slice(3, 4)).sum()) == pytest.approx(2)  # of two heads


@pytest.mark.parametrize(
    ("name", "lacks"),
    [("visionzip", "has no class token"), ("trim", "is not CLIP's"), ("cdpruner", "is not CLIP's")],
)
def test_what_the_tower_lacks_is_said_before_the_run(engine, name, lacks):
    with pytest.raises(ValueError, match=f"this model's tower {lacks}; take `divprune` or `hiprune`"):
        engine.run(WorkUnit(samples=("1",), points=(GridPoint(strategy=name, layer=0, rank=4),)))


def test_positions_of_three_parts_are_kept_and_nothing_else_can_be_asked_for(engine, tmp_path, small_scienceqa):
    said = "positions: position ids of this model have 3 parts"
    point = GridPoint(strategy="divprune", layer=0, rank=4, positions="compact")
    with pytest.raises(ValueError, match=said):
        engine.run(WorkUnit(samples=("1",), points=(point,)))
    with pytest.raises(ValueError, match=said), pruned(engine.model.module, "fastv", 1, 4, positions="compact"):
        pass
    head, sweep = f"model: {engine.spec.model.path}\ndata: {small_scienceqa}\n", tmp_path / "sweep.yaml"
    sweep.write_text(f"{head}grid: [{{strategy: [divprune, random], layer: 0, rank: 4, positions: keep}}]\n")
    assert [found.positions for found in load_sweep(sweep, gpu=False).points[1:]] == [None, None]


def test_images_that_cannot_be_asked_about_are_failed_samples(engine):
    with pytest.raises(DataError, match="5 x 1500 pixels: its sides differ more than 200-fold"):
        asked(engine, noise((1500, 5)))
    with pytest.raises(DataError, match=r"the question holds <\|image_pad\|>"):
        engine.model.encode("<image>what is <|image_pad|> ?", noise((30, 30)), "native")
    with pytest.raises(DataError, match=r"the question holds <\|video_pad\|>"):
        engine.model.encode("<0.3 seconds><|vision_start|><|video_pad|><|vision_end|>", None, "native")


def test_the_cost_of_the_tower_is_counted_by_the_images_own_tokens(engine):
    config = engine.model.config
    (few_tokens, many) = (cost(config, system=9, visual=(n,) * LAYERS, text=9, image_tokens=n) for n in (6, 12))
    tower = engine.model.module.model.visual
    patches, width = 24, 32
    linear = sum(
        p.numel()
        for name, p in tower.named_parameters()
        if p.dim() > 1 and "merger" not in name and "pos_embed" not in name
    )
    merger = sum(p.numel() for name, p in tower.named_parameters() if p.dim() > 1 and "merger" in name)
    keys = [min(patches, 16) if layer in (0, 2) and config.vision.windowed else patches for layer in range(DEPTH)]
    counted = 2 * patches * linear + 2 * 6 * merger + sum(4 * patches * width * most for most in keys)
    assert few_tokens.vision_tflop * 1e12 == pytest.approx(counted)
    assert many.vision_tflop > 2 * few_tokens.vision_tflop - 1e-12
    assert cost(config, system=9, visual=(0,) * LAYERS, text=9, image_tokens=0).vision_tflop == 0


def test_the_memory_of_the_tower_is_counted(engine):
    """But for norms, biases and the embedding of patches, which are small in a model of full size."""
    matrices = [
        weight.numel()
        for name, weight in engine.model.module.named_parameters()
        if weight.dim() == 2 and "patch_embed" not in name
    ]
    assert resident_bytes(engine.model.config, 4, 0) == 4 * sum(matrices)


def test_other_harnesses_have_it(engine):
    """Asked as the checkpoint was trained, and pruned while its own ``generate`` runs."""
    model = PrunedModel(engine.spec.model.path, strategy="fastv", layer=1, rank=3, device="cpu", max_pixels=15680)
    sample = engine.samples["3"]
    point = GridPoint(strategy="fastv", layer=1, rank=3)
    (cell,) = engine.run(WorkUnit(samples=("3",), points=(point,))).outcomes
    question = build_prompt(sample, engine.spec.task, lambda question, image: question)
    assert model.answer(question, [load_image(sample.image)], max_new_tokens=4) == cell.answer


def test_large_images_go_through_the_tower_one_after_another(engine, monkeypatch):
    prompts = [asked(engine, noise(size)) for size in SIZES]
    with torch.no_grad():
        together = engine.model.image_features(prompts)
        monkeypatch.setattr(qwen_model, "PATCHES", 4 * (prompts[0].visual + prompts[1].visual))
        calls, run = [], qwen_model.run_tower

        def watched(visual, mlps, pixels, *rest, **how):
            calls.append(len(pixels) // 4)
            return run(visual, mlps, pixels, *rest, **how)

        monkeypatch.setattr(qwen_model, "run_tower", watched)
        apart = engine.model.image_features(prompts)
    assert calls[0] == prompts[0].visual + prompts[1].visual
    assert len(calls) > 1
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)
