"""Host memory for caches: in blocks of one size, which serve again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import workers.caches
from workers.caches import HostCache, HostLink, LayerCache, Prompter
from workers.sequences import Packing, fork, new_prefix, new_trunk

CPU = torch.device("cpu")


@pytest.fixture
def packing() -> Packing:
    """Two trunks with one prefix, and a fork of each."""
    prefix = new_prefix(torch.arange(3)[None])
    trunks = [new_trunk(number, prefix, 4, torch.arange(12)[None], 12) for number in range(2)]
    forks = [fork(trunk, 1, torch.tensor([0, 2]), compact=False) for trunk in trunks]
    return Packing([prefix, *trunks, *forks])


def cache_of(packing: Packing, groups: int = 2, width: int = 4) -> LayerCache:
    rows = packing.total
    key, value = torch.randn(2, rows, groups, width, generator=torch.Generator().manual_seed(rows))
    return LayerCache(packing, key, value)


@pytest.mark.parametrize("block", [1, 64, 200, 1 << 20])
def test_what_comes_back_is_what_was_sent(packing, monkeypatch, block):
    """However rows are cut into blocks; only of those that are asked for, and of what they attend to."""
    monkeypatch.setattr(workers.caches, "BLOCK_BYTES", block)
    cache, link, prompter = cache_of(packing), HostLink(CPU), Prompter()
    prefix, first, _, *forks = packing.sequences
    for _ in range(2):
        sent = link.send(cache)
        assert [one.sequences for one in sent] == [(prefix,), *((one,) for one in packing.sequences[1:3]), tuple(forks)]
        for owners, parts in (([first], 2), (forks, 2), ([*forks, first], 3), (packing.sequences, 4)):
            (one,) = prompter.of(sent, owners)
            one.fetch()
            keys, values = one.here()
            assert len(keys) == one.packing.total == sum(part.rows for part in one.packing.sequences)
            assert set(owners) | {prefix} <= set(one.packing.sequences)
            assert len(one.packing.sequences) == (parts if forks[0] not in owners else parts + 1)
            for sequence in one.packing.sequences:
                own, there = one.packing.own_keys(sequence), packing.own_keys(sequence)
                assert torch.equal(keys[own], cache.key_RGE[there])
                assert torch.equal(values[own], cache.value_RGE[there])
            assert torch.equal(one.here()[0], keys)  # as often as it is asked for
            assert prompter.of(sent, owners)[0].packing is one.packing  # so that groups are made once


def test_parts_that_nobody_waits_for_go(packing):
    first, second = [one for one in packing.sequences if one.parent is None and one.sample >= 0]
    sent = HostLink(CPU).send(cache_of(packing))
    assert [bool(one.only({first})) for one in sent] == [False, True, False, False]
    assert [bool(one.only({second, packing.sequences[0]})) for one in sent] == [True, False, True, False]
    assert [one.nbytes for one in sent] == [0, 0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_no_more_blocks_than_the_rows_need(counts):
    made: list[int] = []
    link, row, empty = HostLink(CPU), torch.zeros(1, 2, 4), torch.empty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers.caches, "BLOCK_BYTES", 16 * row.nbytes)
        patch.setattr(torch, "empty", lambda *args, **kw: (made.append(args[0]), empty(*args, **kw))[1])
        parts = [link.room(row.expand(count, -1, -1)) for count in counts]
    assert [sum(map(len, some)) for some in parts] == counts
    assert made == [16 * row.nbytes] * -(-sum(counts) // 16)
    written = [part for some in parts for part in some]
    for number, part in enumerate(written):
        part.fill_(number)
    assert all((part == number).all() for number, part in enumerate(written))  # no two of them overlap


def test_halves_of_one_buffer_are_sent_as_they_lie(packing):
    both = torch.randn(packing.total, 4, 8)
    cache = LayerCache(packing, both[:, :2], both[:, 2:])
    together = workers.caches._together(cache.key_RGE, cache.value_RGE)
    assert together.data_ptr() == both.data_ptr()
    assert torch.equal(together, both)
    apart = workers.caches._together(both[:, :2].clone(), both[:, 2:].clone())
    assert torch.equal(apart, both)
    assert isinstance(HostLink(CPU).send(cache)[0], HostCache)
