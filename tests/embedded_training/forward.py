"""The small LLaVA's forward pass in plain tensor functions over a checkpoint's own weights.

Training needs attention that packs many questions behind one image, and the layer curves need to look at attention
rows and to hide visual tokens half-way up; transformers' forward offers neither. The weights stay in transformers'
modules, so what is trained here is what ``from_pretrained`` runs; tests/test_workers_embedded.py compares the two.

Shapes: B rows, S positions, V visual tokens, D decoder width, C tower width, H heads, G key-value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q_BHSE, k_BGSE, v_BGSE -> BHSE


class LayerWeights(NamedTuple):
    """One decoder layer's parameters, as transformers names them."""

    input_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    mlp_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


class TowerWeights(NamedTuple):
    """One tower layer's parameters: each linear or norm as (weight, bias)."""

    norm1: tuple[Tensor, Tensor]
    q: tuple[Tensor, Tensor]
    k: tuple[Tensor, Tensor]
    v: tuple[Tensor, Tensor]
    o: tuple[Tensor, Tensor]
    norm2: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]


def layer_weights(model: LlavaForConditionalGeneration) -> list[LayerWeights]:
    text: Any = model.model.language_model
    return [
        LayerWeights(
            layer.input_layernorm.weight,
            layer.self_attn.q_proj.weight,
            layer.self_attn.k_proj.weight,
            layer.self_attn.v_proj.weight,
            layer.self_attn.o_proj.weight,
            layer.post_attention_layernorm.weight,
            layer.mlp.gate_proj.weight,
            layer.mlp.up_proj.weight,
            layer.mlp.down_proj.weight,
        )
        for layer in text.layers
    ]


def tower_weights(model: LlavaForConditionalGeneration) -> list[TowerWeights]:
    """The layers that ``vision_feature_layer`` -2 reaches: all but the last."""

    def pair(module: Any) -> tuple[Tensor, Tensor]:
        return module.weight, module.bias

    tower: Any = model.model.vision_tower
    return [
        TowerWeights(
            pair(layer.layer_norm1),
            pair(layer.self_attn.q_proj),
            pair(layer.self_attn.k_proj),
            pair(layer.self_attn.v_proj),
            pair(layer.self_attn.out_proj),
            pair(layer.layer_norm2),
            pair(layer.mlp.fc1),
            pair(layer.mlp.fc2),
        )
        for layer in tower.encoder.layers[:-1]
    ]


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * weight.to(x.dtype)


def rotary(positions_BS: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, (B, 1, S, width) float32, in Llama's half-split layout."""
    step = torch.arange(0, width, 2, device=positions_BS.device, dtype=torch.float32) / width
    angle = positions_BS[:, None, :, None].float() * theta**-step
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-right, left), dim=-1) * sin).to(x.dtype)


def decoder_layer(hidden_BSD: Tensor, cos: Tensor, sin: Tensor, weights: LayerWeights, attend: Attend) -> Tensor:
    """One Llama layer; computes in the dtype of ``hidden_BSD``, whatever the weights' dtype."""
    w = LayerWeights(*(weight.to(hidden_BSD.dtype) for weight in weights))
    rows, length, _ = hidden_BSD.shape
    width = cos.shape[-1]
    x = rms_norm(hidden_BSD, w.input_norm)
    q, k, v = (F.linear(x, part).view(rows, length, -1, width).transpose(1, 2) for part in (w.q, w.k, w.v))
    out = attend(_turn(q, cos, sin), _turn(k, cos, sin), v)
    hidden_BSD = hidden_BSD + F.linear(out.transpose(1, 2).reshape(rows, length, -1), w.o)
    x = rms_norm(hidden_BSD, w.mlp_norm)
    return hidden_BSD + F.linear(F.silu(F.linear(x, w.gate)) * F.linear(x, w.up), w.down)


def tower_layer(x_BVC: Tensor, weights: TowerWeights, heads: int) -> Tensor:
    """One CLIP layer (pre-norm, quick GELU), all tokens seeing all."""
    w = TowerWeights(*((weight.to(x_BVC.dtype), bias.to(x_BVC.dtype)) for weight, bias in weights))
    rows, length, width = x_BVC.shape
    y = F.layer_norm(x_BVC, (width,), *w.norm1, 1e-5)
    q, k, v = (F.linear(y, *part).view(rows, length, heads, -1).transpose(1, 2) for part in (w.q, w.k, w.v))
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, length, width)
    x_BVC = x_BVC + F.linear(y, *w.o)
    y = F.linear(F.layer_norm(x_BVC, (width,), *w.norm2, 1e-5), *w.up)
    return x_BVC + F.linear(y * torch.sigmoid(1.702 * y), *w.down)


def visual_tokens(
    model: LlavaForConditionalGeneration,
    pixels_BCYX: Tensor,
    layer: Callable[[Tensor, TowerWeights, int], Tensor] = tower_layer,
) -> Tensor:
    """Projected image tokens.

    Args:
        model: The small LLaVA.
        pixels_BCYX: (B, 3, 336, 336), normalised; its dtype is the dtype of the computation.
        layer: ``tower_layer`` or a compiled form of it.

    Returns:
        (B, 576, D), raster order.
    """
    tower: Any = model.model.vision_tower
    projector: Any = model.model.multi_modal_projector
    dtype = pixels_BCYX.dtype
    size = tower.config.patch_size
    kernel = tower.embeddings.patch_embedding.weight
    rows, colours, height, width = pixels_BCYX.shape
    # The patches do not overlap, so the convolution is a matrix product over (colour, y, x).
    x = pixels_BCYX.view(rows, colours, height // size, size, width // size, size).permute(0, 2, 4, 1, 3, 5)
    x = F.linear(x.reshape(rows, -1, kernel[0].numel()), kernel.flatten(1).to(dtype))
    first = tower.embeddings.class_embedding.to(dtype).expand(rows, 1, -1)
    x = torch.cat((first, x), dim=1) + tower.embeddings.position_embedding.weight.to(dtype)
    norm = tower.pre_layrnorm
    x = F.layer_norm(x, x.shape[-1:], norm.weight.to(dtype), norm.bias.to(dtype), 1e-5)
    for weights in tower_weights(model):
        x = layer(x, weights, tower.config.num_attention_heads)
    into, out = projector.linear_1, projector.linear_2
    x = F.gelu(F.linear(x[:, 1:], into.weight.to(dtype), into.bias.to(dtype)))
    return F.linear(x, out.weight.to(dtype), out.bias.to(dtype))


def letter_logits(model: LlavaForConditionalGeneration, hidden: Tensor) -> Tensor:
    """Final norm and head: (..., D) -> (..., vocabulary), float32."""
    text: Any = model.model.language_model
    x = rms_norm(hidden, text.norm.weight)
    return F.linear(x, model.lm_head.weight.to(x.dtype)).float()
