"""What a prompt costs, counted and not measured: FLOPs of every matrix product, and bytes of keys and values.

Counts are per sample, from its true numbers of tokens, layer by layer. A FLOP is a multiplication or an addition, so a
product of (n, a) and (a, b) has 2nab; the literature's formulas count multiply-adds and are given by name, as ratios.
Norms, softmax, rotary positions and activations are left out, as everywhere. Only the standard library is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from strategies.errors import UsageError
from workers.families.config import ModelConfig, VisionConfig

TERA = 1e12
CLIP_TEXT_LAYERS, CLIP_TEXT_TOKENS, CLIP_TEXT_WIDTH = 12, 77, 768  # of CLIP ViT-L/14's text tower


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One configuration on one sample. Ratios are fractions of the un-pruned model on the same sample."""

    prefill_tflop: float  # decoder and head's last row; neither vision tower nor selector
    decode_tflop: float  # the first decoded token; each later one attends to one key more
    vision_tflop: float  # tower and projector; 0 for a sample without an image, NaN where tiles are not known
    selector_tflop: float  # of the evidence that the strategy reads; what it makes of it is not counted
    flops_ratio: float  # of prefill_tflop
    fastv_ratio: float  # 4nd^2 + 2n^2d + 2ndm
    swiglu_ratio: float  # 4nd^2 + 2n^2d + 3ndm
    himap_ratio: float  # n^2 + n
    average_visual_tokens: float  # that the layers really process, mean over layers
    kv_bytes: int  # keys and values of the prompt
    kv_ratio: float


def himap(tokens: int) -> int:
    """Cost of a layer in HiMAP's ``eval_scivqa.py``: without unit, and without the model's width."""
    return tokens * tokens + tokens


def fastv(tokens: int, hidden: int, ffn: int) -> int:
    """Multiply-adds of a layer in FastV's paper (arXiv:2403.06764): a feed-forward of two matrices."""
    return 4 * tokens * hidden**2 + 2 * tokens**2 * hidden + 2 * tokens * hidden * ffn


def swiglu(tokens: int, hidden: int, ffn: int) -> int:
    """Multiply-adds of a layer in SparseVLM and FasterVLM: right for LLaMA's feed-forward of three matrices."""
    return 4 * tokens * hidden**2 + 2 * tokens**2 * hidden + 3 * tokens * hidden * ffn


