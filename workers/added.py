"""Rows that are added to those of visual tokens behind the first decoder layers, as DeepStack does it.

A fork keeps those of the tokens that it keeps, whichever wave it is in: they are found by its tokens' numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from workers.sequences import Packing, TokenSequence, numbers
from workers.upload import to_device


class AddedRows:
    """What is added in a micro-batch."""

    def __init__(self, images: Sequence[Tensor | None] = ()) -> None:
        """Take it over.

        Args:
            images: per sample (J, V, D), to its V visual tokens after layer J; None, or no sample at all: nothing is.
        """
        self._images = images
        self.nbytes = sum({id(image): image.nbytes for image in images if image is not None}.values())

    def add(self, layer: int, packing: Packing, hidden_RD: Tensor) -> None:
        """Add to the rows that have gone through a layer, in place."""
        shown: dict[int, list[TokenSequence]] = defaultdict(list)
        for run in packing.sequences if self.nbytes else ():
            if run.visual and run.image is run:
                shown[run.sample].append(run)
        for sample, runs in shown.items():
            image_JVD = self._images[sample]
            if image_JVD is not None and layer < len(image_JVD):
                rows_N = numbers(*(packing.visual(run) for run in runs))
                visual_N = torch.cat([run.visual_K for run in runs])
                rows_N, visual_N = (to_device(places, hidden_RD.device) for places in (rows_N, visual_N))
                hidden_RD.index_add_(0, rows_N, image_JVD[layer, visual_N])
