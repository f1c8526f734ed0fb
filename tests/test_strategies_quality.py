"""Token quality where the answer is known by hand, and against loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.quality import (
    concentration,
    diversity,
    jaccard,
    kendall_tau,
    mass_recall,
    overlap,
    spread,
    visual_share,
)

NONE = torch.empty(0, dtype=torch.int64)


def test_overlap_by_hand():
    found = overlap(torch.tensor([0, 1, 2, 3]), torch.tensor([2, 3, 4, 5, 6, 7]), visual=24)
    assert found.precision == 0.5
    assert found.recall == pytest.approx(1 / 3)
    assert found.iou == 0.25
    assert found.lift == 2.0  # a random choice would find a quarter


def test_overlap_of_nothing_is_not_a_number():
    found = overlap(NONE, torch.tensor([1]), visual=4)
    assert math.isnan(found.precision)
    assert math.isnan(found.lift)
    assert (found.recall, found.iou) == (0, 0)
    found = overlap(torch.tensor([1]), NONE, visual=4)
    assert (found.precision, found.iou) == (0, 0)
    assert math.isnan(found.recall)
    assert math.isnan(found.lift)
    assert math.isnan(overlap(NONE, NONE, visual=4).iou)


def test_a_random_choice_has_lift_1():
    generator = torch.Generator().manual_seed(0)
    lifts = [overlap(torch.randperm(60, generator=generator)[:20], torch.arange(15), 60).lift for _ in range(500)]
    assert sum(lifts) / len(lifts) == pytest.approx(1, abs=0.05)


def test_masses():
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert mass_recall(scores, torch.tensor([1, 3])) == pytest.approx(0.6)
    assert math.isnan(mass_recall(torch.zeros(4), torch.tensor([1])))
    assert visual_share(torch.tensor([[0.1, 0.2], [0.3, 0.0]])) == pytest.approx(0.3)


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


def test_spread_over_a_24_by_24_grid():
    corners = torch.tensor([0, 23, 23 * 24, 575])
    assert spread(corners, 576).coverage == 4 / 16
    assert spread(corners, 576).neighbour_distance == 23
    assert spread(torch.arange(576), 576).coverage == 1
    assert spread(torch.arange(576), 576).neighbour_distance == 1
    assert spread(torch.tensor([5 * 24 + 5, 6 * 24 + 6]), 576).coverage == 2 / 16  # cells end after the sixth patch
    assert spread(torch.tensor([0, 5 * 24 + 5]), 576).coverage == 1 / 16


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 7, 16])
def test_spread_over_any_square_grid(side):
    whole = spread(torch.arange(side * side), side * side)
    assert whole.coverage == 1
    assert math.isnan(whole.neighbour_distance) if side == 1 else whole.neighbour_distance == 1
    none = spread(NONE, side * side)
    assert none.coverage == 0
    assert math.isnan(none.neighbour_distance)


def test_spread_needs_a_square():
    with pytest.raises(ValueError, match="577 visual tokens are not a square grid"):
        spread(torch.tensor([0]), 577)


def test_jaccard():
    assert jaccard(torch.tensor([1, 2, 3]), torch.tensor([2, 3, 4])) == 0.5
    assert jaccard(torch.tensor([1]), NONE) == 0
    assert math.isnan(jaccard(NONE, NONE))


@given(data=st.data(), size=st.integers(2, 9))
@settings(deadline=None)
def test_kendall_tau_against_loops(data, size):
    rows = st.lists(st.integers(0, 4), min_size=size, max_size=size)
    left, right = data.draw(rows), data.draw(rows)
    pairs = list(itertools.combinations(range(size), 2))

    def sign(a, b):
        return (a > b) - (a < b)

    score = sum(sign(left[i], left[j]) * sign(right[i], right[j]) for i, j in pairs)
    untied = [sum(row[i] != row[j] for i, j in pairs) for row in (left, right)]
    found = kendall_tau(torch.tensor(left, dtype=torch.float32), torch.tensor(right, dtype=torch.float32))
    if 0 in untied:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(score / math.sqrt(untied[0] * untied[1]))


def test_kendall_tau_at_its_ends():
    scores = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert kendall_tau(scores, scores * 3) == pytest.approx(1)
    assert kendall_tau(scores, -scores) == pytest.approx(-1)
    with pytest.raises(ValueError, match="NaN"):
        kendall_tau(torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="cannot be compared"):
        kendall_tau(scores, scores[:3])
