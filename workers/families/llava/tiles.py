"""What was read of an image's tiles, put together as its tokens are.

Source: transformers, models/llava_next/modeling_llava_next.py and llava_onevision (``pack_image_features``), which do
it with features: the tests hold this against them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from workers.families.base import Call
from workers.families.llava.anyres import Size, Tiling


def of_tokens(rows_NPX: Tensor, tiling: Tiling, images: Sequence[Size | None]) -> list[Tensor]:
    """For each image (V, ...), with 0 at the ends of rows.

    Args:
        rows_NPX: (N, P, ...) of all tiles of the images, of each the overview first. Where tokens are fewer than
            patches, what is floating is interpolated as features are, and whole numbers are those of the patch in
            the middle of the token.
        tiling: which grids the model knows.
        images: height and width of each; None: it is one tile alone.
    """
    tiles = rows_NPX.split([1 if image is None else tiling.tiles(image) for image in images])
    return [_joined(tiles_NPX, tiling, image) for tiles_NPX, image in zip(tiles, images, strict=True)]


def pictures(tiling: Tiling, call: Call, ids_BS: Tensor) -> list[tuple[Tensor, int]]:
    """(tiles, 3, side, side) of each image, and its tokens, from a call of any-resolution for features."""
    sizes, pixels = _sizes(tiling, call), call["pixel_values"]
    counts = [1 if image is None else tiling.tiles(image) for image in sizes]
    tokens = [tiling.side**2 + 1 if image is None else tiling.tokens(image) for image in sizes]
    if pixels.dim() == 4:
        return list(zip(pixels.split(counts), tokens, strict=True))
    return [(tiles[:count], many) for tiles, count, many in zip(pixels, counts, tokens, strict=True)]


def of_call(tiling: Tiling, call: Call, rows_NPX: Tensor) -> list[Tensor]:
    """As ``of_tokens``, of the images of such a call."""
    return of_tokens(rows_NPX, tiling, _sizes(tiling, call))


def _sizes(tiling: Tiling, call: Call) -> list[Size | None]:
    """Height and width of each image of a call; None for one of several in a prompt that is one tile alone."""
    sizes: list[Size | None] = [(height, width) for height, width in call["image_sizes"].tolist()]
    if tiling.one_tile_among and (several := call.get("batch_num_images")) is not None:
        alone = [number == 1 for number in several.tolist() for _ in range(number)]
        return [image if whole else None for image, whole in zip(sizes, alone, strict=False)]
    return sizes


def _joined(tiles_NPX: Tensor, tiling: Tiling, image: Size | None) -> Tensor:
    if image is None:
        return torch.cat((tiles_NPX[0], torch.zeros_like(tiles_NPX[0, :1])))
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
