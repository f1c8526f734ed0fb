"""InternVL3 and InternVL3.5: sizes, pixels, logits and tokens as transformers' own class has them.

What every family promises stands in ``test_workers_families.py``.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import GotOcr2ImageProcessorPil, InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from against_naive import assert_every_cell_is_naive
from examples import few
from orchestrator.sweep.spec import load_sweep
from small_intern import KINDS, LARGE_TOWER, LAYERS, OTHER_TOWER, TOWER, make_intern
from small_qwen import noise
from strategies import catalog as rules
from workers.cost import cost
from workers.engine import Engine
from workers.families.catalog import load_model, open_checkpoint
from workers.families.config import ModelError
from workers.families.intern.config import text_section
from workers.families.intern.described import described
from workers.families.intern.model import READ_TILES
from workers.families.intern.tiling import Tiling
from workers.families.intern.tower import InternTower
from workers.families.model import Encoded, SeenImage
from workers.fingerprint import model_fingerprint
from workers.forks import Placement, Seeds
from workers.interop.answering import PrunedModel
from workers.memory import RowBytes, resident_bytes
from workers.patch import pruned
from workers.prefill import prefill
from workers.slow_path import slow_answer
from workers.tasks.base import DataError
from workers.tasks.prompts import build_prompt
from workers.trunks import embed_trunks, make_trunks
from workers.work import EngineSpec, GridPoint, ModelSpec, TaskSpec, WorkUnit, unpruned_point

SIZES = [(100, 150), (30, 30), (200, 20), (61, 300), (112, 168)]  # height and width; 7, 1, 7, 6 and 7 tiles
TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}  # float32: other shapes of the same sums


@pytest.fixture(scope="module", params=list(KINDS))
def engine(request, tmp_path_factory, small_scienceqa) -> Engine:
    model = ModelSpec(path=str(make_intern(tmp_path_factory.mktemp(request.param), request.param)), image_mode="tiles")
    task = TaskSpec(name="scienceqa", data=str(small_scienceqa), conversation="chat_template")
    return Engine.load(EngineSpec(model=model, task=task, max_new_tokens=4), device="cpu")


def asked(engine: Engine, image: Image.Image | None) -> Encoded:
    text = engine.model.chat("what colour is the square ?", image is not None)
    return engine.model.encode(text, image, "tiles", whole=True)


@settings(deadline=None, max_examples=few(200))
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 6), st.integers(0, 40))
def test_tiles_are_those_of_transformers(height, width, least, more):
    tiling = Tiling(448, 256, least, least + more)
    columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), least, least + more)
    if tiling.most > 1:
        assert tiling.grid((height, width)) == (rows, columns)
    assert tiling.tokens((height, width)) <= tiling.most_tokens


def test_the_most_tokens_of_published_settings():
    assert Tiling(448, 256, 1, 12).most_tokens == 13 * 256
    assert Tiling(448, 256, 1, 1).most_tokens == 256


@pytest.mark.parametrize("size", SIZES)
def test_a_prompt_is_that_of_transformers(engine, size):
    prompt = asked(engine, noise(size))
    processor = GotOcr2ImageProcessorPil.from_pretrained(engine.spec.model.path)
    theirs = processor(images=noise(size), crop_to_patches=True, return_tensors="pt")
    assert torch.equal(prompt.pixels[0].values, theirs["pixel_values"])
    pads = "<img>" + "<IMG_CONTEXT>" * 4 * int(theirs["num_patches"][0]) + "</img>"  # their ``replace_image_token``
    text = f"<|im_start|>user\n{pads}\nwhat colour is the square ?<|im_end|>\n<|im_start|>assistant\n"
    assert engine.model.tokenizer(text)["input_ids"] == list(prompt.ids)


def test_logits_are_those_of_the_stock_model(engine):
    """Five sizes and a question without an image, together and un-pruned."""
    prompts = [*(asked(engine, noise(size)) for size in SIZES), asked(engine, None)]
    config = engine.model.config
    stock = InternVLForConditionalGeneration.from_pretrained(engine.spec.model.path).eval()
    points = [unpruned_point(config.layers, config.visual_tokens)]
    with torch.no_grad():
        trunks = make_trunks(prompts)
        seen = [one or SeenImage(None) for one in engine.model.see(prompts, {})]
        rows_RD = embed_trunks(engine.model.decoder, trunks, prompts, [one.features_VD for one in seen])
        placement = Placement(trunks, points, [Seeds("", "")] * len(prompts), [{}] * len(prompts))
        (done,) = prefill(engine.model.decoder, rows_RD, trunks, placement, RowBytes.of(config, 4, 1))
        for logits_C, prompt in zip(done.logits_NC, prompts, strict=True):
            theirs = stock(**engine.model.inputs(prompt)).logits[0, -1]
            torch.testing.assert_close(logits_C, theirs, **TOLERANCE)


@pytest.mark.parametrize("layer", range(LAYERS + 1))
def test_every_layer_and_rank_is_the_naive_forward(engine, layer):
    """Of methods that read attention, hidden states, the class token, other evidence of the tower, or nothing."""
    names = ("fastv", "random", "divprune", "fps_merged", "text_sum", "hiprune", "visionzip", "prumerge")
    points = [
        GridPoint(strategy=name, layer=layer, rank=rank, params=tuple(rules.get(name).params.items()))
        for name in names
        for rank in (0, 1, 5)
        if (rules.get(name).layers != "input" or layer == 0) and (layer or name not in ("fastv", "text_sum"))
        if rules.get(name).check(rules.get(name).params, layer=layer, rank=rank, layers=LAYERS, heads=2) is None
    ]
    assert_every_cell_is_naive(engine, ("1", "5"), points, **TOLERANCE)


def test_their_own_generate_answers_the_same(engine):
    """Un-pruned, and pruned by ``workers.patch``."""
    config = engine.model.config
    points = (
        unpruned_point(config.layers, config.visual_tokens),
        GridPoint(strategy="fastv", layer=1, rank=5),
        GridPoint(strategy="fastv", layer=1, rank=5, positions="compact"),
        GridPoint(strategy="divprune", layer=0, rank=3),
        GridPoint(strategy="hiprune", layer=0, rank=5),
        GridPoint(strategy="visionzip", layer=0, rank=7),
        GridPoint(strategy="random", layer=2, rank=1),
        GridPoint(strategy="random_per_image", layer=0, rank=2),
        GridPoint(strategy="random", layer=0, rank=0),
        GridPoint(strategy="random", layer=0, rank=config.visual_tokens),
    )
    cells = engine.run(WorkUnit(samples=tuple(engine.samples), points=points)).outcomes
    assert len({cell.visual_tokens for cell in cells}) > 2
    for cell, point in zip(cells, itertools.cycle(points)):
        sample = engine.samples[cell.sample]
        slow = slow_answer(engine.model, engine.spec, sample, point, engine.letter_tokens[: len(sample.choices)])
        assert (cell.answer, cell.first_token, cell.decoded_tokens) == (slow.text, slow.ids[0], len(slow.ids))
        assert cell.kept_mask == slow.kept_mask, point.label
        torch.testing.assert_close(cell.option_logits, slow.option_logits, **TOLERANCE, msg=point.label)


def test_a_batch_of_images_with_differing_tiles_is_pruned_as_each_alone(engine):
    """What is read of the tower is the sample's own, whichever tiles went through it beside."""
    prompts = [asked(engine, noise(size)) for size in ((30, 30), (61, 300))]
    module, apart = engine.model.module, []
    with torch.no_grad(), pruned(module, "visionzip", 0, 3) as report:
        for prompt in prompts:
            module(**engine.model.inputs(prompt))
            apart += [kept.tolist() for kept in report.kept]
        width = max(prompt.length for prompt in prompts)
        ids_BS = torch.tensor([[0] * (width - one.length) + list(one.ids) for one in prompts])
        alive_BS = torch.tensor([[0] * (width - one.length) + [1] * one.length for one in prompts])
        module(
            input_ids=ids_BS, attention_mask=alive_BS, pixel_values=torch.cat([one.pixels[0].values for one in prompts])
        )
        assert [kept.tolist() for kept in report.kept] == apart


