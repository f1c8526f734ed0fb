"""Qwen2-VL's vision tower for several images at once, windows of one size together.

transformers runs a layer's windows one after another, 81 of them for an image of 1,296 tokens; here those of a size are
one call, whichever image they are of. Its own tower is what the tests hold this against.

Shape letters: see ``workers/sites.py``; here also R patches of all images, W windows of one size, N patches of one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from workers.families.qwen.grid import TokenGrid, turned
from workers.sequences import to_device


def run_tower(
    visual: Any, pixels_RX: Tensor, grids: Sequence[TokenGrid], full_layers: Collection[int], keep: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Tower and merger.

    Args:
        visual: transformers' tower.
        pixels_RX: patches of all images, one image after the other.
        grids: where their tokens lie.
        full_layers: those in which a patch attends to all of its image.
        keep: whether states between the layers are wanted.

    Returns:
        Per image (V, D) visual tokens; and, if they are kept, (R, C) what entered each layer and left the last, in the
        tower's order.
    """
    merged = grids[0].merge ** 2
    starts = [0, *accumulate(grid.tokens for grid in grids)]
    order_T = torch.cat([grid.order_V + start for grid, start in zip(grids, starts, strict=False)])
    # Patches do not overlap, so that the convolution is a product, which is the same and does not depend on cuDNN.
    embedded_RC = linear(pixels_RX, visual.patch_embed.proj.weight.flatten(1))
    hidden_RC = embedded_RC.unflatten(0, (-1, merged))[order_T].flatten(0, 1)
    head_dim = visual.blocks[0].attn.head_dim
    angles = torch.cat([grid.angles(head_dim)[grid.order_V].flatten(0, 1) for grid in grids])[:, None]
    windowed = _together((size * merged for grid in grids for size in grid.windows), hidden_RC.device)
    whole = _together((grid.patches for grid in grids), hidden_RC.device)
    states = []
    for layer, block in enumerate(visual.blocks):
        if keep:
            states.append(hidden_RC)
        hidden_RC = hidden_RC + _attended(block, hidden_RC, angles, whole if layer in full_layers else windowed)
        hidden_RC = hidden_RC + block.mlp(block.norm2(hidden_RC))
    made_TD = visual.merger(hidden_RC).split([grid.tokens for grid in grids])
    features = [made_VD[grid.at_V] for made_VD, grid in zip(made_TD, grids, strict=True)]
    return features, [*states, hidden_RC] if keep else []


def _attended(block: Any, hidden_RC: Tensor, angles_R1E: Tensor, windows: Sequence[Tensor]) -> Tensor:
    """(R, C) a layer's attention, each window's patches among themselves."""
    attention = block.attn
    rows_RHE = attention.qkv(block.norm1(hidden_RC)).unflatten(-1, (3, attention.num_heads, -1))
    query_RHE, key_RHE, value_RHE = rows_RHE.unbind(dim=1)
    query_RHE, key_RHE = turned(query_RHE, angles_R1E), turned(key_RHE, angles_R1E)
    given_RHE = torch.empty_like(value_RHE)
    for rows_WN in windows:
        query, key, value = (rows[rows_WN].transpose(1, 2) for rows in (query_RHE, key_RHE, value_RHE))
        given_RHE[rows_WN] = scaled_dot_product_attention(query, key, value, scale=attention.scaling).transpose(1, 2)
    attended_RC: Tensor = attention.proj(given_RHE.flatten(1))
    return attended_RC


def _together(sizes: Iterable[int], device: torch.device) -> list[Tensor]:
    """(W, N) each, which rows are a window's: of consecutive windows those of one size."""
    firsts: dict[int, list[int]] = defaultdict(list)
    place = 0
    for size in sizes:
        firsts[size].append(place)
        place += size
    return [to_device(torch.tensor(places)[:, None] + torch.arange(size), device) for size, places in firsts.items()]
