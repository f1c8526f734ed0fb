"""What every model family promises, on a tiny random model of each: listed means tested.

The engine's own suites run on LLaVA; a family passes this one before it is listed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import pytest
import torch

import checkpoint_forms as forms
from against_naive import assert_every_cell_is_naive
from small_intern import make_intern
from small_llava import make_checkpoint
from small_onevision import make_onevision
from small_qwen import make_qwen
from strategies import catalog as rules
from workers import laps, latency
from workers.encoding import encode_sample
from workers.engine import Engine
from workers.families.catalog import FAMILIES, family_of, open_checkpoint, parts_of
from workers.families.config import ModelConfig, ModelError, RecordedConfig
from workers.images import image_size, load_image
from workers.latency import measure_latency, prepare_prompts
from workers.patch import pruned
from workers.work import EngineSpec, GridPoint, ModelSpec, TaskSpec, WorkUnit, unpruned_point

# A folder with a tiny model of each kind, by the model_type of its config.json.
MADE = {
    "llava": make_checkpoint,
    "llava_next": lambda folder: forms.hugging_face_next(folder / "next"),
    "llava_llama": lambda folder: forms.original(folder / "own", str(forms.tower(folder / "clip"))),
    "llava_onevision": make_onevision,
    "qwen2_vl": lambda folder: make_qwen(folder, "qwen2_vl"),
    "qwen2_5_vl": lambda folder: make_qwen(folder, "qwen2_5_vl"),
    "qwen3_vl": lambda folder: make_qwen(folder, "qwen3_vl"),
    "internvl": make_intern,
}
KINDS = [kind for kind in MADE]
TOLERANCE = {"atol": 1e-4, "rtol": 1e-5}  # float32: other shapes of the same sums


@pytest.fixture(scope="module", params=KINDS)
def engine(request, tmp_path_factory, small_scienceqa) -> Engine:
    folder = MADE[request.param](tmp_path_factory.mktemp(request.param))
    mode = open_checkpoint(ModelSpec(path=str(folder))).image_mode
    model = ModelSpec(path=str(folder), image_mode=mode)
    task = TaskSpec(name="scienceqa", data=str(small_scienceqa))
    return Engine.load(EngineSpec(model=model, task=task, max_new_tokens=3), device="cpu")


def test_every_family_has_a_model_here():
    for family in FAMILIES:
        assert set(family.model_types) & set(KINDS), f"{family} is listed and not tested"
    kinds = [kind for family in FAMILIES for kind in family.model_types]
    assert len(kinds) == len(set(kinds)), "two families claim the same checkpoints"


def test_sizes_are_those_of_the_model(engine):
    model, config = engine.model, engine.model.config
    assert open_checkpoint(engine.spec.model).sizes == config
    assert len(model.decoder.layers) == config.layers
    assert (model.decoder.heads, model.decoder.kv_heads, model.decoder.head_dim) == (
        config.heads,
        config.kv_heads,
        config.head_dim,
    )
    found = RecordedConfig.of(json.loads(json.dumps(recorded(config))))
    assert found.sizes == config
    assert (found.grid, found.varies) == (config.grid, config.varies)


def recorded(config: ModelConfig) -> dict:
    return asdict(config)


def test_a_prompt_says_where_its_image_is(engine):
    for sample in engine.samples.values():
        prompt = encode_sample(engine.model, sample, engine.spec.task, engine.spec.model.image_mode)
        assert prompt.positions_PS.shape[1] == prompt.length
        assert len(prompt.positions_PS) == engine.model.config.position_parts
        assert bool(prompt.images) == (sample.image is not None)
        (features,) = engine.model.image_features([prompt])
        assert (0 if features is None else len(features)) == prompt.visual
        assert prompt.visual <= engine.model.visual_tokens
        if sample.image is not None:
            assert prompt.visual == open_checkpoint(engine.spec.model).visual_tokens(image_size(sample.image))
        assert engine.model.config.varies or prompt.visual in (0, engine.model.visual_tokens)


def test_keeping_everything_is_the_untouched_model(engine):
    """Against transformers' own ``generate``."""
    layers, visual = engine.model.config.layers, engine.model.visual_tokens
    points = (unpruned_point(layers, visual), GridPoint(strategy="random", layer=1, rank=visual))
    for cell in engine.run(WorkUnit(samples=("1", "2", "6"), points=points)).outcomes:
        sample = engine.samples[cell.sample]
        prompt = encode_sample(engine.model, sample, engine.spec.task, engine.spec.model.image_mode)
        made = engine.model.module.generate(
            **engine.model.inputs(prompt),
            attention_mask=torch.ones(1, prompt.length, dtype=torch.int64),
            do_sample=False,
            max_new_tokens=3,
        )[0, prompt.length :]
        assert (cell.answer, cell.first_token) == (engine.model.text(made.tolist()), int(made[0]))


