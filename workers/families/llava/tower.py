"""CLIP's or SigLIP's vision tower as a place that evidence comes from, from the hidden states between its layers.

Queries and keys of a layer are computed again from what entered it: the tower itself hands out neither, and for one
layer that is a hundredth of its forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workers.families.llava.config import CLASS_TOKEN_TOWERS
from workers.sites import Tower

if TYPE_CHECKING:
    from workers.text_tower import TextTower


def tower_layers(module: Any) -> Sequence[Any]:
    """The layers of a LLaVA's tower. Releases of transformers differ in whether its inner module has its own level."""
    tower = module.model.vision_tower
    layers: Sequence[Any] = getattr(tower, "vision_model", tower).encoder.layers
    return layers


class ClipTower(Tower):
    """What the forward of a CLIP tower leaves, or of SigLIP's, which has no class token."""

    def __init__(self, module: Any, hidden_states: Sequence[Tensor], text_tower: TextTower | None = None) -> None:
        """Take what one forward of the tower left.

        Args:
            module: the LLaVA.
            hidden_states: (N, S, C) each, what entered every layer, and what left the last one.
            text_tower: of the CLIP that the tower is of, where one is named.
        """
        self._layers = tower_layers(module)
        self.layers, self.text_tower = len(self._layers), text_tower
        vision = module.config.vision_config
        self.class_token = 0 if vision.model_type in CLASS_TOKEN_TOWERS else None
        side = vision.image_size // vision.patch_size
        self.grid = (side, side)
        self._hidden_states = hidden_states
        chosen = module.config.vision_feature_layer
        self._chosen = chosen if isinstance(chosen, list) else [chosen]
        self.given = slice(int(module.config.vision_feature_select_strategy == "default"), None)

    def hidden(self, index: int) -> Tensor:
        return self._hidden_states[index]

    def keys(self, layer: int) -> Tensor:
        attention = self._layers[layer].self_attn
        return _heads(attention.k_proj, self._normed(layer), attention.head_dim)

    def queries(self, layer: int, rows: slice) -> Tensor:
        attention = self._layers[layer].self_attn
        return _heads(attention.q_proj, self._normed(layer)[:, rows], attention.head_dim)

    def attention(self, layer: int, queries: slice) -> Tensor:
        query_NQHE, key_NSHE = self.queries(layer, queries).float(), self.keys(layer).float()
        scores_NHQS = torch.einsum("nqhe,nshe->nhqs", query_NQHE, key_NSHE) * self._layers[layer].self_attn.scale
        return scores_NHQS.softmax(dim=-1)

    def selected(self, rows: slice) -> Tensor:
        return torch.cat([self.hidden(index)[:, rows] for index in self._chosen], dim=-1)

    def _normed(self, layer: int) -> Tensor:
        normed_NSC: Tensor = self._layers[layer].layer_norm1(self._hidden_states[:-1][layer])
        return normed_NSC


def _heads(projection: nn.Linear, rows_NSC: Tensor, head_dim: int) -> Tensor:
    """(N, S, H, E)."""
    return projection(rows_NSC).unflatten(-1, (-1, head_dim))