def test_a_share_is_of_each_images_own_tokens(engine):
    """In one batch, in several stages, as an average over the layers, and in other harnesses."""
    prompts = [asked(engine, noise(size)) for size in ((30, 30), (61, 300))]
    module, wide = engine.model.module, max(prompt.length for prompt in prompts)
    batch = {
        "input_ids": torch.tensor([[0] * (wide - one.length) + list(one.ids) for one in prompts]),
        "attention_mask": torch.tensor([[0] * (wide - one.length) + [1] * one.length for one in prompts]),
        "pixel_values": torch.cat([one.pixels[0].values for one in prompts]),
    }
    schedule = {"second_layer": 2, "second_share": 0.5, "third_layer": 3, "third_share": 0.25}
    for strategy, how, kept in (
        ("fastv", {"rank": "22.2%"}, [1, 5]),
        ("fastv", {"tokens": "60%"}, [2, 10]),  # 40 % from layer 1 of 3 on
        ("pyramiddrop", {"rank": "50%", **schedule}, [1, 6]),
    ):
        with torch.no_grad(), pruned(module, strategy, 1, **how) as report:
            module(**batch)
        assert [len(kept_K) for kept_K in report.kept] == kept, how
    point = GridPoint(strategy="fastv", layer=1, rank=0, share=0.222)
    (cell,) = engine.run(WorkUnit(samples=("3",), points=(point,))).outcomes
    model, sample = PrunedModel(engine.spec.model.path, strategy="fastv", layer=1, rank="22.2%", device="cpu"), "3"
    question = build_prompt(engine.samples[sample], engine.spec.task, lambda question, image: question)
    with Image.open(engine.samples[sample].image) as image:
        assert model.answer(question, [image], max_new_tokens=4) == cell.answer
    for how, said in (
        ({"rank": 3, "tokens": "5%"}, "rank and tokens say the same in two ways; give one"),
        ({"rank": "222%"}, "rank: '222%' is no share between 0% and 100%"),
        ({"tokens": 9}, "tokens: is an average over a fixed number of visual tokens"),
        (
            {"tokens": "20%"},
            "tokens: an average of 0.2 of an image's tokens cannot be reached by pruning at layer 1 of",
        ),
    ):
        with pytest.raises(ValueError, match=said), pruned(module, "fastv", 1, **how):
            pass


