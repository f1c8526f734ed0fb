"""What can be known of a checkpoint without loading it: its sizes, and whether its files are whole.

Only the standard library is imported, so that planning a sweep needs neither torch nor the weights.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT_MODELS = ("llama", "mistral", "qwen2")  # decoders whose layer the engine knows: norm, q/k/v/o, gate/up/down


class ModelError(ValueError):
    """A checkpoint is missing, broken or of a kind we do not run. The message names the file or field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionFacts:
    """Sizes of the vision tower; CLIP ViT-L/14, the tower of LLaVA-1.5, where nothing else is said."""

    hidden: int = 1024
    ffn: int = 4096
    layers: int = 23  # that run for the features: with vision_feature_layer -2 the last of 24 is not needed
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
    visual_tokens: int  # V, tokens of one image
    parameters: int  # of the decoder's linear layers, for cost estimates
    vision: VisionFacts = VisionFacts()


def read_facts(path: str | Path) -> ModelFacts:
    """Read the sizes of a checkpoint directory.

    Raises:
        ModelError: no such directory, no config.json, or a model the engine does not run.
    """
    return facts_from(read_config(path), Path(path) / "config.json")


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
    layers, ffn = _number(text, "num_hidden_layers", 32, place), _number(text, "intermediate_size", 11008, place)
    kv_heads = _number(text, "num_key_value_heads", heads, place)
    head_dim = _number(text, "head_dim", hidden // heads, place)
    image_size, patch_size = _number(vision, "image_size", 336, place), _number(vision, "patch_size", 14, place)
    class_token = config.get("vision_feature_select_strategy", "default") == "full"
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
        visual_tokens=(image_size // patch_size) ** 2 + class_token,
        parameters=layers * (attention + 3 * hidden * ffn),
        vision=_vision_facts(config, vision, place),
    )


def _vision_facts(config: dict[str, Any], vision: dict[str, Any], place: Path) -> VisionFacts:
    layers = _number(vision, "num_hidden_layers", 24, place)
    chosen = config.get("vision_feature_layer")
    chosen = -2 if chosen is None else chosen
    chosen = chosen if isinstance(chosen, list) else [chosen]
    if not chosen or not all(isinstance(index, int) and -layers - 1 <= index <= layers for index in chosen):
        raise ModelError(f"{place}: vision_feature_layer: {chosen} is outside the vision tower's {layers} layers")
    return VisionFacts(
        hidden=_number(vision, "hidden_size", 1024, place),
        ffn=_number(vision, "intermediate_size", 4096, place),
        layers=max(index if index >= 0 else layers + 1 + index for index in chosen),  # 0 is the embeddings
        features=len(chosen),
    )


def read_config(path: str | Path) -> dict[str, Any]:
    """config.json of a LLaVA checkpoint directory.

    Raises:
        ModelError: the directory or the file is missing or not JSON, or it is another model.
    """
    folder = Path(path)
    place = folder / "config.json"
    if not folder.is_dir():
        raise ModelError(f"model {folder}: no such directory; give a Hugging Face LLaVA checkpoint directory")
    if not place.is_file():
        raise ModelError(f"model {folder}: has no config.json; give a Hugging Face LLaVA checkpoint directory")
    try:
        config = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{place}: is not valid JSON: {error}") from error
    if config.get("model_type") != "llava":
        raise ModelError(f"{place}: model_type: '{config.get('model_type')}' is not 'llava'")
    return config


def weight_files(path: str | Path) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint directory, in name order.

    Raises:
        ModelError: there is none, or one that the index names is missing.
    """
    folder = Path(path)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index}: is not a safetensors index: {error!r}") from error
    else:
        names = sorted(file.name for file in folder.glob("*.safetensors"))
    if not names:
        raise ModelError(f"model {folder}: has no safetensors weights")
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(f"model {folder}: {name} is missing, which {index.name} names; download it again")
    return tuple(folder / name for name in names)


def check_weights(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Read the headers of all weight files: tensor name -> shape. A truncated file is found without loading it.

    Raises:
        ModelError: a file is missing, truncated or not safetensors.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(path):
        header, data_bytes = _read_header(file)
        needed = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if data_bytes < needed:
            raise ModelError(f"{file}: is truncated, {needed - data_bytes} bytes are missing; download it again")
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            if math.prod(entry["shape"]) > (end - start):  # every stored type has at least one byte a value
                raise ModelError(f"{file}: {name}: shape {entry['shape']} does not fit its {end - start} bytes")
            shapes[name] = tuple(entry["shape"])
    return shapes


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file, and how many bytes of data follow it."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= size - 8:
            raise ModelError(f"{file}: is truncated or not a safetensors file; download it again")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise ModelError(f"{file}: has a broken safetensors header: {error}") from error
    header.pop("__metadata__", None)
    return header, size - 8 - length


def _section(config: dict[str, Any], name: str, place: Path) -> dict[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, dict):
        raise ModelError(f"{place}: {name}: is not an object")
    return section


def _number(section: dict[str, Any], name: str, default: int, place: Path) -> int:
    value = section.get(name)
    if value is None:  # transformers writes null for "as the default"
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{place}: {name}: {value!r} is not a positive whole number")
    return value
