"""Matrix ranks where the answer is known. The golden values are in test_strategies_golden.py."""

from __future__ import annotations

import math

import pytest
import torch

from strategies.rank import (
    effective_rank,
    numerical_rank,
    singular_values,
    spectral_entropy,
    stable_rank,
    top_k_energy,
)


def random_matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("power", [1, 2])
def test_orthogonal_and_rank_one(power):
    """Check 7 of semantics section 8."""
    orthogonal = singular_values(torch.linalg.qr(random_matrix(9, 9)).Q)
    outer = singular_values(random_matrix(9, 1) @ random_matrix(1, 6, seed=1))
    assert effective_rank(orthogonal, power) == pytest.approx(9)
    assert effective_rank(outer, power) == pytest.approx(1)
    assert stable_rank(orthogonal) == pytest.approx(9)
    assert stable_rank(outer) == pytest.approx(1)
    assert numerical_rank(orthogonal, 1e-6) == 9
    assert numerical_rank(outer, 1e-6) == 1


def test_a_causal_softmax_block_has_full_rank():
    """Check 7: lower triangular with a positive diagonal, whatever the model attends to."""
    logits = (0.3 * random_matrix(4, 20, 20)).masked_fill(torch.ones(20, 20, dtype=torch.bool).triu(1), -torch.inf)
    values = singular_values(logits.softmax(dim=-1))
    assert numerical_rank(values, 1e-6).tolist() == [20] * 4
    assert (effective_rank(values, 2) < effective_rank(values, 1)).all()


def test_by_hand():
    values = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    shares = [0.9, 0.1]
    entropy = -sum(p * math.log(p) for p in shares)
    assert spectral_entropy(values, 2) == pytest.approx(entropy)
    assert effective_rank(values, 2) == pytest.approx(math.exp(entropy))
    assert effective_rank(values, 1) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert stable_rank(values) == pytest.approx(10 / 9)
    assert top_k_energy(values, 1) == pytest.approx(0.9)
    assert top_k_energy(values, 7) == pytest.approx(1)
    assert top_k_energy(values, 0) == 0
    assert numerical_rank(values, 0.3) == 2
    assert numerical_rank(torch.tensor([2.0, 1.0]), 0.5) == 1  # strictly above


def test_small_shares_are_dropped_as_in_the_original():
    values = torch.tensor([1.0, 0.9e-6, 1e-7], dtype=torch.float64)
    assert effective_rank(values, 2) == pytest.approx(1, abs=1e-11)  # with the two others 1.00000000002
    assert effective_rank(values, 1) > 1.00001


@pytest.mark.parametrize("shape", [(3, 0, 5), (3, 5, 0), (3, 0, 0), (3, 4, 5)])
def test_zero_and_empty_matrices(shape):
    values = singular_values(torch.zeros(shape))
    for rank in (
        numerical_rank(values, 1e-6),
        effective_rank(values, 2),
        effective_rank(values, 1),
        stable_rank(values),
    ):
        assert rank.tolist() == [0, 0, 0]
    for ratio in (spectral_entropy(values, 2), top_k_energy(values, 2)):
        assert ratio.isnan().all()
        assert ratio.shape == (3,)


def test_a_batch_is_measured_matrix_by_matrix():
    matrices = random_matrix(3, 7, 4)
    matrices[1] = 0
    values = singular_values(matrices)
    for i, matrix in enumerate(matrices):
        own = singular_values(matrix)
        assert effective_rank(values, 2)[i] == pytest.approx(float(effective_rank(own, 2)))
        assert stable_rank(values)[i] == pytest.approx(float(stable_rank(own)))
    assert numerical_rank(values, 1e-6).tolist() == [4, 0, 4]


def test_scale_does_not_matter():
    values = singular_values(random_matrix(5, 6))
    for scale in (1e-200, 1e200):
        assert effective_rank(values * scale, 2) == pytest.approx(float(effective_rank(values, 2)))
        assert top_k_energy(values * scale, 2) == pytest.approx(float(top_k_energy(values, 2)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_floating_type_is_lifted(dtype):
    values = singular_values(torch.eye(4, dtype=dtype))
    assert values.dtype == torch.float64
    assert values.tolist() == [1.0] * 4


def test_nan_is_never_a_rank():
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            singular_values(torch.tensor([[1.0, bad], [0.0, 1.0]]))
    values = torch.tensor([1.0, math.nan])
    assert effective_rank(values, 2).isnan()
    assert stable_rank(values).isnan()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="two dimensions"):
        singular_values(torch.ones(3))
    for rtol in (0.0, 1.0, -1e-6, math.nan):
        with pytest.raises(ValueError, match="rtol"):
            numerical_rank(torch.ones(3), rtol)
    with pytest.raises(ValueError, match="power"):
        effective_rank(torch.ones(3), 3)
    with pytest.raises(ValueError, match="k must"):
        top_k_energy(torch.ones(3), -1)
