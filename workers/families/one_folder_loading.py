"""From a checkpoint in one folder to its model on a device, whatever its family."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer

from workers.checkpoints.tensors import stored_tensors
from workers.checkpoints.tokenizer import chat_template, check_tokenizer
from workers.families.building import (
    check_mode,
    fill,
    known_dtype,
    layers_on_host,
    make_parameters,
    quiet,
    reading,
    take_generation,
    without_memory,
)
from workers.families.config import ModelConfig, ModelError
from workers.families.one_folder import OneFolder
from workers.work import ModelSpec


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What a family makes its ``Model`` of."""

    module: Any
    sizes: ModelConfig
    tokenizer: Any
    chat_template: str | None
    away: Collection[int]  # decoder layers that stay in host memory


def load_parts(
    spec: ModelSpec, checkpoint: OneFolder, device: str, kinds: tuple[Any, Any], image_token: int, marker: str
) -> Loaded:
    """Check the files, and load weights and tokenizer.

    Args:
        spec: dtype, pre-processing and layers in host memory.
        checkpoint: where everything lies.
        device: as torch names it, ``cpu`` or ``cuda:0``.
        kinds: transformers' classes of configuration and model.
        image_token: id that stands for a visual token.
        marker: the same in a prompt.

    Raises:
        ModelError: the checkpoint is incomplete or not what its config.json says, or the tokenizer does not fit.
    """
    dtype, folder = known_dtype(spec), checkpoint.folder
    check_mode(spec, checkpoint.image_modes)
    checkpoint.check()
    sizes = checkpoint.sizes
    quiet()
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(f"model {folder}: has no tokenizer.json or vocab.json")
    with reading(f"model {folder}", "the tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    check_tokenizer(tokenizer, folder, sizes.vocab, image_token, marker=marker)
    away = layers_on_host(spec, sizes, dtype, device)
    model = without_memory(checkpoint.config, checkpoint.place, kinds, dtype)
    make_parameters(model, dtype, device, away)
    take_generation(model, folder)
    stored = ((checkpoint.model_name(name), tensor) for name, tensor in stored_tensors(checkpoint.files))
    fill(model, stored, dict(model.named_parameters()), checkpoint.tied)
    return Loaded(model, sizes, tokenizer, chat_template(folder), away)
