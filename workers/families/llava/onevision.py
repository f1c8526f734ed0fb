"""LLaVA-OneVision's configuration, with what transformers takes where it says nothing.

Source: LLaVA-VL/LLaVA-NeXT, llava/model/llava_arch.py (``anyres_max_9``); transformers,
models/llava_onevision/configuration_llava_onevision.py. Its tower is SigLIP's, which has no class token.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from workers.families.config import ModelError, section

ONEVISION = "llava_onevision"
SIGLIP = "siglip_vision_model"
MAX_TILES = re.compile(r"anyres_max_([1-9]\d{0,3})")
IMAGE_TOKEN = 151646
TILE = 384
_DEFAULTS = {
    "image_grid_pinpoints": [[TILE * rows, TILE * columns] for rows in range(1, 7) for columns in range(1, 7)],
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "vision_aspect_ratio": "anyres_max_9",
}
_TOWER = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": TILE,
    "patch_size": 14,
}
_STATED_TOWER = {  # where there is a section for it
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}


def onevision_config(config: dict[str, Any], place: Path) -> dict[str, Any]:
    """A configuration in full.

    Args:
        config: as in config.json.
        place: of it, for messages.

    Raises:
        ModelError: it has a part that the engine does not run.
    """
    text = {"model_type": "qwen2", "vocab_size": 151936, **section(config, "text_config", place)}
    stated = config.get("vision_config") is not None
    vision = _given(section(config, "vision_config", place)) if stated else {}
    # Of the head nothing is read.
    tower = {"model_type": SIGLIP, **(_STATED_TOWER if stated else _TOWER), **vision, "vision_use_head": False}
    if tower["model_type"] != SIGLIP:
        raise ModelError(f"{place}: vision_config.model_type: '{tower['model_type']}' is not supported ({SIGLIP})")
    full = {**_DEFAULTS, **_given(config)}
    if (selected := full["vision_feature_select_strategy"]) != "full":
        lost = "SigLIP has no class token to leave out"
        raise ModelError(f"{place}: vision_feature_select_strategy: '{selected}' is not supported (full): {lost}")
    if not MAX_TILES.fullmatch(ratio := str(full["vision_aspect_ratio"])):
        raise ModelError(f"{place}: vision_aspect_ratio: '{ratio}' is not supported (anyres_max_9, or another number)")
    return {**full, "text_config": text, "vision_config": tower}


def most_tiles(config: dict[str, Any]) -> int:
    """Whose tokens an image has at most, as a configuration in full says."""
    found = MAX_TILES.fullmatch(str(config["vision_aspect_ratio"]))
    assert found is not None, "onevision_config lets nothing else pass"
    return int(found[1])


def _given(stated: dict[str, Any]) -> dict[str, Any]:
    """What is not null."""
    return {name: value for name, value in stated.items() if value is not None}