def test_what_is_read_of_the_tower_is_what_it_computed(engine, monkeypatch):
    """Against its queries and keys as it hands them to attention, of patches in the order that pixel shuffle has."""
    prompt, inner = asked(engine, noise(SIZES[0])), engine.model.module.model
    towers: list[InternTower] = []
    with torch.no_grad():
        engine.model.see([prompt], {"itself": lambda tower: (towers.append(tower), torch.zeros(1, 1))[1]})
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, key, *rest, **how: (calls.append((query, key)), attend(query, key, *rest, **how))[1],
    )
    with torch.no_grad():
        made = inner.vision_tower(prompt.pixels[0].values)
        numbers = torch.arange(16.0).view(1, 4, 4, 1)
        order = inner.pixel_shuffle(numbers, 0.5).view(4, 4).long() + 1  # of each token its patches
    (tower,) = towers
    for layer, (query, key) in enumerate(calls):
        weights_NHSS = (query @ key.transpose(2, 3) * 16**-0.5).softmax(-1)
        given = torch.cat((weights_NHSS[:, :, :1], weights_NHSS[:, :, order].mean(3)), dim=2)
        expected = torch.cat((given[..., :1], given[..., order].sum(-1)), dim=3)
        torch.testing.assert_close(tower.attention(layer, slice(None)), expected, **TOLERANCE)
        torch.testing.assert_close(tower.class_attention(layer), expected[:, :, 0, 1:].transpose(1, 2), **TOLERANCE)
        torch.testing.assert_close(tower.received_attention(layer), expected.mean(2)[..., 1:].mT, **TOLERANCE)
        joined = (query.transpose(1, 2).flatten(2)[:, :1] @ key.transpose(1, 2).flatten(2).mT * 32**-0.5).softmax(-1)
        torch.testing.assert_close(tower.joined_class_attention(layer), joined[:, 0, order].sum(-1), **TOLERANCE)
        key_NSHE = key.transpose(1, 2)
        torch.testing.assert_close(tower.keys(layer)[:, 1:], key_NSHE[:, order].mean(2), **TOLERANCE)
        torch.testing.assert_close(tower.keys(layer)[:, :1], key_NSHE[:, :1], **TOLERANCE)
    last = made.last_hidden_state
    torch.testing.assert_close(tower.hidden(-1), torch.cat((last[:, :1], last[:, order].mean(2)), 1), **TOLERANCE)
    (features,) = engine.model.image_features([prompt])
    torch.testing.assert_close(engine.model.project(tower.features()).flatten(0, 1), features, **TOLERANCE)
    assert tower.places()[-1, -1].tolist() == [7, 2, 2]
    assert torch.equal(tower.class_features()[0, 0], last[-1, :1].repeat(1, 4)[0])  # the whole image's


