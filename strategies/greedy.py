"""Greedy choices of some hundred steps, for several images at once.

On a GPU all steps of an image are one program; it and the plain form compute in float32, in another order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.one_program import TILE_VALUES, in_one_program, tl, triton

LEAST = 1e-6  # of a unit vector's square that is new: below is rounding in float32


def greedy_determinant(likeness_BVV: Tensor, relevance_BV: Tensor, keep: int) -> Tensor:
    """Each time the row that adds most to the determinant of ``r_i likeness_ij r_j``.

    That is the square of its relevance times what is new in it: the diagonal of what is left of the likeness when the
    rows chosen before are projected out.

    Args:
        likeness_BVV: symmetric; it may be written over.
        relevance_BV: >= 0.
        keep: rows to choose, at most V.

    Returns:
        (B, keep) int64, unique, in the order of choice; of equals the first.
    """
    images, tokens = relevance_BV.shape
    weight_BV = relevance_BV.square()
    order_BK = torch.empty(images, keep, dtype=torch.int64, device=likeness_BVV.device)
    if in_one_program(likeness_BVV):
        rows_JBKV = likeness_BVV.new_empty(2, images, keep, tokens)
        block = triton.next_power_of_2(tokens)
        given = likeness_BVV.contiguous(), weight_BV.float().contiguous(), *rows_JBKV, order_BK
        _determinant_kernel[(images,)](*given, tokens, keep, LEAST, block=block, num_warps=8)
        return order_BK
    new_BV = likeness_BVV.diagonal(dim1=1, dim2=2)
    for i in range(keep):
        next_B1 = (weight_BV * new_BV.clamp(min=LEAST)).argmax(dim=1, keepdim=True)
        order_BK[:, i : i + 1] = next_B1
        row_BV = likeness_BVV.gather(1, next_B1[:, :, None].expand(-1, 1, tokens))[:, 0]
        own_B1 = row_BV.gather(1, next_B1)
        part_BV = row_BV * (1 / own_B1).where(own_B1 > LEAST, 0.0)
        likeness_BVV.baddbmm_(part_BV[:, :, None], row_BV[:, None], alpha=-1)
        weight_BV = weight_BV.scatter(1, next_B1, -1.0)  # it is not chosen again
    return order_BK


def greedy_coverage(likeness_BVV: Tensor, weight_BV: Tensor, keep: int) -> Tensor:
    """Each time the row j of the largest ``weight_j * sum over i of max(0, likeness_ji - m_i)``; m is covered already.

    Args:
        likeness_BVV: symmetric.
        weight_BV: of each row.
        keep: rows to choose, at most V.

    Returns:
        (B, keep) int64, unique, in the order of choice; of equals the first.
    """
    images, tokens = weight_BV.shape
    order_BK = torch.empty(images, keep, dtype=torch.int64, device=likeness_BVV.device)
    chosen_BV = likeness_BVV.new_zeros(images, tokens)  # 0, or minus infinity where it is chosen already
    if in_one_program(likeness_BVV):
        block = triton.next_power_of_2(tokens)
        given = likeness_BVV.contiguous(), weight_BV.float().contiguous(), chosen_BV, order_BK
        tile = max(1, TILE_VALUES // block)
        _coverage_kernel[(images,)](*given, tokens, keep, block=block, tile=tile, num_warps=8)
        return order_BK
    covered_BV = torch.zeros_like(chosen_BV)
    for i in range(keep):
        gain_BV = (likeness_BVV - covered_BV[:, None]).clamp(min=0).sum(dim=2)  # symmetric: row j is of candidate j
        next_B1 = torch.addcmul(chosen_BV, weight_BV, gain_BV).argmax(dim=1, keepdim=True)
        order_BK[:, i : i + 1] = next_B1
        chosen_BV = chosen_BV.scatter(1, next_B1, -torch.inf)
        row_B1V = likeness_BVV.gather(1, next_B1[:, :, None].expand(-1, 1, tokens))
        covered_BV = covered_BV.maximum(row_B1V[:, 0])
    return order_BK


if triton is not None:

    @triton.jit
    def _determinant_kernel(  # type: ignore[no-untyped-def]
        likeness, weight, rows, parts, order, tokens, keep, least, block: tl.constexpr
    ):
        image = tl.program_id(0).to(tl.int64)
        at = tl.arange(0, block)
        inside = at < tokens
        likeness += image * tokens * tokens
        rows += image * keep * tokens
        parts += image * keep * tokens
        weights = tl.load(weight + image * tokens + at, mask=inside, other=0.0)
        new = tl.load(likeness + at * (tokens + 1), mask=inside, other=0.0)
        for i in range(keep):
            score = tl.where(inside, weights * tl.maximum(new, least), float("-inf"))
            chosen = tl.argmax(score, axis=0)
            tl.store(order + image * keep + i, chosen.to(tl.int64))
            row = tl.load(likeness + chosen * tokens + at, mask=inside, other=0.0)
            for before in range(i):
                factor = tl.load(parts + before * tokens + chosen)
                row -= factor * tl.load(rows + before * tokens + at, mask=inside, other=0.0)
            own = tl.sum(tl.where(at == chosen, row, 0.0), axis=0)
            part = row * tl.where(own > least, 1.0 / own, 0.0)
            tl.store(rows + i * tokens + at, row, mask=inside)
            tl.store(parts + i * tokens + at, part, mask=inside)
            tl.debug_barrier()  # what other threads of the program have stored is read in the next steps
            new -= part * row
            weights = tl.where(at == chosen, -1.0, weights)  # it is not chosen again

    @triton.jit
    def _coverage_kernel(  # type: ignore[no-untyped-def]
        likeness, weight, chosen, order, tokens, keep, block: tl.constexpr, tile: tl.constexpr
    ):
        image = tl.program_id(0).to(tl.int64)
        at = tl.arange(0, block)
        inside = at < tokens
        likeness += image * tokens * tokens
        chosen += image * tokens
        weight += image * tokens
        covered = tl.zeros((block,), dtype=tl.float32)
        for i in range(keep):
            most = tl.full((), float("-inf"), tl.float32)
            best = tl.full((), 0, tl.int32)
            for first in range(0, tokens, tile):
                candidate = first + tl.arange(0, tile)
                exists = candidate < tokens
                like = tl.load(
                    likeness + candidate[:, None] * tokens + at[None, :],
                    mask=exists[:, None] & inside[None, :],
                    other=0.0,
                )
                gain = tl.sum(tl.maximum(like - covered[None, :], 0.0), axis=1)
                free = tl.load(chosen + candidate, mask=exists, other=float("-inf"))
                score = free + tl.load(weight + candidate, mask=exists, other=0.0) * gain
                here = tl.max(score, axis=0)
                best = tl.where(here > most, first + tl.argmax(score, axis=0), best)
                most = tl.maximum(most, here)
            tl.store(order + image * keep + i, best.to(tl.int64))
            tl.store(chosen + best, float("-inf"))
            tl.debug_barrier()
            covered = tl.maximum(covered, tl.load(likeness + best * tokens + at, mask=inside, other=0.0))
