"""Checkpoints in every published form give the same answers; broken ones give one clear line."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration, LlavaProcessor

import checkpoint_forms as forms
from prompt_forms import prompt_form
from workers.checkpoints.tokenizer import PROBE, chat_template, check_tokenizer
from workers.engine import Engine
from workers.families.catalog import open_checkpoint
from workers.families.config import ModelError
from workers.families.llava.loading import _load_tokenizer, load_llava
from workers.families.llava.names import model_name
from workers.tasks.base import Sample
from workers.tasks.prompts import CONVERSATIONS, SINGLE_PREDICTION, build_prompt
from workers.work import EngineSpec, GridPoint, ModelSpec, TaskSpec, WorkUnit, unpruned_point

POINTS = (
    unpruned_point(3, 16),
    GridPoint(strategy="fastv", layer=2, rank=4),
    GridPoint(strategy="l2_norm", layer=0, rank=5),
    GridPoint(strategy="random", layer=1, rank=3),
)

BLANK = Image.new("RGB", (56, 56))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("forms")
    tower = forms.tower(root / "clip")
    return {
        "hugging_face": forms.hugging_face(root / "hf"),
        "hugging_face_old": forms.hugging_face(root / "hf_old", old=True, shards=1),
        "original": forms.original(root / "own", str(tower)),
        "original_safetensors": forms.original(root / "own_st", "../clip", suffix="safetensors", shards=3),
        "tower": tower,
    }


def answers(spec, data, conversation="vicuna_v1"):
    task = TaskSpec(name="scienceqa", data=str(data), conversation=conversation)
    engine = Engine.load(EngineSpec(model=spec, task=task, max_new_tokens=4), device="cpu")
    result = engine.run(WorkUnit(samples=tuple(engine.samples), points=POINTS))
    assert not result.failures
    return engine, result.outcomes


def test_all_forms_answer_alike(made, small_scienceqa):
    engine, wanted = answers(ModelSpec(path=str(made["hugging_face"])), small_scienceqa)
    for form in ("hugging_face_old", "original", "original_safetensors"):
        other, found = answers(ModelSpec(path=str(made[form])), small_scienceqa)
        assert found == wanted, form  # to the last bit, float32 on a CPU
        assert other.model.end_tokens == {2}
        for name, tensor in engine.model.module.named_parameters():
            twin = other.model.module.get_parameter(name)
            assert torch.equal(tensor[: len(twin)], twin[: len(tensor)]) or "embed_tokens" in name, (form, name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_the_same_in_all_forms(made, dtype):
    wanted = getattr(torch, dtype)
    for form in ("hugging_face", "hugging_face_old", "original"):
        model = load_llava(ModelSpec(path=str(made[form]), dtype=dtype), "cpu").module
        for name, tensor in model.named_parameters():
            stored = forms.weights()[name.replace("vision_tower.vision_model.", "vision_tower.")]
            assert tensor.dtype == wanted
            assert torch.equal(tensor[: len(stored)], stored.to(wanted)), name


@pytest.mark.parametrize("form", ["hugging_face", "hugging_face_old"])
def test_the_loader_builds_what_transformers_builds(made, form):
    llava = load_llava(ModelSpec(path=str(made[form])), "cpu")
    theirs = LlavaForConditionalGeneration.from_pretrained(made[form])
    assert {name for name, _ in llava.module.named_buffers()} == {name for name, _ in theirs.named_buffers()}
    for name, buffer in theirs.named_buffers():
        assert torch.equal(llava.module.get_buffer(name), buffer), name
    ids = torch.tensor([[1, 300, *[forms.vocabulary()] * 16, 301, 302]])
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = llava.module(input_ids=ids, pixel_values=pixels).logits
        assert torch.equal(ours, theirs(input_ids=ids, pixel_values=pixels).logits)
    assert llava.end_tokens == {2}
    layer = llava.decoder.layers[0]
    assert layer.kv.data_ptr() == layer.module.self_attn.k_proj.weight.data_ptr()
    assert torch.equal(layer.gate_up[64:], layer.module.mlp.up_proj.weight)


def test_a_head_that_is_the_embedding(tmp_path):
    folder = forms.hugging_face(tmp_path / "tied")
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config={**config["text_config"], "tie_word_embeddings": True})
    for file in folder.glob("model*"):
        file.unlink()
    tensors = forms.padded(forms.weights(), forms.vocabulary() + 8)
    head = tensors.pop("lm_head.weight")
    forms.save(folder, tensors, 1, "safetensors")
    model = load_llava(ModelSpec(path=str(folder)), "cpu").module
    assert model.lm_head.weight is model.get_input_embeddings().weight
    edit(folder / "config.json", text_config=config["text_config"])
    assert "1 tensors are missing from the weights; first: lm_head.weight" in message_of(folder)
    forms.save(folder, {**tensors, "lm_head.weight": head}, 1, "safetensors")
    assert torch.equal(load_llava(ModelSpec(path=str(folder)), "cpu").module.lm_head.weight, head)


def asked(folder: Path) -> tuple[int, ...]:
    """The ids of a question about an image."""
    llava = load_llava(ModelSpec(path=str(folder)), "cpu")
    return llava.encode("USER: <image>\nWhat ?", BLANK, "pad").ids


def test_a_tokenizer_without_a_name_is_llamas(made, tmp_path):
    folder = forms.original(tmp_path / "own", str(made["tower"]))
    wanted = asked(made["original"])
    assert wanted[0] == 1
    edit(folder / "tokenizer_config.json", add_bos_token=None)  # transformers 4 began with it all the same
    assert asked(folder) == wanted
    (folder / "tokenizer_config.json").unlink()
    assert asked(folder) == wanted


@pytest.mark.parametrize("legacy", [None, False, True])
@pytest.mark.parametrize("named", [None, "LlamaTokenizer", "LlamaTokenizerFast"])
@pytest.mark.parametrize("form", ["original", "hugging_face"])
def test_llamas_tokenizer_has_the_ids_of_sentencepiece(made, tmp_path, form, named, legacy):
    """512 pieces; whichever class is named, with a tokenizer.json (fast) and without (slow), legacy or not.

    With transformers 5.18 to 5.23 ``AutoTokenizer`` leaves out the space before "The" beside LLaVA's config.json.
    """
    model = forms.sentencepiece_model(512)
    slow = SentencePieceProcessor(model_proto=model)
    folder = tmp_path / form
    shutil.copytree(made[form], folder)
    (folder / "tokenizer.model").write_bytes(model)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    stated = {"tokenizer_class": named, "legacy": legacy, "add_bos_token": True, **special}
    settings = {name: value for name, value in stated.items() if value is not None}
    if form == "hugging_face":
        config = json.loads((folder / "config.json").read_text())
        edit(folder / "config.json", text_config={**config["text_config"], "vocab_size": 520}, image_token_index=512)
        image = {"content": "<image>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
        settings["added_tokens_decoder"] = {"512": {**image, "single_word": False}}
    else:
        edit(folder / "config.json", vocab_size=512, model_type="llava")  # as that of llava-v1.5-7b says
    (folder / "tokenizer.json").unlink(missing_ok=True)
    tokenizer = None
    for fast in (False, True):
        if tokenizer:
            tokenizer.save_pretrained(folder)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer = _load_tokenizer(open_checkpoint(ModelSpec(path=str(folder))))
        for text in (*PROBE, "The", "a", "\n", "zwölf 1,024"):
            assert tokenizer(text)["input_ids"] == [1, *slow.encode(text)], text
        assert fast == (folder / "tokenizer.json").is_file()


def test_a_tokenizer_that_this_transformers_makes_wrongly_is_refused_by_its_file(made):
    checkpoint = open_checkpoint(ModelSpec(path=str(made["original"])))
    assert not (checkpoint.tokenizer / "tokenizer.json").exists()

    class Loses:
        vocab_size = 100

        def __call__(self, text, add_special_tokens):
            return {"input_ids": SentencePieceProcessor(model_proto=forms.sentencepiece_model()).encode(text)[1:]}

    words = r"tokenizer.model: Loses of transformers 5.* and sentencepiece .* give different ids, first \["
    with pytest.raises(ModelError, match=words) as caught:
        check_tokenizer(Loses(), checkpoint.tokenizer, 32000, None)
    assert "tokenizer.json and" not in str(caught.value)


def test_the_modes_of_pre_processing_come_from_the_checkpoint(made, tmp_path):
    def mode(folder):
        return open_checkpoint(ModelSpec(path=str(folder))).image_mode

    assert mode(made["hugging_face"]) == mode(made["original"]) == "pad"
    square = forms.original(tmp_path / "square", str(made["tower"]))
    edit(square / "config.json", image_aspect_ratio="square")
    assert mode(square) == "crop"
    edit(square / "config.json", image_aspect_ratio="highres")
    with pytest.raises(ModelError, match="image_aspect_ratio: 'highres' is not supported"):
        mode(square)
    theirs = forms.hugging_face(tmp_path / "theirs")
    for pads, wanted in ((True, "pad"), (False, "crop")):
        edit(theirs / "preprocessor_config.json", image_processor_type="LlavaImageProcessor", do_pad=pads)
        assert mode(theirs) == wanted
    load_llava(ModelSpec(path=str(theirs)), "cpu")


def edit(place: Path, **changes: object) -> None:
    """Change fields of a JSON file; None takes one out."""
    value = {**json.loads(place.read_text()), **changes}
    place.write_text(json.dumps({key: value for key, value in value.items() if value is not None}))


# Adapters


def with_lora(root, **config):
    """Vicuna with a LoRA of peft's making: its folder, and peft's own merged weights by the model's names."""
    base = forms.vicuna(root / "vicuna")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft and transformers, about one another
        decoder = LlamaForCausalLM.from_pretrained(base, use_safetensors=False)
        wrapped = peft.get_peft_model(decoder, peft.LoraConfig(task_type="CAUSAL_LM", **config))
        with torch.random.fork_rng():
            torch.manual_seed(5)
            for name, weight in wrapped.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(weight, std=0.3)
        folder = root / "lora"
        wrapped.save_pretrained(folder)
        merged = wrapped.merge_and_unload().state_dict()
    return base, folder, {model_name(name): tensor for name, tensor in merged.items()}


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"},
        {"r": 3, "lora_alpha": 2, "target_modules": ["q_proj", "up_proj"], "use_rslora": True},
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 2},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 32, "v_proj": 3},
            "modules_to_save": ["lm_head"],
        },
    ],
    ids=["all", "rank_stabilised", "patterns"],
)
def test_lora_is_merged_as_peft_merges_it(made, tmp_path, config):
    base, folder, merged = with_lora(tmp_path, **config)
    (folder / "config.json").write_text(json.dumps(forms.original_config(str(made["tower"]))))
    projector = {f"base_model.model.{n}": 2 * t for n, t in forms.own_weights().items() if "mm_projector" in n}
    torch.save(projector, folder / "non_lora_trainables.bin")
    llava = load_llava(ModelSpec(path=str(folder), base=str(base)), "cpu")
    plain = load_llava(ModelSpec(path=str(made["original"])), "cpu")
    changed = 0
    for name, tensor in merged.items():
        ours, before = llava.module.get_parameter(name), plain.module.get_parameter(name)
        ours, before = ours[: len(tensor)], before[: len(tensor)]
        torch.testing.assert_close(ours, tensor)
        changed += not torch.equal(ours, before)
    assert changed == {"all-linear": 21}.get(str(config["target_modules"]), 6)
    name = "model.multi_modal_projector.linear_1.weight"
    assert torch.equal(llava.module.get_parameter(name), 2 * plain.module.get_parameter(name))


