"""The one file that knows how transformers builds LLaVA: image features, decoder layers, rotary positions, head.

Everything works on packed rows: a (R, D) matrix in which the tokens of many sequences lie one after another, so that
each linear layer is one matrix product. Who may attend to whom is decided elsewhere (``streams.py``).

Shape letters: see ``strategies/view.py``; here also E head width, G key-value heads, C vocabulary, P pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
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
        self.layers: list[Any] = list(self.decoder.layers)
        attention = self.layers[0].self_attn
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
        module = self.layers[layer]
        normed_RD = module.input_layernorm(hidden_RD)
        attention = module.self_attn
        query_RHE = attention.q_proj(normed_RD).unflatten(-1, (-1, self.head_dim))
        key_RGE = attention.k_proj(normed_RD).unflatten(-1, (-1, self.head_dim))
        value_RGE = attention.v_proj(normed_RD).unflatten(-1, (-1, self.head_dim))
        cos, sin = rotary
        return query_RHE * cos + _rotate(query_RHE) * sin, key_RGE * cos + _rotate(key_RGE) * sin, value_RGE

    def finish_layer(self, layer: int, hidden_RD: Tensor, attended_RHE: Tensor) -> Tensor:
        """Output projection, residuals and feed-forward: the layer's output (R, D)."""
        module = self.layers[layer]
        hidden_RD = hidden_RD + module.self_attn.o_proj(attended_RHE.flatten(-2))
        return hidden_RD + module.mlp(module.post_attention_layernorm(hidden_RD))

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Final norm and head: (R, D) -> (R, C) float32."""
        return self.model.lm_head(self.decoder.norm(hidden_RD)).float()


def _rotate(rows: Tensor) -> Tensor:
    first, second = rows.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def _end_tokens(model: LlavaForConditionalGeneration, tokenizer: Any) -> frozenset[int]:
    """The ids that end an answer: as ``generate`` would take them, else the tokenizer's."""
    end = model.generation_config.eos_token_id if model.generation_config is not None else None
    end = end if end is not None else tokenizer.eos_token_id
    if end is None:
        raise ModelError("neither generation_config.json nor the tokenizer names an end-of-sequence token")
    return frozenset(end if isinstance(end, list) else [end])
