"""The one file that knows how transformers builds LLaVA: image features, decoder layers, rotary positions, head.

Everything works on packed rows: a (R, D) matrix in which the tokens of many sequences lie one after another, so that
each linear layer is one matrix product. Who may attend to whom is decided elsewhere (``streams.py``).

Shape letters: see ``strategies/view.py``; here also E head width, G key-value heads, C vocabulary, P pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import LlavaForConditionalGeneration

from workers.checkpoints.words import rendered
from workers.kernels import gated_silu, rms_norm, rotate
from workers.models import ModelError, facts_from
from workers.streams import to_device
from workers.tasks.prompts import IMAGE_MARKER

Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenised prompt whose image placeholder is one id."""

    ids: tuple[int, ...]
    image_at: int | None  # index of the placeholder in ``ids``; None: a text-only prompt

    def length(self, visual: int) -> int:
        """Tokens once the placeholder stands for ``visual`` image tokens."""
        return len(self.ids) if self.image_at is None else len(self.ids) - 1 + visual

    def expanded(self, image_token: int, visual: int) -> list[int]:
        """The ids as transformers takes them, with ``visual`` times the image's token for the placeholder."""
        if self.image_at is None:
            return list(self.ids)
        return [*self.ids[: self.image_at], *[image_token] * visual, *self.ids[self.image_at + 1 :]]


class Llava:
    """A loaded checkpoint: model, tokenizer and image processor, with the few operations the engine needs."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: Any,
        image_processor: Any,
        chat_template: str | None = None,
    ) -> None:
        self.model = model.eval()
        self.facts = facts_from(model.config.to_dict(), Path("config.json"))
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.chat_template = chat_template
        text = model.config.text_config
        if text.hidden_act != "silu":
            raise ModelError(f"text_config.hidden_act: '{text.hidden_act}' is not supported (silu)")
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
    def visual_tokens(self) -> int:
        """Tokens of one image; with any-resolution the most that an image can have."""
        return self.facts.visual_tokens

    @property
    def device(self) -> torch.device:
        return self.model.device

    def encode(self, prompt: str, whole: bool = False) -> Prompt:
        """Tokenise a prompt with at most one ``<image>`` marker.

        Args:
            prompt: text.
            whole: give the tokenizer the whole text, as transformers' processors do. Else each side of the marker by
                itself, as LLaVA was trained and evaluated (llava/mm_utils.py, ``tokenizer_image_token``): a
                SentencePiece tokenizer that is not "legacy" loses the space token after the image otherwise.

        Raises:
            ModelError: the tokenizer does not turn the marker into the model's image token.
        """
        before, marker, after = prompt.partition(IMAGE_MARKER)
        if IMAGE_MARKER in after:
            raise ModelError(f"the prompt has {prompt.count(IMAGE_MARKER)} images; one is supported")
        if not whole:
            ids = tuple(self.tokenizer(before)["input_ids"])
            if not marker:
                return Prompt(ids, None)
            tail = self.tokenizer(after, add_special_tokens=False)["input_ids"] if after else ()
            return Prompt((*ids, self.image_token, *tail), len(ids))
        ids = tuple(self.tokenizer(prompt)["input_ids"])
        places = [place for place, token in enumerate(ids) if token == self.image_token]
        if len(places) != bool(marker):
            raise ModelError(
                f"the tokenizer gives {len(places)} image tokens (id {self.image_token}) for {int(bool(marker))} "
                f"{IMAGE_MARKER} markers; the checkpoint's tokenizer does not belong to its model"
            )
        return Prompt(ids, places[0] if places else None)

    def chat(self, question: str, image: bool) -> str:
        """One question in the checkpoint's own chat template, ready for ``encode(..., whole=True)``.

        Raises:
            ModelError: the checkpoint has no template, or one that loses the question or its image.
        """
        if self.chat_template is None:
            raise ModelError("the checkpoint has no chat template; set task.conversation to vicuna_v1 or llava_v1")
        return rendered(self.tokenizer, self.chat_template, question, image)

    def letter_tokens(self, letters: str) -> list[int]:
        """The id with which the model begins an answer that is one of the letters."""
        return [self.tokenizer(f"ASSISTANT: {letter}", add_special_tokens=False)["input_ids"][-1] for letter in letters]

    def image_features(self, pixels_BPP: Tensor) -> Tensor:
        """Vision tower and projector: (B, 3, side, side) -> (B, V, D), in the model's dtype."""
        pixels = to_device(pixels_BPP, self.device).to(self.model.dtype)
        return torch.stack(list(self.model.model.get_image_features(pixel_values=pixels).pooler_output))

    def tiled_features(self, tiles: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The same for any-resolution, padding left out and row ends marked: for each image (V, D), V of its own.

        Args:
            tiles: of each image, (T, 3, side, side).
            sizes: height and width of each image before it was cut.
        """
        pixels = to_device(torch.cat(list(tiles)), self.device).to(self.model.dtype)
        known = torch.tensor(list(sizes))
        return list(self.model.model.get_image_features(pixel_values=pixels, image_sizes=known).pooler_output)

    def embed(self, ids_R: Tensor) -> Tensor:
        """(R,) token ids -> (R, D)."""
        return self.decoder.embed_tokens(ids_R)

    def rotary(self, positions_R: Tensor) -> Rotary:
        """Cosines and sines, each (R, 1, E), for the rows' position ids."""
        probe = torch.empty(0, dtype=self.model.dtype, device=self.device)
        cos, sin = self.decoder.rotary_emb(probe, positions_R[None])
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
        return _norm(self.decoder.norm, hidden_RD)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Final norm and head: (R, D) -> (R, C) float32."""
        return self.model.lm_head(self.final_norm(hidden_RD)).float()


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


def _end_tokens(model: LlavaForConditionalGeneration, tokenizer: Any) -> frozenset[int]:
    """The ids that end an answer: as ``generate`` would take them, else the tokenizer's."""
    end = model.generation_config.eos_token_id if model.generation_config is not None else None
    end = end if end is not None else tokenizer.eos_token_id
    if end is None:
        raise ModelError("neither generation_config.json nor the tokenizer names an end-of-sequence token")
    return frozenset(end if isinstance(end, list) else [end])
