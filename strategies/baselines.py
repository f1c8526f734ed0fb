"""What every method must beat: choices that look at nothing.

``random`` is the control of every comparison; UniPruneBench (arXiv:2511.02650) reports it as a strong baseline.
``cutoff`` keeps nothing at all (the layer cut-off of HiMAP, YangXu-03/Himap-based).
``evenly_spaced`` and ``first_k`` are our own controls: a method that does not beat the first has found nothing that
the image's layout does not give, and one that equals the second has scores without information.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.scores import uniform_scores
from strategies.view import TokenView


def random(view: TokenView) -> Tensor:
    """Score every token by its place in a random order, so that a smaller rank keeps a subset of a larger one.

    Returns:
        (V,) float32, a permutation of 0..V-1 drawn from the view's seed: the same on every device and in every batch.
    """
    return torch.randperm(view.visual, generator=view.generator()).float().to(view.device)


def cutoff(view: TokenView) -> Tensor:
    """Drop every visual token: the catalog fixes the rank at 0, so the scores are never compared.

    Returns:
        (V,) float32 zeros.
    """
    return uniform_scores(view.visual, view.device)


def first_k(view: TokenView) -> Tensor:
    """Keep the first tokens in raster order: what a method amounts to whose scores all tie.

    Returns:
        (V,) float32 zeros; the rule for ties does the rest.
    """
    return uniform_scores(view.visual, view.device)


def evenly_spaced(view: TokenView, keep: int) -> Tensor:
    """Cut the raster order into ``keep`` equal runs and take the middle of each.

    Returns:
        (keep,) int64, ascending, unique.
    """
    return (2 * torch.arange(keep, device=view.device) + 1) * view.visual // max(2 * keep, 1)
