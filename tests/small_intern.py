"""Small random InternVL3 and InternVL3.5 as they are published: weights by transformers, the rest by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from small_qwen import make_tokenizer

HIDDEN, LAYERS, DEPTH, TILE = 32, 3, 3, 56
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
MARKS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
         "video_token": "<video>"}  # fmt: skip
TEMPLATE = (  # of the published checkpoints
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
PROCESSOR = {
    "crop_to_patches": False,  # the processor of the whole model sets it
    "min_patches": 1,
    "max_patches": 6,
    "size": {"height": TILE, "width": TILE},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "image_processor_type": "GotOcr2ImageProcessorFast",
    "processor_class": "InternVLProcessor",
}
TOWER = {"architectures": ["InternVisionModel"], "attention_bias": True, "hidden_act": "gelu", "hidden_size": 32,
         "image_size": [TILE, TILE], "initializer_range": 0.02, "intermediate_size": 48, "layer_norm_eps": 1e-06,
         "layer_scale_init_value": 0.1, "model_type": "internvl_vision", "norm_type": "layer_norm",
         "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": DEPTH, "patch_size": [14, 14],
         "use_absolute_position_embeddings": True, "use_mask_token": False, "use_mean_pooling": True,
         "use_qk_norm": False}  # fmt: skip
# As in the towers of 6 billion parameters, and with all that no published one has.
LARGE_TOWER = {**TOWER, "attention_bias": False, "norm_type": "rms_norm", "use_qk_norm": True}
OTHER_TOWER = {**TOWER, "use_mean_pooling": False, "use_mask_token": True, "use_absolute_position_embeddings": False}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "internvl3": (
        {"model_type": "qwen2", "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}},
        TOWER,
    ),
    "internvl3_5": ({"model_type": "qwen3", "head_dim": 16, "attention_bias": False}, LARGE_TOWER),
}


def make_intern(
    folder: Path, kind: str = "internvl3", *, seed: int = 0, tied: bool = False, tower: dict[str, Any] | None = None
) -> Path:
    """Save a random checkpoint whose images have 4 to 28 tokens.

    Weights are scaled up so that attention is far from uniform: then no choice between tokens is decided by rounding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(SPECIAL)
    mark = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    text, usual_tower = KINDS[kind]
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "downsample_ratio": 0.5,
        "image_seq_length": 4,
        "image_token_id": mark["<IMG_CONTEXT>"],
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": tied,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "vision_config": tower or usual_tower,
        "text_config": {
            "bos_token_id": mark["<|endoftext|>"],
            "eos_token_id": mark["<|im_end|>"],
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "max_position_embeddings": 32768,
            "num_attention_heads": 2,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-06,
            "rope_theta": 100.0,  # so that small positions already matter
            "sliding_window": None,
            "tie_word_embeddings": tied,
            "use_sliding_window": False,
            "vocab_size": tokenizer.get_vocab_size() + 8,  # published ones are padded too
            **text,
        },
    }
    _save_weights(folder, config, seed)
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": mark["<|im_end|>"], "pad_token_id": mark["<|endoftext|>"]},
        "preprocessor_config.json": PROCESSOR,
        "processor_config.json": {"image_seq_length": 4, "processor_class": "InternVLProcessor"},
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|im_end|>",
                                  "pad_token": "<|endoftext|>", "unk_token": None, "extra_special_tokens": MARKS,
                                  "add_prefix_space": False, "model_max_length": 8192, **MARKS},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def _save_weights(folder: Path, config: dict[str, Any], seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(InternVLConfig.from_dict(json.loads(json.dumps(config))))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() == 3 or name.endswith(("lambda_1", "lambda_2", "bias")):
                    weight.normal_(0, 0.5)
                elif weight.dim() > 1 and "lm_head" not in name:
                    weight.mul_(8.0)
                elif name.endswith(("q_norm.weight", "k_norm.weight")):
                    weight.uniform_(0.5, 1.5)
            if not config["tie_word_embeddings"]:
                model.lm_head.weight.mul_(4.0)
    model.save_pretrained(folder)
