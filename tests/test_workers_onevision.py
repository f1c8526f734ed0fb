"""LLaVA-OneVision: tiles, counts, logits and tokens as transformers' own class has them, and its checkpoints.

What every family promises stands in ``test_workers_families.py``, any-resolution in ``test_workers_anyres.py``.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

import workers.families.llava.model as llava_model
from against_naive import assert_every_cell_is_naive
from examples import few
from orchestrator.sweep.spec import SpecError, load_sweep
from small_onevision import DEPTH, LAYERS, SIDE, make_onevision
from small_qwen import noise
from strategies import catalog as rules
from workers.engine import Engine
from workers.families.catalog import load_model, open_checkpoint
from workers.families.config import ModelError
from workers.families.llava.anyres import Tiling
from workers.families.llava.config import model_config
from workers.families.llava.described import described
from workers.families.llava.onevision import onevision_config
from workers.families.llava.tiles import of_tokens
from workers.families.model import Encoded
from workers.forks import Placement, Seeds
from workers.images import load_image
from workers.interop.answering import PrunedModel
from workers.memory import RowBytes
from workers.patch import pruned
from workers.prefill import prefill
from workers.slow_path import slow_answer
from workers.tasks.base import DataError
from workers.tasks.prompts import build_prompt
from workers.trunks import embed_trunks, make_trunks
from workers.work import EngineSpec, GridPoint, ModelSpec, TaskSpec, WorkUnit, unpruned_point

PUBLISHED = Tiling(tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7)), 384, 14, 9)
SIZES = [(100, 150), (30, 30), (200, 20), (61, 300), (178, 100)]  # height and width; tokens of the second are patches
TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}  # float32: other shapes of the same sums


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_onevision(tmp_path_factory.mktemp("onevision"))


@pytest.fixture(scope="module")
def engine(folder, small_scienceqa) -> Engine:
    model = ModelSpec(path=str(folder), image_mode="anyres")
    task = TaskSpec(name="scienceqa", data=str(small_scienceqa), conversation="chat_template")
    return Engine.load(EngineSpec(model=model, task=task, max_new_tokens=4), device="cpu")


def asked(engine: Engine, size: tuple[int, int] | None) -> Encoded:
    image = None if size is None else noise(size)
    text = engine.model.chat("what colour is the square ?", image is not None)
    return engine.model.encode(text, image, "anyres", whole=True)


@settings(deadline=None, max_examples=few(200))
@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_tokens_are_counted_as_transformers_counts_them(height, width):
    class Counts:
        num_image_tokens, vision_aspect_ratio = 729, "anyres_max_9"
        image_processor = type("Grids", (), {"image_grid_pinpoints": list(PUBLISHED.pinpoints)})
        _get_unpadded_features = LlavaOnevisionProcessor._get_unpadded_features

    size = (height, width)
    counted = LlavaOnevisionProcessor._get_number_of_features(Counts(), height, width, 384, 384)
    assert PUBLISHED.tokens(size) == counted <= PUBLISHED.most_tokens
    assert PUBLISHED.tiles(size) == image_size_to_num_patches(size, list(PUBLISHED.pinpoints), 384)


def test_the_most_tokens_are_of_an_image_whose_tokens_are_just_not_merged():
    assert PUBLISHED.tokens((1152, 1152)) == 729 + 81 * 82
    assert PUBLISHED.tokens((2304, 2304)) == 729 + 81 * 82
    assert PUBLISHED.most_tokens > PUBLISHED.tokens((1040, 1536)) > 729 + 7800


@pytest.mark.parametrize("size", SIZES)
def test_a_prompt_is_that_of_transformers(engine, size):
    """Pixels, ids and features, as processor and model have them."""
    prompt, model = asked(engine, size), engine.model
    theirs = LlavaOnevisionImageProcessorPil.from_pretrained(engine.spec.model.path)(noise(size), return_tensors="pt")
    torch.testing.assert_close(prompt.pixels[0].values, theirs["pixel_values"][0], atol=1e-6, rtol=0)
    question = "\nwhat colour is the square ?<|im_end|><|im_start|>assistant\n"
    text = "<|im_start|>user " + "<image>" * prompt.visual + question
    assert model.tokenizer(text)["input_ids"] == list(prompt.ids)
    assert model.tokenizer(f"{text}B")["input_ids"] == [*prompt.ids, *model.letter_tokens("B")]
    with torch.no_grad():
        made = model.module.model.get_image_features(theirs["pixel_values"], theirs["image_sizes"])
    torch.testing.assert_close(model.image_features([prompt])[0], made.pooler_output[0], **TOLERANCE)


def test_several_images_are_a_tile_each_as_transformers_has_them(engine):
    """And one alone beside them in a micro-batch keeps its tiles."""
    model, images = engine.model, [noise(size) for size in SIZES[:3]]
    several = model.encode(model.chat("is <image> or <image> or <image> red ?", 3), images, "anyres", whole=True)
    processor = LlavaOnevisionImageProcessorPil.from_pretrained(engine.spec.model.path)
    theirs = processor([images, [images[0]]], return_tensors="pt")
    for one, tiles in zip(several.pixels, theirs["pixel_values"], strict=False):
        torch.testing.assert_close(one.values, tiles[:1], atol=1e-6, rtol=0)
    assert [span.tokens for span in several.images] == [SIDE**2 + 1] * 3
    with torch.no_grad():
        made = model.module.model.get_image_features(**theirs).pooler_output
        seen = model.image_features([several, asked(engine, SIZES[0])])
    torch.testing.assert_close(seen[0], torch.cat(made[:3]), **TOLERANCE)
    torch.testing.assert_close(seen[1], made[3], **TOLERANCE)


def test_logits_are_those_of_the_stock_model(engine):
    """Five sizes and a question without an image, together and un-pruned."""
    prompts, config = [asked(engine, size) for size in (*SIZES, None)], engine.model.config
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(engine.spec.model.path).eval()
    points = [unpruned_point(config.layers, config.visual_tokens)]
    with torch.no_grad():
        trunks = make_trunks(prompts)
        rows_RD = embed_trunks(engine.model.decoder, trunks, prompts, engine.model.image_features(prompts))
        placement = Placement(trunks, points, [Seeds("", "")] * len(prompts), [{}] * len(prompts))
        (done,) = prefill(engine.model.decoder, rows_RD, trunks, placement, RowBytes.of(config, 4, 1))
        for logits_C, prompt in zip(done.logits_NC, prompts, strict=True):
            theirs = stock(**engine.model.inputs(prompt)).logits[0, -1]
            torch.testing.assert_close(logits_C, theirs, **TOLERANCE)


@pytest.mark.parametrize("layer", range(LAYERS + 1))
def test_every_layer_and_rank_is_the_naive_forward(engine, layer):
    """Of methods that read attention, hidden states, the tower's evidence, or nothing; two merge or renumber."""
    points = [
        GridPoint(strategy=name, layer=layer, rank=rank, params=tuple(rules.get(name).params.items()))
        for name in ("fastv", "random", "divprune", "fps_merged", "text_sum", "hiprune")
        for rank in (0, 1, 5)
        if (rules.get(name).layers != "input" or layer == 0) and (layer or name not in ("fastv", "text_sum"))
    ]
    assert_every_cell_is_naive(engine, ("1", "5"), points, **TOLERANCE)


