"""The tensors of the model that a config.json describes, without building it: planning needs no model library.

``tests/test_workers_contents.py`` holds this against the models that transformers builds.
"""

from __future__ import annotations

from typing import Any

from workers.families.config import ModelConfig, VisionConfig
from workers.families.llava.config import ANY_RESOLUTION
from workers.families.llava.names import HEAD, LAYERS, NEWLINE, TOWER

Shape = tuple[int, ...]
CHANNELS = 3


def described(config: dict[str, Any], sizes: ModelConfig) -> dict[str, Shape]:
    """Shape of every tensor by the model's name.

    Args:
        config: as transformers' LlavaConfig reads it.
        sizes: the sizes that it states.
    """
    assert sizes.vision is not None, "a LLaVA's sizes hold its tower's"
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    shapes = {
        "model.language_model.embed_tokens.weight": (sizes.vocab, sizes.hidden),
        "model.language_model.norm.weight": (sizes.hidden,),
        HEAD: (sizes.vocab, sizes.hidden),
        **_tower(sizes, sizes.vision, int(vision.get("num_channels") or CHANNELS)),
    }
    layer = _layer(text, sizes)
    for number in range(sizes.layers):
        shapes |= {f"{LAYERS}{number}.{name}": shape for name, shape in layer.items()}
    bias = config.get("multimodal_projector_bias", True) is not False
    for name, columns in (("linear_1", sizes.vision.hidden * sizes.vision.features), ("linear_2", sizes.hidden)):
        shapes |= _linear(f"model.multi_modal_projector.{name}", sizes.hidden, columns, bias)
    if config.get("model_type") == ANY_RESOLUTION:
        shapes[NEWLINE] = (sizes.hidden,)
    return shapes


def _layer(text: dict[str, Any], sizes: ModelConfig) -> dict[str, Shape]:
    """One layer of the decoder. Which of the three have biases: transformers, models/{llama,mistral,qwen2}."""
    kind = text.get("model_type", "llama")
    output_bias = kind == "llama" and bool(text.get("attention_bias"))
    input_bias = output_bias or kind == "qwen2"
    mlp_bias = kind == "llama" and bool(text.get("mlp_bias"))
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    return {
        **_linear("self_attn.q_proj", queries, sizes.hidden, input_bias),
        **_linear("self_attn.k_proj", keys, sizes.hidden, input_bias),
        **_linear("self_attn.v_proj", keys, sizes.hidden, input_bias),
        **_linear("self_attn.o_proj", sizes.hidden, queries, output_bias),
        **_linear("mlp.gate_proj", sizes.ffn, sizes.hidden, mlp_bias),
        **_linear("mlp.up_proj", sizes.ffn, sizes.hidden, mlp_bias),
        **_linear("mlp.down_proj", sizes.hidden, sizes.ffn, mlp_bias),
        "input_layernorm.weight": (sizes.hidden,),
        "post_attention_layernorm.weight": (sizes.hidden,),
    }


def _tower(sizes: ModelConfig, tower: VisionConfig, channels: int) -> dict[str, Shape]:
    """CLIP's vision tower, the layers behind the chosen one too."""
    width, ffn, patch = tower.hidden, tower.ffn, sizes.patch_size
    shapes: dict[str, Shape] = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, channels, patch, patch),
        "embeddings.position_embedding.weight": ((sizes.image_size // patch) ** 2 + 1, width),
        **_norm("pre_layrnorm", width),
        **_norm("post_layernorm", width),
    }
    for number in range(tower.stored_layers):
        place = f"encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{place}.self_attn.{name}", width, width, True)
        shapes |= _linear(f"{place}.mlp.fc1", ffn, width, True) | _linear(f"{place}.mlp.fc2", width, ffn, True)
        shapes |= _norm(f"{place}.layer_norm1", width) | _norm(f"{place}.layer_norm2", width)
    return {TOWER + name: shape for name, shape in shapes.items()}


def _linear(name: str, rows: int, columns: int, bias: bool) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
