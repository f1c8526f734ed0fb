"""Checkpoints of Qwen2-VL and its kind, and what a sweep file says of them: read, or refused in one line."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import small_qwen
from orchestrator.sweep.spec import SpecError, load_sweep
from results.manifest import RecordedPoint
from small_qwen import KINDS, QWEN2_5_TOWER, make_qwen, noise
from workers.families.catalog import load_model, open_checkpoint
from workers.families.config import ModelError
from workers.families.qwen.config import model_config, resizing_of, text_section
from workers.families.qwen.described import described
from workers.fingerprint import model_fingerprint
from workers.tasks.base import DataError
from workers.work import GridPoint, ModelSpec


def edit(place, **changes) -> None:
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))


def test_embeddings_may_be_the_head(tmp_path):
    folder = make_qwen(tmp_path, tied=True)
    model = load_model(ModelSpec(path=str(folder), image_mode="native"), "cpu")
    assert model.module.lm_head.weight is model.module.model.language_model.embed_tokens.weight
    assert model.config.hidden == small_qwen.HIDDEN


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_its_tensors_are_those_that_transformers_builds(tmp_path, kind, tied):
    checkpoint = open_checkpoint(ModelSpec(path=str(make_qwen(tmp_path, kind, tied=tied))))
    checkpoint.check()
    with torch.device("meta"):
        model = KINDS[kind][1](KINDS[kind][0].from_pretrained(tmp_path))
    built = {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}
    assert described(kind, text_section(checkpoint.config, tmp_path), checkpoint.sizes) == built


def test_the_shape_of_a_published_qwen3():
    text = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}  # fmt: skip
    stated = {"model_type": "qwen3_vl", "text_config": text, "vision_config": {"out_hidden_size": 4096}}
    resizing = resizing_of(stated, Path(), {"patch_size": 16}, Path(), ModelSpec(path="", max_pixels=1024**2))
    sizes = model_config(stated, resizing, Path())
    assert sizes.visual_tokens == 1024
    tensors = described("qwen3_vl", text_section(stated, Path()), sizes).values()
    assert sum(map(math.prod, tensors)) == 8_767_123_696  # of the published sizes, counted once and held


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_both_layouts_of_names_and_fields_are_read(tmp_path, kind):
    """As published, and as transformers writes its own: the same logits to the last bit."""
    published = make_qwen(tmp_path / "published", kind)
    model = load_model(ModelSpec(path=str(published), image_mode="native"), "cpu")
    section = shutil.copytree(published, tmp_path / "section")
    model.module.config.save_pretrained(section)
    save_file({name: p.contiguous() for name, p in model.module.named_parameters()}, section / "model.safetensors")
    again = load_model(ModelSpec(path=str(section), image_mode="native"), "cpu")
    prompt = model.encode("<image> what ?", noise((60, 90)), "native")
    with torch.no_grad():
        one, other = (each.module(**each.inputs(prompt)).logits for each in (model, again))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("file", "changes", "spec", "message"),
    [
        ("preprocessor_config.json", {"patch_size": 16}, {}, "the image processor has patch_size 16, .* states 14"),
        ("preprocessor_config.json", {"merge_size": 3}, {}, "the image processor has merge_size 3, .* states 2"),
        ("preprocessor_config.json", {"do_resize": False}, {}, "do_resize: false is not supported"),
        ("preprocessor_config.json", {"min_pixels": "few"}, {}, "min_pixels: 'few' is not a positive whole number"),
        ("preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"}, {}, "'CLIPImageProcessor' is not"),
        ("config.json", {"rope_scaling": {"mrope_section": [2, 3]}}, {}, "mrope_section is not three numbers"),
        ("config.json", {"rope_scaling": {"mrope_section": [2, 3, 4]}}, {}, "are not half of a head's 16 values"),
        ("config.json", {"hidden_size": 64}, {}, "makes tokens 32 wide of a decoder's 64"),
        ("config.json", {"vision_config": {**QWEN2_5_TOWER, "window_size": 14}}, {}, "window_size: is less than one"),
        ("config.json", {"vision_config": {**QWEN2_5_TOWER, "fullatt_block_indexes": 3}}, {}, "is no list of layers"),
        ("config.json", {"vision_config": {**QWEN2_5_TOWER, "depth": 3}}, {}, "12 tensors are left over"),
        ("config.json", {"num_hidden_layers": 4}, {}, "12 tensors are missing from the weights"),
        ("config.json", {"image_token_id": 5}, {}, r"the tokenizer's <\|image_pad\|> is token \d+, config.json has"),
        ("config.json", {"quantization_config": {"quant_method": "awq"}}, {}, "quantization_config: awq is not"),
        ("config.json", {}, {"max_pixels": 783}, "max_pixels 783 is less than one token, 28 x 28 pixels"),
        ("config.json", {}, {"min_pixels": 9999999}, "min_pixels 9999999 is not between 1 and max_pixels, 23520"),
        ("config.json", {}, {"min_pixels": 0}, "min_pixels 0 is not between 1 and max_pixels, 23520"),
        ("config.json", {}, {"text_tower": "clip"}, "model.text_tower is not supported for Qwen2-VL and its kind"),
        ("config.json", {}, {"vision_tower": "clip"}, "model.vision_tower is not supported for Qwen2-VL"),
        ("config.json", {}, {"base": "qwen"}, "an adapter is not supported for Qwen2-VL and its kind: merge it"),
        ("config.json", {}, {"image_mode": "pad"}, r"image_mode 'pad' is not one of this model's \(native\)"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, file, changes, spec, message):
    edit(make_qwen(tmp_path) / file, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(ModelSpec(**{"path": str(tmp_path), "image_mode": "native", **spec}), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vision_config", {"deepstack_visual_indexes": [0, 4]}, r"\[0, 4\] are not different layers of the tower's 4"),
        ("vision_config", {"deepstack_visual_indexes": [1, 1]}, r"\[1, 1\] are not different layers of the tower's 4"),
        ("vision_config", {"deepstack_visual_indexes": 3}, "deepstack_visual_indexes: 3 is no list of layers"),
        ("vision_config", {"deepstack_visual_indexes": [0]}, "6 tensors are left over"),
        ("vision_config", {"num_position_embeddings": 36}, "pos_embed.weight"),
        ("vision_config", {"patch_size": 14}, "the image processor has patch_size 16, .* states 14"),
        ("text_config", {"head_dim": 32}, r"mrope_section: \[2, 3, 3\] are not half of a head's 32 values"),
    ],
)
def test_what_does_not_fit_qwen3_is_one_line(tmp_path, part, changes, message):
    place = make_qwen(tmp_path, "qwen3_vl") / "config.json"
    edit(place, **{part: {**json.loads(place.read_text())[part], **changes}})
    with pytest.raises(ModelError, match=message) as caught:
        open_checkpoint(ModelSpec(path=str(tmp_path))).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the checkpoint has no chat template"),
        ("{{ messages[0]['content'][1]['text'] }}", "its chat template cannot be used: "),
        ("<|image_pad|>{{ messages[0]['content'][1]['text'] }}", "its chat template does not put "),
    ],
)
def test_templates_that_lose_the_image(tmp_path, template, message):
    edit(make_qwen(tmp_path) / "tokenizer_config.json", chat_template=template)
    model = load_model(ModelSpec(path=str(tmp_path), image_mode="native"), "cpu")
    with pytest.raises(ModelError, match=message):
        model.chat("what ?", 1)


def test_prompts_of_text_alone(tmp_path):
    """Without a marker there is no place for an image."""
    model = load_model(ModelSpec(path=str(make_qwen(tmp_path)), image_mode="native"), "cpu")
    plain = model.encode("what ?", None, "native")
    assert (plain.images, plain.visual, plain.positions_PS.tolist()) == ((), 0, [list(range(plain.length))] * 3)
    for text, images in (("<image><image>", noise((60, 90))), ("what ?", noise((60, 90))), ("<image>what ?", None)):
        with pytest.raises(DataError, match=r"the prompt has \d places for images \(<image>\), and \d are given"):
            model.encode(text, images, "native")


def test_how_large_images_are_is_part_of_the_model(tmp_path, small_scienceqa):
    folder, sweep = make_qwen(tmp_path / "qwen"), tmp_path / "sweep.yaml"
    grid = "grid:\n  - {strategy: fastv, layer: 2, rank: [3, N]}\n"
    prints = {}
    for options in ("", "min_pixels: 3136", "max_pixels: 15680, min_pixels: 1568", "max_pixels: 15680"):
        sweep.write_text(f"model: {{path: {folder}, {options}}}\ndata: {small_scienceqa}\n{grid}")
        spec = load_sweep(sweep, gpu=False)
        assert (spec.engine.model.image_mode, spec.engine.task.conversation) == ("native", "chat_template")
        prints[options] = model_fingerprint(open_checkpoint(spec.engine.model))
    assert prints[""] == prints["min_pixels: 3136"]  # as it is stored
    assert len(set(prints.values())) == 3
    model = load_model(spec.engine.model, "cpu")
    assert max(model.look(noise((side, 400)), "native").tokens for side in (200, 400, 800)) <= 20
    assert load_model(replace(spec.engine.model, max_pixels=None), "cpu").look(noise((400, 400)), "native").tokens > 20


def test_other_models_have_no_size_of_images(small_checkpoint, tmp_path):
    with pytest.raises(ModelError, match=r"model\.max_pixels is not supported for LLaVA: its tower fixes the size"):
        open_checkpoint(ModelSpec(path=str(small_checkpoint), max_pixels=9999))
    with pytest.raises(ModelError, match=r"model\.max_tiles is not supported for Qwen2-VL and its kind: it"):
        open_checkpoint(ModelSpec(path=str(make_qwen(tmp_path)), max_tiles=4))


def test_shares_in_a_sweep_file(tmp_path, small_scienceqa, small_checkpoint):
    """Of a model whose images differ they stay shares; where all have 16 tokens they are numbers."""
    grid = "[{strategy: fastv, layer: 2, rank: [22.2%, 8]}, {strategy: random, layer: 1, tokens: 60%}]"
    sweep, points = tmp_path / "sweep.yaml", {}
    for folder in (make_qwen(tmp_path / "qwen"), small_checkpoint):
        sweep.write_text(f"model: {folder}\ndata: {small_scienceqa}\ngrid: {grid}\n")
        spec = load_sweep(sweep, gpu=False)
        points[folder] = spec.points[1:]
    ours, fixed = points.values()
    assert [(point.kept, point.of(100).rank) for point in ours] == [("8", 8), ("22.2%", 22), ("40%", 40)]
    assert [(point.share, point.rank) for point in fixed] == [(None, 8), (None, 4), (None, 3)]  # 16 tokens, 2 layers
    assert len({point.key for point in ours}) == 3
    recorded = [RecordedPoint.of(point, "") for point in ours]
    assert [RecordedPoint.model_validate(one.model_dump(exclude_unset=True)).point for one in recorded] == list(ours)
    assert [GridPoint.from_json(point.to_json()) for point in ours] == list(ours)
    assert "share" not in fixed[0].to_json()


VARIES = "is an average over a fixed number of visual tokens, and this model's images differ in theirs"
WRONG = {
    "rank: 101%": "rank: '101%' is no share between 0% and 100%",
    "rank: -1%": "rank: '-1%' is no share between 0% and 100%",
    "rank: [3, a%]": "rank: 'a%' is no share between 0% and 100%",
    "rank: 50%, strategy: himap, second_layer: 2, second_rank: 5": "rank: a share may be 4 tokens of a small image, "
    "and then second_rank: 5 is above the first stage's rank 4; give a number",
    "rank: 3, positions: compact": "positions: position ids of this model have 3 parts, for a grid that has no numbers "
    "without gaps; leave `compact` out",
    "tokens: 9": f"tokens: {VARIES}; give a share of each image's own, such as 33.3%, or rank",
    "tokens: 20%": "tokens: an average of 0.2 of an image's tokens cannot be reached by pruning at layer 1 of 3: it "
    "lies between 0.3333 and 1",
}


@pytest.mark.parametrize("entry", WRONG)
def test_what_a_grid_cannot_be(tmp_path, small_scienceqa, entry):
    sweep, folder = tmp_path / "sweep.yaml", make_qwen(tmp_path / "qwen")
    named = entry if "strategy" in entry else f"{entry}, strategy: fastv"
    sweep.write_text(f"model: {folder}\ndata: {small_scienceqa}\ngrid: [{{layer: 1, {named}}}]\n")
    with pytest.raises(SpecError) as caught:
        load_sweep(sweep, gpu=False)
    assert str(caught.value) == f"{sweep}: grid[0].{WRONG[entry]}"
