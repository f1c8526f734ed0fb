"""Budgets: from an average number of visual tokens per layer to a rank, and back.

A budget compares methods that prune at different layers: every layer before the pruning runs with all V visual tokens,
every later one with ``rank``. Source: EasonAI-5589/LLaVA-FinePruner-Head, whose tables these formulas reproduce.
The one rounding rule of the project: to the nearest integer, halves up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SLACK = 1e-6  # of a token, for averages that were themselves computed from a rank


def rank_for_average(tokens: float, layer: int, layers: int, visual: int) -> int:
    """Visual tokens to keep from ``layer`` on, so that the average over all layers comes nearest to ``tokens``.

    Args:
        tokens: wanted average of visual tokens per layer.
        layer: decoder layers that run on the full sequence.
        layers: decoder layers of the model.
        visual: visual tokens before pruning.

    Raises:
        ValueError: no rank in 0..visual gives this average, or no layer is left to prune.
    """
    if not 0 <= layer < layers:
        raise ValueError(f"layer {layer} leaves nothing to prune in a model of {layers} layers")
    exact = (tokens * layers - layer * visual) / (layers - layer)
    if not -SLACK <= exact <= visual + SLACK:
        low, high = layer * visual / layers, visual
        raise ValueError(
            f"an average of {tokens:g} visual tokens cannot be reached by pruning at layer {layer} of {layers}: "
            f"it lies between {low:g} and {high}"
        )
    return math.floor(exact + 0.5)


def rank_of_share(share: float, visual: int) -> int:
    """Visual tokens to keep of an image that has ``visual``, as a share of them in 0..1."""
    return math.floor(share * visual + 0.5)


def share_for_average(share: float, layer: int, layers: int) -> float:
    """The share of its visual tokens that an image keeps from ``layer`` on, so that the average over all layers is one.

    Args:
        share: wanted average of visual tokens per layer, as a share of the image's own.
        layer: decoder layers that run on the full sequence.
        layers: decoder layers of the model.

    Raises:
        ValueError: no share in 0..1 gives this average, or no layer is left to prune.
    """
    if not 0 <= layer < layers:
        raise ValueError(f"layer {layer} leaves nothing to prune in a model of {layers} layers")
    exact = (share * layers - layer) / (layers - layer)
    if not -SLACK <= exact <= 1 + SLACK:
        raise ValueError(
            f"an average of {share:.4g} of an image's tokens cannot be reached by pruning at layer {layer} of "
            f"{layers}: it lies between {layer / layers:.4g} and 1"
        )
    return min(max(exact, 0.0), 1.0)


def average_tokens(layer: int, rank: int, layers: int, visual: int) -> float:
    """Average number of visual tokens per decoder layer, when ``rank`` of them are kept from ``layer`` on."""
    return average_of_stages([(layer, rank)], layers, visual)


def average_of_stages(stages: Sequence[tuple[int, int]], layers: int, visual: int) -> float:
    """Average number of visual tokens per decoder layer over several prunings.

    Args:
        stages: (layer, rank) of each pruning, layers ascending; one at ``layers`` or later prunes nothing. A rank
            above what is left keeps what is left.
        layers: decoder layers of the model.
        visual: visual tokens before pruning.

    Raises:
        ValueError: the layers are not ascending, or a number is negative.
    """
    total, alive, before = 0, visual, 0
    for layer, rank in stages:
        if layer < before or rank < 0:
            raise ValueError(f"stages must come in order of their layers, with ranks of at least 0: {list(stages)}")
        total += (min(layer, layers) - min(before, layers)) * alive
        alive, before = min(rank, alive), layer
    return (total + (layers - min(before, layers)) * alive) / layers
