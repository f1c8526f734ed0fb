"""A small random LLaVA-OneVision as it is published: weights by transformers, the rest by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

import checkpoint_forms as forms
from small_qwen import make_tokenizer

LAYERS, DEPTH, TILE, SIDE = 3, 3, 60, 4  # of 14 pixels a patch, so that 4 are left over, as of the published 384
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
PINPOINTS = [[TILE * rows, TILE * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
TEMPLATE = (  # llava-hf's
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{# Render all video then #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\\n' + content['text'] }}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\\n' + content['text'] }}{% endgeneration %}{% endfor %}{% endif %}{{'<|im_end|>'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "image_grid_pinpoints": PINPOINTS,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "LlavaOnevisionProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": TILE, "width": TILE},
}


def make_onevision(folder: Path, *, tied: bool = False) -> Path:
    """Save a random checkpoint, of whose images those of more than two tiles have tokens made of several patches.

    Weights are scaled up so that attention is far from uniform: then no choice between tokens is decided by rounding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(SPECIAL)
    mark = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    text = {
        "bos_token_id": mark["<|endoftext|>"],
        "eos_token_id": mark["<|im_end|>"],
        "hidden_size": forms.HIDDEN,
        "intermediate_size": 2 * forms.HIDDEN,
        "model_type": "qwen2",
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_theta": 100.0,  # so that small positions already matter
        "tie_word_embeddings": tied,
        "vocab_size": tokenizer.get_vocab_size() + 8,  # published ones are padded too
    }
    vision = {
        "hidden_size": 16,
        "image_size": TILE,
        "intermediate_size": 32,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 2,
        "num_hidden_layers": DEPTH,
        "patch_size": 14,
        "vision_use_head": False,
    }
    config = {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "image_grid_pinpoints": PINPOINTS,
        "image_token_index": mark["<image>"],
        "model_type": "llava_onevision",
        "projector_hidden_act": "gelu",
        "text_config": text,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "video_token_index": mark["<video>"],
        "vision_aspect_ratio": "anyres_max_2",
        "vision_config": vision,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }
    forms.save(folder, _weights(config, tied), 1, "safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    processor = {"image_token": "<image>", "num_image_tokens": SIDE**2, "processor_class": "LlavaOnevisionProcessor",
                 "video_token": "<video>", "vision_aspect_ratio": "anyres_max_2",
                 "vision_feature_select_strategy": "full"}  # fmt: skip
    ends = {"bos_token_id": mark["<|endoftext|>"], "eos_token_id": [mark["<|im_end|>"], mark["<|endoftext|>"]]}
    files = {
        "config.json": config,
        "generation_config.json": {**ends, "pad_token_id": mark["<|endoftext|>"], "do_sample": True, "top_k": 20},
        "preprocessor_config.json": PROCESSOR,
        "processor_config.json": processor,
        "chat_template.json": {"chat_template": TEMPLATE},
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|im_end|>",
                                  "pad_token": "<|endoftext|>", "unk_token": None, "add_prefix_space": False,
                                  "additional_special_tokens": list(SPECIAL[1:3]), "model_max_length": 32768,
                                  "processor_class": "LlavaOnevisionProcessor", "split_special_tokens": False},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def _weights(config: dict[str, Any], tied: bool) -> dict[str, torch.Tensor]:
    """By the names of published checkpoints."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig.from_dict(json.loads(json.dumps(config))))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("bias"):
                    weight.normal_(0, 0.1)
                elif "vision_tower" not in name and weight.dim() > 1 and "lm_head" not in name:
                    weight.mul_(8.0)
            model.lm_head.weight.mul_(4.0)
    names = {name.replace("vision_tower.vision_model.", "vision_tower."): t for name, t in model.state_dict().items()}
    return {forms.old_name(name): t for name, t in names.items() if not (tied and name == "lm_head.weight")}
