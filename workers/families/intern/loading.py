"""From a ModelSpec to an InternVL on a device."""

from __future__ import annotations

from typing import Any

from transformers import GotOcr2ImageProcessorPil, InternVLConfig, InternVLForConditionalGeneration

from workers.families.building import reading
from workers.families.intern.config import IMAGE_TOKEN
from workers.families.intern.layout import InternCheckpoint, open_intern
from workers.families.intern.model import PAD, Intern
from workers.families.one_folder_loading import load_parts
from workers.work import ModelSpec

KINDS = (InternVLConfig, InternVLForConditionalGeneration)


def load_intern(spec: ModelSpec, device: str) -> Intern:
    """Load a checkpoint of InternVL3 or InternVL3.5.

    Args:
        spec: where it lies, and dtype.
        device: as torch names it, ``cpu`` or ``cuda:0``.

    Raises:
        ModelError: the checkpoint is incomplete or not what its config.json says, or tokenizer and image processor do
            not fit the model.
    """
    checkpoint = open_intern(spec)
    image_processor = load_image_processor(checkpoint)
    image_token = checkpoint.config.get("image_token_id", IMAGE_TOKEN)
    loaded = load_parts(spec, checkpoint, device, KINDS, image_token, PAD)
    template, away = loaded.chat_template, loaded.away
    return Intern(loaded.module, loaded.sizes, loaded.tokenizer, image_processor, checkpoint.tiling, template, away)


def load_image_processor(checkpoint: InternCheckpoint) -> Any:
    """The PIL back end by name: torchvision's resize gives slightly other pixels."""
    tiles = {"min_patches": checkpoint.tiling.least, "max_patches": checkpoint.tiling.most}
    with reading(f"model {checkpoint.images}", "the image processor cannot be loaded"):
        return GotOcr2ImageProcessorPil.from_dict({**checkpoint.settings, **tiles})
