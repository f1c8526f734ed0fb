"""A decoder layer whose projections of the same input are one matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class FusedLayer:
    """A decoder layer whose projections of the same input lie in one matrix: one product instead of two.

    The layer's own modules become views of it: nothing is held twice, and the model still runs as transformers runs it.
    Queries stay apart, because keys and values outlive them in the cache.
    """

    module: Any
    kv: Tensor
    kv_bias: Tensor | None
    gate_up: Tensor
    gate_up_bias: Tensor | None
    q_norm: Any  # of each head's queries, and of its keys, before they are turned; None: this kind has none
    k_norm: Any

    @classmethod
    def of(cls, module: Any) -> FusedLayer:
        attention, mlp = module.self_attn, module.mlp
        kv = _fuse((attention.k_proj, attention.v_proj))
        norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        return cls(module, *kv, *_fuse((mlp.gate_proj, mlp.up_proj)), *norms)


def _fuse(parts: tuple[nn.Linear, ...]) -> tuple[Tensor, Tensor | None]:
    """One matrix (and bias) for several linear layers, which are or become views of it."""
    weight = _one(parts, "weight")
    return weight, None if parts[0].bias is None else _one(parts, "bias")


def _one(parts: tuple[nn.Linear, ...], name: str) -> Tensor:
    """The parts' tensors as one. The loader lays them out one after another; others are copied together."""
    tensors = [getattr(part, name).data for part in parts]
    first, sizes = tensors[0], [part.shape[0] for part in tensors]
    follows = first.data_ptr()
    for tensor in tensors:
        if tensor.data_ptr() != follows or tensor.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            break
        follows += tensor.nbytes
    else:
        return first.as_strided((sum(sizes), *first.shape[1:]), first.stride())
    joined = torch.cat(tensors)
    for part, view in zip(parts, joined.split(sizes), strict=True):
        setattr(part, name, nn.Parameter(view, requires_grad=False))
    return joined
