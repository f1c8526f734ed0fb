"""The tensors of a decoder that a config.json describes, without building it: planning needs no model library.

Every family's decoder is laid out as transformers does it; what its tower has beside it is in the family's folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from workers.families.config import ModelConfig

Shape = tuple[int, ...]
LAYERS = "model.language_model.layers."
HEAD = "lm_head.weight"


def renamed(stored: str, prefixes: Iterable[tuple[str, str]]) -> str:
    """A tensor's name with the first of some prefixes that it has replaced by another."""
    for prefix, name in prefixes:
        if stored.startswith(prefix):
            return name + stored.removeprefix(prefix)
    return stored


def decoder_tensors(text: dict[str, Any], sizes: ModelConfig) -> dict[str, Shape]:
    """Shape of every tensor of embeddings, layers and head by the model's name.

    Args:
        text: the decoder's section of a configuration.
        sizes: the sizes that it states.
    """
    shapes = {
        "model.language_model.embed_tokens.weight": (sizes.vocab, sizes.hidden),
        "model.language_model.norm.weight": (sizes.hidden,),
        HEAD: (sizes.vocab, sizes.hidden),
    }
    layer = _layer(text, sizes)
    for number in range(sizes.layers):
        shapes |= {f"{LAYERS}{number}.{name}": shape for name, shape in layer.items()}
    return shapes


def _layer(text: dict[str, Any], sizes: ModelConfig) -> dict[str, Shape]:
    """One layer of the decoder. Which of the three have biases: transformers, models/{llama,mistral,qwen2,qwen3_vl}."""
    kind = text.get("model_type", "llama")
    output_bias = kind in ("llama", "qwen3") and bool(text.get("attention_bias"))
    input_bias = output_bias or kind == "qwen2"
    mlp_bias = kind == "llama" and bool(text.get("mlp_bias"))
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    norms = ("self_attn.q_norm", "self_attn.k_norm") if kind == "qwen3" else ()
    return {
        **{f"{name}.weight": (sizes.head_dim,) for name in norms},
        **linear_layer("self_attn.q_proj", queries, sizes.hidden, input_bias),
        **linear_layer("self_attn.k_proj", keys, sizes.hidden, input_bias),
        **linear_layer("self_attn.v_proj", keys, sizes.hidden, input_bias),
        **linear_layer("self_attn.o_proj", sizes.hidden, queries, output_bias),
        **linear_layer("mlp.gate_proj", sizes.ffn, sizes.hidden, mlp_bias),
        **linear_layer("mlp.up_proj", sizes.ffn, sizes.hidden, mlp_bias),
        **linear_layer("mlp.down_proj", sizes.hidden, sizes.ffn, mlp_bias),
        "input_layernorm.weight": (sizes.hidden,),
        "post_attention_layernorm.weight": (sizes.hidden,),
    }


def linear_layer(name: str, rows: int, columns: int, bias: bool = True) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def norm_layer(name: str, width: int, bias: bool = True) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), **({f"{name}.bias": (width,)} if bias else {})}
