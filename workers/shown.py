"""Points that show the model the image with fewer pixels: their prompts, and what their cells say of the whole one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from strategies import catalog
from strategies.downsample import middles
from workers.families.model import Encoded, Model, Pixels
from workers.forks import packed_mask
from workers.tasks.base import DataError
from workers.token_maps import TokenMap
from workers.work import UNPRUNED, GridPoint


def shows_smaller(model: Model, point: GridPoint) -> bool:
    """Whether a point has prompts of its own, of images with fewer pixels than the rest of a grid shows."""
    smaller = point.strategy != UNPRUNED and catalog.get(point.strategy).smaller
    return smaller and 0 < point.rank < model.visual_tokens


def look_at(model: Model, image: Image.Image, mode: str, point: GridPoint | None, among: int = 1) -> Pixels:
    """Pre-process an RGB image, of so many of a prompt, as a point shows it; None: as it is."""
    if point is not None and shows_smaller(model, point):
        if among > 1:
            raise DataError(f"{point.strategy} shows one smaller image, and the question has {among}")
        whole = math.prod(model.grid((image.height, image.width)))
        if (most := max(1, point.of(whole).rank)) < whole:  # a share may be less than one token
            return model.look_smaller(image, mode, most)
    return model.look(image, mode, among)


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A prompt as the un-pruned model is given it, whatever is shown of its image."""

    tokens: int  # of the prompt
    visual: int  # those of its image
    places_K: Tensor | None  # int64 on the host: where among them the tokens of a smaller image stand; None: they are
    maps: tuple[TokenMap, ...]  # where they lie in the image

    @classmethod
    def of(cls, model: Model, prompt: Encoded) -> Shown:
        if not prompt.pixels or (most := (image := prompt.pixels[0]).most) is None:
            return cls(prompt.length, prompt.visual, None, prompt.maps)
        whole = model.grid(image.size)
        places_K = middles(whole, model.grid(image.size, most))
        tokens, maps = prompt.length - prompt.visual, tuple(TokenMap(0, *whole) for _ in prompt.maps)
        return cls(tokens + math.prod(whole), math.prod(whole), places_K, maps)

    def mask(self, kept_K: Tensor) -> bytes:
        """The visual tokens of a prompt that are kept, as ``SampleOutcome.kept_mask``."""
        return packed_mask(kept_K if self.places_K is None else self.places_K[kept_K], self.visual)
