"""Matrix rank, exact and effective, from singular values that are computed once.

Which matrix is measured is the caller's affair. A causal attention block is lower triangular with a positive diagonal,
so its exact rank is full by construction: the effective rank is what says something.
Shape letters: N singular values; leading dimensions (heads, samples) are a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUT = 1e-12  # shares of the spectrum up to this are dropped, as in HiMAP's effective rank


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values in float64, largest first.

    Args:
        matrix: (..., M, N), any floating dtype.

    Returns:
        (..., min(M, N)) float64.

    Raises:
        ValueError: fewer than two dimensions, or a value is NaN or infinite.
    """
    if matrix.ndim < 2:
        raise ValueError(f"a matrix has two dimensions, this has {matrix.ndim}")
    if not matrix.isfinite().all():
        raise ValueError("the matrix holds NaN or infinity")
    return torch.linalg.svdvals(matrix.double())


def numerical_rank(singular_values: Tensor, rtol: float) -> Tensor:
    """Count the singular values above ``rtol`` times the largest.

    Args:
        singular_values: (..., N), not negative.
        rtol: relative cut-off in (0, 1). There is no default, because the usual ``max(M, N) * eps`` is 4.5 for a
            576-wide bfloat16 matrix and would call every matrix rank 0.

    Returns:
        (...) int64; 0 for a zero or empty matrix.

    Raises:
        ValueError: ``rtol`` is outside (0, 1).
    """
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol}")
    return (singular_values > rtol * _largest(singular_values)[..., None]).sum(dim=-1)


def effective_rank(singular_values: Tensor, power: int) -> Tensor:
    """Exponential of the spectrum's entropy: how many directions of equal weight would be as spread out.

    Args:
        singular_values: (..., N), not negative.
        power: shares are ``s^power / sum s^power``: 2 as in HiMAP, 1 as in Roy and Vetterli, EUSIPCO 2007 (larger).

    Returns:
        (...) between 1 and N; 0 for a zero or empty matrix.

    Raises:
        ValueError: another power.
    """
    return spectral_entropy(singular_values, power).exp().where(_largest(singular_values) != 0, 0.0)


def spectral_entropy(singular_values: Tensor, power: int) -> Tensor:
    """(...) entropy of the shares ``s^power / sum s^power``, natural logarithm; NaN for a zero or empty matrix."""
    if power not in (1, 2):
        raise ValueError(f"power must be 1 or 2, got {power}")
    share = _relative(singular_values).pow(power)
    share = share / share.sum(dim=-1, keepdim=True)
    terms = torch.where(share <= CUT, 0.0, -share * share.log())
    return terms.sum(dim=-1).where(_largest(singular_values) != 0, torch.nan)


def stable_rank(singular_values: Tensor) -> Tensor:
    """(...) ``sum s^2 / max s^2``, at most the rank; 0 for a zero or empty matrix."""
    return _relative(singular_values).square().sum(dim=-1).where(_largest(singular_values) != 0, 0.0)


def top_k_energy(singular_values: Tensor, k: int) -> Tensor:
    """(...) share of ``sum s^2`` in the ``k`` largest; NaN for a zero or empty matrix.

    Raises:
        ValueError: ``k`` is negative.
    """
    if k < 0:
        raise ValueError(f"k must be at least 0, got {k}")
    energy = _relative(singular_values).square().sort(dim=-1, descending=True).values
    return energy[..., :k].sum(dim=-1) / energy.sum(dim=-1)


def _largest(singular_values: Tensor) -> Tensor:
    """(...) largest value; 0 of none."""
    if singular_values.shape[-1] == 0:
        return singular_values.sum(dim=-1)
    return singular_values.amax(dim=-1)


def _relative(singular_values: Tensor) -> Tensor:
    """(..., N) in units of the largest, so that squares neither overflow nor vanish; NaN for a zero matrix."""
    return singular_values / _largest(singular_values)[..., None]
