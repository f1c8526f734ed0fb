"""Token quality where the answer is known by hand, and against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies.quality import concentration, diversity


def test_concentration_at_its_ends():
    even = concentration(torch.full((8,), 0.25), top=2)
    assert even.normalised_entropy == pytest.approx(1)
    assert even.gini == pytest.approx(0)
    assert even.top_mass == pytest.approx(0.25)
    assert even.effective_support == pytest.approx(8)
    single = concentration(torch.tensor([0.0, 0.0, 5.0, 0.0]), top=1)
    assert single.normalised_entropy == 0
    assert single.gini == pytest.approx(0.75)
    assert single.top_mass == 1
    assert single.effective_support == 1


def test_concentration_without_mass_or_choice():
    nothing = concentration(torch.zeros(5), top=2)
    assert all(math.isnan(value) for value in (nothing.normalised_entropy, nothing.gini, nothing.top_mass))
    assert math.isnan(nothing.effective_support)
    alone = concentration(torch.tensor([2.0]), top=1)
    assert math.isnan(alone.normalised_entropy)  # 0 / ln 1
    assert (alone.gini, alone.top_mass, alone.effective_support) == (0, 1, 1)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="at least 0"):
            concentration(torch.tensor([1.0, bad]), top=1)


@given(values=st.lists(st.floats(0, 10), min_size=2, max_size=12), top=st.integers(0, 14))
def test_concentration_against_loops(values, top):
    total = sum(values)
    if total == 0 or min(v for v in values if v) / total < 1e-200:
        return
    shares, count = [v / total for v in values], len(values)
    found = concentration(torch.tensor(values, dtype=torch.float64), top)
    entropy = -sum(p * math.log(p) for p in shares if p)
    gini = sum(abs(a - b) for a in shares for b in shares) / (2 * count)
    assert found.normalised_entropy == pytest.approx(entropy / math.log(count), abs=1e-12)
    assert found.gini == pytest.approx(gini, abs=1e-12)
    assert found.top_mass == pytest.approx(sum(sorted(shares)[::-1][:top]), abs=1e-12)


def test_diversity_by_hand():
    found = diversity(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    assert found.mean_distance == pytest.approx(2 / 3)
    assert found.min_distance == pytest.approx(0)
    singular = (math.sqrt(2), 1.0)
    shares = [s / sum(singular) for s in singular]
    assert found.effective_rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


def test_diversity_needs_pairs_and_directions():
    alone = diversity(torch.tensor([[1.0, 2.0]]))
    assert math.isnan(alone.mean_distance)
    assert math.isnan(alone.min_distance)
    assert alone.effective_rank == pytest.approx(1)
    assert math.isnan(diversity(torch.tensor([[1.0, 2.0], [0.0, 0.0]])).mean_distance)
    assert diversity(torch.empty(0, 3)).effective_rank == 0