def test_an_adapter_of_a_hugging_face_llava(made, tmp_path):
    """Without a config.json: the base's counts."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    name = "base_model.model.language_model.model.layers.2.mlp.down_proj"
    down, up = torch.randn(2, 64), torch.randn(32, 2)
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 3}))
    llava = load_llava(ModelSpec(path=str(folder), base=str(made["hugging_face"])), "cpu")
    weight = "model.language_model.layers.2.mlp.down_proj.weight"
    torch.testing.assert_close(llava.module.get_parameter(weight), forms.weights()[weight] + 1.5 * up @ down)
    half = load_llava(ModelSpec(path=str(folder), base=str(made["hugging_face"]), dtype="bfloat16"), "cpu")
    assert torch.equal(half.module.get_parameter(weight), llava.module.get_parameter(weight).bfloat16())  # rounded once


def test_a_projector_alone_goes_onto_its_base(made, tmp_path):
    """As liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5 is published."""
    folder = tmp_path / "projector"
    folder.mkdir()
    for name in ("config.json", "mm_projector.bin"):
        shutil.copy(made["original"] / name, folder)
    edit(folder / "config.json", mm_vision_tower=str(made["tower"]))
    llava = load_llava(ModelSpec(path=str(folder), base=str(forms.vicuna(tmp_path / "vicuna"))), "cpu")
    whole = load_llava(ModelSpec(path=str(made["original"])), "cpu")
    for name, tensor in whole.module.named_parameters():
        assert torch.equal(llava.module.get_parameter(name), tensor), name


def test_adapters_that_cannot_be_used(made, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    base = str(made["hugging_face"])
    settings = {"peft_type": "LORA", "lora_alpha": 3, "base_model_name_or_path": "lmsys/vicuna-7b-v1.5"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    assert "but no adapter_model.safetensors" in message_of(folder, base=base)
    name = "base_model.model.model.layers.2.mlp.down_proj"

    def store(**tensors):
        save_file(
            {f"{name}.{part.replace('__', '.')}": t for part, t in tensors.items()},
            folder / "adapter_model.safetensors",
        )

    down, up = torch.zeros(2, 64), torch.zeros(32, 2)
    store(lora_A__weight=down, lora_B__weight=up)
    assert message_of(folder).endswith(
        "is an adapter, not a whole model; give its base (lmsys/vicuna-7b-v1.5): --model-base DIR"
    )
    assert "leave --model-base out" in message_of(made["hugging_face"], base=base)
    store(lora_A__weight=down)
    assert "has only one of lora_A and lora_B" in message_of(folder, base=base)
    store(lora_A__weight=down, lora_B__weight=torch.zeros(16, 2))
    assert "changes a [16, 64] weight, the base's is [32, 64]" in message_of(folder, base=base)
    store(lora_A__weight=down, lora_B__weight=up, lora_magnitude_vector=torch.zeros(32))
    assert "is not a plain LoRA" in message_of(folder, base=base)
    name = "base_model.model.model.layers.7.mlp.down_proj"
    store(lora_A__weight=down, lora_B__weight=up)
    assert "1 of its weights are not in the base model; first: model.language_model.layers.7." in message_of(
        folder, base=base
    )
    edit(folder / "adapter_config.json", peft_type="IA3")
    assert "peft_type: IA3 is not supported" in message_of(folder, base=base)


def message_of(folder, **spec) -> str:
    with pytest.raises(ModelError) as caught:
        load_llava(ModelSpec(path=str(folder), **spec), "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_settings_that_are_no_settings_are_one_line(tmp_path):
    folder = forms.hugging_face(tmp_path / "hf")
    for name, content, complaint in (
        ("generation_config.json", b'{"pad_token_id": ""}', "is no generation configuration"),
        ("preprocessor_config.json", b'{"image_processor_type": "CLIPImageProcessor", "size": []}', "image processor"),
    ):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        assert complaint in message_of(folder)
        (folder / name).write_bytes(before)
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"chat_template\.jinja: is not a UTF-8 text file"):
        chat_template(folder)
    tower = forms.tower(tmp_path / "tower")
    own = forms.original(tmp_path / "own", str(tower))
    (tower / "config.json").write_text('{"model_type": "clip", "vision_config": null}')
    assert message_of(own).startswith(f"{tower / 'config.json'}: ")


# Hub ids


COMMIT = "8c85e9a4d626b7b908448be32c1ba5ad79b95e76"


def test_hub_ids_are_found_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    kept = forms.snapshot(tmp_path, "llava-hf/llava-1.5-7b-hf", COMMIT, forms.hugging_face)
    for name in ("llava-hf/llava-1.5-7b-hf", f"llava-hf/llava-1.5-7b-hf@{COMMIT}", "llava-hf/llava-1.5-7b-hf@main"):
        checkpoint = open_checkpoint(ModelSpec(path=name))
        assert checkpoint.folder == kept  # the commit, whatever main will be tomorrow
        checkpoint.check()

    forms.snapshot(tmp_path, "openai/clip-vit-large-patch14-336", "1" * 40, forms.tower)
    own = forms.snapshot(
        tmp_path,
        "liuhaotian/llava-v1.5-7b",
        "2" * 40,
        lambda folder: forms.original(folder, "openai/clip-vit-large-patch14-336"),
        ref=None,
    )
    checkpoint = open_checkpoint(ModelSpec(path=f"liuhaotian/llava-v1.5-7b@{'2' * 40}"))
    assert (checkpoint.folder, checkpoint.tower.name) == (own, "1" * 40)
    assert message_of("liuhaotian/llava-v1.5-7b") == (
        f"model liuhaotian/llava-v1.5-7b: no such directory, and not in the Hugging Face cache {tmp_path}; of it the "
        f"cache has liuhaotian/llava-v1.5-7b@{'2' * 40}; `hf download liuhaotian/llava-v1.5-7b` fetches it; or give a "
        "checkpoint directory"
    )


def test_what_is_not_in_the_cache_comes_with_the_command(monkeypatch, tmp_path, made):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "`hf download a-b/c_d.e --revision v1.5` fetches it" in message_of("a-b/c_d.e@v1.5")
    folder = forms.original(tmp_path / "own", "openai/clip-vit-large-patch14-336")
    assert message_of(folder) == (
        f"model openai/clip-vit-large-patch14-336: no such directory, and not in the Hugging Face cache {tmp_path}; "
        "`hf download openai/clip-vit-large-patch14-336` fetches it; or say where the vision tower lies: "
        f"--set model.vision_tower=DIR (mm_vision_tower of {folder}/config.json)"
    )
    load_llava(ModelSpec(path=str(folder), vision_tower=str(made["tower"])), "cpu")
    assert "--set model.vision_tower=DIR (model.vision_tower)" in message_of(folder, vision_tower="/nowhere")
    assert "leave model.vision_tower out" in message_of(made["hugging_face"], vision_tower=str(made["tower"]))
    kept = forms.snapshot(tmp_path, "org/half", COMMIT, forms.hugging_face)
    shard = kept / "model-00001-of-00002.safetensors"
    shard.rename(tmp_path / "blob")
    shard.symlink_to(tmp_path / "gone")  # as an interrupted download leaves it
    assert "model-00001-of-00002.safetensors is missing, which model.safetensors.index.json names" in message_of(
        "org/half"
    )


def test_a_snapshot_needs_only_what_a_checkpoint_reads(monkeypatch, tmp_path):
    """`hf download` notes all files of a commit, and takes those alone that it is asked for."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    kept = forms.snapshot(tmp_path, "org/part", COMMIT, forms.hugging_face)
    trees = kept.parent.parent / "trees"
    trees.mkdir()
    listed = {"format_version": 1, "files": {"README.md": {"size": 1, "blob_id": "0"}}}
    (trees / f"{COMMIT}.json").write_text(json.dumps(listed))
    assert open_checkpoint(ModelSpec(path="org/part")).folder == kept


