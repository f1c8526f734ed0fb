"""Greedy and clustering selectors against loops; merging."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import diversity
from strategies.catalog import get
from strategies.merging import softmax_merge
from strategies.scores import cosine
from strategies.view import TokenView


def feature_view(visual: int, distinct: int, seed: int) -> TokenView:
    """Random directions, some of them more than once; float64, so that loops and matrices agree on ties."""
    features = torch.randn(distinct, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    order = torch.randperm(visual, generator=torch.Generator().manual_seed(seed + 1)) % distinct
    return TokenView(
        visual=visual, system=1, text=1, seed=seed, device=torch.device("cpu"), hidden_states_VD=features[order]
    )


def loop_farthest(distance: list[list[float]], first: int, keep: int) -> list[int]:
    order = [first]
    while len(order) < keep:
        rest = [v for v in range(len(distance)) if v not in order]
        order.append(max(rest, key=lambda v: (min(distance[k][v] for k in order), -v)))
    return order


def distances(view: TokenView) -> list[list[float]]:
    return (1 - cosine(view.hidden_VD, view.hidden_VD)).tolist()


def test_cosine():
    left, right = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[4.0, 3.0], [-3.0, -4.0]])
    torch.testing.assert_close(cosine(left, right), torch.tensor([[0.96, -1.0], [0.0, 0.0]]))


@given(seed=st.integers(0, 10**6), visual=st.integers(2, 14), data=st.data())
@settings(max_examples=40, deadline=None)
def test_farthest_points_against_loops(seed, visual, data):
    distinct, keep = data.draw(st.integers(1, visual)), data.draw(st.integers(1, visual))
    view = feature_view(visual, distinct, seed)
    distance = distances(view)
    assert diversity.fps(view, keep).tolist() == loop_farthest(distance, 0, keep)
    loneliness = [min(row[v] for w, row in enumerate(distance) if w != v) for v in range(visual)]
    first = loneliness.index(max(loneliness))
    assert diversity.divprune(view, keep).tolist() == loop_farthest(distance, first, keep)


def loop_centres(view: TokenView, keep: int) -> list[int]:
    nearness = [[1 - d for d in row] for row in distances(view)]
    everyone = range(view.visual)
    degree = [sum(row) for row in nearness]
    centre = sorted(everyone, key=lambda v: -degree[v])[:keep]
    for _ in range(3):
        slot = [centre.index(v) if v in centre else max(range(keep), key=lambda k: nearness[v][centre[k]])
                for v in everyone]  # fmt: skip
        centre = [max((v for v in everyone if slot[v] == k), key=lambda v: degree[v]) for k in range(keep)]
    return centre


@given(seed=st.integers(0, 10**6), visual=st.integers(1, 14), data=st.data())
@settings(max_examples=40, deadline=None)
def test_centres_against_loops(seed, visual, data):
    keep = data.draw(st.integers(1, visual))
    view = feature_view(visual, visual, seed)
    assert diversity.centres(view.hidden_VD, keep).tolist() == loop_centres(view, keep)


def test_equal_tokens_are_chosen_once_each():
    view = feature_view(16, 1, 0)
    for name in ("divprune", "fps", "tome_centres"):
        assert len(get(name).choose(view, [6], {})[0].unique()) == 6


def test_a_drawn_start_depends_on_the_seed_alone():
    view = feature_view(64, 64, 0)
    starts = {int(diversity.fps(dataclasses.replace(view, seed=seed), 1, start="drawn")) for seed in range(40)}
    assert len(starts) > 20
    first = diversity.fps(view, 5, start="drawn")
    assert torch.equal(first, diversity.fps(view, 5, start="drawn"))


def test_a_token_that_is_not_a_number_is_refused():
    view = feature_view(8, 8, 0)
    hidden = view.hidden_VD.clone()
    hidden[3, 0] = math.inf
    with pytest.raises(ValueError, match="NaN or infinity"):
        get("tome_centres").choose(dataclasses.replace(view, hidden_states_VD=hidden), [3], {})


def test_merging_against_loops():
    hidden = feature_view(9, 9, 0).hidden_VD
    kept = torch.tensor([1, 4, 8])
    nearness = [[1 - d for d in row] for row in distances(feature_view(9, 9, 0))]
    for row, token in zip(softmax_merge(hidden, kept, 0.2), kept.tolist(), strict=True):
        weights = [math.exp(c / 0.2) for c in nearness[token]]
        expected = sum(w / sum(weights) * hidden[v] for v, w in enumerate(weights))
        torch.testing.assert_close(row, expected)


def test_merging_keeps_type_shape_and_order():
    hidden = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    before = hidden.clone()
    merged = softmax_merge(hidden, torch.tensor([2, 7]))
    assert (merged.dtype, merged.shape) == (torch.bfloat16, (2, 8))
    assert torch.equal(hidden, before)
    assert softmax_merge(hidden, torch.empty(0, dtype=torch.int64)).shape == (0, 8)
    cold = softmax_merge(hidden.float(), torch.arange(12), temperature=1e-3)
    torch.testing.assert_close(cold, hidden.float())  # a token stays itself


@pytest.mark.parametrize(("plain", "merged"), [("fps", "fps_merged"), ("tome_centres", "tome_merged")])
def test_the_merged_strategies_choose_as_the_plain_ones(plain, merged):
    view = feature_view(16, 16, 3)
    assert get(plain).merge is None
    assert get(merged).merge is softmax_merge
    assert torch.equal(get(plain).choose(view, [5], {})[0], get(merged).choose(view, [5], {})[0])
