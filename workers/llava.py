"""The one file that knows how transformers builds LLaVA: image features, decoder layers, rotary positions, head.

Everything works on packed rows: a (R, D) matrix in which the tokens of many sequences lie one after another, so that
each linear layer is one matrix product. Who may attend to whom is decided elsewhere (``streams.py``).

Shape letters: see ``strategies/view.py``; here also E head width, G key-value heads, C vocabulary, P pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import LlavaForConditionalGeneration

from workers.models import ModelError

Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenised prompt whose image placeholder is one id."""

    ids: tuple[int, ...]
    image_at: int | None  # index of the placeholder in ``ids``; None: a text-only prompt

    def length(self, visual: int) -> int:
        """Tokens once the placeholder stands for ``visual`` image tokens."""
        return len(self.ids) if self.image_at is None else len(self.ids) - 1 + visual


class Llava:
    """A loaded checkpoint: model, tokenizer and image processor, with the few operations the engine needs."""

    def __init__(self, model: LlavaForConditionalGeneration, tokenizer: Any, image_processor: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        text = model.config.text_config
        windowed = getattr(text, "use_sliding_window", True)
        self.window: int | None = getattr(text, "sliding_window", None) if windowed else None
        self.decoder = model.model.language_model
        self.layers = [FusedLayer.of(layer) for layer in self.decoder.layers]
        attention = self.decoder.layers[0].self_attn
        self.head_dim: int = attention.head_dim
        self.heads: int = text.num_attention_heads
        self.kv_heads: int = text.num_key_value_heads
        self.scale: float = attention.scaling
        self.image_token: int = model.config.image_token_id
        self.end_tokens = _end_tokens(model, tokenizer)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def encode(self, prompt: str) -> Prompt:
        """Tokenise a prompt with at most one ``<image>`` marker.

        Raises:
            ModelError: the tokenizer does not turn the marker into the model's image token.
        """
        ids = tuple(self.tokenizer(prompt)["input_ids"])
        places = [place for place, token in enumerate(ids) if token == self.image_token]
        if len(places) != prompt.count("<image>"):
            raise ModelError(
                f"the tokenizer gives {len(places)} image tokens (id {self.image_token}) for {prompt.count('<image>')} "
                "<image> markers; the checkpoint's tokenizer does not belong to its model"
            )
        if len(places) > 1:
            raise ModelError(f"the prompt has {len(places)} images; one is supported")
        return Prompt(ids, places[0] if places else None)

    def letter_tokens(self, letters: str) -> list[int]:
        """The id with which the model begins an answer that is one of the letters."""
        return [self.tokenizer(f"ASSISTANT: {letter}", add_special_tokens=False)["input_ids"][-1] for letter in letters]

    def image_features(self, pixels_BPP: Tensor) -> Tensor:
        """Vision tower and projector: (B, 3, side, side) -> (B, V, D), in the model's dtype."""
        pixels = pixels_BPP.to(self.device, self.model.dtype)
        return torch.stack(list(self.model.model.get_image_features(pixel_values=pixels).pooler_output))

    def embed(self, ids_R: Tensor) -> Tensor:
        """(R,) token ids -> (R, D)."""
        return self.decoder.embed_tokens(ids_R)

    def rotary(self, positions_R: Tensor) -> Rotary:
        """Cosines and sines, each (R, 1, E), for the rows' position ids."""
        probe = torch.empty(0, dtype=self.model.dtype, device=self.device)
        cos, sin = self.decoder.rotary_emb(probe, positions_R[None])
        return cos[0, :, None], sin[0, :, None]

    def attention_inputs(self, layer: int, hidden_RD: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (R, H, E), keys and values (R, G, E) of a layer, positions applied."""
        fused = self.layers[layer]
        normed_RD = fused.module.input_layernorm(hidden_RD)
        heads = linear(normed_RD, fused.qkv, fused.qkv_bias).unflatten(-1, (-1, self.head_dim))
        query_RHE, key_RGE, value_RGE = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        return _rotated(query_RHE, rotary), _rotated(key_RGE, rotary), value_RGE.contiguous()

    def last_layer_inputs(self, hidden_RD: Tensor, rotary: Rotary, last_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``attention_inputs`` of the last layer, with queries (N, H, E) of some rows only: no other is needed."""
        fused = self.layers[-1]
        normed_RD = fused.module.input_layernorm(hidden_RD)
        split = self.heads * self.head_dim
        q_bias, kv_bias = (None, None) if fused.qkv_bias is None else fused.qkv_bias.tensor_split((split,))
        query_NHE = linear(normed_RD[last_N], fused.qkv[:split], q_bias).unflatten(-1, (-1, self.head_dim))
        heads = linear(normed_RD, fused.qkv[split:], kv_bias).unflatten(-1, (-1, self.head_dim))
        key_RGE, value_RGE = heads.split((self.kv_heads, self.kv_heads), dim=1)
        cos, sin = rotary
        last = (cos[last_N], sin[last_N])
        return _rotated(query_NHE, last), _rotated(key_RGE, rotary), value_RGE.contiguous()

    def finish_layer(self, layer: int, hidden_RD: Tensor, attended_RHE: Tensor) -> Tensor:
        """Output projection, residuals and feed-forward: the layer's output (R, D)."""
        fused = self.layers[layer]
        hidden_RD = hidden_RD + self.attention_output(layer, attended_RHE)
        mlp = fused.module.mlp
        gate_RF, up_RF = linear(
            fused.module.post_attention_layernorm(hidden_RD), fused.gate_up, fused.gate_up_bias
        ).chunk(2, dim=-1)
        return hidden_RD + mlp.down_proj(mlp.act_fn(gate_RF) * up_RF)

    def attention_output(self, layer: int, attended_RHE: Tensor) -> Tensor:
        """Output projection of a layer's attention, before the residual: (R, D)."""
        return self.layers[layer].module.self_attn.o_proj(attended_RHE.flatten(-2))

    def final_norm(self, hidden_RD: Tensor) -> Tensor:
        """The norm between the last layer and the head."""
        return self.decoder.norm(hidden_RD)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Final norm and head: (R, D) -> (R, C) float32."""
        return self.model.lm_head(self.final_norm(hidden_RD)).float()


@dataclass(frozen=True, slots=True, eq=False)
class FusedLayer:
    """A decoder layer whose projections of the same input lie in one matrix: one product instead of two or three.

    The layer's own modules become views of it: nothing is held twice, and the model still runs as transformers runs it.
    """

    module: Any
    qkv: Tensor
    qkv_bias: Tensor | None
    gate_up: Tensor
    gate_up_bias: Tensor | None

    @classmethod
    def of(cls, module: Any) -> FusedLayer:
        attention, mlp = module.self_attn, module.mlp
        qkv = _fuse((attention.q_proj, attention.k_proj, attention.v_proj))
        return cls(module, *qkv, *_fuse((mlp.gate_proj, mlp.up_proj)))


def _fuse(parts: tuple[nn.Linear, ...]) -> tuple[Tensor, Tensor | None]:
    """One matrix (and bias) for several linear layers, which become views of it."""
    sizes = [part.out_features for part in parts]
    weight = torch.cat([part.weight.data for part in parts])
    for part, view in zip(parts, weight.split(sizes), strict=True):
        part.weight = nn.Parameter(view, requires_grad=False)
    if parts[0].bias is None:
        return weight, None
    bias = torch.cat([part.bias.data for part in parts])
    for part, view in zip(parts, bias.split(sizes), strict=True):
        part.bias = nn.Parameter(view, requires_grad=False)
    return weight, bias


def _rotated(rows: Tensor, rotary: Rotary) -> Tensor:
    """Apply rotary positions to (R, heads, E)."""
    cos, sin = rotary
    first, second = rows.chunk(2, dim=-1)
    return rows * cos + torch.cat((-second, first), dim=-1) * sin


def _end_tokens(model: LlavaForConditionalGeneration, tokenizer: Any) -> frozenset[int]:
    """The ids that end an answer: as ``generate`` would take them, else the tokenizer's."""
    end = model.generation_config.eos_token_id if model.generation_config is not None else None
    end = end if end is not None else tokenizer.eos_token_id
    if end is None:
        raise ModelError("neither generation_config.json nor the tokenizer names an end-of-sequence token")
    return frozenset(end if isinstance(end, list) else [end])
