"""A LLaVA with random weights, made on the device without a file, and stand-ins for its tokenizer.

How long a forward takes depends on the shape and on the lengths of the prompts, not on what the weights have learned,
so speed is measured here. Answers mean nothing; two ways of computing them can still be compared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
)
from transformers.utils import logging as transformers_logging

from strategies.errors import UsageError
from workers.families.building import make_parameters
from workers.families.llava.config import model_config
from workers.families.llava.model import Llava
from workers.memory import free_bytes, layers_away
from workers.offload import spread
from workers.tasks.prompts import CONVERSATIONS, IMAGE_MARKER, SINGLE_PREDICTION
from workers.text_tower import TextTower

SYSTEM_TOKENS = 35  # of LLaVA-1.5's prompt before the image, with Vicuna's tokenizer
FIRST_WORD = 3  # ids below are unknown, begin and end
END = 2
CLIP_BEGIN = 49406  # the end mark follows, and is the largest id


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of the two towers."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    vocab: int
    vision_hidden: int
    vision_ffn: int
    vision_layers: int
    vision_heads: int
    image_size: int
    patch_size: int = 14
    kv_heads: int | None = None  # as many as heads


_CLIP_LARGE = {
    "vision_hidden": 1024,
    "vision_ffn": 4096,
    "vision_layers": 24,
    "vision_heads": 16,
    "image_size": 336,
}
_CLIP_TINY = {"vision_hidden": 32, "vision_ffn": 64, "vision_layers": 3, "vision_heads": 4, "image_size": 168}
SHAPES = {
    "llava-1.5-7b": Shape(hidden=4096, ffn=11008, layers=32, heads=32, vocab=32064, **_CLIP_LARGE),
    "llava-1.5-13b": Shape(hidden=5120, ffn=13824, layers=40, heads=40, vocab=32064, **_CLIP_LARGE),
    # As many visual tokens, 54 x 54, as five tiles of LLaVA-NeXT have within 1.3 %.
    "llava-next-7b": Shape(
        hidden=4096, ffn=11008, layers=32, heads=32, vocab=32064, **{**_CLIP_LARGE, "image_size": 756}
    ),
    # Decoders of LLaVA-NeXT: Nous-Hermes-2-Yi-34B and Qwen1.5-72B (with grouped heads, as Qwen2-72B has), one tile.
    "llava-34b": Shape(hidden=7168, ffn=20480, layers=60, heads=56, kv_heads=8, vocab=64064, **_CLIP_LARGE),
    "llava-72b": Shape(hidden=8192, ffn=29568, layers=80, heads=64, kv_heads=8, vocab=152064, **_CLIP_LARGE),
    "tiny": Shape(hidden=64, ffn=128, layers=4, heads=4, vocab=512, **_CLIP_TINY),  # 144 visual tokens; for tests
}


def random_llava(shape: str, dtype: torch.dtype, device: str, seed: int, offload: int | str = "auto") -> Llava:
    """Make a model of a known shape with weights as transformers initialises them, N(0, 0.02).

    Args:
        shape: a name of ``SHAPES``.
        dtype: of weights and computation.
        device: as torch names it; the weights are drawn there.
        seed: of the weights. Other devices and dtypes draw other weights from it.
        offload: decoder layers in host memory, as ``model.offload`` says.

    Raises:
        UsageError: unknown shape.
        ModelError: the device is too small, or has fewer layers than are to stay in host memory.
    """
    if shape not in SHAPES:
        raise UsageError(f"unknown shape '{shape}' (known: {', '.join(SHAPES)})")
    sizes = SHAPES[shape]
    transformers_logging.set_verbosity_error()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(_config(sizes), dtype=dtype, attn_implementation="sdpa")
    sizes_of = model_config(model.config.to_dict(), Path("config.json"))
    where = torch.device(device)
    away = spread(layers_away(sizes_of, dtype.itemsize, offload, free_bytes(where)), sizes.layers)
    make_parameters(model, dtype, device, away)
    draw_weights(model, dtype, where, seed)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = END, 0
    side = sizes.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    tokenizer = StandInTokenizer(sizes.vocab, model.config.image_token_id)
    return Llava(model, sizes_of, tokenizer, processor, away=away)


def draw_weights(model: Any, dtype: torch.dtype, device: torch.device, seed: int) -> None:
    """Fill a model's parameters as transformers initialises them: matrices N(0, 0.02), norms 1, biases 0."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            values = torch.empty(parameter.shape, dtype=dtype, device=device)
            if parameter.dim() > 1:
                values.normal_(0, 0.02)
            else:
                values.fill_(float(name.endswith("weight")))
            parameter.copy_(values)


