"""How many visual tokens the images of a sweep have, where each has as many as its size says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from workers.families.base import Checkpoint
from workers.images import image_size
from workers.tasks.base import DataError, Sample

LOOKED_AT = 1000  # images, of which only the first bytes are read: a second or less


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """Visual tokens of each sample's image."""

    of: Mapping[str, int] = field(default_factory=dict)  # by sample; none: as many as the model says of all
    every: bool = False  # whether all images were looked at; else others count as the mean of these

    @property
    def mean(self) -> float | None:
        """Over the samples with an image; None where all have as many."""
        return fmean(self.of.values()) if self.of else None


def image_tokens(samples: Sequence[Sample], checkpoint: Checkpoint) -> ImageTokens:
    """Look at the sizes of some images, evenly over the samples; one that cannot be read counts as the mean.

    Args:
        samples: Of a sweep.
        checkpoint: Of its model.

    Raises:
        ModelError: The checkpoint is none that can be run.
    """
    sources = {str(sample.image): sample.image for sample in samples if sample.image is not None}
    if not checkpoint.sizes.varies or not sources:
        return ImageTokens()
    step = -(-len(sources) // LOOKED_AT)
    known: dict[str, int] = {}
    for name, source in list(sources.items())[::step]:
        try:
            known[name] = checkpoint.visual_tokens(image_size(source))
        except DataError:  # it fails when it is asked about, and is recorded then
            continue
    usual = round(fmean(known.values())) if known else checkpoint.sizes.visual_tokens
    of = {sample.id: known.get(str(sample.image), usual) for sample in samples if sample.image is not None}
    return ImageTokens(of, every=len(known) == len(sources))
