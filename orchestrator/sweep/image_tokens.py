"""How many visual tokens the prompts of a sweep have, where images have as many as their size says, or are several."""

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
    """Visual tokens of each sample's images."""

    of: Mapping[str, int] = field(default_factory=dict)  # by sample; none: as many as the model says of all
    every: bool = False  # whether all images are known; else others count as the mean of these

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
    each = checkpoint.sizes.visual_tokens
    # The same image may have fewer tokens beside others.
    sources = {(str(image), len(one.images)): image for one in samples for image in one.images}
    if not sources or not (checkpoint.sizes.varies or any(sample.more for sample in samples)):
        return ImageTokens()
    if not checkpoint.sizes.varies:
        return ImageTokens({one.id: each * len(one.images) for one in samples if one.images}, every=True)
    step = -(-len(sources) // LOOKED_AT)
    known: dict[tuple[str, int], int] = {}
    for (name, among), source in list(sources.items())[::step]:
        try:
            known[name, among] = checkpoint.visual_tokens(image_size(source), among)
        except DataError:  # it fails when it is asked about, and is recorded then
            continue
    usual = round(fmean(known.values())) if known else each
    of = {
        one.id: sum(known.get((str(image), len(one.images)), usual) for image in one.images)
        for one in samples
        if one.images
    }
    return ImageTokens(of, every=len(known) == len(sources))
