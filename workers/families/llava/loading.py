"""From a ModelSpec to a LLaVA on a device."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

from workers.checkpoints.files import weight_files
from workers.checkpoints.settings import processor_kind, processor_settings, read_json
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
from workers.families.config import ModelError
from workers.families.llava.adapter import read_adapter
from workers.families.llava.anyres import read_pinpoints
from workers.families.llava.config import ANY_RESOLUTION
from workers.families.llava.layout import LlavaCheckpoint, open_llava
from workers.families.llava.model import Llava
from workers.families.llava.names import TOWER, model_name
from workers.families.llava.onevision import IMAGE_TOKEN, ONEVISION, TILE
from workers.families.llava.pixel_modes import MODES
from workers.work import ModelSpec

KINDS: dict[str, tuple[Any, Any]] = {
    "llava": (LlavaConfig, LlavaForConditionalGeneration),
    ANY_RESOLUTION: (LlavaNextConfig, LlavaNextForConditionalGeneration),
    ONEVISION: (LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration),
}


def load_llava(spec: ModelSpec, device: str) -> Llava:
    """Load a LLaVA checkpoint in any form that this package reads.

    Args:
        spec: where it lies, dtype and image mode.
        device: as torch names it, ``cpu`` or ``cuda:0``.

    Raises:
        ModelError: the checkpoint is incomplete or not what its config.json says, or tokenizer and image processor do
            not fit the model.
    """
    dtype = known_dtype(spec)
    if spec.image_mode not in MODES:
        raise ModelError(f"image_mode '{spec.image_mode}' is unknown ({', '.join(MODES)})")
    checkpoint = open_llava(spec)
    sizes = checkpoint.sizes
    check_mode(spec, checkpoint.image_modes)
    checkpoint.check()
    quiet()
    tokenizer, image_processor = _load_tokenizer(checkpoint), load_image_processor(checkpoint)
    side = dict(image_processor.crop_size or image_processor.size)
    if any(length != sizes.image_size for length in side.values()):
        raise ModelError(
            f"model {checkpoint.images}: preprocessor_config.json crops to {side}, but "
            f"config.json has vision_config.image_size {sizes.image_size}"
        )
    away = layers_on_host(spec, sizes, dtype, device)
    model = _empty_model(checkpoint, dtype, device, away)
    _fill(model, _all_tensors(checkpoint, device), checkpoint)
    template = chat_template(checkpoint.folder, checkpoint.images, checkpoint.tokenizer)
    return Llava(model, sizes, tokenizer, image_processor, template, checkpoint.tiling, away)


def _empty_model(checkpoint: LlavaCheckpoint, dtype: torch.dtype, device: str, away: Collection[int]) -> Any:
    """The model with parameters that hold nothing yet, on the device; of the layers that are away, in host memory."""
    model = without_memory(checkpoint.config, checkpoint.place, KINDS[checkpoint.config["model_type"]], dtype)
    decoder = model.model.language_model
    if checkpoint.original:  # its vocabulary has no image token: one row more, whose content is never used
        rows, width = decoder.embed_tokens.weight.shape
        decoder.embed_tokens = nn.Embedding(rows + 1, width, device="meta")
    make_parameters(model, dtype, device, away)
    take_generation(model, checkpoint.tokenizer)
    return model


def _all_tensors(checkpoint: LlavaCheckpoint, device: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a checkpoint by the model's name; a later one of the same name counts."""
    if checkpoint.tower is not None:
        for name, tensor in _named(stored_tensors(weight_files(checkpoint.tower))):
            if name.startswith(TOWER):
                yield name, tensor
    adapter = read_adapter(checkpoint.folder, checkpoint.extras)
    yield from adapter.applied(_named(stored_tensors(checkpoint.weights)), device)


