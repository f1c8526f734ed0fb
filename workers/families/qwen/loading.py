"""From a ModelSpec to a Qwen2-VL on a device."""

from __future__ import annotations

from typing import Any

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from workers.families.building import reading
from workers.families.one_folder_loading import load_parts
from workers.families.qwen.config import IMAGE_TOKEN, QWEN2, QWEN2_5, QWEN3
from workers.families.qwen.layout import QwenCheckpoint, open_qwen
from workers.families.qwen.model import PAD, Qwen
from workers.work import ModelSpec

KINDS: dict[str, tuple[Any, Any]] = {
    QWEN2: (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    QWEN2_5: (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    QWEN3: (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}


def load_qwen(spec: ModelSpec, device: str) -> Qwen:
    """Load a checkpoint of Qwen2-VL, Qwen2.5-VL or Qwen3-VL.

    Args:
        spec: where it lies, dtype, and how large images are.
        device: as torch names it, ``cpu`` or ``cuda:0``.

    Raises:
        ModelError: the checkpoint is incomplete or not what its config.json says, or tokenizer and image processor do
            not fit the model.
    """
    checkpoint = open_qwen(spec)
    image_processor, kinds = load_image_processor(checkpoint), KINDS[checkpoint.config["model_type"]]
    image_token = checkpoint.config.get("image_token_id", IMAGE_TOKEN)
    loaded = load_parts(spec, checkpoint, device, kinds, image_token, PAD)
    sized = checkpoint.resizing, checkpoint.full_layers
    template, away = loaded.chat_template, loaded.away
    return Qwen(loaded.module, loaded.sizes, loaded.tokenizer, image_processor, *sized, template, away)


def load_image_processor(checkpoint: QwenCheckpoint) -> Any:
    """The PIL back end by name: torchvision's resize gives slightly other pixels."""
    resizing = checkpoint.resizing
    settings = {
        name: value for name, value in checkpoint.settings.items() if name not in ("min_pixels", "max_pixels", "size")
    }
    size = {"shortest_edge": resizing.min_pixels, "longest_edge": resizing.max_pixels}
    with reading(f"model {checkpoint.images}", "the image processor cannot be loaded"):
        return Qwen2VLImageProcessorPil.from_dict({**settings, "size": size})
