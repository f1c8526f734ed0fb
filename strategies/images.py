"""Which of a prompt's images a visual token is of, for rules that take each image by itself."""

from __future__ import annotations

from torch import Tensor

SQUARES = 2**20  # more than the tower sees of images together: numbers of squares of the next image begin there


def image_of(square: Tensor) -> Tensor:
    """From 0; of what is no patch, whose square is 0, the first."""
    return square // SQUARES


def image_sizes(square_V: Tensor) -> tuple[int, ...]:
    """Visual tokens of each image of one prompt, of which each begins with a patch; the host waits for a device."""
    return tuple(image_of(square_V).cummax(dim=0).values.unique_consecutive(return_counts=True)[1].tolist())
