"""From a ModelSpec to a LLaVA on a device.

The model is laid out on the device first, empty, and then filled tensor by tensor from the files' pages: nothing lies
in memory twice, neither on the host nor on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    GenerationConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)
from transformers.utils import logging as transformers_logging

from workers.checkpoints.files import weight_files
from workers.checkpoints.settings import processor_kind, processor_settings, read_json
from workers.checkpoints.tensors import first_line, stored_tensors
from workers.checkpoints.tokenizer import chat_template, check_tokenizer
from workers.families.config import ModelError
from workers.families.llava.adapter import read_adapter
from workers.families.llava.config import ANY_RESOLUTION
from workers.families.llava.layout import LlavaCheckpoint, open_llava
from workers.families.llava.model import Llava
from workers.families.llava.names import TOWER, model_name
from workers.families.llava.pixel_modes import MODES
from workers.families.model import DTYPES
from workers.memory import free_bytes, layers_away
from workers.offload import spread
from workers.work import ModelSpec

# Projections of the same input, which the engine multiplies as one matrix: they are laid out as one from the start.
JOINED = (("self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj"))


def load_llava(spec: ModelSpec, device: str) -> Llava:
    """Load a LLaVA checkpoint in any form that this package reads.

    Args:
        spec: where it lies, dtype and image mode.
        device: as torch names it, ``cpu`` or ``cuda:0``.

    Raises:
        ModelError: the checkpoint is incomplete or not what its config.json says, or tokenizer and image processor do
            not fit the model.
    """
    if spec.dtype not in DTYPES:
        raise ModelError(f"dtype '{spec.dtype}' is unknown ({', '.join(DTYPES)})")
    if spec.image_mode not in MODES:
        raise ModelError(f"image_mode '{spec.image_mode}' is unknown ({', '.join(MODES)})")
    checkpoint = open_llava(spec)
    sizes, modes = checkpoint.sizes, checkpoint.image_modes
    if spec.image_mode not in modes:
        known = ", ".join(modes)
        raise ModelError(f"model {spec.path}: image_mode '{spec.image_mode}' is not one of this model's ({known})")
    checkpoint.check()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tokenizer, image_processor = _load_tokenizer(checkpoint), load_image_processor(checkpoint)
    side = dict(image_processor.crop_size or image_processor.size)
    if any(length != sizes.image_size for length in side.values()):
        raise ModelError(
            f"model {checkpoint.images}: preprocessor_config.json crops to {side}, but "
            f"config.json has vision_config.image_size {sizes.image_size}"
        )
    dtype = DTYPES[spec.dtype]
    away = spread(layers_away(sizes, dtype.itemsize, spec.offload, free_bytes(torch.device(device))), sizes.layers)
    model = _empty_model(checkpoint, dtype, device, away)
    _fill(model, _all_tensors(checkpoint, device), checkpoint)
    template = chat_template(checkpoint.folder, checkpoint.images, checkpoint.tokenizer)
    return Llava(model, sizes, tokenizer, image_processor, template, checkpoint.tiling, away)


def _empty_model(checkpoint: LlavaCheckpoint, dtype: torch.dtype, device: str, away: Collection[int]) -> Any:
    """The model with parameters that hold nothing yet, on the device; of the layers that are away, in host memory."""
    with _reading(checkpoint.place, "is not a configuration that can be built"):
        kinds: Any = (LlavaConfig, LlavaForConditionalGeneration)
        if checkpoint.config["model_type"] == ANY_RESOLUTION:
            kinds = (LlavaNextConfig, LlavaNextForConditionalGeneration)
        config = kinds[0].from_dict(checkpoint.config)
        with torch.device("meta"):
            model = kinds[1]._from_config(config, attn_implementation="sdpa", dtype=dtype)
    decoder = model.model.language_model
    if checkpoint.original:  # its vocabulary has no image token: one row more, whose content is never used
        rows, width = decoder.embed_tokens.weight.shape
        decoder.embed_tokens = nn.Embedding(rows + 1, width, device="meta")
    make_parameters(model, dtype, device, away)
    place = checkpoint.tokenizer / "generation_config.json"
    if place.is_file():
        stated = read_json(place, "model")
        with _reading(place, "is no generation configuration"):
            model.generation_config = GenerationConfig.from_dict(stated)
    return model


def make_parameters(model: Any, dtype: torch.dtype, device: str, away: Collection[int]) -> None:
    """Give a model that was built without memory its parameters, which hold nothing yet, and its buffers.

    Args:
        model: transformers' LLaVA on the device ``meta``.
        dtype: of the parameters.
        device: where they are, but for those of decoder layers that are away: these are in host memory.
        away: numbers of these layers.
    """
    on_device, on_host = _maker(dtype, device), _maker(dtype, "cpu", pinned=device != "cpu")
    for number, layer in enumerate(model.model.language_model.layers):
        make = on_host if number in away else on_device
        for names in JOINED:
            _join([layer.get_submodule(name) for name in names], make)
        _make_parameters(layer, make)
    _make_parameters(model, on_device)
    _compute_buffers(model, model.config, device)


@contextmanager
def _reading(place: object, complaint: str) -> Iterator[None]:
    """Transformers and its parsers raise whatever they like on a broken file.

    Raises:
        ModelError: they did.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ModelError(f"{place}: {complaint}: {first_line(error)}") from error


