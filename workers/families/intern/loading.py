"""From a ModelSpec to an InternVL on a device."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, GotOcr2ImageProcessorPil, InternVLConfig, InternVLForConditionalGeneration

from workers.checkpoints.tensors import stored_tensors
from workers.checkpoints.tokenizer import chat_template, check_tokenizer
from workers.families.building import (
    fill,
    known_dtype,
    layers_on_host,
    make_parameters,
    quiet,
    reading,
    take_generation,
    without_memory,
)
from workers.families.config import ModelError
from workers.families.intern.config import IMAGE_TOKEN
from workers.families.intern.layout import InternCheckpoint, open_intern
from workers.families.intern.model import PAD, Intern
from workers.families.intern.names import model_name
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
    dtype = known_dtype(spec)
    checkpoint = open_intern(spec)
    if spec.image_mode not in checkpoint.image_modes:
        known = ", ".join(checkpoint.image_modes)
        raise ModelError(f"model {spec.path}: image_mode '{spec.image_mode}' is not one of this model's ({known})")
    checkpoint.check()
    quiet()
    tokenizer, image_processor = _load_tokenizer(checkpoint), load_image_processor(checkpoint)
    sizes = checkpoint.sizes
    away = layers_on_host(spec, sizes, dtype, device)
    model = without_memory(checkpoint.config, checkpoint.place, KINDS, dtype)
    make_parameters(model, dtype, device, away)
    take_generation(model, checkpoint.folder)
    stored = ((model_name(name), tensor) for name, tensor in stored_tensors(checkpoint.files))
    fill(model, stored, dict(model.named_parameters()), checkpoint.tied)
    template = chat_template(checkpoint.folder)
    return Intern(model, sizes, tokenizer, image_processor, checkpoint.tiling, template, away)


def _load_tokenizer(checkpoint: InternCheckpoint) -> Any:
    folder = checkpoint.folder
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(f"model {folder}: has no tokenizer.json or vocab.json")
    with reading(f"model {folder}", "the tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    image_token = checkpoint.config.get("image_token_id", IMAGE_TOKEN)
    check_tokenizer(tokenizer, folder, checkpoint.sizes.vocab, image_token, marker=PAD)
    return tokenizer


def load_image_processor(checkpoint: InternCheckpoint) -> Any:
    """The PIL back end by name: torchvision's resize gives slightly other pixels."""
    with reading(f"model {checkpoint.images}", "the image processor cannot be loaded"):
        return GotOcr2ImageProcessorPil.from_dict(checkpoint.settings)
