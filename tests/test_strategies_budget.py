"""Budgets: the tables of FinePruner, as stored there, and the way back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.budget import average_of_stages, average_tokens, rank_for_average

VISUAL = 576
TABLE = [  # layers, layer, average wanted, rank, average that this rank gives
    (32, 2, 192, 166, 191.6),
    (32, 2, 128, 98, 127.9),
    (32, 2, 64, 30, 64.1),
    (32, 3, 192, 152, 191.75),
    (32, 3, 128, 82, 128.3),
    (32, 3, 64, 11, 63.97),
    (40, 2, 192, 172, 192.2),
    (40, 2, 128, 104, 127.6),
    (40, 2, 64, 37, 63.95),
    (40, 3, 192, 161, 192.1),
    (40, 3, 128, 92, 128.3),
    (40, 3, 64, 22, 63.55),
]
PYRAMIDS = [([334, 194, 112, 65], 191.4), ([251, 109, 47, 20], 127.1), ([112, 21, 4, 0], 63.3)]


@pytest.mark.parametrize(("layers", "layer", "tokens", "rank", "realised"), TABLE)
def test_the_published_table(layers, layer, tokens, rank, realised):
    assert rank_for_average(tokens, layer, layers, VISUAL) == rank
    assert average_tokens(layer, rank, layers, VISUAL) == pytest.approx(realised, abs=0.06)


@pytest.mark.parametrize(("ranks", "average"), PYRAMIDS)
def test_the_published_pyramids(ranks, average):
    stages = list(zip((2, 8, 16, 24), ranks, strict=True))
    assert average_of_stages(stages, 32, VISUAL) == pytest.approx(average, abs=0.06)


def test_halves_are_rounded_up():
    assert rank_for_average(2.5, 0, 4, 8) == 3
    assert rank_for_average(3.5, 0, 4, 8) == 4


@pytest.mark.parametrize(
    ("tokens", "layer", "message"),
    [
        (30, 2, "an average of 30 visual tokens cannot be reached by pruning at layer 2 of 32: it lies between 36 and"),
        (577, 2, "cannot be reached"),
        (100, 32, "layer 32 leaves nothing to prune in a model of 32 layers"),
        (100, -1, "leaves nothing to prune"),
    ],
)
def test_budgets_out_of_reach(tokens, layer, message):
    with pytest.raises(ValueError, match=message) as caught:
        rank_for_average(tokens, layer, 32, VISUAL)
    assert "\n" not in str(caught.value)


@given(layers=st.integers(1, 60), visual=st.integers(1, 3000), data=st.data())
def test_the_average_of_a_rank_leads_back_to_it(layers, visual, data):
    layer, rank = data.draw(st.integers(0, layers - 1)), data.draw(st.integers(0, visual))
    assert rank_for_average(average_tokens(layer, rank, layers, visual), layer, layers, visual) == rank


@given(layers=st.integers(1, 12), visual=st.integers(1, 50), data=st.data())
def test_the_average_counts_layer_by_layer(layers, visual, data):
    numbers = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 50)), max_size=4)
    stages = sorted(data.draw(numbers), key=lambda stage: stage[0])
    alive, total = visual, 0
    for layer in range(layers):
        for _, rank in [stage for stage in stages if stage[0] == layer]:
            alive = min(alive, rank)
        total += alive
    assert average_of_stages(stages, layers, visual) == pytest.approx(total / layers)


def test_stages_out_of_order():
    with pytest.raises(ValueError, match="in order"):
        average_of_stages([(8, 3), (2, 5)], 32, VISUAL)
    with pytest.raises(ValueError, match="at least 0"):
        average_of_stages([(8, -3)], 32, VISUAL)
