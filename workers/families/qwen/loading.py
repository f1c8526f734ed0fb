"""From a ModelSpec to a Qwen2-VL on a device."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

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
from workers.families.qwen.config import IMAGE_TOKEN, QWEN2, QWEN2_5
from workers.families.qwen.layout import QwenCheckpoint, open_qwen
from workers.families.qwen.model import PAD, Qwen
from workers.families.qwen.names import model_name
from workers.work import ModelSpec

KINDS: dict[str, tuple[Any, Any]] = {
    QWEN2: (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    QWEN2_5: (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
}


def load_qwen(spec: ModelSpec, device: str) -> Qwen:
    """Load a checkpoint of Qwen2-VL or Qwen2.5-VL.

    Args:
        spec: where it lies, dtype, and how large images are.
        device: as torch names it, ``cpu`` or ``cuda:0``.

    Raises:
        ModelError: the checkpoint is incomplete or not what its config.json says, or tokenizer and image processor do
            not fit the model.
    """
    dtype = known_dtype(spec)
    checkpoint = open_qwen(spec)
    if spec.image_mode not in checkpoint.image_modes:
        known = ", ".join(checkpoint.image_modes)
        raise ModelError(f"model {spec.path}: image_mode '{spec.image_mode}' is not one of this model's ({known})")
    checkpoint.check()
    quiet()
    tokenizer, image_processor = _load_tokenizer(checkpoint), load_image_processor(checkpoint)
    sizes, config = checkpoint.sizes, checkpoint.config
    away = layers_on_host(spec, sizes, dtype, device)
    model = without_memory(config, checkpoint.place, KINDS[config["model_type"]], dtype)
    make_parameters(model, dtype, device, away)
    take_generation(model, checkpoint.folder)
    stored = ((model_name(name), tensor) for name, tensor in stored_tensors(checkpoint.files))
    fill(model, stored, dict(model.named_parameters()), checkpoint.tied)
    template = chat_template(checkpoint.folder)
    return Qwen(model, sizes, tokenizer, image_processor, checkpoint.resizing, checkpoint.full_layers, template, away)


def _load_tokenizer(checkpoint: QwenCheckpoint) -> Any:
    folder = checkpoint.folder
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(f"model {folder}: has no tokenizer.json or vocab.json")
    with reading(f"model {folder}", "the tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    image_token = checkpoint.config.get("image_token_id", IMAGE_TOKEN)
    check_tokenizer(tokenizer, folder, checkpoint.sizes.vocab, image_token, marker=PAD)
    return tokenizer


def load_image_processor(checkpoint: QwenCheckpoint) -> Any:
    """The PIL back end by name: torchvision's resize gives slightly other pixels."""
    resizing = checkpoint.resizing
    settings = {
        name: value for name, value in checkpoint.settings.items() if name not in ("min_pixels", "max_pixels", "size")
    }
    size = {"shortest_edge": resizing.min_pixels, "longest_edge": resizing.max_pixels}
    with reading(f"model {checkpoint.images}", "the image processor cannot be loaded"):
        return Qwen2VLImageProcessorPil.from_dict({**settings, "size": size})
