"""What can be known of a model without loading it: its sizes.

Only the standard library is imported, so that planning a sweep needs neither torch nor the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.anyres import Tiling, read_pinpoints

ANY_RESOLUTION = "llava_next"  # the model type that cuts images into tiles
TEXT_MODELS = ("llama", "mistral", "qwen2")  # decoders whose layer the engine knows: norm, q/k/v/o, gate/up/down
# What transformers takes where a configuration leaves it out; else as many key-value heads as heads, and Llama-7B's.
KV_HEADS, FFN = {"mistral": 8, "qwen2": 32}, {"mistral": 14336, "qwen2": 22016}
MOST = 2**24  # of any other size
MOST_LAYERS = 1000  # the largest published decoder has 126; a slip of the pen is not built for hours


class ModelError(ValueError):
    """A checkpoint is missing, broken or of a kind we do not run. The message names the file or field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionFacts:
    """Sizes of the vision tower; CLIP ViT-L/14, the tower of LLaVA-1.5, where nothing else is said."""

    hidden: int = 1024
    ffn: int = 4096
    layers: int = 23  # that run for the features: with vision_feature_layer -2 the last of 24 is not needed
    stored_layers: int = 24  # with those behind the chosen one
    features: int = 1  # layers whose outputs are joined for the projector


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Sizes of a LLaVA checkpoint, from its config.json."""

    layers: int  # L, decoder layers
    heads: int  # H, query heads
    kv_heads: int
    head_dim: int
    hidden: int  # D
    ffn: int
    vocab: int
    image_size: int  # pixels, one side
    patch_size: int
    visual_tokens: int  # V, tokens of one image; with any-resolution the most that an image can have
    parameters: int  # of the decoder's linear layers, for cost estimates
    vision: VisionFacts = VisionFacts()
    pinpoints: tuple[tuple[int, int], ...] = ()  # height and width of the grids of any-resolution; none: square images

    @property
    def tiling(self) -> Tiling | None:
        """How any-resolution cuts images; None for a model that sees one square."""
        return Tiling(self.pinpoints, self.image_size, self.patch_size) if self.pinpoints else None


def facts_from(config: dict[str, Any], place: Path) -> ModelFacts:
    """The sizes that a LLaVA configuration states.

    Args:
        config: as in config.json; what is missing has transformers' default.
        place: for messages.

    Raises:
        ModelError: a field is no number, or the decoder is one the engine does not run.
    """
    text, vision = _section(config, "text_config", place), _section(config, "vision_config", place)
    text_model = text.get("model_type", "llama")
    if text_model not in TEXT_MODELS:
        raise ModelError(f"{place}: text_config.model_type: '{text_model}' is not supported ({', '.join(TEXT_MODELS)})")
    hidden, heads = _number(text, "hidden_size", 4096, place), _number(text, "num_attention_heads", 32, place)
    layers = _number(text, "num_hidden_layers", 32, place, most=MOST_LAYERS)
    ffn = _number(text, "intermediate_size", FFN.get(text_model, 11008), place)
    # Stated as null it means as many as heads; left out, the kind's own.
    grouped = heads if "num_key_value_heads" in text else KV_HEADS.get(text_model, heads)
    kv_heads = _number(text, "num_key_value_heads", grouped, place)
    head_dim = _number(text, "head_dim", hidden // heads, place)
    image_size, patch_size = _number(vision, "image_size", 336, place), _number(vision, "patch_size", 14, place)
    class_token = config.get("vision_feature_select_strategy", "default") == "full"
    pinpoints = _pinpoints(config, image_size, patch_size, class_token, place)
    attention = 2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim
    return ModelFacts(
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=hidden,
        ffn=ffn,
        vocab=_number(text, "vocab_size", 32064, place),
        image_size=image_size,
        patch_size=patch_size,
        visual_tokens=(
            Tiling(pinpoints, image_size, patch_size).most_tokens
            if pinpoints
            else (image_size // patch_size) ** 2 + class_token
        ),
        parameters=layers * (attention + 3 * hidden * ffn),
        vision=_vision_facts(config, vision, place),
        pinpoints=pinpoints,
    )


def _pinpoints(
    config: dict[str, Any], tile: int, patch: int, class_token: bool, place: Path
) -> tuple[tuple[int, int], ...]:
    if config.get("model_type") != ANY_RESOLUTION:
        return ()
    stated = config.get("image_grid_pinpoints", [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]])
    try:
        pinpoints = read_pinpoints(stated)
    except ValueError as error:
        raise ModelError(f"{place}: image_grid_pinpoints: {error}") from error
    if wrong := [size for size in pinpoints if size[0] % tile or size[1] % tile]:
        raise ModelError(f"{place}: image_grid_pinpoints: {list(wrong[0])} is no multiple of the tower's {tile} pixels")
    if class_token or tile % patch:
        raise ModelError(f"{place}: any-resolution needs tiles of whole patches, without the class token")
    return pinpoints


def _vision_facts(config: dict[str, Any], vision: dict[str, Any], place: Path) -> VisionFacts:
    layers = _number(vision, "num_hidden_layers", 24, place, most=MOST_LAYERS)
    chosen = config.get("vision_feature_layer")
    chosen = -2 if chosen is None else chosen
    chosen = chosen if isinstance(chosen, list) else [chosen]
    if not chosen or not all(isinstance(index, int) and -layers - 1 <= index <= layers for index in chosen):
        raise ModelError(f"{place}: vision_feature_layer: {chosen} is outside the vision tower's {layers} layers")
    return VisionFacts(
        hidden=_number(vision, "hidden_size", 1024, place),
        ffn=_number(vision, "intermediate_size", 4096, place),
        layers=max(index if index >= 0 else layers + 1 + index for index in chosen),  # 0 is the embeddings
        stored_layers=layers,
        features=len(chosen),
    )


def _section(config: dict[str, Any], name: str, place: Path) -> dict[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, dict):
        raise ModelError(f"{place}: {name}: is not an object")
    return section


def _number(section: dict[str, Any], name: str, default: int, place: Path, most: int = MOST) -> int:
    value = section.get(name)
    if value is None:  # transformers writes null for "as the default"
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{place}: {name}: {repr(value)[:40]} is not a positive whole number")
    if value > most:
        raise ModelError(f"{place}: {name}: {value} is above {most:,}, more than any model has")
    return value
