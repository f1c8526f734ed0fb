"""What methods inside the decoder read beside its attention: rows of the table of evidence.

Names and shapes: see ``strategies/decoder_evidence.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.decoder_evidence import LAYER_KEYS, NORMED_STATES, POSITION_PULL, STATES_BEFORE, TEXT_MASS
from workers.families.config import ModelConfig
from workers.provider import Provider, nothing
from workers.sites import DecoderLayer, InputRows, Site


def _position_pull(layer: DecoderLayer) -> Tensor:
    cos_SE, sin_SE = (table.float() for table in layer.rotation())
    half = cos_SE.shape[1] // 2  # of ones the first half is turned to cos - sin, the second to cos + sin
    ones_SE = cos_SE + torch.cat((-sin_SE[:, :half], sin_SE[:, half:]), dim=1)
    return ones_SE[layer.visual :] @ ones_SE[: layer.visual].T * cos_SE.shape[1] ** -0.5


def _text_mass(rows: InputRows) -> Tensor:
    return (rows.visual_VD.float() @ rows.text_TD.float().T).softmax(dim=1).mean(dim=0)


def _key_scratch(config: ModelConfig, tokens: int, visual: int) -> int:
    """Those of all tokens, put together; in float32, and their absolute values."""
    return 4 * 3 * config.kv_heads * config.head_dim * tokens


def _state_scratch(config: ModelConfig, tokens: int, visual: int) -> int:
    """Put together, in float32 for the norm and after it; and of the visual tokens in float32, and to unit length."""
    return 4 * config.hidden * (3 * tokens + 2 * visual)


def _pull_scratch(config: ModelConfig, tokens: int, visual: int) -> int:
    """Cosines and sines, their parts and sums; the scores, and the attention divided by them and weighed."""
    return 4 * (8 * config.head_dim * tokens + (1 + 3 * config.heads) * (tokens - visual) * visual)


def _mass_scratch(config: ModelConfig, tokens: int, visual: int) -> int:
    """In float32; products, and what softmax makes of them."""
    return 4 * (config.hidden * tokens + 2 * (tokens - visual) * visual)


DECODER_PROVIDERS = (
    Provider(
        name=LAYER_KEYS,
        site=Site.DECODER,
        give=lambda layer: layer.keys()[layer.system :],
        words="the keys of image and question",
        flop=nothing,
        scratch=_key_scratch,
        layer_before=True,
    ),
    Provider(
        name=NORMED_STATES,
        site=Site.DECODER,
        give=lambda layer: layer.normed(torch.cat((layer.visual_hidden(), layer.text_hidden()))),
        words="the features of image and question",
        flop=nothing,
        scratch=_state_scratch,
    ),
    Provider(
        name=STATES_BEFORE,
        site=Site.DECODER,
        give=lambda layer: layer.visual_before(),
        words="how a layer changes the image's tokens",
        flop=nothing,
        scratch=lambda config, tokens, visual: 4 * 2 * config.hidden * visual,  # in float32, and a difference
        layer_before=True,
        entered=True,
        image_only=True,
    ),
    Provider(
        name=POSITION_PULL,
        site=Site.DECODER,
        give=_position_pull,
        words="where the question's words stand",
        flop=nothing,
        text_flop=lambda config, tokens, visual, text: 2 * config.head_dim * text * visual,
        scratch=_pull_scratch,
    ),
    Provider(
        name=TEXT_MASS,
        site=Site.INPUT,
        give=_text_mass,
        words="which of the question's words concern the image",
        flop=nothing,
        text_flop=lambda config, tokens, visual, text: 2 * config.hidden * text * visual,
        scratch=_mass_scratch,
        of_text=True,
    ),
)
