"""LoRA adapters, merged into the weights while these are read: W + scale * B A.

Sources: Hu et al., LoRA, arXiv:2106.09685; huggingface/peft, src/peft/tuners/lora (scale, patterns, names);
haotian-liu/LLaVA, llava/model/builder.py (``non_lora_trainables.bin`` and ``mm_projector.bin`` beside or instead).
We differ in one point: the sum is taken in float32 and rounded once, where LLaVA adds in float16.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workers.checkpoints.files import ADAPTER
from workers.checkpoints.layout import read_json
from workers.checkpoints.names import model_name
from workers.checkpoints.tensors import stored_tensors
from workers.models import ModelError

_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(\.default)?\.weight")
_WRAPPER = "base_model.model."  # that peft puts around a model


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
        """The model's tensors with the changes; what has none passes untouched.

        Raises:
            ModelError: a change is of a tensor that did not come by, or has another shape.
        """
        left = dict(self.low_rank)
        for name, tensor in tensors:
            if name in self.replaced:
                continue
            if (change := left.pop(name, None)) is None:
                yield name, tensor
                continue
            shape = [change.up_OR.shape[0], change.down_RI.shape[1]]
            if list(tensor.shape) != shape:
                raise ModelError(f"adapter: {name}: changes a {shape} weight, the base's is {list(tensor.shape)}")
            yield name, change.added_to(tensor, device)
        if left:
            raise ModelError(f"adapter: {len(left)} of its weights are not in the base model; first: {min(left)}")
        yield from self.replaced.items()


def read_adapter(folder: Path, files: Iterable[Path]) -> Adapter:
    """Read an adapter's files.

    Args:
        folder: with ``adapter_config.json``, where there is a low-rank part.
        files: as ``Checkpoint.extras`` lists them.

    Raises:
        ModelError: it is of a kind that is not a plain LoRA, or half of a pair is missing.
    """
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)
    replaced: dict[str, Tensor] = {}
    low_rank: dict[str, LowRank] = {}
    for file in files:
        for stored, tensor in stored_tensors((file,)):
            bare = stored.removeprefix(_WRAPPER)
            if match := _LORA.fullmatch(bare):
                pairs[match["module"]][match["part"]] = tensor
            elif "lora_" in bare:
                raise ModelError(f"{file}: {stored}: is not a plain LoRA of a linear layer, and not supported")
            elif name := model_name(bare):
                replaced[name] = tensor
    if pairs:
        config = read_json(folder / "adapter_config.json", "adapter")
        _check(config, folder)
        for module, pair in pairs.items():
            if set(pair) != {"A", "B"}:
                raise ModelError(f"model {folder}: {ADAPTER}: {module} has only one of lora_A and lora_B")
            name = model_name(f"{module}.weight")
            assert name is not None
            low_rank[name] = LowRank(pair["B"], pair["A"], _scale(config, module, rank=pair["A"].shape[0]))
    return Adapter(replaced, low_rank)


def _check(config: dict[str, Any], folder: Path) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA" or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else kind
        raise ModelError(f"{folder / 'adapter_config.json'}: peft_type: {kind} is not supported (LORA)")
    if not isinstance(config.get("lora_alpha"), int | float):
        raise ModelError(f"{folder / 'adapter_config.json'}: lora_alpha: {config.get('lora_alpha')!r} is not a number")


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) where rank-stabilised; a pattern names the end of a module's name."""
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
