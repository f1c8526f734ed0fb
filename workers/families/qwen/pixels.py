"""From an image to the patches that Qwen2-VL's tower is given."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from workers.families.qwen.resizing import MAX_RATIO, Resizing
from workers.tasks.base import DataError


def to_patches(image: Image.Image, resizing: Resizing, processor: Any, grid: tuple[int, int] | None = None) -> Tensor:
    """Pre-process one image.

    Args:
        image: RGB.
        resizing: how large it becomes.
        processor: the checkpoint's image processor, PIL back end.
        grid: rows and columns of tokens, in place of those that ``resizing`` says.

    Returns:
        (patches, values of one) float32, those of a token next to one another.

    Raises:
        DataError: it is narrower than the model takes images.
    """
    if max(image.size) > MAX_RATIO * min(image.size):
        raise DataError(
            f"the image has {image.width} x {image.height} pixels: its sides differ more than {MAX_RATIO}-fold, "
            "which the model does not take; leave its questions out"
        )
    if grid is None:
        grid, made = resizing.grid((image.height, image.width)), processor(images=image, return_tensors="pt")
    else:
        height, width = (side * resizing.unit for side in grid)
        resized = image.resize((width, height), Image.Resampling(int(processor.resample)))
        made = processor(images=resized, do_resize=False, return_tensors="pt")
    rows, columns = (side * resizing.merge for side in grid)
    assert made["image_grid_thw"].tolist() == [[1, rows, columns]], "sizes are not counted as transformers does"
    patches: Tensor = torch.as_tensor(made["pixel_values"], dtype=torch.float32)
    return patches


def as_seen(image: Image.Image, resizing: Resizing, processor: Any) -> Image.Image:
    """The pixels that the vision tower is given, before they are normalised."""
    height, width = resizing.scaled((image.height, image.width))
    return image.resize((width, height), Image.Resampling(int(processor.resample)))
