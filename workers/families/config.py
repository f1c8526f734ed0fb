"""What can be known of a model without loading it: its sizes, whatever its family.

Only the standard library is imported, so that planning a sweep needs neither torch nor the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strategies.errors import SaccadeError

TEXT_MODELS = ("llama", "mistral", "qwen2")  # decoders whose layer the engine knows: norm, q/k/v/o, gate/up/down
# What transformers takes where a configuration leaves it out; else as many key-value heads as heads, and Llama-7B's.
KV_HEADS, FFN = {"mistral": 8, "qwen2": 32, "qwen3": 32}, {"mistral": 14336, "qwen2": 22016, "qwen3": 22016}
MOST = 2**24  # of any other size
MOST_LAYERS = 1000  # the largest published decoder has 126; a slip of the pen is not built for hours
NO_TEXT_TOWER = (  # what a sweep is told that needs one
    "is missing, and a strategy compares the question with the image by CLIP; name the CLIP that the model's tower is "
    "of, for LLaVA openai/clip-vit-large-patch14-336"
)


class ModelError(SaccadeError):
    """A checkpoint is missing, broken or of a kind we do not run. The message names the file or field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """Sizes of the vision tower; CLIP ViT-L/14, the tower of LLaVA-1.5, where nothing else is said."""

    hidden: int = 1024
    ffn: int = 4096
    layers: int = 23  # that run for the features: with vision_feature_layer -2 the last of 24 is not needed
    stored_layers: int = 24  # with those behind the chosen one
    features: int = 1  # layers whose outputs are joined for the projector
    merge: int = 1  # patches, one side, that the projector makes one token of
    ffn_matrices: int = 2  # of a feed-forward; 3 where it has a gate
    frames: int = 1  # that a patch is embedded of
    windowed: int = 0  # layers in which a patch attends to its window alone
    window: int = 0  # tokens of a window, one side
    positions: int = 0  # learned embeddings of places, which are stretched over each image
    tile: int = 0  # visual tokens of each square that the tower sees by itself, where images have several
    deep: int = 0  # layers of which visual tokens are made too, that are added after the first decoder layers


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes of a model: decoder, tower, and what an image becomes."""

    layers: int  # L, decoder layers
    heads: int  # H, query heads
    kv_heads: int
    head_dim: int
    hidden: int  # D
    ffn: int
    vocab: int
    image_size: int  # pixels, one side; 0 where each image has its own
    patch_size: int
    visual_tokens: int  # V, tokens of one image; where that varies the most that one can have
    parameters: int  # of the decoder's linear layers, for cost estimates
    vision: VisionConfig | None = VisionConfig()  # None: a tower whose cost is not counted
    grid: tuple[int, int] | None = None  # rows and columns of the image that the first visual tokens are, row by row
    varies: bool = False  # whether images have tokens in differing number
    position_parts: int = 1  # that a position id has: 3 for time, row and column
    class_token: bool = True  # whether the vision tower has one, whose attention methods go by
    clip: bool = True  # whether it may be CLIP's, whose text tower reads the question in the same space

    @property
    def side(self) -> int:
        """Of the square that the tokens of each image form; 0 where they form none, or differ in number."""
        rows, columns = self.grid or (0, 0)
        return rows if not self.varies and rows == columns and rows**2 == self.visual_tokens else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedConfig:
    """What an experiment recorded of its model's configuration; early versions recorded less."""

    layers: int
    visual_tokens: int
    grid: tuple[int, int] | None  # as in ``ModelConfig``
    varies: bool
    sizes: ModelConfig | None  # None: too little was recorded

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> RecordedConfig:
        """From the fields of a ``ModelConfig``, as they stand in a file."""
        known = {
            "layers": stated["layers"],
            "visual_tokens": stated["visual_tokens"],
            "grid": _grid(stated),
            # Before there were other families, these said it.
            "varies": bool(stated.get("varies", stated.get("pinpoints"))),
        }
        values = {name: value for name, value in stated.items() if name != "pinpoints"} | known
        try:
            if (vision := values.get("vision")) is not None:
                values["vision"] = VisionConfig(**vision)
            return cls(**known, sizes=ModelConfig(**values))
        except TypeError:
            return cls(**known, sizes=None)


def _grid(stated: Mapping[str, Any]) -> tuple[int, int] | None:
    """Early versions recorded the sides of LLaVA's square."""
    if grid := stated.get("grid"):
        return int(grid[0]), int(grid[1])
    size, patch, visual = (stated.get(name) or 0 for name in ("image_size", "patch_size", "visual_tokens"))
    side = size // patch if patch and "grid" not in stated else 0
    return (side, side) if 0 < side**2 <= visual else None


def decoder_sizes(text: dict[str, Any], place: Path, kinds: Sequence[str] = TEXT_MODELS) -> dict[str, int]:
    """The fields of ``ModelConfig`` that a decoder's section of a config.json states.

    Raises:
        ModelError: a field is no number, or the decoder is one the engine does not run.
    """
    kind = text.get("model_type", "llama")
    if kind not in kinds:
        raise ModelError(f"{place}: text_config.model_type: '{kind}' is not supported ({', '.join(kinds)})")
    hidden, heads = number(text, "hidden_size", 4096, place), number(text, "num_attention_heads", 32, place)
    layers = number(text, "num_hidden_layers", 32, place, most=MOST_LAYERS)
    ffn = number(text, "intermediate_size", FFN.get(kind, 11008), place)
    # Stated as null it means as many as heads; left out, the kind's own.
    grouped = heads if "num_key_value_heads" in text else KV_HEADS.get(kind, heads)
    kv_heads = number(text, "num_key_value_heads", grouped, place)
    head_dim = number(text, "head_dim", hidden // heads, place)
    attention = 2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim
    return {
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "hidden": hidden,
        "ffn": ffn,
        "vocab": number(text, "vocab_size", 32064, place),
        "parameters": layers * (attention + 3 * hidden * ffn),
    }


def section(config: dict[str, Any], name: str, place: Path) -> dict[str, Any]:
    """An object inside of a config.json; empty where it is not stated."""
    found = config.get(name, {})
    if not isinstance(found, dict):
        raise ModelError(f"{place}: {name}: is not an object")
    return found


def number(section: dict[str, Any], name: str, default: int, place: Path, most: int = MOST) -> int:
    """A size from a config.json: a positive whole number, not beyond all reason."""
    value = section.get(name)
    if value is None:  # transformers writes null for "as the default"
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{place}: {name}: {repr(value)[:40]} is not a positive whole number")
    if value > most:
        raise ModelError(f"{place}: {name}: {value} is above {most:,}, more than any model has")
    return value
