"""The sizes that a config.json of Qwen2-VL, Qwen2.5-VL or Qwen3-VL states, and the image processor's beside it.

Published files have the decoder's fields at the top level, transformers and Qwen3-VL's in a section; both are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workers.families.config import MOST_LAYERS, ModelConfig, ModelError, VisionConfig, decoder_sizes, number, section
from workers.families.qwen.resizing import Resizing
from workers.work import ModelSpec

QWEN2, QWEN2_5, QWEN3 = "qwen2_vl", "qwen2_5_vl", "qwen3_vl"
MODEL_TYPES = (QWEN2, QWEN2_5, QWEN3)
IMAGE_TOKEN = 151655
FRAMES = 2  # of a video in a patch; an image is one frame that is shown twice
# What transformers takes where a configuration leaves it out.
_TEXT = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
_TEXT3 = {"vocab_size": 151936, "hidden_size": 4096, "head_dim": 128}
_PIXELS = (56 * 56, 28 * 28 * 1280)
_SECTIONS = (16, 24, 24)  # pairs of a head's values that turn with time, height and width
_SECTIONS3 = (24, 20, 20)
_DEEP = (8, 16, 24)
_FULL = (7, 15, 23, 31)


def text_section(config: dict[str, Any], place: Path) -> dict[str, Any]:
    """The decoder's fields, wherever they stand."""
    stated = section(config, "text_config", place) if config.get("text_config") else config
    if config["model_type"] == QWEN3:
        return {**_TEXT3, **stated, "model_type": "qwen3"}
    return {**_TEXT, **stated, "model_type": "qwen2"}


def model_config(config: dict[str, Any], resizing: Resizing, place: Path) -> ModelConfig:
    """The sizes that a configuration states.

    Args:
        config: as in config.json; what is missing has transformers' default.
        resizing: how large images are.
        place: for messages.

    Raises:
        ModelError: a field is no number, or the model is one the engine does not run.
    """
    text, vision = text_section(config, place), section(config, "vision_config", place)
    sizes = decoder_sizes(text, place, (text["model_type"],))
    tower = _vision_config(config, vision, place)
    made = number(vision, "hidden_size" if config["model_type"] == QWEN2 else "out_hidden_size", 3584, place)
    if made != sizes["hidden"]:
        raise ModelError(f"{place}: vision_config: makes tokens {made} wide of a decoder's {sizes['hidden']}")
    _check_positions(text, sizes["head_dim"], _SECTIONS3 if config["model_type"] == QWEN3 else _SECTIONS, place)
    fixed = {"image_size": 0, "patch_size": resizing.patch, "visual_tokens": resizing.most_tokens}
    return ModelConfig(
        **sizes,
        **fixed,
        vision=tower,
        grid=None,
        varies=True,
        position_parts=3,
        class_token=False,
        clip=False,
    )


def full_layers(config: dict[str, Any], place: Path) -> frozenset[int]:
    """The tower's layers in which every patch attends to all of its image.

    Raises:
        ModelError: they are no numbers of layers.
    """
    vision = section(config, "vision_config", place)
    layers = _depth(config, vision, place)
    if config["model_type"] != QWEN2_5:
        return frozenset(range(layers))
    return frozenset(index for index in _layers(vision, "fullatt_block_indexes", _FULL, place) if index < layers)


def _depth(config: dict[str, Any], vision: dict[str, Any], place: Path) -> int:
    return number(vision, "depth", 27 if config["model_type"] == QWEN3 else 32, place, most=MOST_LAYERS)


def _layers(vision: dict[str, Any], name: str, usual: Sequence[int], place: Path) -> Sequence[int]:
    """Numbers of layers of the tower."""
    stated = vision.get(name, usual)
    if not isinstance(stated, list | tuple) or not all(isinstance(index, int) and index >= 0 for index in stated):
        raise ModelError(f"{place}: vision_config.{name}: {repr(stated)[:40]} is no list of layers")
    return stated


