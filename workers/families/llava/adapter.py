"""LoRA adapters, merged into the weights while these are read: W + scale * B A.

Sources: Hu et al., LoRA, arXiv:2106.09685; huggingface/peft, src/peft/tuners/lora (scale, patterns, names);
haotian-liu/LLaVA, llava/model/builder.py (``non_lora_trainables.bin`` and ``mm_projector.bin`` beside or instead).
We differ in one point: the sum is taken in float32 and rounded once, where LLaVA adds in float16.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from workers.checkpoints.files import ADAPTER
from workers.checkpoints.settings import read_json
from workers.checkpoints.tensors import Outline, stored_tensors
from workers.families.config import ModelError
from workers.families.llava.names import model_name

_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(\.default)?\.weight")
_WRAPPER = "base_model.model."  # that peft puts around a model
GATHER = "if it was trained with ZeRO-3, gather its tensors and save it again"

Stored = TypeVar("Stored")  # a tensor, or its outline


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """A change of one weight (O, I): scale * up_OR @ down_RI."""

    up_OR: Tensor
    down_RI: Tensor
    scale: float

    def added_to(self, weight_OI: Tensor, device: str) -> Tensor:
        """The changed weight, float32 on ``device``."""
        up_OR, down_RI = self.up_OR.to(device, torch.float32), self.down_RI.to(device, torch.float32)
        return torch.addmm(weight_OI.to(device, torch.float32), up_OR, down_RI, alpha=self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """Changes of a model's tensors, by the model's names."""

    replaced: dict[str, Tensor]
    low_rank: dict[str, LowRank]

    def applied(self, tensors: Iterable[tuple[str, Tensor]], device: str) -> Iterator[tuple[str, Tensor]]:
        """The model's tensors with the changes; what has none passes untouched."""
        left = dict(self.low_rank)
        for name, tensor in tensors:
            if name in self.replaced:
                continue
            if (change := left.pop(name, None)) is None:
                yield name, tensor
                continue
            yield name, change.added_to(tensor, device)
        assert not left, f"check_pairs lets pass what is not in the base: {min(left)}"
        yield from self.replaced.items()


def sorted_out(
    files: Iterable[tuple[Path, Iterable[tuple[str, Stored]]]],
) -> tuple[dict[str, dict[str, Stored]], dict[str, Stored]]:
    """Halves A and B of each low-rank change by its module, and tensors that replace the base's by the model's name.

    Args:
        files: of an adapter, each with what it holds.

    Raises:
        ModelError: a file holds nothing that changes a model, or a kind of change that is not a plain LoRA.
    """
    pairs: dict[str, dict[str, Stored]] = defaultdict(dict)
    replaced: dict[str, Stored] = {}
    for file, held in files:
        before = len(pairs) + len(replaced)
        for stored, tensor in held:
            bare = stored.removeprefix(_WRAPPER)
            if match := _LORA.fullmatch(bare):
                pairs[match["module"]][match["part"]] = tensor
            elif "lora_" in bare:
                raise ModelError(f"{file}: {stored}: is not a plain LoRA of a linear layer, and not supported")
            elif name := model_name(bare):
                replaced[name] = tensor
        if len(pairs) + len(replaced) == before or (file.stem == ADAPTER and not pairs):
            raise ModelError(f"{file}: holds no tensors that change a model; {GATHER}")
    return pairs, replaced


def check_pairs(pairs: Mapping[str, Mapping[str, Outline]], base: Mapping[str, Outline], folder: Path) -> None:
    """Check that low-rank changes are whole, change something, and fit the base.

    Args:
        pairs: as ``sorted_out`` gives them.
        base: the base's tensors by the model's name.
        folder: of the adapter, for messages.

    Raises:
        ModelError: half of a pair is missing, a shape is none of a change, or the base has no such weight.
    """
    where = f"model {folder}: {ADAPTER}"
    for module, pair in pairs.items():
        name = _weight(module)
        if set(pair) != {"A", "B"}:
            raise ModelError(f"{where}: {module} has only one of lora_A and lora_B")
        for part, outline in pair.items():
            if len(outline.shape) != 2 or 0 in outline.shape:
                raise ModelError(f"{where}: {name}: lora_{part} has shape {list(outline.shape)}; {GATHER}")
        down, up = pair["A"].shape, pair["B"].shape
        if down[0] != up[1]:
            raise ModelError(f"{where}: {name}: lora_A has rank {down[0]}, lora_B {up[1]}")
        if name in base and base[name].shape != (up[0], down[1]):
            shapes = f"changes a {[up[0], down[1]]} weight, the base's is {list(base[name].shape)}"
            raise ModelError(f"{where}: {name}: {shapes}; it was trained on another base")
    if left := set(map(_weight, pairs)) - base.keys():
        raise ModelError(f"{where}: {len(left)} of its weights are not in the base model; first: {min(left)}")


def read_adapter(folder: Path, files: Iterable[Path]) -> Adapter:
    """Read an adapter's files.

    Args:
        folder: with ``adapter_config.json``, where there is a low-rank part.
        files: as ``Checkpoint.extras`` lists them, checked.

    Raises:
        ModelError: it is of a kind that is not a plain LoRA.
    """
    pairs, replaced = sorted_out((file, stored_tensors((file,))) for file in files)
    config = adapter_config(folder) if pairs else {}
    low_rank = {
        _weight(module): LowRank(pair["B"], pair["A"], _scale(config, module, rank=pair["A"].shape[0]))
        for module, pair in pairs.items()
    }
    return Adapter(replaced, low_rank)


def adapter_config(folder: Path) -> dict[str, Any]:
    """The settings of a low-rank adapter.

    Raises:
        ModelError: it is of another kind, or a setting is malformed.
    """
    place = folder / "adapter_config.json"
    config = read_json(place, "adapter")
    kind = "DoRA" if config.get("use_dora") else config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ModelError(f"{place}: peft_type: {kind} is not supported (LORA)")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ModelError(f"{place}: alpha_pattern: is not an object")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ModelError(f"{place}: alpha_pattern: {pattern[:40]!r} is not a pattern: {error}") from error
    for name, value in (("lora_alpha", config.get("lora_alpha")), *patterns.items()):
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ModelError(f"{place}: {name}: {repr(value)[:40]} is not a number")
    return config


def _weight(module: str) -> str:
    """The model's name of what a low-rank change of a module changes."""
    name = model_name(f"{module}.weight")
    assert name is not None
    return name


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) where rank-stabilised; a pattern names the end of a module's name."""
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