@pytest.mark.parametrize("name", ["org/a--b", "org/a..b", f"org/{'a' * 99}", "org/half", "org/half@refs"])
def test_a_name_that_the_hub_cannot_have_is_one_line(monkeypatch, tmp_path, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "`hf download org/" in message_of(name)  # there is no cache
    forms.snapshot(tmp_path / "hub", "org/half", COMMIT, lambda folder: folder.mkdir(parents=True))
    (tmp_path / "hub/models--org--half/refs/main").write_bytes(b"\xff")
    assert "`hf download org/" in message_of(name)


# Words


def test_prompts_have_the_ids_that_llava_was_trained_on(made):
    """Piece by piece around the image, as llava/mm_utils.py does with the SentencePiece tokenizer."""
    slow = SentencePieceProcessor(model_proto=forms.sentencepiece_model())
    before = CONVERSATIONS["vicuna_v1"].partition("{question}")[0]
    after = f"\nwhat colour is the square ?\nA. red\nB. 東京\n{SINGLE_PREDICTION} ASSISTANT:"
    for form in ("hugging_face", "original"):
        llava = load_llava(ModelSpec(path=str(made[form])), "cpu")
        prompt = llava.encode(f"{before}<image>{after}", BLANK, "pad")
        image = [llava.image_token] * llava.visual_tokens
        assert prompt.ids == (1, *slow.encode(before), *image, *slow.encode(after))
        assert prompt.system == 1 + len(slow.encode(before))
        bare = llava.encode(f"{before}what ?", None, "pad")
        assert (bare.ids, bare.images) == ((1, *slow.encode(f"{before}what ?")), ())
        both = llava.encode(f"{before}<image>\nand\n<image>{after}", [BLANK, BLANK], "pad")
        assert both.ids == (1, *slow.encode(before), *image, *slow.encode("\nand\n"), *image, *slow.encode(after))
    behind = prompt.system + prompt.visual
    space, newline = prompt.ids[behind:][:2]
    assert slow.id_to_piece([space, newline]) == ["▁", "<0x0A>"]  # 29871, 13 in LLaVA-1.5
    # Given the whole text, transformers' tokenizer leaves the space out: other ids than LLaVA was trained on.
    llava = load_llava(ModelSpec(path=str(made["hugging_face"])), "cpu")
    whole = llava.encode(f"{before}<image>{after}", BLANK, "pad", whole=True)
    assert whole.ids == (*prompt.ids[:behind], *prompt.ids[behind + 1 :])


def test_the_chat_template_of_the_checkpoint(made, tmp_path):
    llava = load_llava(ModelSpec(path=str(made["hugging_face"])), "cpu")
    sample = Sample(id="1", question="what colour ?", choices=("red", "blue"), label="A", image=Path("1.png"))
    text = build_prompt(sample, prompt_form("chat_template"), llava.chat)
    assert text == f"USER: <image>\nwhat colour ?\n{SINGLE_PREDICTION} ASSISTANT:"
    assert (
        build_prompt(replace(sample, image=None), prompt_form("chat_template", False), llava.chat)
        == "USER: what colour ? ASSISTANT:"
    )
    assert build_prompt(sample, prompt_form("chat_template")) == text  # the planner's estimate
    # The ids are those of transformers' own processor.
    question = [{"type": "image"}, {"type": "text", "text": f"what colour ?\n{SINGLE_PREDICTION}"}]
    processor = LlavaProcessor(
        image_processor=llava.image_processor,
        tokenizer=llava.tokenizer,
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=llava._chat_template,
        image_token="<image>",
    )
    theirs = processor.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    ids = processor(images=Image.new("RGB", (56, 56)), text=theirs)["input_ids"][0]
    assert list(llava.encode(text, BLANK, "pad", whole=True).ids) == ids

    own = load_llava(ModelSpec(path=str(made["original"])), "cpu")
    with pytest.raises(ModelError, match=r"has no chat template; set task\.conversation to vicuna_v1"):
        build_prompt(sample, prompt_form("chat_template"), own.chat)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        # As text models have it, with a first token of its own, which the tokenizer would double.
        (
            "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}",
            "[INST] <image>\nq [/INST]",
        ),
        ("{{ messages[0]['content'][0]['type'] }}", "it loses the question or its image"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% for %}", "Expected"),
    ],
)
def test_chat_templates_of_any_make(made, template, prompt):
    llava = load_llava(ModelSpec(path=str(made["hugging_face"])), "cpu")
    llava._chat_template = template
    if "q" in prompt.split("\n")[-1][:1]:
        assert llava.chat("q", 1) == prompt
        return
    with pytest.raises(ModelError, match="its chat template cannot be used") as caught:
        llava.chat("what?", 1)
    assert prompt in str(caught.value)