def resizing_of(
    config: dict[str, Any], place: Path, settings: dict[str, Any], folder: Path, spec: ModelSpec
) -> Resizing:
    """How large images are: as the image processor's settings say, and the sweep beside them.

    Args:
        config: of the model.
        place: of it, for messages.
        settings: of the image processor.
        folder: of it, for messages.
        spec: what is asked for.

    Raises:
        ModelError: the settings are those of another model, or leave no size that an image could have.
    """
    vision = section(config, "vision_config", place)
    sizes = {
        "patch_size": number(vision, "patch_size", 16 if config["model_type"] == QWEN3 else 14, place),
        "merge_size": number(vision, "spatial_merge_size", 2, place),
        "temporal_patch_size": number(vision, "temporal_patch_size", FRAMES, place),
    }
    usual = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": FRAMES}
    for name, wanted in sizes.items():
        if (given := settings.get(name, usual[name])) != wanted:
            raise ModelError(f"model {folder}: the image processor has {name} {given}, {place} states {wanted}")
    if settings.get("do_resize") is False:
        raise ModelError(f"model {folder}: do_resize: false is not supported: images would have parts of patches")
    least, most = _stated_pixels(settings, folder)
    resizing = Resizing(
        patch=sizes["patch_size"],
        merge=sizes["merge_size"],
        min_pixels=least if spec.min_pixels is None else spec.min_pixels,
        max_pixels=most if spec.max_pixels is None else spec.max_pixels,
    )
    if resizing.max_pixels < resizing.unit**2:
        what = f"max_pixels {resizing.max_pixels} is less than one token, {resizing.unit} x {resizing.unit} pixels"
        raise ModelError(f"model {folder}: {what}")
    if not 0 < resizing.min_pixels <= resizing.max_pixels:
        between = f"min_pixels {resizing.min_pixels} is not between 1 and max_pixels, {resizing.max_pixels}"
        raise ModelError(f"model {folder}: {between}")
    return resizing


def _stated_pixels(settings: dict[str, Any], folder: Path) -> tuple[int, int]:
    """Least and most pixels of an image: in the settings' ``size``, or as published files have it."""
    size = settings.get("size")
    size = size if isinstance(size, dict) else {}
    both = zip(("min_pixels", "max_pixels"), ("shortest_edge", "longest_edge"), _PIXELS, strict=True)
    place = folder / "preprocessor_config.json"
    least, most = (number(settings, own, number(size, edge, usual, place), place) for own, edge, usual in both)
    return least, most


def _vision_config(config: dict[str, Any], vision: dict[str, Any], place: Path) -> VisionConfig:
    layers = _depth(config, vision, place)
    patch, merge = number(vision, "patch_size", 14, place), number(vision, "spatial_merge_size", 2, place)
    common = {
        "layers": layers,
        "stored_layers": layers,
        "merge": merge,
        "frames": number(vision, "temporal_patch_size", FRAMES, place),
    }
    if config["model_type"] == QWEN2:
        width = number(vision, "embed_dim", 1280, place)
        return VisionConfig(hidden=width, ffn=width * number(vision, "mlp_ratio", 4, place), **common)
    if config["model_type"] == QWEN3:
        deep = _layers(vision, "deepstack_visual_indexes", _DEEP, place)
        if len(set(deep)) < len(deep) or max(deep, default=0) >= layers:
            stated = f"vision_config.deepstack_visual_indexes: {repr(deep)[:40]}"
            raise ModelError(f"{place}: {stated} are not different layers of the tower's {layers}")
        return VisionConfig(
            hidden=number(vision, "hidden_size", 1152, place),
            ffn=number(vision, "intermediate_size", 4304, place),
            positions=number(vision, "num_position_embeddings", 2304, place),
            deep=len(deep),
            **common,
        )
    window = number(vision, "window_size", 112, place) // (patch * merge)
    if not window:
        raise ModelError(f"{place}: vision_config.window_size: is less than one token, {patch * merge} pixels")
    return VisionConfig(
        hidden=number(vision, "hidden_size", 3584, place),
        ffn=number(vision, "intermediate_size", 3420, place),
        ffn_matrices=3,
        windowed=layers - len(full_layers(config, place)),
        window=window,
        **common,
    )


def _check_positions(text: dict[str, Any], head_dim: int, usual: Sequence[int], place: Path) -> None:
    stated = text.get("rope_scaling") or text.get("rope_parameters") or {}
    parts = stated.get("mrope_section", usual) if isinstance(stated, dict) else None
    if not isinstance(parts, list | tuple) or len(parts) != 3 or not all(isinstance(part, int) for part in parts):
        raise ModelError(f"{place}: rope_scaling: mrope_section is not three numbers")
    if 2 * sum(parts) != head_dim:
        raise ModelError(
            f"{place}: rope_scaling.mrope_section: {list(parts)} are not half of a head's {head_dim} values"
        )
