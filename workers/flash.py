"""Attention of packed rows as one Triton kernel a layer: keys are read where they lie, nothing is gathered or padded.

A sequence attends to two or three runs of rows, its prefixes' and its own, so a key's row follows from its number.
Library kernels want each sequence's keys in one piece: gathering them cost as much as half of the attention itself
(``docs/performance.md``). Softmax and sums are float32, products half precision, as in FlashAttention (Dao et al.,
arXiv 2205.14135), whose online softmax this is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from strategies.one_program import tl, triton

PREFILL_TILE = 64  # queries of a program: the rows of one warp group's matrix instruction
DECODE_TILE = 16  # the fewest that a matrix instruction takes
KEYS = 32  # keys of a step: measured, of 32, 64 and 128
LOG2_E = 1.4426950408889634
PREFILL_OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 3}
DECODE_OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 3}

RUNS = 3  # of keys at most: system, image, question


def uses_flash(rows: Tensor) -> bool:
    """Whether attention of (..., E) rows is this kernel's: CUDA, half precision, a power of 2 wide."""
    width = rows.shape[-1]
    on_device = triton is not None and rows.is_cuda and rows.dtype in (torch.float16, torch.bfloat16)
    return on_device and width >= 16 and width & (width - 1) == 0


def block(queries: slice, runs: Sequence[slice]) -> tuple[int, ...]:
    """A row of what ``tiles`` cuts.

    Args:
        queries: rows of queries.
        runs: one to `RUNS` runs of key rows, in the order of the tokens.

    Returns:
        First query, queries, and ``key_runs``.
    """
    return queries.start, queries.stop - queries.start, *key_runs(runs)


def key_runs(runs: Sequence[slice]) -> tuple[int, ...]:
    """Number of keys, start of the first run, its length, start of the second, length of both, start of the third."""
    assert 0 < len(runs) <= RUNS
    first, second, third = [*runs, slice(0, 0), slice(0, 0)][:RUNS]  # no key has a number of those that are not
    both = (length := first.stop - first.start) + second.stop - second.start
    return both + third.stop - third.start, first.start, length, second.start, both, third.start


