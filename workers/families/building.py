"""A model on a device, laid out empty and then filled tensor by tensor from the files' pages, whatever its family.

Nothing lies in memory twice, neither on the host nor on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from workers.checkpoints.settings import read_json
from workers.checkpoints.tensors import first_line
from workers.families.config import ModelConfig, ModelError
from workers.families.described import HEAD
from workers.families.model import DTYPES
from workers.memory import free_bytes, layers_away
from workers.offload import spread
from workers.work import ModelSpec

# Projections of the same input, which the engine multiplies as one matrix: they are laid out as one from the start.
JOINED = (("self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj"))
NOT_GREEDY = ("repetition_penalty", "no_repeat_ngram_size")  # which ``generate`` would heed without sampling too


def known_dtype(spec: ModelSpec) -> torch.dtype:
    """The numbers that a model is to have.

    Raises:
        ModelError: there are none of that name.
    """
    if spec.dtype not in DTYPES:
        raise ModelError(f"dtype '{spec.dtype}' is unknown ({', '.join(DTYPES)})")
    return DTYPES[spec.dtype]


def check_mode(spec: ModelSpec, modes: Collection[str]) -> None:
    """Refuse a pre-processing of images that is none of the model's.

    Raises:
        ModelError: it is another.
    """
    if spec.image_mode not in modes:
        known = ", ".join(modes)
        raise ModelError(f"model {spec.path}: image_mode '{spec.image_mode}' is not one of this model's ({known})")


def layers_on_host(spec: ModelSpec, sizes: ModelConfig, dtype: torch.dtype, device: str) -> Collection[int]:
    """Decoder layers that stay in host memory, as ``model.offload`` says.

    Raises:
        ModelError: the device is too small, or there are fewer layers.
    """
    return spread(layers_away(sizes, dtype.itemsize, spec.offload, free_bytes(torch.device(device))), sizes.layers)


def quiet() -> None:
    """Without transformers' own words, which tell of what is looked at here more closely."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@contextmanager
def reading(place: object, complaint: str) -> Iterator[None]:
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


def without_memory(config: dict[str, Any], place: Path, kinds: tuple[Any, Any], dtype: torch.dtype) -> Any:
    """A model as a configuration describes it, on the device ``meta``.

    Args:
        config: as transformers' class reads it.
        place: where it stands, for messages.
        kinds: transformers' classes of configuration and model.
        dtype: of the parameters.

    Raises:
        ModelError: transformers builds nothing of it.
    """
    with reading(place, "is not a configuration that can be built"), torch.device("meta"):
        return kinds[1]._from_config(kinds[0].from_dict(config), attn_implementation="sdpa", dtype=dtype)


def take_generation(model: Any, folder: Path) -> None:
    """Let a model end its answers as a folder's generation settings say, where it has some.

    Raises:
        ModelError: they cannot be read.
    """
    place = folder / "generation_config.json"
    if place.is_file():
        stated = {name: value for name, value in read_json(place, "model").items() if name not in NOT_GREEDY}
        with reading(place, "is no generation configuration"):
            model.generation_config = GenerationConfig.from_dict(stated)


def make_parameters(model: Any, dtype: torch.dtype, device: str, away: Collection[int]) -> None:
    """Give a model that was built without memory its parameters, which hold nothing yet, and its buffers.

    Args:
        model: transformers' model on the device ``meta``.
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
    _compute_buffers(model, device)


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


def _compute_buffers(model: Any, device: str) -> None:
    """What no file holds: rotary frequencies, and the numbers of a vision tower's patches."""
    for module in list(model.modules()):
        for name, part in module.named_children():
            if "inv_freq" in part._buffers:
                setattr(module, name, type(part)(part.config).to(device))
        if isinstance(ids := getattr(module, "position_ids", None), Tensor) and ids.is_meta:
            module.position_ids = torch.arange(ids.shape[-1], device=device)[None]
    left = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    assert not left, f"no file holds {left}, and nobody computed it"


@torch.no_grad()
def fill(model: Any, tensors: Iterable[tuple[str, Tensor]], targets: dict[str, Tensor], tied: bool) -> None:
    """Copy tensors to where the model has them, each converted on the way; what is left over was found harmless.

    Args:
        model: as ``make_parameters`` left it.
        tensors: by the model's name; a later one of the same name counts.
        targets: where they go.
        tied: whether the embeddings are the head where no file holds one.
    """
    missing = set(targets)
    for name, tensor in tensors:
        if (target := targets.get(name)) is not None:
            assert target.shape == tensor.shape, f"{name}: {target.shape}, not as described"
            target.copy_(tensor)
            missing.discard(name)
    if tied and HEAD in missing:
        model.lm_head.weight = model.model.language_model.embed_tokens.weight
        missing.discard(HEAD)
    assert not missing, f"not described, but built: {min(missing)}"