def _named(stored: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in stored:
        known = model_name(name)
        if known is not None:
            yield known, tensor


@torch.no_grad()
def _fill(model: Any, tensors: Iterable[tuple[str, Tensor]], checkpoint: LlavaCheckpoint) -> None:
    """Copy tensors to where the model has them; see ``building.fill``."""
    targets: dict[str, Tensor] = dict(_named(model.named_parameters()))
    if checkpoint.original:
        embedded: Tensor = model.model.language_model.embed_tokens.weight
        embedded[-1] = 0
        targets["model.language_model.embed_tokens.weight"] = embedded[:-1]
    fill(model, tensors, targets, bool(model.config.get_text_config().tie_word_embeddings))


def _load_tokenizer(checkpoint: LlavaCheckpoint) -> Any:
    """The tokenizer that the checkpoint names; where a ``tokenizer.model`` lies alone and none is named, Llama's.

    Llama's is made by its own class where there is no ``tokenizer.json``: up to transformers 5.23 ``AutoTokenizer``
    takes another one for a config.json of LLaVA's, which loses the space before a text. It begins each text with a
    token of its own unless the settings say otherwise; transformers 5 leaves it out where they say nothing.
    """
    folder = checkpoint.tokenizer
    place = folder / "tokenizer_config.json"
    stated = read_json(place, "model") if place.is_file() else {}
    bare = not (folder / "tokenizer.json").is_file()
    named = str(stated.get("tokenizer_class") or ("LlamaTokenizer" if checkpoint.original or bare else ""))
    llamas = named.startswith("LlamaTokenizer")
    kind = LlamaTokenizer if llamas and (bare or "tokenizer_class" not in stated) else AutoTokenizer
    begin = {"add_bos_token": True} if llamas and bare and "add_bos_token" not in stated else {}
    if not any(folder.glob("tokenizer.*")):
        raise ModelError(f"model {folder}: has no tokenizer.json or tokenizer.model")
    with reading(f"model {folder}", "the tokenizer cannot be loaded"):
        tokenizer = kind.from_pretrained(folder, local_files_only=True, **begin)
    config = checkpoint.config
    usual = IMAGE_TOKEN if config["model_type"] == ONEVISION else 32000
    image_token = None if checkpoint.original else config.get("image_token_id", config.get("image_token_index", usual))
    check_tokenizer(tokenizer, folder, checkpoint.sizes.vocab, image_token)
    return tokenizer


def load_image_processor(checkpoint: LlavaCheckpoint) -> Any:
    """The PIL back end by name: torchvision's resize gives slightly other pixels.

    LLaVA's own classes are CLIP's with padding or tiles, which ``workers/images.py`` makes.
    """
    settings, place = processor_settings(checkpoint.images), f"model {checkpoint.images}"
    kind, whole = processor_kind(settings), checkpoint.config["model_type"] == ONEVISION
    known = ("LlavaOnevisionImage",) if whole else ("CLIPImage", "CLIP", "LlavaImage", "LlavaNextImage")
    if not kind.startswith(known):
        raise ModelError(f"{place}: image processor '{kind}' is not supported ({known[0]}Processor)")
    if whole:  # its squares are resized and not cropped
        size = settings.get("size", {"height": TILE, "width": TILE})
        settings = {**settings, "size": size, "crop_size": size, "do_center_crop": False}
    _check_grids(settings, checkpoint)
    with reading(place, "the image processor cannot be loaded"):
        return CLIPImageProcessorPil.from_dict(settings)


def _check_grids(settings: dict[str, Any], checkpoint: LlavaCheckpoint) -> None:
    """Those that an image processor states must be the model's, or it would count other tokens."""
    tiling, stated = checkpoint.tiling, settings.get("image_grid_pinpoints")
    if tiling is None or stated is None:
        return
    with reading(f"model {checkpoint.images}", "image_grid_pinpoints cannot be read"):
        grids = read_pinpoints(stated)
    if grids != tiling.pinpoints:
        what = "the image processor's image_grid_pinpoints are not those of"
        raise ModelError(f"model {checkpoint.images}: {what} {checkpoint.place}")
