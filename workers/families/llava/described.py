"""The tensors of the model that a config.json describes, without building it: planning needs no model library.

``tests/test_workers_contents.py`` holds this against the models that transformers builds.
"""

from __future__ import annotations

from typing import Any

from workers.families.config import ModelConfig, VisionConfig
from workers.families.described import Shape, decoder_tensors, linear_layer, norm_layer
from workers.families.llava.names import NEWLINE, TOWER

CHANNELS = 3


def described(config: dict[str, Any], sizes: ModelConfig) -> dict[str, Shape]:
    """Shape of every tensor by the model's name.

    Args:
        config: as transformers' LlavaConfig reads it.
        sizes: the sizes that it states.
    """
    assert sizes.vision is not None, "a LLaVA's sizes hold its tower's"
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    shapes = decoder_tensors(text, sizes) | _tower(sizes, sizes.vision, int(vision.get("num_channels") or CHANNELS))
    bias = config.get("multimodal_projector_bias", True) is not False
    for name, columns in (("linear_1", sizes.vision.hidden * sizes.vision.features), ("linear_2", sizes.hidden)):
        shapes |= linear_layer(f"model.multi_modal_projector.{name}", sizes.hidden, columns, bias)
    if sizes.varies:
        shapes[NEWLINE] = (sizes.hidden,)
    return shapes


def _tower(sizes: ModelConfig, tower: VisionConfig, channels: int) -> dict[str, Shape]:
    """CLIP's vision tower, or SigLIP's without its head, the layers behind the chosen one too."""
    width, ffn, patch = tower.hidden, tower.ffn, sizes.patch_size
    shapes: dict[str, Shape] = {
        "embeddings.patch_embedding.weight": (width, channels, patch, patch),
        "embeddings.position_embedding.weight": ((sizes.image_size // patch) ** 2 + sizes.class_token, width),
        **norm_layer("post_layernorm", width),
    }
    if sizes.class_token:
        shapes |= {"embeddings.class_embedding": (width,), **norm_layer("pre_layrnorm", width)}
    else:
        shapes["embeddings.patch_embedding.bias"] = (width,)
    for number in range(tower.stored_layers):
        place = f"encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear_layer(f"{place}.self_attn.{name}", width, width)
        shapes |= linear_layer(f"{place}.mlp.fc1", ffn, width) | linear_layer(f"{place}.mlp.fc2", width, ffn, True)
        shapes |= norm_layer(f"{place}.layer_norm1", width) | norm_layer(f"{place}.layer_norm2", width)
    return {TOWER + name: shape for name, shape in shapes.items()}
