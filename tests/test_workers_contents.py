"""What a checkpoint says of itself against its files: what does not fit is one line, before anything is loaded."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaNextConfig, LlavaNextForConditionalGeneration

import checkpoint_forms as forms
from workers.families.catalog import open_checkpoint
from workers.families.config import ModelError
from workers.families.llava.config import model_config
from workers.families.llava.described import described
from workers.families.llava.names import model_name
from workers.fingerprint import model_fingerprint
from workers.work import ModelSpec

WEIGHTS = "model.safetensors"


def looked_at(folder, **spec):
    checkpoint = open_checkpoint(ModelSpec(path=str(folder), **spec))
    checkpoint.check()
    return model_fingerprint(checkpoint)


def message_of(folder, **spec) -> str:
    with pytest.raises(ModelError) as caught:
        looked_at(folder, **spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(place, **changes) -> None:
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))


def edit_text(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config={**config["text_config"], **changes})


def store(folder, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS, metadata={"format": "pt"})


@pytest.fixture
def folder(tmp_path):
    return forms.hugging_face(tmp_path / "checkpoint", shards=1)


SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 50}
TEXTS = [
    {"model_type": "llama", "intermediate_size": 20},
    {"model_type": "llama", "intermediate_size": 20, "attention_bias": True, "mlp_bias": True, "head_dim": 10},
    {"model_type": "llama"},
    {"model_type": "mistral", "attention_bias": True},
    {"model_type": "qwen2", "num_key_value_heads": None, "intermediate_size": 20},
    {"model_type": "qwen2", "num_key_value_heads": 2},
    {"model_type": "qwen2"},
]


@pytest.mark.parametrize("text", TEXTS, ids=str)
@pytest.mark.parametrize("whole", [{}, {"multimodal_projector_bias": False, "vision_feature_layer": [-1, 1]}, None])
def test_the_described_model_is_the_one_that_transformers_builds(text, whole):
    kinds = (LlavaConfig, LlavaForConditionalGeneration)
    config = {"model_type": "llava", **(whole or {}), "vision_config": forms.vision_config()}
    if whole is None:
        kinds = (LlavaNextConfig, LlavaNextForConditionalGeneration)
        config |= {"model_type": "llava_next", "image_grid_pinpoints": forms.PINPOINTS}
    config["vision_config"] |= {"model_type": "clip_vision_model"}
    config["text_config"] = {**SMALL, **text}
    with torch.device("meta"):
        model = kinds[1](kinds[0].from_dict(json.loads(json.dumps(config))))
    built = {model_name(name): tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert described(config, model_config(config, Path("config.json"))) == built


def test_what_is_left_over_is_refused(folder):
    edit_text(folder, num_hidden_layers=1)
    message = message_of(folder)
    assert "18 tensors are left over" in message
    assert "first: model.language_model.layers.1." in message
    assert "config.json has no place for them; first" in message.replace(str(folder) + "/", "")


def test_vision_layers_behind_the_chosen_one_are_harmless_where_it_is_counted_from_the_front(folder):
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", vision_config={**config["vision_config"], "num_hidden_layers": 1})
    assert "first: model.vision_tower.encoder.layers.1." in message_of(folder)  # -2 is another layer now
    edit(folder / "config.json", vision_feature_layer=1)
    looked_at(folder)
    edit_text(folder, num_hidden_layers=2)
    assert "first: model.language_model.layers.2." in message_of(folder)


def test_what_is_missing_or_of_another_shape_is_named(folder):
    edit_text(folder, num_hidden_layers=4)
    assert "9 tensors are missing from the weights; first: model.language_model.layers.3." in message_of(folder)
    edit_text(folder, num_hidden_layers=10_000_000)
    assert "num_hidden_layers: 10000000 is above 1,000" in message_of(folder)
    edit_text(folder, num_hidden_layers=3, intermediate_size=7)
    assert "down_proj.weight: has shape [32, 64], config.json asks for [32, 7]" in message_of(folder)


def test_a_bin_checkpoint_is_looked_at_too(tmp_path):
    folder = forms.original(tmp_path / "own", str(forms.tower(tmp_path / "clip")))
    looked_at(folder)
    edit(folder / "config.json", num_hidden_layers=2)
    assert "9 tensors are left over" in message_of(folder)


@pytest.mark.parametrize(
    ("kind", "scale"), [(torch.int8, "SCB"), (torch.float8_e4m3fn, "weight_scale")], ids=["int8", "fp8"]
)
def test_quantised_weights_are_refused(folder, kind, scale):
    def quantised(tensors):
        names = [name for name in tensors if name.endswith("q_proj.weight") and "language" in name]
        scales = {f"{name.removesuffix('weight')}{scale}": torch.ones(32) for name in names}
        return {**tensors, **{name: tensors[name].to(kind) for name in names}, **scales}

    store(folder, quantised)
    assert "is no plain weight; give the checkpoint in bfloat16" in message_of(folder)
    store(folder, lambda tensors: {name: tensor.float() for name, tensor in tensors.items()})
    assert f"self_attn.q_proj.{scale} in {WEIGHTS}" in message_of(folder)
    edit(folder / "config.json", quantization_config={"quant_method": "compressed-tensors"})
    assert "config.json: quantization_config: compressed-tensors is not supported" in message_of(folder)


# Adapters


def adapter(folder, base_name="lmsys/vicuna-7b-v1.5", **tensors):
    folder.mkdir(exist_ok=True)
    name = "base_model.model.model.layers.1.self_attn.q_proj"
    save_file({f"{name}.lora_{part}.weight": t for part, t in tensors.items()}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "lora_alpha": 8, "base_model_name_or_path": base_name}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "adapter_model.safetensors: holds no tensors that change a model; if it was trained with ZeRO-3, gather"),
        ({"A": torch.empty(0), "B": torch.empty(0)}, "q_proj.weight: lora_A has shape [0]; if it was trained with"),
        ({"A": torch.ones(2, 32), "B": torch.ones(32, 3)}, "q_proj.weight: lora_A has rank 2, lora_B 3"),
        ({"A": torch.ones(2, 40), "B": torch.ones(40, 2)}, "the base's is [32, 32]; it was trained on another base"),
    ],
)
def test_an_adapter_must_change_this_base(folder, tmp_path, tensors, message):
    assert message in message_of(adapter(tmp_path / "lora", **tensors), base=str(folder))


def test_a_base_of_another_name_is_said(folder, tmp_path):
    lora = adapter(tmp_path / "lora", A=torch.ones(2, 32), B=torch.ones(32, 2))
    spec = ModelSpec(path=str(lora), base=str(folder))
    (note,) = open_checkpoint(spec).notes
    assert note.endswith(f"says that it was trained on lmsys/vicuna-7b-v1.5; the base given is {folder}")
    edit(lora / "adapter_config.json", base_model_name_or_path="someone/Checkpoint")
    assert open_checkpoint(spec).notes == ()
    assert open_checkpoint(ModelSpec(path=str(folder))).notes == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_alpha": None}, "lora_alpha: None is not a number"),
        ({"alpha_pattern": [1]}, "alpha_pattern: is not an object"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern: '(' is not a pattern"),
    ],
)
def test_malformed_settings_of_an_adapter(folder, tmp_path, changes, message):
    lora = adapter(tmp_path / "lora", A=torch.ones(2, 32), B=torch.ones(32, 2))
    looked_at(lora, base=str(folder))
    edit(lora / "adapter_config.json", **changes)
    assert message in message_of(lora, base=str(folder))


# Malformed files


def header(change):
    def spoil(folder):
        content = (folder / WEIGHTS).read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        changed = change(json.loads(content[8 : 8 + length]))
        text = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return spoil


def entry(**fields):
    return header(lambda held: {name: {**value, **fields} if value else value for name, value in held.items()})


def index(name):
    return lambda folder: (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": name}}))


def outside(folder):
    shutil.copy(folder / WEIGHTS, folder.parent / WEIGHTS)
    index(f"../{WEIGHTS}")(folder)


DEEP = b'{"a":' + b"[" * 100_000
SPOILT = {
    "header is a list": (header(lambda held: [1]), "header: it holds a list"),
    "no offsets": (entry(data_offsets=None), "lacks dtype, shape or data_offsets"),
    "offsets are texts": (entry(data_offsets=["a", "b"]), "lacks dtype, shape or data_offsets"),
    "offsets are swapped": (entry(data_offsets=[8, 0]), "lacks dtype, shape or data_offsets"),
    "an entry is null": (header(lambda held: dict.fromkeys(held)), "lacks dtype, shape or data_offsets"),
    "shape is text": (entry(shape=["a"]), "lacks dtype, shape or data_offsets"),
    "header is nested": (header(lambda held: DEEP), "is nested deeper than"),
    "index of numbers": (index(5), "weight_map: expected names of files"),
    "index of a long name": (index("x" * 400), "is not a file name: File name too long"),
    "index of an absolute path": (index("/etc/passwd"), "'/etc/passwd' lies outside"),
    "index of a file outside": (outside, f"'../{WEIGHTS}' lies outside"),
    "config is nested": (lambda folder: (folder / "config.json").write_bytes(DEEP), "config.json: is nested deeper"),
    "a link to nothing": (lambda folder: (folder / "x.json").symlink_to("gone"), "x.json: cannot be read: No such"),
    "a pipe": (lambda folder: os.mkfifo(folder / "notes.txt"), "notes.txt: is not a file"),
    "weights are a pipe": (lambda f: [(f / WEIGHTS).unlink(), os.mkfifo(f / WEIGHTS)], f"{WEIGHTS}: is not a file"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_a_malformed_checkpoint_is_one_line(folder, spoil, message):
    spoil(folder)
    assert message in (told := message_of(folder))
    assert str(folder) in told


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.model"])
def test_a_file_that_may_not_be_read_is_one_line(monkeypatch, folder, name):
    whole = Path.open

    def denied(self, *args, **kwargs):
        if self.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", denied)  # the user who tests may be root
    assert f"{name}: cannot be read: Permission denied" in message_of(folder)


def test_weights_may_be_links_to_another_disk(folder, tmp_path):
    other = tmp_path / "disk"
    other.mkdir()
    shutil.move(folder / WEIGHTS, other / WEIGHTS)
    (folder / WEIGHTS).symlink_to(other / WEIGHTS)
    looked_at(folder)
    index(WEIGHTS)(folder)
    looked_at(folder)


def test_facts_of_a_kind_that_leaves_its_sizes_out():
    """transformers leaves out of config.json what the kind of decoder has by default."""
    place = Path("config.json")
    config = model_config({"text_config": {"model_type": "mistral"}, "vision_config": {}}, place)
    assert (config.kv_heads, config.ffn) == (8, 14336)
    assert replace(config, kv_heads=32, ffn=11008, parameters=0) == replace(
        model_config({"text_config": {"model_type": "llama"}, "vision_config": {}}, place), parameters=0
    )
