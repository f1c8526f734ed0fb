"""One small random LLaVA in every form that checkpoints come in: the same weights, the same words, other files.

The vocabulary is a SentencePiece model trained here on the prompts' own words, with Llama's settings.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from workers.tasks.prompts import CONVERSATIONS, SINGLE_PREDICTION

SIDE, PATCH = 4, 14
HIDDEN = 32
IMAGE_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": 56,
    "crop_size": 56,
}  # as of 2022: plain numbers
TEMPLATE = (  # llava-hf's
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@cache
def sentencepiece_model(pieces: int = 450) -> bytes:
    """Byte pairs with byte fallback, no normalisation, digits split, a space put before each text: as Llama's."""
    words = "what colour is the square red green blue human A. B. C.".split()
    corpus = [*CONVERSATIONS.values(), SINGLE_PREDICTION, *words] * 3
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=trained,
        model_type="bpe",
        vocab_size=pieces,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        character_coverage=1.0,
        minloglevel=2,
    )
    return trained.getvalue()


def vocabulary() -> int:
    return int(sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model()).get_piece_size())


def text_config() -> dict[str, object]:
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary(),
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def vision_config() -> dict[str, object]:
    return {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE * PATCH,
        "patch_size": PATCH,
        "projection_dim": 16,
    }


@cache
def weights(seed: int = 0) -> dict[str, Tensor]:
    """Tensors by transformers' names of today, without the inner level of the vision tower."""
    config = LlavaConfig(
        text_config=LlamaConfig(**text_config()), vision_config=CLIPVisionConfig(**vision_config()), image_token_index=3
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("proj.weight") or "linear" in name or "embed_tokens" in name:
                    weight.mul_(8.0)  # attention far from uniform: no choice is decided by rounding
    return {name.replace("vision_tower.vision_model.", "vision_tower."): t for name, t in model.state_dict().items()}


def padded(tensors: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """With more rows of vocabulary, as Hugging Face checkpoints have them for the image token; never the likeliest."""
    result = dict(tensors)
    for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        first = tensors[name][:1]
        result[name] = torch.cat((tensors[name], first.expand(rows - len(tensors[name]), -1)))
    return result


def old_name(name: str) -> str:
    """As Hugging Face checkpoints of 2023 are stored."""
    for new, old in (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.image_newline", "image_newline"),
    ):
        if name.startswith(new):
            return old + name.removeprefix(new)
    raise AssertionError(name)


def own_name(name: str) -> str:
    """As LLaVA's own code stores it."""
    for new, own in (
        ("model.language_model.", "model."),
        ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
        ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
    ):
        if name.startswith(new):
            return own + name.removeprefix(new)
    return name


def save(folder: Path, tensors: dict[str, Tensor], shards: int, suffix: str) -> None:
    """Write weights as one file, or as shards with their index."""
    stem, write = ("model", _write_safetensors) if suffix == "safetensors" else ("pytorch_model", torch.save)
    names = sorted(tensors)
    if shards == 1:
        write(tensors, folder / f"{stem}.{suffix}")
        return
    table = {}
    for shard in range(shards):
        part = names[shard::shards]
        file = f"{stem}-{shard + 1:05}-of-{shards:05}.{suffix}"
        write({name: tensors[name].clone() for name in part}, folder / file)
        table |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))


