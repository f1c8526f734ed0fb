"""The sizes that a LLaVA's config.json states, in the form that transformers reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workers.families.config import MOST_LAYERS, ModelConfig, ModelError, VisionConfig, decoder_sizes, number, section
from workers.families.llava.anyres import Size, Tiling, read_pinpoints
from workers.families.llava.onevision import ONEVISION, most_tiles

ANY_RESOLUTION = "llava_next"  # the model type that cuts images into tiles
CLASS_TOKEN_TOWERS = ("clip", "clip_vision_model")
MODEL_TYPES = ("llava", ANY_RESOLUTION, ONEVISION)


def model_config(config: dict[str, Any], place: Path) -> ModelConfig:
    """The sizes that a LLaVA configuration states.

    Args:
        config: as in config.json; what is missing has transformers' default.
        place: for messages.

    Raises:
        ModelError: a field is no number, or the decoder is one the engine does not run.
    """
    text, vision = section(config, "text_config", place), section(config, "vision_config", place)
    sizes = decoder_sizes(text, place)
    image_size, patch_size = number(vision, "image_size", 336, place), number(vision, "patch_size", 14, place)
    side, tiling = image_size // patch_size, tiling_of(config, place)
    clip = _is_clip(config)
    return ModelConfig(
        **sizes,
        image_size=image_size,
        patch_size=patch_size,
        visual_tokens=tiling.most_tokens if tiling else side**2 + _class_token(config),
        vision=_vision_config(config, vision, place),
        grid=None if _class_token(config) else (side, side),
        varies=tiling is not None,
        class_token=clip,
        clip=clip,
    )


def tiling_of(config: dict[str, Any], place: Path) -> Tiling | None:
    """How any-resolution cuts images; None for a model that sees one square.

    Raises:
        ModelError: the grids are not of whole tiles.
    """
    kind = config.get("model_type")
    if kind not in (ANY_RESOLUTION, ONEVISION):
        return None
    vision = section(config, "vision_config", place)
    tile, patch = number(vision, "image_size", 336, place), number(vision, "patch_size", 14, place)
    most = most_tiles(config) if kind == ONEVISION else None
    return Tiling(_pinpoints(config, tile, patch, place), tile, patch, most, one_tile_among=kind == ONEVISION)


def _is_clip(config: dict[str, Any]) -> bool:
    """Whether the tower is CLIP's, which has a class token; else it is SigLIP's."""
    return (config.get("vision_config") or {}).get("model_type", "clip_vision_model") in CLASS_TOKEN_TOWERS


def _class_token(config: dict[str, Any]) -> bool:
    """Whether it is a visual token."""
    return _is_clip(config) and config.get("vision_feature_select_strategy", "default") == "full"


def _pinpoints(config: dict[str, Any], tile: int, patch: int, place: Path) -> tuple[Size, ...]:
    stated = config.get("image_grid_pinpoints", [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]])
    try:
        pinpoints = read_pinpoints(stated)
    except ValueError as error:
        raise ModelError(f"{place}: image_grid_pinpoints: {error}") from error
    if wrong := [size for size in pinpoints if size[0] % tile or size[1] % tile]:
        raise ModelError(f"{place}: image_grid_pinpoints: {list(wrong[0])} is no multiple of the tower's {tile} pixels")
    if _class_token(config) or (tile % patch and _is_clip(config)):
        raise ModelError(f"{place}: any-resolution needs tiles of whole patches, without the class token")
    return pinpoints


def _vision_config(config: dict[str, Any], vision: dict[str, Any], place: Path) -> VisionConfig:
    layers = number(vision, "num_hidden_layers", 24, place, most=MOST_LAYERS)
    chosen = config.get("vision_feature_layer")
    chosen = -2 if chosen is None else chosen
    chosen = chosen if isinstance(chosen, list) else [chosen]
    if not chosen or not all(isinstance(index, int) and -layers - 1 <= index <= layers for index in chosen):
        raise ModelError(f"{place}: vision_feature_layer: {chosen} is outside the vision tower's {layers} layers")
    return VisionConfig(
        hidden=number(vision, "hidden_size", 1024, place),
        ffn=number(vision, "intermediate_size", 4096, place),
        layers=max(index if index >= 0 else layers + 1 + index for index in chosen),  # 0 is the embeddings
        stored_layers=layers,
        features=len(chosen),
    )
