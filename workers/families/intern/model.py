"""An InternVL on a device: images in tiles, each a square of tokens, one tile after another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from workers.checkpoints.tokenizer import rendered
from workers.decoder import Decoder
from workers.families.config import ModelConfig
from workers.families.intern.pixels import to_tiles
from workers.families.intern.tiling import Tiling
from workers.families.intern.tower import InternTower
from workers.families.model import Encoded, Model, Pixels, SeenImage, together
from workers.sites import Tower
from workers.tasks.base import DataError
from workers.tasks.prompts import IMAGE_MARKER
from workers.upload import to_device

BEGIN, PAD, END = "<img>", "<IMG_CONTEXT>", "</img>"
VIDEO = "<video>"
TILES = 64  # that go through the tower together, if several images do: the forward of 1.5 GB in half precision
READ_TILES = 16  # where the states between its layers are kept


class Intern(Model):
    """A loaded InternVL3 or InternVL3.5."""

    def __init__(
        self,
        module: Any,
        config: ModelConfig,
        tokenizer: Any,
        image_processor: Any,
        tiling: Tiling,
        chat_template: str | None = None,
        away: Collection[int] = (),
    ) -> None:
        super().__init__(module, config, Decoder(module.model.language_model, module.lm_head, away), tokenizer)
        self.image_processor = image_processor
        self.image_token: int = module.config.image_token_id
        self._tiling = tiling
        self._chat_template = chat_template

    def chat(self, question: str, images: int) -> str:
        return rendered(self.tokenizer, self._chat_template, question, images, marker=PAD).replace(PAD, IMAGE_MARKER)

    def look(self, image: Image.Image, mode: str, among: int = 1) -> Pixels:
        size = (image.height, image.width)
        tiles = to_tiles(image, self._tiling, self.image_processor)
        return Pixels(tiles, self._tiling.tokens(size), size, maps=self._tiling.maps(size))

    def _words(self, prompt: str, whole: bool) -> list[tuple[int, ...]]:
        """Each image stands between two tokens of its own: at once or apart, the ids are the same.

        All tiles of an image are in one pair of these, as transformers' processor has them.
        """
        parts = prompt.split(IMAGE_MARKER)
        last = len(parts) - 1
        return [
            self._ids(part, END if place else "", BEGIN if place < last else "") for place, part in enumerate(parts)
        ]

    def _ids(self, text: str, before: str, after: str) -> tuple[int, ...]:
        for mark in (PAD, VIDEO):
            if mark in text:
                raise DataError(f"the question holds {mark}, which would be taken for a part of an image or a video")
        return tuple(self.tokenizer(before + text + after, add_special_tokens=False)["input_ids"])

    def _together(self, images: Sequence[Pixels], read: bool) -> Iterator[Sequence[Pixels]]:
        return together(images, READ_TILES if read else TILES)

    def _see(self, images: Sequence[Pixels], readers: Mapping[str, Callable[[Tower], Tensor]]) -> Iterator[SeenImage]:
        inner, tiles = self.module.model, [len(image.values) for image in images]
        # Only if asked for: otherwise transformers keeps no hidden states.
        keep = {"output_hidden_states": True} if readers else {}
        made = inner.get_image_features(pixel_values=self._pixels(images), return_dict=True, **keep)
        evidence: list[dict[str, Tensor]] = [{} for _ in images]
        if readers:
            states = zip(*(state.split(tiles) for state in made.hidden_states), strict=True)
            assert self.config.vision is not None
            towers = (InternTower(inner.vision_tower, own, self.config.vision.merge) for own in states)
            evidence = [{name: read(tower).flatten(0, 1) for name, read in readers.items()} for tower in towers]
        for features, read in zip(made.pooler_output.split(tiles), evidence, strict=True):
            yield SeenImage(features.flatten(0, 1), read)

    def project(self, features_PC: Tensor) -> Tensor:
        projected_PD: Tensor = self.module.model.multi_modal_projector(features_PC)
        return projected_PD

    def inputs(self, prompt: Encoded) -> dict[str, Tensor]:
        ids_BS = torch.tensor([prompt.ids], device=self.device)
        return {"input_ids": ids_BS, **({"pixel_values": self._pixels(prompt.pixels)} if prompt.images else {})}

    def letter_tokens(self, letters: str) -> list[int]:
        """An answer begins a line of its own, so that no space belongs to its first token."""
        return self.letters_of_a_line(letters)

    def _pixels(self, images: Sequence[Pixels]) -> Tensor:
        """The tiles of all images, in the model's dtype, on its device."""
        return to_device(torch.cat([image.values for image in images]), self.device).to(self.dtype)