def test_pruning_is_that_of_the_naive_forward(engine):
    layers = engine.model.config.layers
    points = [
        GridPoint(strategy=name, layer=0 if rules.get(name).layers == "input" else layers - 1, rank=5)
        for name in ("fastv", "random", "divprune", "fps_merged", "text_sum", "image_column_sum", "pyramiddrop_stage")
    ]
    assert_every_cell_is_naive(engine, ("1", "3"), points, **TOLERANCE)


def test_its_own_forward_can_be_pruned(engine):
    module = engine.model.module
    parts = parts_of(module)
    assert parts.visual_tokens == (None if engine.model.config.varies else engine.model.visual_tokens)
    prompt = encode_sample(engine.model, engine.samples["1"], engine.spec.task, engine.spec.model.image_mode)
    assert prompt.ids.count(parts.image_token) == prompt.visual
    with pruned(module, "fastv", 1, 4) as report, torch.no_grad():
        module(**engine.model.inputs(prompt))
    assert [len(kept) for kept in report.kept] == [4]


def test_its_own_forward_is_timed_part_by_part(engine, monkeypatch):
    """With a clock that jumps a second at each look, a part has as many as it is looked at."""
    looks = count()
    for module in (laps, latency):
        monkeypatch.setattr(module, "now", lambda device: float(next(looks)))
    mergers = len(parts_of(engine.model.module).projectors)
    asked = [engine.samples[id] for id in ("1", "3")]
    points = [GridPoint(strategy="fastv", layer=1, rank=3), GridPoint(strategy="divprune", layer=0, rank=3)]
    prompts = prepare_prompts(engine.model, asked, engine.spec.task, engine.spec.model.image_mode, points)
    for one in measure_latency(engine.model, prompts, points, repeats=1, warmup=0, decode_tokens=1):
        parts = [one.tower_ms, one.projector_ms, one.selector_ms, one.prefill_ms]
        assert [part.p90 for part in parts[:2]] == [1000 * mergers, 1000 * (mergers + 1)]
        assert one.selector_ms.mean == (0 if one.point.strategy == "none" else 2000)
        assert one.first_token_ms.mean == sum(part.mean for part in parts)


def test_people_see_what_the_tower_sees(engine):
    family = family_of(engine.spec.model)
    checkpoint = family.open(engine.spec.model)
    picture = family.picturer(checkpoint, checkpoint.image_mode)(load_image(engine.samples["1"].image), 1)
    if side := engine.model.config.image_size:
        assert all(length % side == 0 for length in picture.size)  # several tiles side by side
    else:  # each image in its own shape, in whole patches
        assert all(length % engine.model.config.patch_size == 0 for length in picture.size)


@pytest.mark.parametrize(
    ("stated", "grid"),
    [
        ({"grid": [4, 6]}, (4, 6)),
        ({"grid": None, "image_size": 56, "patch_size": 14}, None),
        ({"image_size": 56, "patch_size": 14}, (4, 4)),  # as earlier versions recorded it
        ({"image_size": 56, "patch_size": 14, "visual_tokens": 9}, None),
        ({}, None),
    ],
)
def test_the_grid_that_an_experiment_recorded(stated, grid):
    found = RecordedConfig.of({"layers": 2, "visual_tokens": 17, **stated})
    assert (found.grid, found.varies, found.sizes) == (grid, False, None)


def test_an_early_record_says_by_its_tiles_that_images_vary(engine):
    stated = recorded(engine.model.config)
    del stated["varies"]
    early = RecordedConfig.of({**stated, "pinpoints": [[56, 112]]})
    assert early.varies
    assert early.sizes == replace(engine.model.config, varies=True)
    assert not RecordedConfig.of({**stated, "pinpoints": None}).varies


def test_a_model_of_no_family_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "pixtral"}')
    with pytest.raises(ModelError, match=r"model_type: 'pixtral' is not supported \(.*llava, .*llava_next.*\)"):
        open_checkpoint(ModelSpec(path=str(tmp_path)))
