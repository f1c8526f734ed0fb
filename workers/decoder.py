"""A decoder over packed rows: a (R, D) matrix in which the tokens of many sequences lie one after another.

So each linear layer is one matrix product. Who may attend to whom is decided elsewhere (``sequences.py``). This file
and the families know how transformers builds a decoder: norm, queries, keys, values and output, norm, gate, up, down;
some kinds have a norm of each head's queries and keys too, which comes before positions are applied.

Shape letters: see ``strategies/view.py``; here also E head width, G key-value heads, C vocabulary, P rows of positions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from workers.families.config import ModelError
from workers.kernels import gated_silu, rms_norm, rotate
from workers.offload import Layers
from workers.turn_table import BY_POSITION_ALONE, TurnTable

Rotary = tuple[Tensor, Tensor]
Given = tuple[Tensor, Tensor]  # keys and values (P, G, E) of rows that ran earlier
FEED_FORWARD_ROWS = 16_384  # enough to fill a chip; more only take memory


class Decoder:
    """The language model of a loaded model, layer by layer."""

    def __init__(self, module: Any, head: nn.Module, away: Iterable[int] = ()) -> None:
        """Fuse the projections of each layer.

        Args:
            module: transformers' language model: ``embed_tokens``, ``layers``, ``norm``, ``rotary_emb``, ``config``.
            head: from hidden states to logits.
            away: layers whose parameters lie in host memory.

        Raises:
            ModelError: its feed-forward is of another kind.
        """
        text = module.config
        if text.hidden_act != "silu":
            raise ModelError(f"text_config.hidden_act: '{text.hidden_act}' is not supported (silu)")
        self.module = module
        self.head = head
        self.layers = Layers(module.layers, away, module.device)
        attention = module.layers[0].self_attn
        self.head_dim: int = attention.head_dim
        self.heads: int = text.num_attention_heads
        self.kv_heads: int = text.num_key_value_heads
        self.scale: float = attention.scaling
        windowed = getattr(text, "use_sliding_window", True)
        self.window: int | None = getattr(text, "sliding_window", None) if windowed else None
        kind = getattr(module.rotary_emb, "rope_type", None)
        self._turns = TurnTable(self._turned) if kind in BY_POSITION_ALONE else None

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

    def rotary(self, positions_PR: Tensor, below: int | None = None) -> Rotary:
        """Cosines and sines, each (R, 1, E), for the rows' position ids; P is 1 or 3.

        Args:
            positions_PR: of the rows.
            below: an id that none of them reaches, where the host knows one: a table has them then.
        """
        if self._turns is None or below is None or len(positions_PR) > 1 or not positions_PR.is_cuda:
            return self._turned(positions_PR)
        cos, sin = self._turns.up_to(below, positions_PR.device)
        return cos[positions_PR[0]], sin[positions_PR[0]]

    def _turned(self, positions_PR: Tensor) -> Rotary:
        probe = torch.empty(0, dtype=self.dtype, device=self.device)
        placed = positions_PR if len(positions_PR) == 1 else positions_PR[:, None]
        cos, sin = self.module.rotary_emb(probe, placed)
        return cos[0, :, None], sin[0, :, None]

    def keys_and_values(
        self, layer: int, normed_RD: Tensor, rotary: Rotary, given: Given | None = None
    ) -> tuple[Tensor, Tensor]:
        """Keys, positions applied, and values of a layer's normed input, in one buffer for the cache.

        Args:
            layer: whose.
            normed_RD: (R, D).
            rotary: of these rows.
            given: keys and values (P, G, E) that come before them.

        Returns:
            (P + R, G, E) each.
        """
        fused = self.layers[layer]
        if given is None:
            heads = linear(normed_RD, fused.kv, fused.kv_bias).unflatten(-1, (-1, self.head_dim))
            key_RGE, value_RGE = heads.split((self.kv_heads, self.kv_heads), dim=1)
            turned = rotate(_head_norm(fused.k_norm, key_RGE), *rotary)
            return turned if fused.k_norm is None else key_RGE.copy_(turned), value_RGE
        before = given[0].shape[0]
        rows = normed_RD.new_empty(before + normed_RD.shape[0], fused.kv.shape[0])
        torch.mm(normed_RD, fused.kv.T, out=rows[before:])
        if fused.kv_bias is not None:
            rows[before:] += fused.kv_bias
        keys, values = rows.unflatten(-1, (-1, self.head_dim)).split((self.kv_heads, self.kv_heads), dim=1)
        keys[:before], values[:before] = given
        own = keys[before:]
        turned = rotate(_head_norm(fused.k_norm, own), *rotary)
        if turned is not own:
            own.copy_(turned)
        return keys, values

    def queries(self, layer: int, normed_RD: Tensor, rotary: Rotary) -> Tensor:
        """Queries (R, H, E) of a layer's normed input, positions applied."""
        fused = self.layers[layer]
        query_RHE = fused.module.self_attn.q_proj(normed_RD).unflatten(-1, (-1, self.head_dim))
        return rotate(_head_norm(fused.q_norm, query_RHE), *rotary)

    def keys(self, layer: int, normed_RD: Tensor, rotary: Rotary) -> Tensor:
        """Keys (R, G, E) of a layer's normed input alone, positions applied."""
        fused = self.layers[layer]
        key_RGE = fused.module.self_attn.k_proj(normed_RD).unflatten(-1, (-1, self.head_dim))
        return rotate(_head_norm(fused.k_norm, key_RGE), *rotary)

    def attention_norm(self, layer: int, hidden_RD: Tensor) -> Tensor:
        """The norm before a layer's attention."""
        return _norm(self.layers[layer].module.input_layernorm, hidden_RD)

    def attention_inputs(
        self, layer: int, hidden_RD: Tensor, rotary: Rotary, given: Given | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (R, H, E), keys and values of a layer, positions applied; see ``keys_and_values``."""
        normed_RD = self.attention_norm(layer, hidden_RD)
        return self.queries(layer, normed_RD, rotary), *self.keys_and_values(layer, normed_RD, rotary, given)

    def finish_layer(
        self, layer: int, hidden_RD: Tensor, attended_RHE: Tensor, piece: int = FEED_FORWARD_ROWS
    ) -> Tensor:
        """Output projection, residuals and feed-forward. Overwrites ``hidden_RD`` with the layer's output (R, D).

        The feed-forward, several times as wide as everything else, takes ``piece`` rows at a time.
        """
        fused = self.layers[layer]
        attention, mlp = fused.module.self_attn, fused.module.mlp
        _add_linear(hidden_RD, attended_RHE.flatten(-2), attention.o_proj)
        for rows_RD in hidden_RD.split(piece):
            normed_RD = _norm(fused.module.post_attention_layernorm, rows_RD)
            gate_up_RF = linear(normed_RD, fused.gate_up, fused.gate_up_bias)
            _add_linear(rows_RD, gated_silu(gate_up_RF), mlp.down_proj)
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


def _norm(module: Any, rows_RD: Tensor) -> Tensor:
    return rms_norm(rows_RD, module.weight, module.variance_epsilon)


def _head_norm(module: Any, rows_RHE: Tensor) -> Tensor:
    """The norm of each head's queries or keys, where there is one."""
    return rows_RHE if module is None else _norm(module, rows_RHE)


def _add_linear(residual_RD: Tensor, rows: Tensor, module: nn.Linear) -> None:
    """residual += module(rows), the sum inside the matrix product."""
    residual_RD.addmm_(rows, module.weight.T)
    if module.bias is not None:
        residual_RD += module.bias