def _write_safetensors(tensors: dict[str, Tensor], file: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def save_words(folder: Path) -> None:
    """A tokenizer as LLaVA's own checkpoints have it."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))


def hugging_face(folder: Path, *, old: bool = False, shards: int = 2) -> Path:
    """Like llava-hf/llava-1.5-7b-hf: padded vocabulary, tokenizer.json beside tokenizer.model, chat template."""
    folder.mkdir(parents=True)
    rows = vocabulary() + 8
    save_words(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGE_PROCESSOR))
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": {**text_config(), "vocab_size": rows, "model_type": "llama"},
        "vision_config": {**vision_config(), "model_type": "clip_vision_model"},
        "image_token_index": vocabulary(),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = padded(weights(), rows)
    if old:
        tensors = {old_name(name): tensor for name, tensor in tensors.items()}
        for layer in range(3):  # buffers that old versions stored
            tensors[f"language_model.model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
        tensors["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(SIDE * SIDE + 1)[None]
    save(folder, tensors, shards, "safetensors")
    return folder


PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]  # height, width: LLaVA-NeXT's, with 56 for 336


@cache
def next_weights() -> dict[str, Tensor]:
    """With the vector that ends each row of an image."""
    newline = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(9))
    return {**weights(), "model.image_newline": newline}


def hugging_face_next(folder: Path) -> Path:
    """Like llava-hf/llava-v1.6-vicuna-7b-hf."""
    hugging_face(folder)
    for file in folder.glob("model*"):
        file.unlink()
    save(folder, {old_name(n): t for n, t in padded(next_weights(), vocabulary() + 8).items()}, 1, "safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "llava_next", "image_grid_pinpoints": PINPOINTS}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {
        "image_processor_type": "LlavaNextImageProcessor",
        "size": {"shortest_edge": 56},
        "crop_size": {"height": 56, "width": 56},
        "image_grid_pinpoints": PINPOINTS,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def original_next(folder: Path, tower: str) -> Path:
    """Like liuhaotian/llava-v1.6-vicuna-7b: its tower was trained too, and lies in its own weights."""
    original(folder, tower)
    config = original_config(tower) | {
        "image_aspect_ratio": "anyres",
        "mm_patch_merge_type": "spatial_unpad",
        "image_grid_pinpoints": [[width, height] for height, width in PINPOINTS],
    }
    (folder / "config.json").write_text(json.dumps(config))
    for file in folder.glob("pytorch_model*"):
        file.unlink()
    save(folder, {own_name(name): tensor for name, tensor in next_weights().items()}, 2, "safetensors")
    return folder


LEFT_OVERS = {  # some of what transformers 4.21 wrote into the published tower's config.json
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "bad_words_ids": None, "do_sample": False,
    "bos_token_id": None, "dropout": 0.0, "early_stopping": False, "hidden_act": "quick_gelu", "is_decoder": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "initializer_factor": 1.0, "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "layer_norm_eps": 1e-05, "length_penalty": 1.0, "max_length": 20, "model_type": "clip_vision_model",
    "num_beams": 1, "output_attentions": False, "pruned_heads": {}, "return_dict": True, "tie_word_embeddings": True,
    "temperature": 1.0, "top_k": 50, "torch_dtype": None, "torchscript": False, "transformers_version": "4.21.3",
    "use_bfloat16": False,
}  # fmt: skip


def tower(folder: Path) -> Path:
    """Like openai/clip-vit-large-patch14-336: a whole CLIP in one pickle."""
    folder.mkdir(parents=True)
    vision = {
        "vision_model." + name.removeprefix("model.vision_tower."): tensor
        for name, tensor in weights().items()
        if name.startswith("model.vision_tower.")
    }
    vision["vision_model.embeddings.position_ids"] = torch.arange(SIDE * SIDE + 1)[None]
    other = {"text_model.final_layer_norm.weight": torch.ones(4), "logit_scale": torch.ones(())}
    save(folder, vision | other, 1, "bin")
    vision = {**vision_config(), **LEFT_OVERS}
    config = {"model_type": "clip", "vision_config": vision, "text_config": {"hidden_size": 4}}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 56, "crop_size": 56, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def original_config(tower: str) -> dict[str, object]:
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        **text_config(),
        "hidden_act": "silu",
        "image_aspect_ratio": "pad",
        "mm_hidden_size": 16,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": tower,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }


def own_weights() -> dict[str, Tensor]:
    """LLaVA's own names; the tower is left out, as in its published checkpoints."""
    tensors = {own_name(n): t for n, t in weights().items() if not n.startswith("model.vision_tower.")}
    for layer in range(3):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    return tensors


def original(folder: Path, tower: str, *, suffix: str = "bin", shards: int = 2) -> Path:
    """Like liuhaotian/llava-v1.5-7b."""
    folder.mkdir(parents=True)
    save_words(folder)
    (folder / "config.json").write_text(json.dumps(original_config(tower)))
    tensors = own_weights()
    save(folder, tensors, shards, suffix)
    torch.save({n: t for n, t in tensors.items() if "mm_projector" in n}, folder / "mm_projector.bin")
    return folder


def vicuna(folder: Path, change: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor) -> Path:
    """Like lmsys/vicuna-7b-v1.5: the decoder alone."""
    folder.mkdir(parents=True)
    save_words(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **text_config()}))
    tensors = {n: change(n, t) for n, t in own_weights().items() if "mm_projector" not in n}
    save(folder, tensors, 2, "bin")
    return folder


def snapshot(cache: Path, repo: str, commit: str, make: Callable[[Path], object], ref: str | None = "main") -> Path:
    """A model in a Hugging Face cache."""
    store = cache / f"models--{repo.replace('/', '--')}"
    make(store / "snapshots" / commit)
    if ref is not None:
        (store / "refs").mkdir()
        (store / "refs" / ref).write_text(commit)
    return store / "snapshots" / commit