def test_images_go_through_the_tower_in_groups_and_their_evidence_stays_theirs(engine):
    prompts = [asked(engine, noise(size)) for size in SIZES]
    assert sum(len(prompt.pixels[0].values) for prompt in prompts) > READ_TILES
    reader = {"hidden": lambda tower: tower.hidden(-1)[:, 1:]}
    with torch.no_grad():
        for prompt, image in zip(prompts, engine.model.see(prompts, reader), strict=True):
            (alone,) = engine.model.see([prompt], reader)
            torch.testing.assert_close(image.features_VD, alone.features_VD, **TOLERANCE)
            torch.testing.assert_close(image.evidence["hidden"], alone.evidence["hidden"], **TOLERANCE)


def test_methods_that_compare_question_and_image_are_refused_before_the_run(engine):
    with pytest.raises(ValueError, match="this model's tower is not CLIP's; take `divprune` or `hiprune`"):
        engine.run(WorkUnit(samples=("1",), points=(GridPoint(strategy="trim", layer=0, rank=4),)))


def test_questions_that_hold_marks_are_failed_samples(engine):
    for mark in ("<IMG_CONTEXT>", "<video>"):
        with pytest.raises(DataError, match=f"the question holds {mark}"):
            engine.model.encode(f"<image>what is {mark} ?", noise((30, 30)), "tiles")


def test_cost_and_memory_of_the_tower(engine):
    """Tiles attend to themselves alone; of memory but norms, biases and places, which are small at full size."""
    config, tower = engine.model.config, engine.model.module.model.vision_tower
    projector = engine.model.module.model.multi_modal_projector
    (one, seven) = (cost(config, system=9, visual=(n,) * LAYERS, text=9, image_tokens=n) for n in (4, 28))
    layers = sum(weight.numel() for weight in tower.encoder.parameters() if weight.dim() == 2)
    embedding = 16 * tower.embeddings.patch_embeddings.projection.weight.numel()
    made = sum(weight.numel() for weight in projector.parameters() if weight.dim() == 2)
    assert one.vision_tflop * 1e12 == 2 * (17 * layers + embedding + 4 * made) + 3 * 4 * 17**2 * 32
    assert seven.vision_tflop == pytest.approx(7 * one.vision_tflop)
    matrices = [weight.numel() for weight in engine.model.module.parameters() if weight.dim() == 2]
    assert resident_bytes(config, 4, 0) == 4 * sum(matrices)


# Files


def edit(place: Path, **changes) -> None:
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))


@pytest.mark.parametrize("tower", [TOWER, LARGE_TOWER, OTHER_TOWER])
@pytest.mark.parametrize("tied", [False, True])
def test_its_tensors_are_those_that_transformers_builds(tmp_path, tower, tied):
    folder = make_intern(tmp_path, "internvl3_5" if tied else "internvl3", tower=tower, tied=tied)
    checkpoint = open_checkpoint(ModelSpec(path=str(folder)))
    checkpoint.check()
    model = load_model(ModelSpec(path=str(folder), image_mode="tiles"), "cpu").module
    built = {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}
    assert described(tower, text_section(checkpoint.config, folder), checkpoint.sizes) == built
    assert (model.lm_head.weight is model.model.language_model.embed_tokens.weight) == tied


