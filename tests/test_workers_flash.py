"""The table that tells the attention kernel who attends to what; the kernel is tested in test_workers_cuda.py."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.flash import block, tiles


def visible(table, causal: bool) -> set[tuple[int, int]]:
    """(query row, key row) pairs as the kernel reads them."""
    pairs = set()
    for first, count, seen, start, length, rest in table.tolist():
        for row in range(count):
            last = seen + row if causal else seen - 1
            for number in range(last + 1):
                pairs.add((first + row, start + number if number < length else rest + number - length))
    return pairs


@given(trunk=st.integers(1, 70), shared=st.integers(1, 70), fork=st.integers(1, 70), tile=st.sampled_from([1, 16, 64]))
def test_tiles_are_the_causal_mask(trunk, shared, fork, tile):
    shared = min(shared, trunk)
    whole, own = slice(0, trunk), slice(trunk, trunk + fork)
    table = tiles([block(whole, (whole,)), block(own, (slice(0, shared), own))], tile)
    expected = {(q, k) for q in range(trunk) for k in range(q + 1)}
    expected |= {(q, k) for q in range(own.start, own.stop) for k in [*range(shared), *range(own.start, q + 1)]}
    assert visible(table, causal=True) == expected
    assert table[:, 1].max() <= tile


def test_tiles_of_groups_see_all_keys():
    table = tiles(
        [block(slice(0, 20), (slice(10, 15),)), block(slice(20, 21), (slice(0, 3), slice(20, 22)))], 16, causal=False
    )
    expected = {(q, k) for q in range(20) for k in range(10, 15)} | {(20, k) for k in (0, 1, 2, 20, 21)}
    assert visible(table, causal=False) == expected


def test_long_rows_come_first():
    table = tiles([block(slice(0, 4), (slice(0, 4),)), block(slice(4, 104), (slice(4, 104),))], 16)
    assert table[:, 2].tolist() == sorted(table[:, 2].tolist(), reverse=True)
