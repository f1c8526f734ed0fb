"""Singular values of attention and residual blocks: ours beside the library calls, on the same matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.rank import effective_rank
from workers.families.config import ModelConfig
from workers.singular import singular_values
from workers.speed_test.timing import Timing, timed

BATCHES = {"cuda": 8, "cpu": 1}  # blocks of one call of ours: as many sequences as fill a GPU
CHECKED = 2  # matrices of each block that are compared with a float64 SVD


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumRow:
    """Values only, of one block: all heads of one layer and sequence, or one sequence's hidden states."""

    what: str
    matrices: int  # of a block
    batch: int  # blocks of one call of ours; the libraries take one matrix after another, and get one block
    timing: Timing  # of ours, all blocks
    ms: float  # a block
    eigvalsh_ms: float  # float64 Gram matrix and torch.linalg.eigvalsh
    svdvals_ms: float  # torch.linalg.svdvals in float32, as the original projects do it
    effective_rank_error: float  # relative to a float64 SVD, the worst of those compared


def spectrum_rows(config: ModelConfig, device: torch.device, seconds: float, seed: int) -> Iterator[SpectrumRow]:
    """Measure attention blocks of all, half and a ninth of the visual tokens, and hidden states of all.

    Args:
        config: sizes of the model.
        device: where.
        seconds: for each timing; one run is always finished.
        seed: of the random matrices.
    """
    generator = torch.Generator(device).manual_seed(seed)
    batch = BATCHES.get(device.type, 1)
    for size in (config.visual_tokens, config.visual_tokens // 2, config.visual_tokens // 9):
        shape = (batch, config.heads, size, size)
        scores = 2 * torch.randn(shape, generator=generator, device=device)
        hidden = torch.ones(size, size, dtype=torch.bool, device=device).triu(1)
        blocks = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        yield _row(f"attention, {config.heads} heads of {size} x {size}", blocks, seconds)
        del scores, blocks
    tall = torch.randn(8 * batch, 1, config.visual_tokens, config.hidden, generator=generator, device=device)
    yield _row(f"hidden states, {config.visual_tokens} x {config.hidden}", tall, seconds)


def _row(what: str, blocks: Tensor, seconds: float) -> SpectrumRow:
    """Time the spectra of a block of matrices, ours and torch's, and compare them.

    Args:
        blocks: (batch, matrices, M, N) float32.
    """
    batch, matrices = blocks.shape[:2]
    block, device = blocks[0], blocks.device
    timing, _ = timed(lambda: singular_values(iter(blocks)), device, seconds)
    eigvalsh, _ = timed(lambda: _gram_eigvalsh(block), device, seconds, repeats=1)
    svdvals, _ = timed(lambda: torch.linalg.svdvals(block), device, seconds, repeats=1)
    exact = effective_rank(torch.linalg.svdvals(block[:CHECKED].double()), 2)
    found = effective_rank(singular_values([block[:CHECKED]]), 2)
    return SpectrumRow(
        what=what,
        matrices=matrices,
        batch=batch,
        timing=timing,
        ms=1e3 * timing.median_s / batch,
        eigvalsh_ms=1e3 * eigvalsh.median_s,
        svdvals_ms=1e3 * svdvals.median_s,
        effective_rank_error=float((found / exact - 1).abs().max()),
    )


def _gram_eigvalsh(block: Tensor) -> Tensor:
    lifted = block.double()
    return torch.linalg.eigvalsh(lifted @ lifted.mT).clamp(min=0).sqrt()