def tiles(blocks: ArrayLike, tile: int, causal: bool = True) -> Tensor:
    """Cut blocks of queries into tiles of at most ``tile``.

    Args:
        blocks: (B, 8) integers, see ``block``; with the queries as the last of the keys, if causal.
        tile: queries of a program.
        causal: whether each query sees one key more than the one before, the last one all; else all see all.

    Returns:
        (tiles, 6) int32 on the host: first query, queries, keys that the first query sees besides itself (all that it
        sees, if not causal), start of the first run of keys, its length, start of the second run; (tiles, 8) where a
        block has three: also the length of the first two, and the start of the third. Those that see most come first,
        so that the last programs to run are short ones.
    """
    start_B, count_B, keys_B, *runs_B = np.asarray(blocks, dtype=np.int64).reshape(-1, 8).T
    tiles_B = -(-count_B // tile)
    of_T = np.repeat(np.arange(len(tiles_B)), tiles_B)  # the block that a tile is of
    at_T = tile * (np.arange(len(of_T)) - np.repeat(tiles_B.cumsum() - tiles_B, tiles_B))
    left_T, keys_T = count_B[of_T] - at_T, keys_B[of_T]
    columns = [start_B[of_T] + at_T, np.minimum(tile, left_T), keys_T - left_T if causal else keys_T]
    three = bool((keys_B > runs_B[3]).any())
    columns += [run_B[of_T] for run_B in (runs_B if three else runs_B[:3])]
    order_T = np.argsort(-columns[2], kind="stable")
    return torch.from_numpy(np.stack(columns, axis=1)[order_T].astype(np.int32))


def flash_prefill(query_RHE: Tensor, key_RGE: Tensor, value_RGE: Tensor, table: Tensor, scale: float) -> Tensor:
    """Causal attention: each query sees ``seen`` keys, itself, and in a tile one more than the query before: (R, H, E).

    Args:
        query_RHE: (R, H, E), rows without gaps.
        key_RGE, value_RGE: (R, G, E), possibly halves of one buffer; H a multiple of G.
        table: (tiles, 6 or 8) int32 on the device, of ``PREFILL_TILE`` queries.
        scale: factor on the dot products.
    """
    heads, width = query_RHE.shape[1:]
    groups = key_RGE.shape[1]
    out_RHE = torch.empty_like(query_RHE)
    _prefill_kernel[(table.shape[0], heads)](
        query_RHE,
        key_RGE,
        value_RGE,
        out_RHE,
        table,
        query_RHE.stride(0),
        *_strides(key_RGE, value_RGE),
        scale * LOG2_E,
        columns=table.shape[1],
        shares=heads // groups,
        width=width,
        tile=PREFILL_TILE,
        keys=KEYS,
        **PREFILL_OPTIONS,
    )
    return out_RHE


def flash_decode(
    query_NHE: Tensor,
    order_N: Tensor,
    key_RGE: Tensor,
    value_RGE: Tensor,
    table: Tensor,
    decoded_caches: tuple[Tensor, Tensor] | None,
    scale: float,
    out_NHE: Tensor,
) -> None:
    """Single queries over all keys of their tile, and then over their own decoded ones.

    Args:
        query_NHE: (N, H, E), rows without gaps.
        order_N: (N,) int64, the queries in the order in which tiles count them.
        key_RGE, value_RGE: the prompt's, as in `flash_prefill`.
        table: (tiles, 6 or 8) int32 on the device, of ``DECODE_TILE`` queries; ``seen`` is the number of all keys.
        decoded_caches: keys and values (N, T, G, E) of what each has decoded itself; None: there is nothing yet.
        scale: factor on the dot products.
        out_NHE: (N, H, E), where the queries of this order are answered.
    """
    heads, width = query_NHE.shape[1:]
    groups = key_RGE.shape[1]
    tail_keys, tail_values = decoded_caches if decoded_caches is not None else (query_NHE, query_NHE)
    decoded = 0 if decoded_caches is None else tail_keys.shape[1]
    assert tail_keys.stride()[-2:] == tail_values.stride()[-2:] == (width, 1)
    assert tail_keys.stride() == tail_values.stride()
    _decode_kernel[(table.shape[0], heads)](
        query_NHE,
        order_N,
        key_RGE,
        value_RGE,
        tail_keys,
        tail_values,
        out_NHE,
        table,
        query_NHE.stride(0),
        *_strides(key_RGE, value_RGE),
        tail_keys.stride(0),
        tail_keys.stride(1),
        decoded,
        scale * LOG2_E,
        columns=table.shape[1],
        shares=heads // groups,
        width=width,
        tile=DECODE_TILE,
        keys=KEYS,
        **DECODE_OPTIONS,
    )


def _strides(key_RGE: Tensor, value_RGE: Tensor) -> tuple[int, int]:
    assert key_RGE.stride()[1:] == value_RGE.stride()[1:] == (key_RGE.shape[2], 1)
    return key_RGE.stride(0), value_RGE.stride(0)


if triton is not None:

    @triton.jit
    def _key_rows(number, first, length, second, both, third, columns: tl.constexpr):  # type: ignore[no-untyped-def]
        """The packed row of a sequence's n-th key."""
        row = tl.where(number < length, first + number, second + number - length)
        if columns == 8:
            row = tl.where(number < both, row, third + number - both)
        return row.to(tl.int64)

    @triton.jit
    def _absorb(q, k, v, visible, scale2, top, total, acc):  # type: ignore[no-untyped-def]
        """One block of keys into the running softmax: its maximum, its sum, and the weighted values."""
        scores = tl.where(visible, tl.dot(q, tl.trans(k)) * scale2, -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        shrink = tl.exp2(top - new_top)
        weight = tl.exp2(scores - new_top[:, None])
        total = total * shrink + tl.sum(weight, axis=1)
        acc = tl.dot(weight.to(v.dtype), v, acc * shrink[:, None])
        return new_top, total, acc

    @triton.jit
    def _prefill_kernel(  # type: ignore[no-untyped-def]
        query,
        key,
        value,
        out,
        table,
        query_stride,
        key_stride,
        value_stride,
        scale2,
        columns: tl.constexpr,
        shares: tl.constexpr,
        width: tl.constexpr,
        tile: tl.constexpr,
        keys: tl.constexpr,
    ):
        place = table + tl.program_id(0) * columns
        start, count, seen = tl.load(place), tl.load(place + 1), tl.load(place + 2)
        first, length, second = tl.load(place + 3), tl.load(place + 4), tl.load(place + 5)
        both, third = length, second  # of two runs these are not looked at
        if columns == 8:
            both, third = tl.load(place + 6), tl.load(place + 7)
        head = tl.program_id(1)
        at_e = tl.arange(0, width)
        number = tl.arange(0, keys)
        row = tl.arange(0, tile)
        at_q = (start + row).to(tl.int64)[:, None] * query_stride + head * width + at_e[None, :]
        inside = (row < count)[:, None]
        q = tl.load(query + at_q, mask=inside, other=0.0)
        key += head // shares * width
        value += head // shares * width
        top = tl.full((tile,), -float("inf"), tl.float32)
        total = tl.zeros((tile,), tl.float32)
        acc = tl.zeros((tile, width), tl.float32)
        seen_by_all = (seen + 1) // keys * keys
        for begin in range(0, seen_by_all, keys):
            rows = _key_rows(begin + number, first, length, second, both, third, columns)[:, None]
            k = tl.load(key + rows * key_stride + at_e[None, :])
            v = tl.load(value + rows * value_stride + at_e[None, :])
            top, total, acc = _absorb(q, k, v, True, scale2, top, total, acc)
        for begin in range(seen_by_all, seen + count, keys):
            rows = _key_rows(begin + number, first, length, second, both, third, columns)[:, None]
            exists = (begin + number < seen + count)[:, None]
            k = tl.load(key + rows * key_stride + at_e[None, :], mask=exists, other=0.0)
            v = tl.load(value + rows * value_stride + at_e[None, :], mask=exists, other=0.0)
            visible = (begin + number)[None, :] <= seen + row[:, None]
            top, total, acc = _absorb(q, k, v, visible, scale2, top, total, acc)
        tl.store(out + at_q, (acc / total[:, None]).to(out.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["decoded"])  # else compiled anew for lengths 1, 16, 32, ...
    def _decode_kernel(  # type: ignore[no-untyped-def]
        query,
        order,
        key,
        value,
        tail_key,
        tail_value,
        out,
        table,
        query_stride,
        key_stride,
        value_stride,
        tail_stride,
        step_stride,
        decoded,
        scale2,
        columns: tl.constexpr,
        shares: tl.constexpr,
        width: tl.constexpr,
        tile: tl.constexpr,
        keys: tl.constexpr,
    ):
        place = table + tl.program_id(0) * columns
        start, count, seen = tl.load(place), tl.load(place + 1), tl.load(place + 2)
        first, length, second = tl.load(place + 3), tl.load(place + 4), tl.load(place + 5)
        both, third = length, second  # of two runs these are not looked at
        if columns == 8:
            both, third = tl.load(place + 6), tl.load(place + 7)
        head = tl.program_id(1)
        at_e = tl.arange(0, width)
        number = tl.arange(0, keys)
        row = tl.arange(0, tile)
        inside = (row < count)[:, None]
        n = tl.load(order + start + row, mask=row < count, other=0)
        at_q = n[:, None] * query_stride + head * width + at_e[None, :]
        q = tl.load(query + at_q, mask=inside, other=0.0)
        key += head // shares * width
        value += head // shares * width
        top = tl.full((tile,), -float("inf"), tl.float32)
        total = tl.zeros((tile,), tl.float32)
        acc = tl.zeros((tile, width), tl.float32)
        for begin in range(0, seen, keys):
            rows = _key_rows(begin + number, first, length, second, both, third, columns)[:, None]
            exists = begin + number < seen
            k = tl.load(key + rows * key_stride + at_e[None, :], mask=exists[:, None], other=0.0)
            v = tl.load(value + rows * value_stride + at_e[None, :], mask=exists[:, None], other=0.0)
            top, total, acc = _absorb(q, k, v, exists[None, :], scale2, top, total, acc)
        at_t = n[:, None] * tail_stride + head // shares * width + at_e[None, :]
        for step in range(0, decoded):  # each query has its own: no matrix product
            k = tl.load(tail_key + at_t + step * step_stride, mask=inside, other=0.0).to(tl.float32)
            score = tl.sum(q.to(tl.float32) * k, axis=1) * scale2
            v = tl.load(tail_value + at_t + step * step_stride, mask=inside, other=0.0).to(tl.float32)
            new_top = tl.maximum(top, score)
            shrink = tl.exp2(top - new_top)
            weight = tl.exp2(score - new_top)
            total = total * shrink + weight
            acc = acc * shrink[:, None] + weight[:, None] * v
            top = new_top
        tl.store(out + at_q, (acc / total[:, None]).to(out.dtype.element_ty), mask=inside)