def test_its_own_generate_answers_the_same(engine):
    """Un-pruned, and pruned by ``workers.patch``, at shares of each image's own tokens too."""
    config = engine.model.config
    points = (
        unpruned_point(config.layers, config.visual_tokens),
        GridPoint(strategy="fastv", layer=1, rank=14, share=0.25),
        GridPoint(strategy="divprune", layer=0, rank=3),
        GridPoint(strategy="hiprune", layer=0, rank=9),
        GridPoint(strategy="random_per_image", layer=0, rank=2),
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


def test_other_harnesses_have_it(engine):
    """Asked as the checkpoint was trained, and pruned while its own ``generate`` runs."""
    point = GridPoint(strategy="fastv", layer=1, rank=9)
    (cell,) = engine.run(WorkUnit(samples=("3",), points=(point,))).outcomes
    model = PrunedModel(engine.spec.model.path, strategy="fastv", layer=1, rank=9, device="cpu")
    sample = engine.samples["3"]
    question = build_prompt(sample, engine.spec.task, lambda question, image: question)
    assert model.answer(question, [load_image(sample.image)], max_new_tokens=4) == cell.answer


def test_images_of_many_tiles_go_through_the_tower_one_after_another(engine, monkeypatch):
    prompts, tower = [asked(engine, size) for size in SIZES], engine.model.module.model.vision_tower
    seen: list[int] = []
    handle = tower.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with torch.no_grad():
        together = engine.model.image_features(prompts)
        monkeypatch.setattr(llava_model, "TILES", 9)
        apart = engine.model.image_features(prompts)
    handle.remove()
    assert [len(prompt.pixels[0].values) for prompt in prompts] == [7, 2, 4, 4, 7]
    assert seen == [24, 9, 8, 7]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)


