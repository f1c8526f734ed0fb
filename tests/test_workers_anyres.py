"""LLaVA-NeXT: tiles and counts as transformers makes them, answers as its model gives them, pruning as the slow way."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, image_size_to_num_patches
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

import checkpoint_forms as forms
from naive import naive_answer, seeds_of
from orchestrator.sweep.spec import SpecError, load_sweep
from workers.cost import cost
from workers.encoding import encode_sample
from workers.engine import Engine
from workers.families.catalog import open_checkpoint
from workers.families.config import ModelError
from workers.families.llava.anyres import Tiling
from workers.families.llava.loading import load_llava
from workers.slow_path import slow_answer
from workers.work import EngineSpec, GridPoint, ModelSpec, TaskSpec, WorkUnit, unpruned_point

NEXT = Tiling(((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)), 336, 14)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("next")
    tower = forms.tower(root / "clip")
    return {"theirs": forms.hugging_face_next(root / "hf"), "own": forms.original_next(root / "own", str(tower))}


def engine_of(folder, data):
    model = ModelSpec(path=str(folder), image_mode="anyres")
    spec = EngineSpec(model=model, task=TaskSpec(name="scienceqa", data=str(data)), max_new_tokens=3)
    return Engine.load(spec, device="cpu")


@settings(deadline=None, max_examples=200)
@given(height=st.integers(8, 1500), width=st.integers(8, 1500))
def test_tokens_are_counted_as_transformers_counts_them(height, width):
    class Counts:
        patch_size, num_additional_image_tokens = 14, 0
        image_processor = type("Grids", (), {"image_grid_pinpoints": list(NEXT.pinpoints)})
        _get_unpadded_features = LlavaNextProcessor._get_unpadded_features

    size, grids = (height, width), list(NEXT.pinpoints)
    assert NEXT.tokens(size) == LlavaNextProcessor._get_number_of_features(Counts(), height, width, 336, 336)
    assert NEXT.tiles(size) == image_size_to_num_patches(size, grids, 336)
    assert tuple(pixels // 336 for pixels in NEXT.best(size)) == get_anyres_image_grid_shape(size, grids, 336)


def test_the_counts_of_the_full_size():
    assert NEXT.most_tokens == 576 + 48 * 48 + 48  # 2,880 patches and the ends of 48 rows
    assert NEXT.tokens((480, 640)) == 576 + 36 * 48 + 36  # what padding would add is left out
    assert NEXT.tiles((480, 640)) == 5


@pytest.mark.parametrize("size", [(56, 56), (300, 90), (61, 200), (1, 1), (113, 57), (90, 90)])
def test_tiles_have_the_pixels_of_transformers(made, size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    llava = load_llava(ModelSpec(path=str(made["theirs"]), image_mode="anyres"), "cpu")
    theirs = LlavaNextImageProcessorPil.from_pretrained(made["theirs"])(Image.fromarray(noise), return_tensors="pt")
    seen = llava.encode("<image>", Image.fromarray(noise), "anyres")
    assert seen.pixels[0].values.shape == theirs["pixel_values"][0].shape
    torch.testing.assert_close(seen.pixels[0].values, theirs["pixel_values"][0], atol=1e-6, rtol=0)
    assert [features.shape for features in llava.image_features([seen])] == [(seen.visual, forms.HIDDEN)]


def test_answers_are_those_of_the_stock_model(made, small_scienceqa):
    engine = engine_of(made["theirs"], small_scienceqa)
    stock = LlavaNextForConditionalGeneration.from_pretrained(made["theirs"])
    most = engine.model.visual_tokens
    assert most == 16 + 64 + 8
    cells = engine.run(WorkUnit(samples=tuple(engine.samples), points=(unpruned_point(3, most),))).outcomes
    assert len({cell.visual_tokens for cell in cells}) > 2  # as many as each image has, none for text alone
    for cell in cells:
        sample, inputs = engine.samples[cell.sample], {}
        prompt = encode_sample(engine.model, sample, engine.spec.task, "anyres")
        if prompt.images:
            inputs = {
                "pixel_values": prompt.pixels[0].values[None],
                "image_sizes": torch.tensor([prompt.pixels[0].size]),
            }
            assert cell.visual_tokens == prompt.visual
        with torch.no_grad():
            logits = stock(input_ids=torch.tensor([prompt.ids]), **inputs).logits[0, -1]
        letters = logits[engine.letter_tokens[: len(sample.choices)]]
        torch.testing.assert_close(torch.tensor(cell.option_logits), letters, atol=1e-4, rtol=1e-4)
        assert cell.first_token == int(logits.argmax())


def test_both_forms_and_the_slow_way_agree(made, small_scienceqa):
    engine = engine_of(made["theirs"], small_scienceqa)
    most = engine.model.visual_tokens
    points = (
        unpruned_point(3, most),
        *(
            GridPoint(strategy=name, layer=layer, rank=60)
            for name, layer in (("fastv", 2), ("random", 0), ("l2_norm", 0))
        ),
        GridPoint(strategy="fastv", layer=1, rank=9),
    )
    unit = WorkUnit(samples=tuple(engine.samples), points=points)
    cells = engine.run(unit).outcomes
    assert engine_of(made["own"], small_scienceqa).run(unit).outcomes == cells
    assert {cell.tokens_kept for cell in cells if cell.point == points[1].key} > {
        60
    }  # smaller images keep all they have
    for cell, point in zip(cells, itertools.cycle(points)):
        sample = engine.samples[cell.sample]
        prompt = encode_sample(engine.model, sample, engine.spec.task, "anyres")
        slow = naive_answer(engine.model, prompt, point, seeds_of(sample), 3)
        kept = np.flatnonzero(np.unpackbits(np.frombuffer(cell.kept_mask, np.uint8))[: cell.visual_tokens])
        assert kept.tolist() == slow.kept
        assert cell.first_token == slow.tokens[0]
        letters = slow.first_logits[engine.letter_tokens[: len(sample.choices)]]
        torch.testing.assert_close(torch.tensor(cell.option_logits), letters, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["theirs", "own"])
def test_its_own_generate_answers_the_same(made, small_scienceqa, form):
    """Un-pruned and pruned by ``workers.patch``, with evidence of the tower put together of the tiles."""
    engine = engine_of(made[form], small_scienceqa)
    points = (
        unpruned_point(3, engine.model.visual_tokens),
        GridPoint(strategy="fastv", layer=2, rank=9),
        GridPoint(strategy="hiprune", layer=0, rank=20),
        GridPoint(strategy="visionzip", layer=0, rank=30),
        GridPoint(strategy="random_per_image", layer=0, rank=7),
    )
    for cell, point in zip(
        engine.run(WorkUnit(samples=tuple(engine.samples), points=points)).outcomes, itertools.cycle(points)
    ):
        sample = engine.samples[cell.sample]
        slow = slow_answer(engine.model, engine.spec, sample, point, engine.letter_tokens[: len(sample.choices)])
        assert (cell.answer, cell.first_token, cell.kept_mask) == (slow.text, slow.ids[0], slow.kept_mask), point.label
        torch.testing.assert_close(cell.option_logits, slow.option_logits, atol=1e-4, rtol=1e-4)


def test_what_any_resolution_does_not_do(made, small_scienceqa, tmp_path):
    with pytest.raises(ModelError, match=r"image_mode 'pad' is not one of this model's \(anyres\)"):
        load_llava(ModelSpec(path=str(made["theirs"])), "cpu")
    sweep = tmp_path / "sweep.yaml"
    grid = "grid:\n  - {strategy: fastv, layer: 2, tokens: 9}\n  - {strategy: fastv, layer: 2, rank: 89}\n"
    sweep.write_text(f"model: {made['theirs']}\ndata: {small_scienceqa}\n{grid}")
    with pytest.raises(SpecError) as caught:
        load_sweep(sweep)
    assert str(caught.value).splitlines() == [
        f"{sweep}: grid[0].tokens: is an average over a fixed number of visual tokens, and this model's images differ "
        "in theirs; give a share of each image's own, such as 33.3%, or rank",
        f"{sweep}: grid[1].rank: 89 is above the model's 88 visual tokens",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type: 'flat' is not supported"),
        ({"image_grid_pinpoints": "(1x1),...,(6x6)"}, "is not a list of sizes"),
        ({"image_grid_pinpoints": [[56, 57]]}, r"\[57, 56\] is no multiple of the tower's 56 pixels"),
        ({"image_grid_pinpoints": [[56, 0]]}, r"\[56, 0\] is not a height and a width"),
        ({"mm_vision_select_feature": "cls_patch"}, "any-resolution needs tiles of whole patches"),
        ({"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio: 'anyres_max_9' is not supported"),
    ],
)
def test_grids_that_cannot_be_used(made, tmp_path, change, message):
    folder = forms.original_next(tmp_path / "own", str(tmp_path / "clip"))
    forms.tower(tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        _ = open_checkpoint(ModelSpec(path=str(folder))).sizes


def test_what_the_tower_costs_is_not_known_where_the_number_of_tiles_is_not(made):
    config = open_checkpoint(ModelSpec(path=str(made["theirs"]))).sizes
    counted = cost(config, system=5, visual=(88, 88, 9), text=5, image_tokens=88)
    assert math.isnan(counted.vision_tflop)
    assert counted.prefill_tflop > 0
    one, five = (cost(config, system=5, visual=(88,) * 3, text=5, image_tokens=88, squares=n) for n in (1, 5))
    assert five.vision_tflop == 5 * one.vision_tflop > 0  # the projector sees padding too
    assert cost(config, system=5, visual=(0, 0, 0), text=5, image_tokens=0).vision_tflop == 0
