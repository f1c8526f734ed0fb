"""A decoder over packed rows: a (R, D) matrix in which the tokens of many sequences lie one after another.

So each linear layer is one matrix product. Who may attend to whom is decided elsewhere (``sequences.py``). This file
and the families know how transformers builds a decoder: norm, queries, keys, values and output, norm, gate, up, down.

Shape letters: see ``strategies/view.py``; here also E head width, G key-value heads, C vocabulary, P rows of positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from workers.families.config import ModelError
from workers.kernels import gated_silu, rms_norm, rotate

Rotary = tuple[Tensor, Tensor]


class Decoder:
    """The language model of a loaded model, layer by layer."""

    def __init__(self, module: Any, head: nn.Module) -> None:
        """Fuse the projections of each layer.

        Args:
            module: transformers' language model: ``embed_tokens``, ``layers``, ``norm``, ``rotary_emb``, ``config``.
            head: from hidden states to logits.

        Raises:
            ModelError: its feed-forward is of another kind.
        """
        text = module.config
        if text.hidden_act != "silu":
            raise ModelError(f"text_config.hidden_act: '{text.hidden_act}' is not supported (silu)")
        self.module = module
        self.head = head
        self.layers = [FusedLayer.of(layer) for layer in module.layers]
        attention = module.layers[0].self_attn
        self.head_dim: int = attention.head_dim
        self.heads: int = text.num_attention_heads
        self.kv_heads: int = text.num_key_value_heads
        self.scale: float = attention.scaling
        windowed = getattr(text, "use_sliding_window", True)
        self.window: int | None = getattr(text, "sliding_window", None) if windowed else None

    @property
    def device(self) -> torch.device:
        device: torch.device = self.module.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.module.dtype
        return dtype

    def embed(self, ids_R: Tensor) -> Tensor:
        """(R,) token ids -> (R, D)."""
        rows_RD: Tensor = self.module.embed_tokens(ids_R)
        return rows_RD

    def rotary(self, positions_PR: Tensor) -> Rotary:
        """Cosines and sines, each (R, 1, E), for the rows' position ids; P is 1 or 3."""
        probe = torch.empty(0, dtype=self.dtype, device=self.device)
        placed = positions_PR if len(positions_PR) == 1 else positions_PR[:, None]
        cos, sin = self.module.rotary_emb(probe, placed)
        return cos[0, :, None], sin[0, :, None]

    def keys_and_values(self, layer: int, normed_RD: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Keys, positions applied, and values (R, G, E) of a layer's normed input, in one buffer for the cache."""
        fused = self.layers[layer]
        heads = linear(normed_RD, fused.kv, fused.kv_bias).unflatten(-1, (-1, self.head_dim))
        key_RGE, value_RGE = heads.split((self.kv_heads, self.kv_heads), dim=1)
        return rotate(key_RGE, *rotary), value_RGE

    def queries(self, layer: int, normed_RD: Tensor, rotary: Rotary) -> Tensor:
        """Queries (R, H, E) of a layer's normed input, positions applied."""
        return rotate(self.layers[layer].module.self_attn.q_proj(normed_RD).unflatten(-1, (-1, self.head_dim)), *rotary)

    def attention_norm(self, layer: int, hidden_RD: Tensor) -> Tensor:
        """The norm before a layer's attention."""
        return _norm(self.layers[layer].module.input_layernorm, hidden_RD)

    def attention_inputs(self, layer: int, hidden_RD: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (R, H, E), keys and values (R, G, E) of a layer, positions applied."""
        normed_RD = self.attention_norm(layer, hidden_RD)
        return self.queries(layer, normed_RD, rotary), *self.keys_and_values(layer, normed_RD, rotary)

    def finish_layer(self, layer: int, hidden_RD: Tensor, attended_RHE: Tensor) -> Tensor:
        """Output projection, residuals and feed-forward. Overwrites ``hidden_RD`` with the layer's output (R, D)."""
        fused = self.layers[layer]
        attention, mlp = fused.module.self_attn, fused.module.mlp
        _add_linear(hidden_RD, attended_RHE.flatten(-2), attention.o_proj)
        gate_up_RF = linear(_norm(fused.module.post_attention_layernorm, hidden_RD), fused.gate_up, fused.gate_up_bias)
        _add_linear(hidden_RD, gated_silu(gate_up_RF), mlp.down_proj)
        return hidden_RD

    def attention_output(self, layer: int, attended_RHE: Tensor) -> Tensor:
        """Output projection of a layer's attention, before the residual: (R, D)."""
        return self.layers[layer].module.self_attn.o_proj(attended_RHE.flatten(-2))

    def final_norm(self, hidden_RD: Tensor) -> Tensor:
        """The norm between the last layer and the head."""
        return _norm(self.module.norm, hidden_RD)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Final norm and head: (R, D) -> (R, C) float32."""
        logits_RC: Tensor = self.head(self.final_norm(hidden_RD)).float()
        return logits_RC


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

    @classmethod
    def of(cls, module: Any) -> FusedLayer:
        attention, mlp = module.self_attn, module.mlp
        kv = _fuse((attention.k_proj, attention.v_proj))
        return cls(module, *kv, *_fuse((mlp.gate_proj, mlp.up_proj)))


def _norm(module: Any, rows_RD: Tensor) -> Tensor:
    return rms_norm(rows_RD, module.weight, module.variance_epsilon)


def _add_linear(residual_RD: Tensor, rows: Tensor, module: nn.Linear) -> None:
    """residual += module(rows), the sum inside the matrix product."""
    residual_RD.addmm_(rows, module.weight.T)
    if module.bias is not None:
        residual_RD += module.bias


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