def _maker(dtype: torch.dtype, device: str, pinned: bool = False) -> Callable[..., Tensor]:
    """What makes an empty tensor of some shape in one kind of memory."""

    def make(*shape: int) -> Tensor:
        try:
            return torch.empty(shape, dtype=dtype, device=device, pin_memory=pinned)
        except RuntimeError as error:
            if not pinned:
                raise
            raise ModelError(
                f"host memory for the offloaded layers was refused ({first_line(error)}): raise the limit of locked "
                "memory (ulimit -l), use a host with more, or a larger card with model.offload=never"
            ) from error

    return make


def _make_parameters(module: nn.Module, make: Callable[..., Tensor]) -> None:
    """Give a module those of its parameters that nobody has made yet."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_meta:
                part._parameters[name] = _parameter(make(*parameter.shape))


def _join(parts: list[nn.Linear], make: Callable[..., Tensor]) -> None:
    """Lay linear layers out one after another in one matrix, and their biases in one vector."""
    sizes = [part.out_features for part in parts]
    weight = make(sum(sizes), parts[0].in_features)
    for part, rows in zip(parts, weight.split(sizes), strict=True):
        part.weight = _parameter(rows)
    if parts[0].bias is not None:
        bias = make(sum(sizes))
        for part, rows in zip(parts, bias.split(sizes), strict=True):
            part.bias = _parameter(rows)


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def _compute_buffers(model: Any, config: Any, device: str) -> None:
    """What no file holds: rotary frequencies, and the numbers of the vision tower's patches."""
    decoder = model.model.language_model
    decoder.rotary_emb = type(decoder.rotary_emb)(config.text_config).to(device)
    for module in model.modules():
        if isinstance(ids := getattr(module, "position_ids", None), Tensor) and ids.is_meta:
            module.position_ids = torch.arange(ids.shape[-1], device=device)[None]
    left = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    assert not left, f"no file holds {left}, and nobody computed it"


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
    """Copy tensors to where the model has them, each converted on the way; what is left over was found harmless."""
    decoder = model.model.language_model
    targets: dict[str, Tensor] = dict(_named(model.named_parameters()))
    if checkpoint.original:
        name = "model.language_model.embed_tokens.weight"
        decoder.embed_tokens.weight[-1] = 0
        targets[name] = decoder.embed_tokens.weight[:-1]
    missing = set(targets)
    for name, tensor in tensors:
        if (target := targets.get(name)) is not None:
            assert target.shape == tensor.shape, f"{name}: {target.shape}, not as described"
            target.copy_(tensor)
            missing.discard(name)
    if "lm_head.weight" in missing and model.config.get_text_config().tie_word_embeddings:
        model.lm_head.weight = decoder.embed_tokens.weight
        missing.discard("lm_head.weight")
    assert not missing, f"not described, but built: {min(missing)}"


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
    with _reading(f"model {folder}", "the tokenizer cannot be loaded"):
        tokenizer = kind.from_pretrained(folder, local_files_only=True, **begin)
    config = checkpoint.config
    image_token = None if checkpoint.original else config.get("image_token_id", config.get("image_token_index", 32000))
    check_tokenizer(tokenizer, folder, checkpoint.sizes.vocab, image_token)
    return tokenizer


def load_image_processor(checkpoint: LlavaCheckpoint) -> Any:
    """The PIL back end by name: torchvision's resize gives slightly other pixels.

    LLaVA's own classes are CLIP's with padding or tiles, which ``workers/images.py`` makes.
    """
    settings = processor_settings(checkpoint.images)
    kind = processor_kind(settings)
    if not kind.startswith(("CLIP", "LlavaImage", "LlavaNextImage")):
        raise ModelError(f"model {checkpoint.images}: image processor '{kind}' is not supported (CLIPImageProcessor)")
    with _reading(f"model {checkpoint.images}", "the image processor cannot be loaded"):
        return CLIPImageProcessorPil.from_dict(settings)