def test_a_padded_batch_is_pruned_as_each_image_alone(engine):
    """Tiles stacked as the class's own processor gives them, of images in differing number."""
    prompts = [asked(engine, size) for size in SIZES[:3]]
    longest, most = max(prompt.length for prompt in prompts), max(len(prompt.pixels[0].values) for prompt in prompts)
    ids_BS = torch.tensor([[0] * (longest - prompt.length) + list(prompt.ids) for prompt in prompts])
    pixels = [
        torch.nn.functional.pad(p.pixels[0].values, (0, 0, 0, 0, 0, 0, 0, most - len(p.pixels[0].values)))
        for p in prompts
    ]
    inputs = {
        "pixel_values": torch.stack(pixels),
        "image_sizes": torch.tensor([prompt.pixels[0].size for prompt in prompts]),
    }
    mask_BS = torch.tensor([[0] * (longest - prompt.length) + [1] * prompt.length for prompt in prompts])
    settings = {"strategy": "hiprune", "layer": 0, "rank": 9}
    with pruned(engine.model.module, **settings) as together, torch.no_grad():
        engine.model.module(input_ids=ids_BS, attention_mask=mask_BS, **inputs)
    for kept_K, prompt in zip(together.kept, prompts, strict=True):
        with pruned(engine.model.module, **settings) as alone, torch.no_grad():
            engine.model.module(**engine.model.inputs(prompt))
        assert kept_K.tolist() == alone.kept[0].tolist()


def test_what_is_read_of_tiles_is_put_together_as_their_features_are(engine):
    """Against ``pack_image_features`` of the class; places are those of one patch and no mean."""
    tiling = engine.model._tiling
    counts = [tiling.tiles(size) for size in SIZES]
    rows_NPX = torch.rand(sum(counts), SIDE**2, 6, generator=torch.Generator().manual_seed(0))
    packed, _ = engine.model.module.model.pack_image_features(
        [tiles.contiguous() for tiles in rows_NPX.split(counts)],
        torch.tensor(SIZES),
        image_newline=torch.zeros(6),
        vision_aspect_ratio="anyres_max_2",
    )
    merged = [bool(tiling.merged(tiling.unpadded(size)) != tiling.unpadded(size)) for size in SIZES]
    assert True in merged
    assert False in merged
    for shape in ((6,), (2, 3)):
        for ours, theirs in zip(of_tokens(rows_NPX.unflatten(2, shape), tiling, SIZES), packed, strict=True):
            torch.testing.assert_close(ours.flatten(1), theirs)
    torch.testing.assert_close(of_tokens(rows_NPX[:, :, 0], tiling, SIZES)[0], packed[0][:, 0])
    (seen,) = engine.model.see([asked(engine, SIZES[4])], {"places": lambda tower: tower.places()})
    places_V3 = seen.evidence["places"]
    assert places_V3[SIDE**2 - 1].tolist() == [1, SIDE, SIDE]
    rows, columns = tiling.merged(tiling.unpadded(SIZES[4]))
    grid_RC3 = places_V3[SIDE**2 :].unflatten(0, (rows, columns + 1))
    assert grid_RC3[:, -1].tolist() == [[0, 0, 0]] * rows
    assert bool((grid_RC3[:, :-1] > 0).all())
    assert bool((grid_RC3[1:, :-1, 0] >= grid_RC3[:-1, :-1, 0]).all())  # tiles from above to below


