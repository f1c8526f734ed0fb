"""The sizes that a config.json of InternVL3 or InternVL3.5 states, and the image processor's beside it.

The files that transformers reads (``OpenGVLab/InternVL3-8B-hf``, ``InternVL3_5-8B-HF``); those of OpenGVLab's own code
name another ``model_type``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workers.families.config import MOST_LAYERS, ModelConfig, ModelError, VisionConfig, decoder_sizes, number, section
from workers.families.intern.tiling import Tiling

MODEL_TYPES = ("internvl",)
IMAGE_TOKEN = 151667
MOST_TILES = 1000  # more than 40 are in no published settings
# What transformers takes where a configuration leaves it out, by the kind of the decoder.
_TEXT: dict[str, dict[str, Any]] = {"qwen2": {"vocab_size": 151936}, "qwen3": {"vocab_size": 151936, "head_dim": 128}}


def text_section(config: dict[str, Any], place: Path) -> dict[str, Any]:
    """The decoder's fields."""
    stated = section(config, "text_config", place)
    kind = stated.get("model_type", "qwen2")
    return {**_TEXT.get(kind if isinstance(kind, str) else "", {}), **stated, "model_type": kind}


def model_config(config: dict[str, Any], tiling: Tiling, place: Path) -> ModelConfig:
    """The sizes that a configuration states.

    Args:
        config: as in config.json; what is missing has transformers' default.
        tiling: how images are cut.
        place: for messages.

    Raises:
        ModelError: a field is no number, or the model is one the engine does not run.
    """
    vision = section(config, "vision_config", place)
    for name, wanted in (("vision_feature_layer", -1), ("vision_feature_select_strategy", "default")):
        if (stated := config.get(name, wanted)) != wanted:
            raise ModelError(f"{place}: {name}: {repr(stated)[:40]} is not supported ({wanted})")
    layers = number(vision, "num_hidden_layers", 24, place, most=MOST_LAYERS)
    return ModelConfig(
        **decoder_sizes(text_section(config, place), place, tuple(_TEXT)),
        image_size=tiling.side,
        patch_size=_square(vision, "patch_size", 14, place),
        visual_tokens=tiling.most_tokens,
        vision=VisionConfig(
            hidden=number(vision, "hidden_size", 1024, place),
            ffn=number(vision, "intermediate_size", 4096, place),
            layers=layers,
            stored_layers=layers,
            merge=merge_of(config, place),
            tile=tiling.tokens_each,
        ),
        grid=None,
        varies=tiling.most > 1,
        position_parts=1,
        class_token=True,
        clip=False,
    )


def tiling_of(config: dict[str, Any], place: Path, settings: dict[str, Any], folder: Path) -> Tiling:
    """How images are cut, as the image processor's settings say.

    Args:
        config: of the model.
        place: of it, for messages.
        settings: of the image processor.
        folder: of it, for messages.

    Raises:
        ModelError: the settings are those of another model, or allow no number of tiles.
    """
    vision = section(config, "vision_config", place)
    side, patch = _square(vision, "image_size", 448, place), _square(vision, "patch_size", 14, place)
    merge = merge_of(config, place)
    if side % (patch * merge):
        raise ModelError(f"{place}: tiles of {side} pixels are no whole number of tokens of {patch * merge} pixels")
    if (size := settings.get("size")) != {"height": side, "width": side}:
        given = f"model {folder}: the image processor makes tiles of {repr(size)[:60]}"
        raise ModelError(f"{given}, {place} states {side} x {side} pixels")
    stated = folder / "preprocessor_config.json"
    least, most = (
        number(settings, name, usual, stated, MOST_TILES) for name, usual in (("min_patches", 1), ("max_patches", 12))
    )
    if least > most:
        raise ModelError(f"{stated}: min_patches: {least} is above max_patches, {most}")
    tokens = (side // patch // merge) ** 2
    if (asked := number(config, "image_seq_length", 256, place)) != tokens:
        raise ModelError(f"{place}: image_seq_length: {asked} tokens of a tile, of which its tower makes {tokens}")
    return Tiling(side, tokens, least, most)


def merge_of(config: dict[str, Any], place: Path) -> int:
    """Patches, one side, that pixel shuffle makes one token of."""
    ratio = config.get("downsample_ratio", 0.5)
    merge = round(1 / ratio) if isinstance(ratio, int | float) and 0.01 < ratio <= 1 else 0
    if not merge or merge * ratio != 1:
        raise ModelError(f"{place}: downsample_ratio: {repr(ratio)[:40]} is not one of a whole number of patches")
    return merge


def _square(vision: dict[str, Any], name: str, usual: int, place: Path) -> int:
    """One side of a size that may be stated as two."""
    stated = vision.get(name)
    if isinstance(stated, list) and len(stated) == 2:
        if stated[0] != stated[1]:
            raise ModelError(f"{place}: vision_config.{name}: {stated} is no square")
        stated = stated[0]
    return number({name: stated}, name, usual, place)
