"""A Qwen2.5-VL or Qwen3-VL with random weights, made on the device without a file; see ``random_llava.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen2VLImageProcessorPil, Qwen3VLConfig

from workers.families.building import make_parameters, quiet
from workers.families.qwen.config import QWEN2_5, QWEN3, full_layers, model_config, resizing_of
from workers.families.qwen.model import Qwen
from workers.memory import free_bytes, layers_away
from workers.offload import spread
from workers.speed_test.random_llava import END, StandInTokenizer, draw_weights
from workers.work import ModelSpec

PLACE = Path("config.json")
# Pixels of a square image: 1,296, 2,025, 225 and 196 tokens.
SIDES = {"qwen2.5-vl-7b": 1008, "qwen3-vl-8b": 1440, "qwen-tiny": 420, "qwen3-tiny": 448}
_CONFIGS: dict[str, Any] = {QWEN2_5: Qwen2_5_VLConfig, QWEN3: Qwen3VLConfig}
_TOWER3 = {"model_type": "qwen3_vl", "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
           "hidden_act": "gelu_pytorch_tanh"}  # fmt: skip
_TOWER = {"model_type": "qwen2_5_vl_vision", "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-vl-7b": {
        "model_type": QWEN2_5,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
        "image_token_id": 151655,
        "vision_config": {**_TOWER, "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
                          "out_hidden_size": 3584, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]},
    },
    "qwen3-vl-8b": {
        "model_type": QWEN3,
        "text_config": {"model_type": "qwen3_vl_text", "hidden_size": 4096, "intermediate_size": 12288,
                        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                        "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 5000000,
                        "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20],
                                         "mrope_interleaved": True}},
        "image_token_id": 151655,
        "vision_config": {**_TOWER3, "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
                          "out_hidden_size": 4096, "num_position_embeddings": 2304,
                          "deepstack_visual_indexes": [8, 16, 24]},
    },
    "qwen-tiny": {
        "model_type": QWEN2_5,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
        "image_token_id": 500,
        "vision_config": {**_TOWER, "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4,
                          "out_hidden_size": 64, "window_size": 56, "fullatt_block_indexes": [1]},
    },
    "qwen3-tiny": {
        "model_type": QWEN3,
        "text_config": {"model_type": "qwen3_vl_text", "hidden_size": 64, "intermediate_size": 128,
                        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
                        "vocab_size": 512, "rms_norm_eps": 1e-6,
                        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3],
                                         "mrope_interleaved": True}},
        "image_token_id": 500,
        "vision_config": {**_TOWER3, "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4,
                          "out_hidden_size": 64, "num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1]},
    },
}  # fmt: skip


def random_qwen(shape: str, dtype: torch.dtype, device: str, seed: int, offload: int | str = "auto") -> Qwen:
    """Make a model of a known shape; see ``random_models.random_model``. Its images have as many tokens as a square."""
    pixels = SIDES[shape] ** 2
    stated = {"tie_word_embeddings": False, "rms_norm_eps": 1e-6, **SHAPES[shape]}
    patch = {"patch_size": stated["vision_config"]["patch_size"]}
    resizing = resizing_of(stated, PLACE, patch, PLACE.parent, ModelSpec(path="", max_pixels=pixels))
    sizes = model_config(stated, resizing, PLACE)
    quiet()
    with torch.device("meta"):
        config = _CONFIGS[stated["model_type"]].from_dict(stated)
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    where = torch.device(device)
    away = spread(layers_away(sizes, dtype.itemsize, offload, free_bytes(where)), sizes.layers)
    make_parameters(model, dtype, device, away)
    draw_weights(model, dtype, where, seed)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = END, 0
    size = {"shortest_edge": resizing.min_pixels, "longest_edge": pixels}
    processor = Qwen2VLImageProcessorPil(size=size, **patch)
    tokenizer = StandInTokenizer(sizes.vocab, config.image_token_id)
    full = full_layers(stated, PLACE)
    return Qwen(model, sizes, tokenizer, processor, resizing, full, away=away)
