"""The vision towers of Qwen2-VL and its kind for several images at once, windows of one size together.

transformers runs a layer's windows one after another, 81 of them for an image of 1,296 tokens; here those of a size are
one call, whichever image they are of, and element-wise steps are the decoder's kernels. Its own tower is what the tests
hold this against.

Shape letters: see ``workers/sites.py``; here also R patches of all images, W windows of one size, N patches of one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from workers.decoder import Rotary
from workers.families.qwen.grid import TokenGrid, turned
from workers.kernels import rms_norm, rotate, uses_triton
from workers.upload import to_device

Windows = tuple[slice | Tensor, int]  # the rows of windows of one size, window after window, and that size


def run_tower(
    visual: Any,
    mlps: Sequence[Callable[[Tensor], Tensor]],
    pixels_RX: Tensor,
    grids: Sequence[TokenGrid],
    full_layers: Collection[int],
    keep: bool,
) -> tuple[list[tuple[Tensor, Tensor | None]], list[Tensor]]:
    """Tower and merger.

    Args:
        visual: transformers' tower.
        mlps: the feed-forward of each of its layers.
        pixels_RX: patches of all images, one image after the other.
        grids: where their tokens lie.
        full_layers: those in which a patch attends to all of its image.
        keep: whether states between the layers are wanted.

    Returns:
        Per image (V, D) visual tokens, and (J, V, D) what is added to them after decoder layer J, or None; and, if they
        are kept, (R, C) what entered each layer and left the last, in the tower's order.
    """
    merged = grids[0].merge ** 2
    starts = [0, *accumulate(grid.tokens for grid in grids)]
    order_T = torch.cat([grid.order_V + start for grid, start in zip(grids, starts, strict=False)])
    # Patches do not overlap, so that the convolution is a product, which is the same and does not depend on cuDNN.
    embed = visual.patch_embed.proj
    embedded_RC = linear(pixels_RX, embed.weight.flatten(1), embed.bias)
    if (table := getattr(visual, "pos_embed", None)) is not None:
        places_RC = torch.cat([grid.stretched(table.weight).flatten(0, 1) for grid in grids])
        embedded_RC = embedded_RC + places_RC.to(embedded_RC.dtype)
    hidden_RC = embedded_RC.unflatten(0, (-1, merged))[order_T].flatten(0, 1)
    head_dim = visual.blocks[0].attn.head_dim
    angles = torch.cat([grid.angles(head_dim)[grid.order_V].flatten(0, 1) for grid in grids])[:, None]
    rotary = angles.cos(), angles.sin()
    windowed = _together((size * merged for grid in grids for size in grid.windows), hidden_RC.device)
    whole = _together((grid.patches for grid in grids), hidden_RC.device)
    states, deep = [], list(getattr(visual, "deepstack_visual_indexes", ()))
    added: dict[int, Tensor] = {}
    for layer, (block, mlp) in enumerate(zip(visual.blocks, mlps, strict=True)):
        if keep:
            states.append(hidden_RC)
        hidden_RC = hidden_RC + _attended(block, hidden_RC, rotary, whole if layer in full_layers else windowed)
        hidden_RC = hidden_RC + mlp(_normed(block.norm2, hidden_RC))
        if layer in deep:
            added[layer] = visual.deepstack_merger_list[deep.index(layer)](hidden_RC)
    tokens = [grid.tokens for grid in grids]
    features = _in_order(visual.merger(hidden_RC).split(tokens), grids)
    # Whichever merger makes it, what is of the earliest layer is added first.
    further: list[Tensor | None] = [None] * len(grids)
    if added:
        further = [made.transpose(0, 1) for made in _in_order(torch.stack([*added.values()], 1).split(tokens), grids)]
    return list(zip(features, further, strict=True)), [*states, hidden_RC] if keep else []


def _in_order(made: Iterable[Tensor], grids: Sequence[TokenGrid]) -> list[Tensor]:
    """(V, ...) of each image in the decoder's order, from the tower's."""
    return [made_V[grid.at_V] for made_V, grid in zip(made, grids, strict=True)]


def _normed(norm: Any, hidden_RC: Tensor) -> Tensor:
    """Qwen2.5-VL's is that of its decoder, the others' has a mean and a bias."""
    if hasattr(norm, "variance_epsilon"):
        return rms_norm(hidden_RC, norm.weight, norm.variance_epsilon)
    normed_RC: Tensor = norm(hidden_RC)
    return normed_RC


def _attended(block: Any, hidden_RC: Tensor, rotary: Rotary, windows: Sequence[Windows]) -> Tensor:
    """(R, C) a layer's attention, each window's patches among themselves."""
    attention = block.attn
    rows_RIHE = attention.qkv(_normed(block.norm1, hidden_RC)).unflatten(-1, (3, attention.num_heads, -1))
    query_key_RJE = rows_RIHE[:, :2].flatten(1, 2)
    if uses_triton(query_key_RJE):
        rotate(query_key_RJE, *rotary)
    else:
        query_key_RJE = turned(query_key_RJE, *rotary)
    query_RHE, key_RHE = query_key_RJE.chunk(2, dim=1)
    given_RHE = torch.empty_like(query_RHE, memory_format=torch.contiguous_format)
    for rows, size in windows:
        query, key, value = (
            part[rows].unflatten(0, (-1, size)).transpose(1, 2) for part in (query_RHE, key_RHE, rows_RIHE[:, 2])
        )
        attended_WHNE = scaled_dot_product_attention(query, key, value, scale=attention.scaling)
        given_RHE[rows] = attended_WHNE.transpose(1, 2).flatten(0, 1)
    attended_RC: Tensor = attention.proj(given_RHE.flatten(1))
    return attended_RC


def _together(sizes: Iterable[int], device: torch.device) -> list[Windows]:
    """Of consecutive windows those of one size; as a slice where nothing lies between them."""
    firsts: dict[int, list[int]] = defaultdict(list)
    place = 0
    for size in sizes:
        firsts[size].append(place)
        place += size
    windows: list[Windows] = []
    for size, places in firsts.items():
        stop = places[-1] + size
        if stop - places[0] == size * len(places):
            windows.append((slice(places[0], stop), size))
        else:
            rows_WN = torch.tensor(places)[:, None] + torch.arange(size)
            windows.append((to_device(rows_WN.flatten(), device), size))
    return windows