def test_the_tower_is_that_of_transformers(engine):
    """Its states, what it gives to the projector, and the attention that it computed, of each tile."""
    prompt, inner = asked(engine, SIZES[0]), engine.model.module.model
    towers = []
    with torch.no_grad():
        engine.model.see([prompt], {"itself": lambda tower: (towers.append(tower), tower.keys(0))[1]})
        inner.vision_tower.set_attn_implementation("eager")
        made = inner.vision_tower(prompt.pixels[0].values, output_hidden_states=True, output_attentions=True)
        inner.vision_tower.set_attn_implementation("sdpa")
    (tower,) = towers
    assert (tower.class_token, tower.layers, tower.grid) == (None, DEPTH, (SIDE, SIDE))
    for layer, states in enumerate(made.hidden_states):
        torch.testing.assert_close(tower.hidden(layer), states, **TOLERANCE)
    for layer, weights in enumerate(made.attentions):
        torch.testing.assert_close(tower.attention(layer, slice(None)), weights, **TOLERANCE)
        torch.testing.assert_close(tower.received_attention(layer), weights.mean(2).transpose(1, 2), **TOLERANCE)
    torch.testing.assert_close(tower.features(), made.hidden_states[-1], **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "lacks"),
    [("visionzip", "has no class token"), ("trim", "is not CLIP's"), ("cdpruner", "is not CLIP's")],
)
def test_what_the_tower_lacks_is_said_before_the_run(engine, tmp_path, small_scienceqa, name, lacks):
    sweep = tmp_path / "sweep.yaml"
    grid = f"grid: [{{strategy: {name}, layer: 0, rank: 9}}]"
    sweep.write_text(f"model: {engine.spec.model.path}\ndata: {small_scienceqa}\n{grid}\n")
    with pytest.raises(SpecError, match=f"this model's tower {lacks}; take `divprune` or `hiprune`") as caught:
        load_sweep(sweep, gpu=False)
    assert "\n" not in str(caught.value)


def test_a_video_is_one_line(engine):
    prompt, module = asked(engine, SIZES[1]), engine.model.module
    with pytest.raises(DataError, match="the question holds <video>, which would be taken for a video"):
        engine.model.encode("<image>what is <video> ?", noise((30, 30)), "anyres")
    with pruned(module, "fastv", 1, 4), torch.no_grad(), pytest.raises(ValueError, match="pixel_values_videos out"):
        module(**engine.model.inputs(prompt), pixel_values_videos=torch.zeros(1, 1, 3, 60, 60))


@pytest.mark.parametrize("tied", [False, True])
def test_its_tensors_are_those_that_transformers_builds(tmp_path, tied):
    checkpoint = open_checkpoint(ModelSpec(path=str(make_onevision(tmp_path, tied=tied))))
    checkpoint.check()
    assert (checkpoint.conversation, checkpoint.image_mode) == ("chat_template", "anyres")
    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig.from_pretrained(tmp_path))
    built = {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}
    assert described(checkpoint.config, checkpoint.sizes) == built
    loaded = load_model(ModelSpec(path=str(tmp_path), image_mode="anyres"), "cpu").module
    assert (loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight) == tied


