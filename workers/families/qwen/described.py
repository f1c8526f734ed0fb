"""The tensors of the model that a config.json describes, without building it: planning needs no model library.

``tests/test_workers_qwen.py`` holds this against the models that transformers builds.
"""

from __future__ import annotations

from typing import Any

from workers.families.config import ModelConfig
from workers.families.described import Shape, decoder_tensors, linear_layer, norm_layer
from workers.families.qwen.config import QWEN2, QWEN2_5, QWEN3
from workers.families.qwen.names import TOWER

CHANNELS = 3
_MERGER, _MERGER3 = ("ln_q", "mlp.0", "mlp.2"), ("norm", "linear_fc1", "linear_fc2")
_FEED_FORWARD = {
    QWEN2: (("fc1",), "fc2"),
    QWEN2_5: (("gate_proj", "up_proj"), "down_proj"),
    QWEN3: (("linear_fc1",), "linear_fc2"),
}


def described(kind: str, text: dict[str, Any], sizes: ModelConfig) -> dict[str, Shape]:
    """Shape of every tensor by the model's name.

    Args:
        kind: ``model_type`` of the configuration.
        text: the decoder's fields.
        sizes: the sizes that it states.
    """
    tower = sizes.vision
    assert tower is not None, "a Qwen2-VL's sizes hold its tower's"
    width, patch, biased = tower.hidden, sizes.patch_size, kind != QWEN2_5
    joined = width * tower.merge**2
    shapes: dict[str, Shape] = {
        "patch_embed.proj.weight": (width, CHANNELS, tower.frames, patch, patch),
    }
    norm, first, second = _MERGER3 if kind == QWEN3 else _MERGER
    for place, normed in (("merger", width), *((f"deepstack_merger_list.{n}", joined) for n in range(tower.deep))):
        shapes |= norm_layer(f"{place}.{norm}", normed, biased)
        shapes |= linear_layer(f"{place}.{first}", joined, joined)
        shapes |= linear_layer(f"{place}.{second}", sizes.hidden, joined)
    if tower.positions:
        shapes |= {"pos_embed.weight": (tower.positions, width), "patch_embed.proj.bias": (width,)}
    for number in range(tower.layers):
        place = f"blocks.{number}"
        for norm in ("norm1", "norm2"):
            shapes |= norm_layer(f"{place}.{norm}", width, biased)
        shapes |= linear_layer(f"{place}.attn.qkv", 3 * width, width) | linear_layer(f"{place}.attn.proj", width, width)
        ups, down = _FEED_FORWARD[kind]
        for name in ups:
            shapes |= linear_layer(f"{place}.mlp.{name}", tower.ffn, width)
        shapes |= linear_layer(f"{place}.mlp.{down}", width, tower.ffn)
    return decoder_tensors(text, sizes) | {TOWER + name: shape for name, shape in shapes.items()}
