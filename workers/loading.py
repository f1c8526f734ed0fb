"""From a ModelSpec to a model on a device.

Checkpoints are read as safetensors only: a pickle can run code, and users receive checkpoints from others.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaForConditionalGeneration
from transformers.utils import logging as transformers_logging

from workers.images import MODES
from workers.llava import Llava
from workers.models import ModelError, check_weights, read_facts
from workers.work import ModelSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

log = logging.getLogger(f"saccade.{__name__}")


def load_llava(spec: ModelSpec, device: str) -> Llava:
    """Load a Hugging Face LLaVA checkpoint directory.

    Args:
        spec: directory, dtype and image mode.
        device: as torch names it, ``cpu`` or ``cuda:0``.

    Raises:
        ModelError: the directory is incomplete, a tensor is missing or has another shape than config.json says, or
            tokenizer and image processor do not fit the model.
    """
    if spec.dtype not in DTYPES:
        raise ModelError(f"dtype '{spec.dtype}' is unknown ({', '.join(DTYPES)})")
    if spec.image_mode not in MODES:
        raise ModelError(f"image_mode '{spec.image_mode}' is unknown ({', '.join(MODES)})")
    facts = read_facts(spec.path)
    check_weights(spec.path)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    model = _load_model(spec).to(device)
    tokenizer, image_processor = _load_processors(spec.path)
    side = dict(image_processor.crop_size or image_processor.size)
    if set(side.values()) != {facts.image_size}:
        raise ModelError(
            f"model {spec.path}: preprocessor_config.json crops to {side}, but "
            f"config.json has vision_config.image_size {facts.image_size}"
        )
    return Llava(model, tokenizer, image_processor)


def _load_model(spec: ModelSpec) -> LlavaForConditionalGeneration:
    try:
        loaded: Any = LlavaForConditionalGeneration.from_pretrained(
            spec.path,
            dtype=DTYPES[spec.dtype],
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that the mismatch is reported, below, with the tensor's name
        )
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"model {spec.path}: cannot be loaded: {_first_line(error)}") from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"model {spec.path}: {len(missing)} tensors are missing from the weights; first: {missing[0]}")
    for name, stored, wanted in sorted(report["mismatched_keys"]):
        raise ModelError(f"model {spec.path}: {name}: has shape {list(stored)}, config.json asks for {list(wanted)}")
    unexpected = sorted(report["unexpected_keys"])
    if unexpected:
        log.warning("model %s: %d tensors are not used, first: %s", spec.path, len(unexpected), unexpected[0])
    return model


def _load_processors(path: str) -> tuple[Any, Any]:
    """Tokenizer and image processor. The PIL back end by name: torchvision's resize gives slightly other pixels."""
    kind = _image_processor_kind(Path(path))
    if not kind.startswith("CLIP"):
        raise ModelError(f"model {path}: image processor '{kind}' is not supported (CLIPImageProcessor)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        processor = CLIPImageProcessorPil.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = _first_line(error)
        raise ModelError(f"model {path}: tokenizer or image processor cannot be loaded: {reason}") from error
    return tokenizer, processor


def _image_processor_kind(folder: Path) -> str:
    """The class that the checkpoint names; in a file of its own, or in the processor's."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        place = folder / name
        if not place.is_file():
            continue
        try:
            settings = json.loads(place.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{place}: is not valid JSON: {error}") from error
        settings = settings.get("image_processor", settings)
        if kind := settings.get("image_processor_type") or settings.get("feature_extractor_type"):
            return str(kind)
    raise ModelError(
        f"model {folder}: neither preprocessor_config.json nor processor_config.json names an image processor"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