def test_tokenizers_that_disagree_are_refused(made, tmp_path):
    folder = forms.hugging_face(tmp_path / "hf")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = merges[: len(merges) // 2]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "tokenizer.json and tokenizer.model give different ids, first [" in message_of(folder)
    (folder / "tokenizer.model").unlink()
    load_llava(ModelSpec(path=str(folder)), "cpu")  # the user's choice
    (folder / "tokenizer.model").write_bytes(b"\x0a\x03abc")
    assert "tokenizer.model: is not a SentencePiece model" in message_of(folder)
    (folder / "tokenizer.model").unlink()
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", image_token_index=7)
    assert f"<image> is token {forms.vocabulary()}, config.json has image_token_index 7" in message_of(folder)
    edit(folder / "config.json", text_config={**config["text_config"], "vocab_size": 400})
    for file in folder.glob("model*"):
        file.unlink()
    few = {
        name: t[:400] if name.startswith("lm_head") or "embed_tokens" in name else t
        for name, t in forms.weights().items()
    }
    forms.save(folder, few, 1, "safetensors")
    assert f"the tokenizer has {len(vocabulary)} tokens, config.json vocab_size 400" in message_of(folder)
    (folder / "tokenizer.json").write_text("{")
    assert "the tokenizer cannot be loaded" in message_of(folder)


# Broken files


def test_broken_pickles(made, tmp_path):
    folder = forms.original(tmp_path / "own", str(made["tower"]))
    shard, second = sorted(folder.glob("pytorch_model-*.bin"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    assert message_of(folder) == f"{shard}: is truncated or not a PyTorch file; download it again"
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "is truncated or not a PyTorch file" in message_of(folder)
    torch.save({"model.norm.weight": torch.zeros(32), "hook": Dangerous()}, shard)
    assert message_of(folder) == (
        f"{shard}: holds more than tensors, which could run code when it is read (posix.system); "
        "get the checkpoint as safetensors"
    )
    assert not Dangerous.target.exists()
    torch.save({"model.norm.weight": torch.zeros(32), "steps": 3}, shard)
    assert "is not a table of tensors" in message_of(folder)
    torch.save({"model.norm.weight": torch.zeros(31)}, shard)
    assert "model.language_model.norm.weight: has shape [31], config.json asks for [32]" in message_of(folder)
    shard.unlink()
    assert f"{shard.name} is missing, which pytorch_model.bin.index.json names; download it again" in message_of(folder)
    # As torch wrote before 1.6: no archive, so nothing to map.
    shard.write_bytes(whole)
    old = torch.load(shard, weights_only=True)
    torch.save(old, shard, _use_new_zipfile_serialization=False)
    load_llava(ModelSpec(path=str(folder)), "cpu")
    shard.write_bytes(shard.read_bytes()[:-100])
    assert f"{shard}: cannot be read: " in message_of(folder)
    for file in (shard, second, folder / "pytorch_model.bin.index.json"):
        file.unlink()
    assert "is an adapter, not a whole model" in message_of(folder)  # mm_projector.bin is left
    (folder / "mm_projector.bin").unlink()
    assert "has no weights (safetensors or pytorch_model*.bin)" in message_of(folder)


class Dangerous:
    """A pickle that runs code when it is read."""

    target = Path("/tmp/saccade-was-here")

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type: 'linear' is not supported (mlp2x_gelu)"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end: true is not supported"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature: 'cls' is not supported"),
        ({"mm_vision_select_layer": -9}, "vision_feature_layer: [-9] is outside the vision tower's 2 layers"),
        ({"model_type": "llava_mpt"}, "model_type: 'llava_mpt' is not supported"),
        ({"hidden_size": 64}, "config.json asks for"),
        ({"num_hidden_layers": 4}, "tensors are missing from the weights; first: model.language_model.layers.3."),
    ],
)
def test_wrong_fields_of_an_original_configuration(made, tmp_path, change, message):
    folder = forms.original(tmp_path / "own", str(made["tower"]))
    edit(folder / "config.json", **change)
    assert message in message_of(folder)


def test_broken_towers(made, tmp_path):
    folder, tower = forms.original(tmp_path / "own", "../clip"), forms.tower(tmp_path / "clip")
    edit(tower / "config.json", model_type="siglip")
    assert "model_type: 'siglip' is not supported (clip, clip_vision_model)" in message_of(folder)
    edit(tower / "config.json", model_type="clip_vision_model", vision_config=None, **forms.vision_config())
    load_llava(ModelSpec(path=str(folder)), "cpu")
    (tower / "preprocessor_config.json").unlink()
    assert "names an image processor" in message_of(folder)
    (tower / "pytorch_model.bin").unlink()
    assert f"model {tower}: has no weights" in message_of(folder)
    (tower / "config.json").unlink()
    assert f"vision tower {tower}: has no config.json" in message_of(folder)


# Memory


WIDE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "num_key_value_heads": 8}