def random_text_tower(shape: str, dtype: torch.dtype, device: str, seed: int) -> TextTower:
    """A CLIP's text tower with random weights, as large as that of ViT-L/14, or tiny beside a tiny model.

    Args:
        shape: a name of ``SHAPES``, whose image tower it is beside.
        dtype: of weights and computation.
        device: as torch names it.
        seed: of the weights.
    """
    width, where = SHAPES[shape].vision_hidden, torch.device(device)
    config, space = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12), 768
    if width <= _CLIP_TINY["vision_hidden"]:
        config = CLIPTextConfig(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=2)
        space = 16
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []), where:
        torch.manual_seed(seed)
        model = CLIPTextModel(config).to(dtype).requires_grad_(False)
        projections = {
            "text_projection.weight": torch.randn(space, config.hidden_size, dtype=dtype),
            "visual_projection.weight": torch.randn(space, width, dtype=dtype),
            "vision_model.post_layernorm.weight": torch.ones(width, dtype=dtype),
            "vision_model.post_layernorm.bias": torch.zeros(width, dtype=dtype),
        }
    return TextTower(model, _words, projections, norm_eps=1e-5)


def _words(text: str, truncation: bool = False, max_length: int = 77) -> dict[str, list[int]]:
    """Ids drawn from the text itself between begin and end mark, about as many as CLIP's tokenizer gives."""
    draw = random.Random(text)
    words = [draw.randrange(1, CLIP_BEGIN) for _ in range(max(1, len(text) // 4))]
    return {"input_ids": [CLIP_BEGIN, *(words[: max_length - 2] if truncation else words), CLIP_BEGIN + 1]}


def _config(sizes: Shape) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=sizes.vision_hidden,
        intermediate_size=sizes.vision_ffn,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
    )
    text = LlamaConfig(
        hidden_size=sizes.hidden,
        intermediate_size=sizes.ffn,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads or sizes.heads,
        vocab_size=sizes.vocab,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=sizes.vocab - 64,  # 32000 in LLaVA-1.5
        image_seq_length=(sizes.image_size // sizes.patch_size) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


class StandInTokenizer:
    """Ids drawn from the text itself, as many as Vicuna's tokenizer gives a ScienceQA prompt of that length.

    A prompt with an image has 35 ids before it, and after it (c + 90) / 4 for a question of c characters, its marker
    counted and the instruction not: 95 on average, as in the 2017 image questions of the test split.
    """

    eos_token_id = END
    _BEFORE, _, _AFTER = CONVERSATIONS["vicuna_v1"].partition("{question}")
    _FRAME = len(f"\n\n{SINGLE_PREDICTION}{_AFTER}")

    def __init__(self, vocab: int, image_token: int) -> None:
        self._vocab = min(vocab, image_token)  # no text draws the image token

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Ids of one side of the image, or of a prompt without one."""
        if text == self._BEFORE:
            return {"input_ids": self._draw(text, SYSTEM_TOKENS)}
        if not add_special_tokens and text.endswith(self._AFTER):
            question = len(text) - self._FRAME + len(f"{IMAGE_MARKER}\n")
            return {"input_ids": self._draw(text, text_tokens(question))}
        return {"input_ids": self._draw(text, max(1, len(text) // 4))}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return " ".join(str(int(id)) for id in ids if not (skip_special_tokens and id == END))

    def _draw(self, text: str, count: int) -> list[int]:
        return random.Random(text).choices(range(FIRST_WORD, self._vocab), k=count)


def text_tokens(characters: int) -> int:
    """Tokens after the image, for a ScienceQA question of so many characters, its image marker included."""
    return max(8, (characters + 90) // 4)
