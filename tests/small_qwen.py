"""Small random Qwen2-VL, Qwen2.5-VL and Qwen3-VL as they are published: weights by transformers, the rest by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from small_llava import WORDS
from workers.tasks.prompts import SINGLE_PREDICTION

HIDDEN, LAYERS, DEPTH = 32, 3, 4
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>")  # fmt: skip
TEMPLATE = (  # of the published checkpoints, without what it says of videos and numbered pictures
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen3-VL says nothing of itself.
TEMPLATES = {"qwen3_vl": TEMPLATE.replace("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", "")}
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIXELS = {"min_pixels": 3136, "max_pixels": 28 * 28 * 30}
PROCESSOR = {
    **PIXELS,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
}
PROCESSOR3 = {
    "size": {"shortest_edge": 4 * 32 * 32, "longest_edge": 32 * 32 * 30},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "processor_class": "Qwen3VLProcessor",
}
_GRID = {"patch_size": 14, "spatial_patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2, "in_chans": 3}
QWEN2_TOWER = {**_GRID, "depth": DEPTH, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2, "hidden_size": HIDDEN}
QWEN2_5_TOWER = {**_GRID, "depth": DEPTH, "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 48,
                 "num_heads": 2, "out_hidden_size": HIDDEN, "window_size": 56, "fullatt_block_indexes": [1, 3],
                 "tokens_per_second": 2}  # fmt: skip
QWEN3_TOWER = {"patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3, "depth": DEPTH,
               "hidden_act": "gelu_pytorch_tanh", "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
               "out_hidden_size": HIDDEN, "num_position_embeddings": 25, "deepstack_visual_indexes": [0, 2],
               "initializer_range": 0.02, "model_type": "qwen3_vl"}  # fmt: skip
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration, QWEN2_TOWER),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, QWEN2_5_TOWER),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration, QWEN3_TOWER),
}


def noise(size: tuple[int, int]) -> Image.Image:
    """Random pixels, of a height and a width."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


def make_tokenizer(special: Sequence[str] = SPECIAL) -> Tokenizer:
    """Byte pairs without an unknown piece, and the published marks behind them."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [*WORDS, " ".join(WORDS), SINGLE_PREDICTION, "You are a helpful assistant."] * 3
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in special])
    return tokenizer


def make_qwen(folder: Path, kind: str = "qwen2_5_vl", *, seed: int = 0, tied: bool = False, **changes: Any) -> Path:
    """Save a random checkpoint whose images have 4 to 30 tokens.

    Weights are scaled up so that attention is far from uniform: then no choice between tokens is decided by rounding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    mark = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    config: dict[str, Any] = {
        "architectures": [KINDS[kind][1].__name__],
        "model_type": kind,
        "attention_dropout": 0.0,
        "bos_token_id": mark["<|endoftext|>"],
        "eos_token_id": mark["<|im_end|>"],
        "vision_start_token_id": mark["<|vision_start|>"],
        "vision_end_token_id": mark["<|vision_end|>"],
        "vision_token_id": mark["<|vision_pad|>"],
        "image_token_id": mark["<|image_pad|>"],
        "video_token_id": mark["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "max_position_embeddings": 32768,
        "max_window_layers": LAYERS,
        "num_attention_heads": 2,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-06,
        "rope_theta": 100.0,  # so that small positions already matter
        "sliding_window": 32768,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vocab_size": tokenizer.get_vocab_size() + 8,  # published ones are padded too
        "vision_config": KINDS[kind][2],
        **changes,
    }
    if kind == "qwen3_vl":
        config = _in_sections(config)
    _save_weights(folder, kind, config, seed)
    template = TEMPLATES.get(kind, TEMPLATE)
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": mark["<|endoftext|>"], "pad_token_id": mark["<|endoftext|>"],
                                   "eos_token_id": [mark["<|im_end|>"], mark["<|endoftext|>"]],
                                   "do_sample": True, "repetition_penalty": 1.05, "temperature": 0.1},
        "preprocessor_config.json": PROCESSOR3 if kind == "qwen3_vl" else PROCESSOR,
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "chat_template": template, "bos_token": None,
                                  "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
                                  "add_prefix_space": False, "additional_special_tokens": list(SPECIAL[1:]),
                                  "model_max_length": 32768, "split_special_tokens": False},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def _in_sections(config: dict[str, Any]) -> dict[str, Any]:
    """As Qwen3-VL is published, whose heads are wider than their share and have a norm."""
    names = ("bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "intermediate_size", "num_attention_heads",
             "max_position_embeddings", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_theta",
             "rope_scaling", "vocab_size")  # fmt: skip
    text = {name: config.pop(name) for name in names}
    scaling = {**text["rope_scaling"], "rope_type": "default", "mrope_interleaved": True}
    scaling.pop("type", None)
    own = {"model_type": "qwen3_vl_text", "head_dim": 16, "attention_bias": False, "rope_scaling": scaling}
    return {**config, "text_config": {**text, **own}}


def _save_weights(folder: Path, kind: str, config: dict[str, Any], seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = KINDS[kind][1](KINDS[kind][0].from_dict(json.loads(json.dumps(config))))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1 and "lm_head" not in name:
                    weight.mul_(8.0)
                elif name.endswith("bias"):
                    weight.normal_(0, 0.1)
                elif name.endswith(("q_norm.weight", "k_norm.weight")):
                    weight.uniform_(0.5, 1.5)
            model.lm_head.weight.mul_(4.0)
    model.save_pretrained(folder)
