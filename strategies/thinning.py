"""A list thinned in rounds: of its likest neighbours some go, until as many are left as are kept.

A round splits the list into even and odd places. Of the even ones go those that are likest to any odd one; what is left
of them then stands in front, by falling likeness, and the odd ones behind. On a GPU all rounds of an image are one
program, which only compares the likenesses that it is given: it equals the plain form.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.one_program import TILE_VALUES, in_one_program, tl, triton


def thinned(likeness_BVV: Tensor, list_BN: Tensor, length_B: Tensor, keep: int, at_once: int) -> Tensor:
    """What is left of a list for each image.

    Args:
        likeness_BVV: of all tokens to one another, without NaN.
        list_BN: int64, tokens, each once.
        length_B: int64, so many of them are the list of each image; at least ``keep``.
        keep: tokens to keep.
        at_once: those that go in a round at most, as long as there are so many even places.

    Returns:
        (B, keep) int64.
    """
    images, tokens = likeness_BVV.shape[:2]
    if keep == 0:
        return list_BN[:, :0]
    if in_one_program(likeness_BVV):
        lists_B2V = torch.empty(images, 2, tokens, dtype=torch.int32, device=list_BN.device)
        lists_B2V[:, 0, : list_BN.shape[1]] = list_BN
        nearest_BV = likeness_BVV.new_empty(images, tokens)
        left_BK = list_BN.new_empty(images, keep)
        block = triton.next_power_of_2((tokens + 1) // 2)
        given = likeness_BVV.contiguous(), lists_B2V, nearest_BV, length_B.int(), left_BK, tokens, keep, at_once
        _thinning_kernel[(images,)](*given, block=block, tile=max(1, TILE_VALUES // block), num_warps=8)
        return left_BK
    lengths = length_B.tolist()
    if len(set(lengths)) > 1:
        each = zip(likeness_BVV.split(1), list_BN.split(1), length_B.split(1), strict=True)
        return torch.cat([thinned(*one, keep, at_once) for one in each])
    list_BN = list_BN[:, : lengths[0]]
    image_B = torch.arange(images, device=list_BN.device)[:, None]
    while list_BN.shape[1] > keep:
        even_BN, odd_BN = list_BN[:, ::2], list_BN[:, 1::2]
        removed = min(at_once, list_BN.shape[1] - keep, even_BN.shape[1])
        nearest_BN = likeness_BVV[image_B[:, :, None], even_BN[:, :, None], odd_BN[:, None]].amax(dim=2)
        by_likeness_BN = nearest_BN.sort(dim=1, descending=True, stable=True).indices
        list_BN = torch.cat((even_BN.gather(1, by_likeness_BN[:, removed:]), odd_BN), dim=1)
    return list_BN


if triton is not None:

    @triton.jit
    def _thinning_kernel(  # type: ignore[no-untyped-def]
        likeness, lists, nearest, lengths, left, tokens, keep, at_once, block: tl.constexpr, tile: tl.constexpr
    ):
        image = tl.program_id(0).to(tl.int64)
        likeness += image * tokens * tokens
        lists += image * 2 * tokens  # the list of this round and that of the next
        nearest += image * tokens
        column = tl.arange(0, block)
        length = tl.load(lengths + image)
        now = tl.full((), 0, tl.int32)
        then = now + tokens
        while length > keep:
            evens = (length + 1) // 2
            odds = length // 2
            removed = tl.minimum(tl.minimum(evens, length - keep), at_once)
            odd = tl.load(lists + now + 2 * column + 1, mask=column < odds, other=0)
            for first in range(0, evens, tile):
                place = first + tl.arange(0, tile)
                even = tl.load(lists + now + 2 * place, mask=place < evens, other=0)
                like = tl.load(
                    likeness + even[:, None] * tokens + odd[None, :],
                    mask=(place < evens)[:, None] & (column < odds)[None, :],
                    other=float("-inf"),
                )
                tl.store(nearest + place, tl.max(like, axis=1), mask=place < evens)
            tl.debug_barrier()  # what other threads of the program have stored is read from here on
            others = tl.load(nearest + column, mask=column < evens, other=float("-inf"))
            for first in range(0, evens, tile):
                place = first + tl.arange(0, tile)
                even = tl.load(lists + now + 2 * place, mask=place < evens, other=0)
                own = tl.load(nearest + place, mask=place < evens, other=0.0)
                larger = others[None, :] > own[:, None]
                equal = (others[None, :] == own[:, None]) & (column[None, :] < place[:, None])
                before = (larger | equal) & (column < evens)[None, :]
                rank = tl.sum(before.to(tl.int32), axis=1)  # where a stable sort by falling likeness has it
                tl.store(lists + then + rank - removed, even, mask=(place < evens) & (rank >= removed))
            tl.store(lists + then + evens - removed + column, odd, mask=column < odds)
            tl.debug_barrier()
            length -= removed
            before_it = now
            now = then
            then = before_it
        for first in range(0, keep, block):
            place = first + column
            rows = tl.load(lists + now + place, mask=place < keep, other=0)
            tl.store(left + image * keep + place, rows.to(tl.int64), mask=place < keep)