def visual_by_layer(layers: int, visual: int, stages: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """Visual tokens that each layer processes.

    Args:
        layers: L.
        visual: V, before pruning; 0 for a sample without an image.
        stages: (layer, rank), each of which leaves at most ``rank`` tokens from ``layer`` on.
    """
    stages = tuple(stages)
    return tuple(min([visual, *(rank for first, rank in stages if first <= layer)]) for layer in range(layers))


def cost(
    config: ModelConfig,
    *,
    system: int,
    visual: Sequence[int],
    text: Any,
    image_tokens: int,
    squares: int | None = None,
    seen_tokens: int | None = None,
    selector_flop: Any = 0,
    value_bytes: int = 2,
) -> Cost:
    """Count one configuration on one sample.

    Args:
        config: sizes of the model.
        system, text: tokens before and after the image; ``text`` may be an array of integers, for one cost of each.
        visual: visual tokens that each layer processes, as from ``visual_by_layer``.
        image_tokens: visual tokens before pruning; 0 for a sample without an image.
        squares: that the tower sees of the images, overviews among them, where their cells say it.
        seen_tokens: those that the tower makes, where it is shown the image with fewer pixels.
        selector_flop: of the evidence that is read (``workers/evidence.py``); may be an array where ``text`` is one.
        value_bytes: of one key or value number, 2 in half precision.

    Raises:
        UsageError: ``visual`` does not have one entry for each layer, or one is above the image's tokens.
    """
    if len(visual) != config.layers:
        raise UsageError(f"visual has {len(visual)} entries, the model {config.layers} layers")
    if not all(0 <= count <= image_tokens for count in visual):
        raise UsageError(f"visual tokens {min(visual)}..{max(visual)} are outside 0..{image_tokens}")
    tokens = [system + count + text for count in visual]
    unpruned = [system + image_tokens + text] * config.layers
    d, m = config.hidden, config.ffn
    prefill = _decoder_flop(config, tokens)
    made = image_tokens if seen_tokens is None else seen_tokens
    return Cost(
        prefill_tflop=prefill / TERA,
        decode_tflop=_decode_flop(config, tokens) / TERA,
        vision_tflop=_vision_flop(config, made, squares_of(config, made, squares)) / TERA,
        selector_tflop=selector_flop / TERA,
        flops_ratio=prefill / _decoder_flop(config, unpruned),
        fastv_ratio=sum(fastv(n, d, m) for n in tokens) / sum(fastv(n, d, m) for n in unpruned),
        swiglu_ratio=sum(swiglu(n, d, m) for n in tokens) / sum(swiglu(n, d, m) for n in unpruned),
        himap_ratio=sum(map(himap, tokens)) / sum(map(himap, unpruned)),
        average_visual_tokens=sum(visual) / config.layers,
        kv_bytes=kv_bytes(config, tokens, value_bytes),
        kv_ratio=sum(tokens) / sum(unpruned),
    )


def kv_bytes(config: ModelConfig, tokens: Iterable[int], value_bytes: int) -> int:
    """Bytes of keys and values of the given tokens per layer."""
    return 2 * value_bytes * config.kv_heads * config.head_dim * sum(tokens)


def _rows_flop(config: ModelConfig, rows: int) -> int:
    """A layer's linear maps: q and o, k and v, gate, up and down."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return 2 * rows * config.hidden * (2 * queries + 2 * keys + 3 * config.ffn)


def _decoder_flop(config: ModelConfig, tokens: Iterable[int]) -> int:
    """Every layer for all its tokens, attention over the causal triangle only, and the head for the last row."""
    width = config.heads * config.head_dim
    layers = sum(_rows_flop(config, n) + 2 * 2 * width * (n * (n + 1) // 2) for n in tokens)
    return layers + 2 * config.hidden * config.vocab


def _decode_flop(config: ModelConfig, tokens: Iterable[int]) -> int:
    """One row through every layer, attending to the prompt and itself, and through the head."""
    width = config.heads * config.head_dim
    return sum(_rows_flop(config, 1) + 2 * 2 * width * (n + 1) for n in tokens) + 2 * config.hidden * config.vocab


def attention_flop(config: ModelConfig, rows: Any, keys: Any) -> Any:
    """Scores of some rows over all keys of a decoder layer; queries and keys themselves are there already."""
    return 2 * config.heads * config.head_dim * rows * keys


def projection_flop(config: ModelConfig, queries: Any, keys: Any) -> Any:
    """Queries of some rows and keys of others, of what enters a decoder layer."""
    return 2 * config.hidden * config.head_dim * (config.heads * queries + config.kv_heads * keys)


def squares_of(config: ModelConfig, visual: int, recorded: int | None = None) -> float:
    """Of one size that the tower sees of the images, or these themselves; NaN where their tokens do not say it.

    Args:
        config: sizes of the model.
        visual: tokens of the images.
        recorded: what their cells say of them.
    """
    if (vision := config.vision) is not None and vision.tile:
        return visual // vision.tile
    if recorded is not None:
        return recorded
    return 1 if not config.varies or sees_whole_images(config) else math.nan


def sees_whole_images(config: ModelConfig) -> bool:
    """Whether the tower looks at each image in its own size."""
    return config.vision is not None and config.vision.merge > 1 and not config.vision.tile


def class_attention_flop(config: ModelConfig) -> float:
    """Of a square: the class token's scores over all keys of a tower layer, computed again for it, as its query is.

    NaN where the tower is of a kind that is not known.
    """
    if config.vision is None:
        return math.nan
    tokens, width = _square_tokens(config), config.vision.hidden
    return 2 * (tokens + 1) * width**2 + 2 * tokens * width


def tower_flop(
    config: ModelConfig, visual: float, *, projections: int = 0, scores: bool = False, components: bool = False
) -> float:
    """Of a square: what is computed again of a tower layer, or made of its features.

    NaN where the tower is of a kind that is not known.

    Args:
        config: sizes of the model.
        visual: tokens of the image, where the tower sees it in its own size.
        projections: of queries and keys how many, for all rows.
        scores: whether all rows' attention to all is.
        components: whether the patches' principal components are: their products, and about 9 P^3 for a decomposition.
    """
    if (vision := config.vision) is None:
        return math.nan
    if sees_whole_images(config):
        tokens, parts = visual * vision.merge**2, visual
    else:
        tokens, parts = _square_tokens(config), (config.image_size // config.patch_size // vision.merge) ** 2
    wide = vision.merge**2 * vision.hidden  # components are of tokens, whose patches stand side by side
    attention = 2 * tokens * projections * vision.hidden**2 + 2 * tokens**2 * vision.hidden * scores
    return attention + (2 * parts**2 * wide + 9 * parts**3) * components


def image_embedding_flop(config: ModelConfig) -> float:
    """Of a square: CLIP's projection of all patches into the space that its towers share."""
    if config.vision is None:
        return math.nan
    return 2 * (config.image_size // config.patch_size) ** 2 * config.vision.hidden * CLIP_TEXT_WIDTH


def _square_tokens(config: ModelConfig) -> int:
    """Rows of a tower whose squares are of one size."""
    return (config.image_size // config.patch_size) ** 2 + config.class_token


def text_embedding_flop() -> float:
    """One text through CLIP ViT-L/14's text tower; experiments do not record the sizes of others."""
    layer = 2 * CLIP_TEXT_TOKENS * 12 * CLIP_TEXT_WIDTH**2 + 2 * 2 * CLIP_TEXT_TOKENS**2 * CLIP_TEXT_WIDTH
    return CLIP_TEXT_LAYERS * layer + 2 * CLIP_TEXT_WIDTH**2


def _vision_flop(config: ModelConfig, image_tokens: int, squares: float) -> float:
    """Patch embedding, the tower's layers up to the one whose output is read, and the projector's two matrices.

    NaN where it is not known how many tiles there are, or the tower is of a kind that is not known.
    """
    if image_tokens == 0:
        return 0.0
    if (vision := config.vision) is None:
        return math.nan
    if sees_whole_images(config):  # several of them count as equally large
        each = image_tokens if squares == 1 else image_tokens / squares
        return squares * _merging_flop(config, vision, each)
    whole = config.varies or image_tokens >= config.visual_tokens  # else one smaller square, of a patch a token
    patches = (config.image_size // config.patch_size) ** 2 if whole else image_tokens
    tokens = patches + config.class_token
    embedding = 2 * patches * 3 * config.patch_size**2 * vision.hidden
    layer = 2 * tokens * (4 * vision.hidden**2 + 2 * vision.hidden * vision.ffn) + 2 * 2 * tokens**2 * vision.hidden
    made = squares * patches // vision.merge**2 if config.varies else image_tokens  # padding is left out afterwards
    given = vision.features * vision.merge**2 * vision.hidden
    projector = 2 * made * (given * config.hidden + config.hidden**2)
    return squares * (embedding + vision.layers * layer) + projector


def _merging_flop(config: ModelConfig, vision: VisionConfig, image_tokens: float) -> float:
    """The same of a tower that looks at each image in its own size and makes one token of several patches.

    Windows count as full; those at the image's right and lower edge hold less.
    """
    joined = vision.merge**2
    patches, window = image_tokens * joined, min(image_tokens, vision.window**2) * joined
    embedding = 2 * patches * 3 * vision.frames * config.patch_size**2 * vision.hidden
    layer = 2 * patches * (4 * vision.hidden**2 + vision.ffn_matrices * vision.hidden * vision.ffn)
    keys = (vision.layers - vision.windowed) * patches + vision.windowed * window
    projector = (1 + vision.deep) * 2 * image_tokens * joined * vision.hidden * (joined * vision.hidden + config.hidden)
    return embedding + vision.layers * layer + 2 * 2 * patches * keys * vision.hidden + projector
