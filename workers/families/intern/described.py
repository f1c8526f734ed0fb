"""The tensors of the model that a config.json describes, without building it: planning needs no model library.

``tests/test_workers_intern.py`` holds this against the model that transformers builds.
"""

from __future__ import annotations

from typing import Any

from workers.families.config import ModelConfig
from workers.families.described import Shape, decoder_tensors, linear_layer, norm_layer
from workers.families.intern.names import PROJECTOR, TOWER

CHANNELS = 3


def described(vision: dict[str, Any], text: dict[str, Any], sizes: ModelConfig) -> dict[str, Shape]:
    """Shape of every tensor by the model's name.

    Args:
        vision: the tower's section of a configuration.
        text: the decoder's.
        sizes: the sizes that they state.
    """
    assert sizes.vision is not None, "an InternVL's sizes hold its tower's"
    given = sizes.vision.hidden * sizes.vision.merge**2
    projector = {
        **norm_layer("layer_norm", given),
        **linear_layer("linear_1", sizes.hidden, given),
        **linear_layer("linear_2", sizes.hidden, sizes.hidden),
    }
    return (
        decoder_tensors(text, sizes)
        | {TOWER + name: shape for name, shape in _tower(vision, sizes).items()}
        | {PROJECTOR + name: shape for name, shape in projector.items()}
    )


def _tower(vision: dict[str, Any], sizes: ModelConfig) -> dict[str, Shape]:
    tower, patch = sizes.vision, sizes.patch_size
    assert tower is not None
    width, biased = tower.hidden, bool(vision.get("attention_bias"))
    whole_norm = vision.get("norm_type", "layer_norm") == "layer_norm"  # the other kind has no bias
    shapes: dict[str, Shape] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.patch_embeddings.projection.weight": (width, CHANNELS, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
    }
    if vision.get("use_absolute_position_embeddings", True):
        shapes["embeddings.position_embeddings"] = (1, (sizes.image_size // patch) ** 2 + 1, width)
    if vision.get("use_mask_token"):
        shapes["embeddings.mask_token"] = (1, 1, width)
    if not vision.get("use_mean_pooling", True):
        shapes |= norm_layer("layernorm", width)
    for number in range(tower.layers):
        place = f"encoder.layer.{number}"
        for name in ("q_proj", "k_proj", "v_proj"):
            shapes |= linear_layer(f"{place}.attention.{name}", width, width, biased)
        shapes |= linear_layer(f"{place}.attention.projection_layer", width, width)
        for name in ("q_norm", "k_norm") if vision.get("use_qk_norm") else ():
            shapes |= norm_layer(f"{place}.attention.{name}", width, False)
        shapes |= linear_layer(f"{place}.mlp.fc1", tower.ffn, width) | linear_layer(
            f"{place}.mlp.fc2", width, tower.ffn
        )
        for name in ("layernorm_before", "layernorm_after"):
            shapes |= norm_layer(f"{place}.{name}", width, whole_norm)
        shapes |= {f"{place}.lambda_1": (width,), f"{place}.lambda_2": (width,)}
    return shapes
