"""The tensors of the model that a config.json describes, without building it: planning needs no model library.

``tests/test_workers_qwen.py`` holds this against the models that transformers builds.
"""

from __future__ import annotations

from typing import Any

from workers.families.config import ModelConfig
from workers.families.described import Shape, decoder_tensors, linear_layer, norm_layer
from workers.families.qwen.config import QWEN2
from workers.families.qwen.names import TOWER

CHANNELS = 3


def described(kind: str, text: dict[str, Any], sizes: ModelConfig) -> dict[str, Shape]:
    """Shape of every tensor by the model's name.

    Args:
        kind: ``model_type`` of the configuration.
        text: the decoder's fields.
        sizes: the sizes that it states.
    """
    tower = sizes.vision
    assert tower is not None, "a Qwen2-VL's sizes hold its tower's"
    width, patch, biased = tower.hidden, sizes.patch_size, kind == QWEN2
    joined = width * tower.merge**2
    shapes: dict[str, Shape] = {
        "patch_embed.proj.weight": (width, CHANNELS, tower.frames, patch, patch),
        **norm_layer("merger.ln_q", width, biased),
        **linear_layer("merger.mlp.0", joined, joined),
        **linear_layer("merger.mlp.2", sizes.hidden, joined),
    }
    for number in range(tower.layers):
        place = f"blocks.{number}"
        for norm in ("norm1", "norm2"):
            shapes |= norm_layer(f"{place}.{norm}", width, biased)
        shapes |= linear_layer(f"{place}.attn.qkv", 3 * width, width) | linear_layer(f"{place}.attn.proj", width, width)
        ups, down = (("fc1",), "fc2") if kind == QWEN2 else (("gate_proj", "up_proj"), "down_proj")
        for name in ups:
            shapes |= linear_layer(f"{place}.mlp.{name}", tower.ffn, width)
        shapes |= linear_layer(f"{place}.mlp.{down}", width, tower.ffn)
    return decoder_tensors(text, sizes) | {TOWER + name: shape for name, shape in shapes.items()}