def wide(folder, tower, suffix):
    """An original checkpoint of 50 million parameters, in bfloat16."""
    forms.original(folder, str(tower), suffix=suffix, shards=1)
    edit(folder / "config.json", **WIDE)
    with torch.device("meta"):
        shapes = LlamaForCausalLM(LlamaConfig(**{**forms.text_config(), **WIDE})).state_dict()
    linear = {"model.mm_projector.0": (1024, 16), "model.mm_projector.2": (1024, 1024)}
    tensors = {name: torch.zeros(tensor.shape, dtype=torch.bfloat16) for name, tensor in shapes.items()}
    for name, shape in linear.items():
        tensors |= {f"{name}.weight": torch.zeros(shape), f"{name}.bias": torch.zeros(shape[0])}
    forms.save(folder, tensors, 1, suffix)
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "bin", "lora"])
def test_nothing_is_held_twice(made, tmp_path, kind):
    """The host needs the weights once; the files' own pages are mapped and do not count."""
    spec = ModelSpec(path=str(wide(tmp_path / "own", made["tower"], "bin" if kind == "bin" else "safetensors")))
    largest = 4096 * 1024 * 4  # bytes of one feed-forward matrix
    if kind == "lora":
        adapter = tmp_path / "lora"
        adapter.mkdir()
        name = "base_model.model.model.layers.1.mlp.down_proj"
        factors = {f"{name}.lora_A.weight": torch.ones(8, 4096), f"{name}.lora_B.weight": torch.ones(1024, 8)}
        save_file(factors, adapter / "adapter_model.safetensors")
        (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 8}))
        spec = ModelSpec(path=str(adapter), base=spec.path)
    llava, grown = peak_growth(lambda: load_llava(spec, "cpu"))
    weights = sum(parameter.nbytes for parameter in llava.module.parameters())
    assert weights > 200e6
    assert 0.9 * weights < grown < weights + 3 * largest


def peak_growth(work):
    """What ``work`` returns, and by how many bytes the process's own memory grew meanwhile, every millisecond."""
    done, highest = threading.Event(), [0]

    def anonymous():
        status = Path("/proc/self/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024

    def watch():
        while not done.wait(0.001):
            highest[0] = max(highest[0], anonymous())

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests left in the heap would be used again, unseen
    before = anonymous()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return result, max(highest[0], anonymous()) - before