def test_names_of_both_layouts_are_read(tmp_path):
    """As published, and as the model itself has them: the same weights."""
    folder = make_intern(tmp_path)
    before = load_model(ModelSpec(path=str(folder), image_mode="tiles"), "cpu").module.state_dict()
    stored = {}
    for file in folder.glob("*.safetensors*"):
        stored |= load_file(file)
        file.unlink()
    ways = {"published": "language_model.model.layers", "today": "model.language_model.layers"}
    given = {name for name, start in ways.items() if any(stated.startswith(start) for stated in stored)}
    heads = {name: name.replace("model.language_model.", "language_model.model.", 1) for name in before}
    heads |= {name: name.removeprefix("model.") for name in before if "model.language_model." not in name}
    layouts = {
        "today": {name: name for name in before},
        "published": heads | {"lm_head.weight": "language_model.lm_head.weight"},
    }
    (other,) = ways.keys() - given
    save_file({layouts[other][name]: tensor for name, tensor in before.items()}, folder / "model.safetensors")
    after = load_model(ModelSpec(path=str(folder), image_mode="tiles"), "cpu").module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("file", "changes", "spec", "message"),
    [
        ("preprocessor_config.json", {"size": {"height": 60, "width": 60}}, {}, "makes tiles of .*60.* states 56 x 56"),
        ("preprocessor_config.json", {"max_patches": 0}, {}, "max_patches: 0 is not a positive whole number"),
        ("preprocessor_config.json", {"min_patches": 7}, {}, "min_patches: 7 is above max_patches, 6"),
        ("preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"}, {}, "'CLIPImageProcessor' is not"),
        ("config.json", {"downsample_ratio": 0.3}, {}, "downsample_ratio: 0.3 is not one of a whole number of patches"),
        ("config.json", {"downsample_ratio": 0.2}, {}, "tiles of 56 pixels are no whole number of tokens of 70"),
        ("config.json", {"image_seq_length": 256}, {}, "image_seq_length: 256 tokens of a tile, .* tower makes 4"),
        ("config.json", {"vision_feature_layer": -2}, {}, r"vision_feature_layer: -2 is not supported \(-1\)"),
        ("config.json", {"vision_config": {**TOWER, "image_size": [56, 84]}}, {}, r"image_size: \[56, 84\] is no squ"),
        ("config.json", {"vision_config": {**TOWER, "num_hidden_layers": 2}}, {}, "18 tensors are left over"),
        ("config.json", {"vision_config": {**TOWER, "use_qk_norm": True}}, {}, "6 tensors are missing"),
        ("config.json", {"text_config": {"model_type": "gpt_oss"}}, {}, r"'gpt_oss' is not supported \(qwen2, qwen3\)"),
        ("config.json", {"image_token_id": 5}, {}, r"the tokenizer's <IMG_CONTEXT> is token \d+, config.json has"),
        ("config.json", {"model_type": "internvl_chat"}, {}, r"'internvl_chat' is not supported \(internvl, "),
        ("config.json", {}, {"text_tower": "clip"}, "model.text_tower is not supported for InternVL"),
        (
            "config.json",
            {},
            {"max_pixels": 9999},
            "model.max_pixels is not supported for InternVL: .* max_tiles says how",
        ),
        ("config.json", {}, {"max_tiles": 0}, r"max_tiles 0 is not between 1 \(min_patches\) and 1000"),
        ("config.json", {}, {"max_tiles": 1001}, r"max_tiles 1001 is not between 1 \(min_patches\) and 1000"),
        ("preprocessor_config.json", {"min_patches": 3}, {"max_tiles": 2}, r"2 is not between 3 \(min_patches\)"),
        ("config.json", {}, {"base": "intern"}, "an adapter is not supported for InternVL: merge it into its model"),
        ("config.json", {}, {"image_mode": "pad"}, r"image_mode 'pad' is not one of this model's \(tiles\)"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, file, changes, spec, message):
    edit(make_intern(tmp_path) / file, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(ModelSpec(**{"path": str(tmp_path), "image_mode": "tiles", **spec}), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("most", [1, 2, 4, 12])
def test_max_tiles_is_the_setting_of_their_processor(tmp_path, most):
    """Pixels, and the tokens that their own forward generates of them."""
    folder = make_intern(tmp_path)
    model = load_model(ModelSpec(path=str(folder), image_mode="tiles", max_tiles=most), "cpu")
    text = model.chat("what colour is the square ?", 1)
    processor = GotOcr2ImageProcessorPil.from_pretrained(folder)
    stock = InternVLForConditionalGeneration.from_pretrained(folder).eval()
    assert model.config.visual_tokens == 4 * (1 if most == 1 else most + 1)
    for size in SIZES:
        prompt = model.encode(text, noise(size), "tiles", whole=True)
        theirs = processor(images=noise(size), crop_to_patches=True, max_patches=most, return_tensors="pt")
        assert torch.equal(prompt.pixels[0].values, theirs["pixel_values"])
        assert prompt.visual == 4 * int(theirs["num_patches"][0]) <= model.config.visual_tokens
        with torch.no_grad():
            inputs = {**model.inputs(prompt), "pixel_values": theirs["pixel_values"]}
            torch.testing.assert_close(model.module(**inputs).logits, stock(**inputs).logits, **TOLERANCE)
    assert PrunedModel(str(folder), max_tiles=most, device="cpu").model.config == model.config


def test_how_many_tiles_an_image_has_is_part_of_the_model(tmp_path, small_scienceqa):
    """In a sweep file; what is answered is what ``generate`` answers of the tokens that are left."""
    folder, sweep, prints = make_intern(tmp_path / "intern"), tmp_path / "sweep.yaml", {}
    for options in ("", "max_tiles: 6", "max_tiles: 2", "max_tiles: 1"):
        grid = "[{strategy: fastv, layer: 1, rank: [50%, 3, N]}]"
        sweep.write_text(f"model: {{path: {folder}, {options}}}\ndata: {small_scienceqa}\ngrid: {grid}\n")
        spec = load_sweep(sweep, gpu=False)
        prints[options] = model_fingerprint(open_checkpoint(spec.engine.model))
        engine = Engine.load(replace(spec.engine, max_new_tokens=4), device="cpu")
        unit = WorkUnit(samples=tuple(engine.samples)[:3], points=spec.points)
        for cell, point in zip(engine.run(unit).outcomes, itertools.cycle(spec.points)):
            sample = engine.samples[cell.sample]
            slow = slow_answer(engine.model, engine.spec, sample, point, engine.letter_tokens[: len(sample.choices)])
            assert (cell.answer, cell.kept_mask) == (slow.text, slow.kept_mask), (options, point.label)
            assert cell.visual_tokens <= engine.model.config.visual_tokens
    assert prints[""] == prints["max_tiles: 6"]  # as it is stored
    assert len(set(prints.values())) == 3
    assert {(point.rank, point.share) for point in spec.points} == {(4, None), (3, None), (2, None)}  # 4 tokens each


def test_a_sweep_file_of_it(tmp_path, small_scienceqa):
    """Its image mode and conversation where nothing is named, and where its own are; shares stay shares."""
    folder, sweep = make_intern(tmp_path / "intern"), tmp_path / "sweep.yaml"
    for model in (str(folder), f"{{path: {folder}, image_mode: tiles}}"):
        grid = "[{strategy: fastv, layer: 1, rank: [22.2%, 8]}]"
        sweep.write_text(f"model: {model}\ndata: {small_scienceqa}\ngrid: {grid}\n")
        spec = load_sweep(sweep, gpu=False)
        assert (spec.engine.model.image_mode, spec.engine.task.conversation) == ("tiles", "chat_template")
        assert [(point.kept, point.of(8).rank) for point in spec.points[1:]] == [("8", 8), ("22.2%", 2)]
