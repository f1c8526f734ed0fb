"""What was read of an image's tiles, put together as its tokens are.

Source: transformers, models/llava_next/modeling_llava_next.py and llava_onevision (``pack_image_features``), which do
it with features: the tests hold this against them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from strategies.errors import UsageError
from workers.families.base import Call
from workers.families.llava.anyres import Size, Tiling


def of_tokens(rows_NPX: Tensor, tiling: Tiling, images: Sequence[Size]) -> list[Tensor]:
    """For each image (V, ...), with 0 at the ends of rows.

    Args:
        rows_NPX: (N, P, ...) of all tiles of the images, of each the overview first. Where tokens are fewer than
            patches, what is floating is interpolated as features are, and whole numbers are those of the patch in
            the middle of the token.
        tiling: which grids the model knows.
        images: height and width of each.
    """
    tiles = rows_NPX.split([tiling.tiles(image) for image in images])
    return [_joined(tiles_NPX, tiling, image) for tiles_NPX, image in zip(tiles, images, strict=True)]


def pictures(tiling: Tiling, call: Call, ids_BS: Tensor) -> Sequence[Tensor]:
    """(tiles, 3, side, side) of each image, from a call for features of transformers' model of any-resolution.

    Raises:
        UsageError: a prompt of it has several images, which the model sees without tiles.
    """
    counts, pixels = [tiling.tiles(image) for image in _sizes(call)], call["pixel_values"]
    several = call.get("batch_num_images")
    if several is not None and any(number > 1 for number in several.tolist()):
        raise UsageError("a sample has several images; pruned takes one")
    if pixels.dim() == 4:
        return pixels.split(counts)
    return [tiles[:count] for tiles, count in zip(pixels, counts, strict=True)]


def of_call(tiling: Tiling, call: Call, rows_NPX: Tensor) -> list[Tensor]:
    """As ``of_tokens``, of the images of such a call."""
    return of_tokens(rows_NPX, tiling, _sizes(call))


def _sizes(call: Call) -> list[Size]:
    return [(height, width) for height, width in call["image_sizes"].tolist()]


def _joined(tiles_NPX: Tensor, tiling: Tiling, image: Size) -> Tensor:
    grid = tuple(pixels // tiling.tile for pixels in tiling.best(image))
    grid_RCX = tiles_NPX[1:].unflatten(0, grid).unflatten(2, (tiling.side, tiling.side)).transpose(1, 2)
    grid_RCX = grid_RCX.flatten(2, 3).flatten(0, 1)
    patches = tiling.unpadded(image)
    top, left = ((whole - own) // 2 for whole, own in zip(grid_RCX.shape, patches, strict=False))
    grid_RCX = _merged(grid_RCX[top : top + patches[0], left : left + patches[1]], tiling.merged(patches))
    ends_R1X = grid_RCX.new_zeros(len(grid_RCX), 1, *grid_RCX.shape[2:])
    return torch.cat((tiles_NPX[0], torch.cat((grid_RCX, ends_R1X), dim=1).flatten(0, 1)))


def _merged(grid_RCX: Tensor, size: Size) -> Tensor:
    """Another number of rows and columns."""
    if grid_RCX.shape[:2] == size:
        return grid_RCX
    if not grid_RCX.is_floating_point():
        row, column = (
            ((torch.arange(new, device=grid_RCX.device) + 0.5) * (old / new)).long()
            for new, old in zip(size, grid_RCX.shape, strict=False)
        )
        return grid_RCX[row][:, column]
    flat_1XRC = grid_RCX.flatten(2).permute(2, 0, 1)[None] if grid_RCX.dim() > 2 else grid_RCX[None, None]
    merged_RCX = interpolate(flat_1XRC, size, mode="bilinear")[0].permute(1, 2, 0)
    return merged_RCX.reshape(*size, *grid_RCX.shape[2:])
