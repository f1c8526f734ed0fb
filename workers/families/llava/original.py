"""LLaVA's own configuration, read as transformers' LlavaConfig.

Source: haotian-liu/LLaVA, llava/model/language_model/llava_llama.py, llava_arch.py, multimodal_projector/builder.py and
multimodal_encoder/clip_encoder.py: a Llama's configuration at the top level, the rest in keys that begin with ``mm_``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workers.families.config import ModelError
from workers.families.llava.anyres import read_pinpoints
from workers.families.llava.config import ANY_RESOLUTION

PROJECTOR = "mlp2x_gelu"
# Top-level keys that are the decoder's.
_TEXT = (
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "vocab_size",
)
DECODERS = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral"}


def is_original(config: dict[str, Any]) -> bool:
    """Whether a configuration is LLaVA's own; ``model_type`` is ``llava`` in both forms."""
    return "mm_vision_tower" in config and "text_config" not in config


ANYRES_MERGE = "spatial_unpad"


def llava_config(config: dict[str, Any], vision: dict[str, Any], place: Path) -> dict[str, Any]:
    """The same model as transformers would describe it.

    Args:
        config: LLaVA's config.json.
        vision: config.json of its vision tower.
        place: of LLaVA's config.json, for messages.

    Raises:
        ModelError: a part that the engine does not run.
    """
    decoder = DECODERS.get(str(config.get("model_type")))
    if decoder is None:
        raise ModelError(f"{place}: model_type: '{config.get('model_type')}' is not supported ({', '.join(DECODERS)})")
    projector = config.get("mm_projector_type", "linear")
    if projector != PROJECTOR:
        raise ModelError(f"{place}: mm_projector_type: '{projector}' is not supported ({PROJECTOR})")
    if config.get("mm_use_im_start_end"):
        raise ModelError(f"{place}: mm_use_im_start_end: true is not supported: image markers around the image")
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in ("patch", "cls_patch"):
        raise ModelError(f"{place}: mm_vision_select_feature: '{feature}' is not supported (patch, cls_patch)")
    anyres = config.get("image_aspect_ratio") == "anyres"
    if anyres and (merge := config.get("mm_patch_merge_type", "flat")) != ANYRES_MERGE:
        raise ModelError(f"{place}: mm_patch_merge_type: '{merge}' is not supported ({ANYRES_MERGE})")
    text = {key: config[key] for key in _TEXT if config.get(key) is not None}
    return {
        "model_type": ANY_RESOLUTION if anyres else "llava",
        **({"image_grid_pinpoints": _heights_first(config, place)} if anyres else {}),
        "text_config": {"vocab_size": 32000, **text, "model_type": decoder},
        "vision_config": vision_section(vision),
        "vision_feature_layer": config.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "default" if feature == "patch" else "full",
        "projector_hidden_act": "gelu",
        # One past the vocabulary, where the Hugging Face form has it; the loader makes room for it.
        "image_token_index": config.get("vocab_size", 32000),
    }


def _heights_first(config: dict[str, Any], place: Path) -> list[list[int]]:
    """LLaVA's own lists say width and height; the order of the list decides between equal grids."""
    try:
        return [[height, width] for width, height in read_pinpoints(config.get("image_grid_pinpoints"))]
    except ValueError as error:
        raise ModelError(f"{place}: image_grid_pinpoints: {error}") from error


def vision_section(config: dict[str, Any]) -> dict[str, Any]:
    """The vision part of a CLIP configuration, which holds both towers or one."""
    section = config.get("vision_config", config)
    return {**section, "model_type": "clip_vision_model"}


def image_mode(config: dict[str, Any], place: Path) -> str:
    """How LLaVA's evaluation brings an image to a square: ``process_images`` in llava/mm_utils.py.

    Raises:
        ModelError: in another way than we know.
    """
    aspect = config.get("image_aspect_ratio")
    if aspect in ("pad", "anyres"):
        return str(aspect)
    if aspect in (None, "square"):
        return "crop"
    raise ModelError(f"{place}: image_aspect_ratio: '{aspect}' is not supported (pad, square, anyres)")