@pytest.mark.parametrize("stated", [{}, {"vision_config": {"image_size": 384}}, {"vision_config": None}])
def test_what_a_configuration_leaves_out_is_as_transformers_has_it(stated):
    text = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = {"model_type": "llava_onevision", "text_config": text, **stated}
    ours, theirs = onevision_config(config, Path()), LlavaOnevisionConfig.from_dict(json.loads(json.dumps(config)))
    sizes, vision = model_config(ours, Path()), theirs.vision_config
    assert (sizes.vocab, sizes.ffn) == (theirs.text_config.vocab_size, theirs.text_config.intermediate_size)
    assert (sizes.vision.hidden, sizes.vision.ffn) == (vision.hidden_size, vision.intermediate_size)
    assert (sizes.vision.stored_layers, sizes.vision.layers) == (vision.num_hidden_layers, vision.num_hidden_layers)
    assert (sizes.image_size, sizes.patch_size) == (vision.image_size, vision.patch_size)
    assert ours["vision_config"]["num_attention_heads"] == vision.num_attention_heads
    names = ("image_grid_pinpoints", "vision_aspect_ratio", "vision_feature_layer", "vision_feature_select_strategy")
    assert [ours[name] for name in names] == [getattr(theirs, name) for name in names]


VISION = {"hidden_size": 16, "image_size": 60, "intermediate_size": 32, "model_type": "siglip_vision_model",
          "num_attention_heads": 2, "num_hidden_layers": DEPTH, "patch_size": 14}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "changes", "spec", "message"),
    [
        ("preprocessor_config.json", {"size": {"height": 56, "width": 56}}, {}, "config.json has .*image_size 60"),
        ("preprocessor_config.json", {"image_grid_pinpoints": [[60, 60]]}, {}, "grid_pinpoints are not those of .*con"),
        ("preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"}, {}, "'CLIPImageProcessor' is not"),
        ("config.json", {"vision_config": {**VISION, "patch_size": 12}}, {}, "embeddings.p.* has shape"),
        ("config.json", {"vision_config": {**VISION, "model_type": "clip_vision_model"}}, {}, r"\(siglip_vision_model"),
        ("config.json", {"vision_config": {**VISION, "num_hidden_layers": 2}}, {}, "16 tensors are left over"),
        ("config.json", {"vision_feature_select_strategy": "default"}, {}, "SigLIP has no class token to leave out"),
        ("config.json", {"vision_aspect_ratio": "anyres"}, {}, "vision_aspect_ratio: 'anyres' is not supported"),
        ("config.json", {"image_grid_pinpoints": [[60, 61]]}, {}, "is no multiple of the tower's 60 pixels"),
        ("config.json", {"image_token_index": 5}, {}, r"the tokenizer's <image> is token \d+, config.json has"),
        ("config.json", {}, {"text_tower": "clip"}, "model.text_tower is not supported for SigLIP"),
        ("config.json", {}, {"max_pixels": 9999}, "model.max_pixels is not supported for LLaVA"),
        ("config.json", {}, {"image_mode": "pad"}, r"image_mode 'pad' is not one of this model's \(anyres\)"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, file, changes, spec, message):
    place = make_onevision(tmp_path) / file
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))
    with pytest.raises(ModelError, match=message) as caught:
        load_model(ModelSpec(**{"path": str(tmp_path), "image_mode": "anyres", **spec}), "cpu")
    assert "\n" not in str(caught.value)


def test_the_head_of_the_tower_is_left_where_it_is(tmp_path):
    """A tower with the head that makes one vector of an image: none of it is read."""
    place = make_onevision(tmp_path) / "config.json"
    config = json.loads(place.read_text())
    config["vision_config"]["vision_use_head"] = True
    place.write_text(json.dumps(config))
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), "vision_tower.vision_model.head.probe": torch.zeros(1, 1, 16)}, file)
    model = load_model(ModelSpec(path=str(tmp_path), image_mode="anyres"), "cpu")
    assert not hasattr(model.module.model.vision_tower, "head")
