"""A LLaVA on a device, from haotian-liu/LLaVA: one square per image, or any-resolution's overview and tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from workers.checkpoints.tokenizer import rendered
from workers.decoder import Decoder
from workers.families.config import ModelConfig, ModelError
from workers.families.llava.anyres import Tiling
from workers.families.llava.onevision import ONEVISION
from workers.families.llava.pixels import to_pixels, to_tiles
from workers.families.llava.tiles import of_tokens
from workers.families.llava.tower import ClipTower
from workers.families.model import Encoded, Model, Pixels, SeenImage, together
from workers.sites import Tower
from workers.tasks.base import DataError
from workers.tasks.prompts import IMAGE_MARKER
from workers.token_maps import TokenMap
from workers.upload import to_device

TILES = 48  # that go through the tower together, if several images do: the forward of 1.5 GB in half precision
READ_TILES = 12  # where the states between its layers are kept


class Llava(Model):
    """A loaded LLaVA."""

    def __init__(
        self,
        module: LlavaForConditionalGeneration,
        config: ModelConfig,
        tokenizer: Any,
        image_processor: Any,
        chat_template: str | None = None,
        tiling: Tiling | None = None,
        away: Collection[int] = (),
    ) -> None:
        super().__init__(module, config, Decoder(module.model.language_model, module.lm_head, away), tokenizer)
        self.image_processor = image_processor
        self.image_token: int = module.config.image_token_id
        self._chat_template = chat_template
        self._tiling = tiling
        video = getattr(module.config, "video_token_id", None)
        self._video_token = None if video is None else tokenizer.convert_ids_to_tokens(video)

    def chat(self, question: str, images: int) -> str:
        return rendered(self.tokenizer, self._chat_template, question, images)

    def look(self, image: Image.Image, mode: str, among: int = 1) -> Pixels:
        size = (image.height, image.width)
        if (tiling := self._tiling) is None:
            # Of one image the model's grid says it.
            maps = (TokenMap(0, *self.config.grid),) if among > 1 and self.config.grid else ()
            return Pixels(to_pixels(image, mode, self.image_processor), self.visual_tokens, size, maps=maps)
        if among > 1 and tiling.one_tile_among:
            tile, maps = to_pixels(image, "pad", self.image_processor), (TokenMap(0, tiling.side, tiling.side),)
            return Pixels(tile[None], tiling.tokens(size, among), size, squares=1, maps=maps)
        tiles = to_tiles(image, tiling, self.image_processor)
        return Pixels(tiles, tiling.tokens(size), size, squares=tiling.tiles(size), maps=tiling.maps(size))

    def look_smaller(self, image: Image.Image, mode: str, most: int) -> Pixels:
        side, _ = self.grid(size := (image.height, image.width), most)
        pixels = to_pixels(image, mode, self.image_processor, side * self.config.patch_size)
        return Pixels(pixels, side**2, size, most)

    def grid(self, size: tuple[int, int], most: int | None = None) -> tuple[int, int]:
        assert self.config.side, "a point was let through whose images are no square"
        side = self.config.side if most is None else min(self.config.side, math.isqrt(most))
        return side, side

    def _words(self, prompt: str, whole: bool) -> list[tuple[int, ...]]:
        """Each side of an image marker by itself, as LLaVA was trained (``tokenizer_image_token``).

        Tokenised at once, a SentencePiece tokenizer that is not "legacy" loses the space token after the image.
        """
        if self._video_token is not None and self._video_token in prompt:
            raise DataError(f"the question holds {self._video_token}, which would be taken for a video")
        first, *others = prompt.split(IMAGE_MARKER)
        if not whole:
            tails = [self.tokenizer(part, add_special_tokens=False)["input_ids"] if part else () for part in others]
            return [tuple(ids) for ids in (self.tokenizer(first)["input_ids"], *tails)]
        ids = tuple(self.tokenizer(prompt)["input_ids"])
        places = [place for place, token in enumerate(ids) if token == self.image_token]
        if len(places) != len(others):
            raise ModelError(
                f"the tokenizer gives {len(places)} image tokens (id {self.image_token}) for {len(others)} "
                f"{IMAGE_MARKER} markers; the checkpoint's tokenizer does not belong to its model"
            )
        return [ids[before + 1 : after] for before, after in pairwise((-1, *places, len(ids)))]

    def _together(self, images: Sequence[Pixels], read: bool) -> Iterator[Sequence[Pixels]]:
        most = None if self._tiling is None else READ_TILES if read else TILES
        for _, alike in groupby(images, key=lambda image: self._tiling is not None and image.squares == 1):
            yield from together(list(alike), most)

    def _see(self, images: Sequence[Pixels], readers: Mapping[str, Callable[[Tower], Tensor]]) -> Iterator[SeenImage]:
        # Only if asked for: otherwise transformers keeps no more hidden states than the projector is given.
        keep = {"output_hidden_states": True} if readers else {}
        made = self.module.model.get_image_features(**self._pixels(images), **keep)
        evidence: dict[str, Sequence[Tensor]] = {}
        if readers:
            tower = ClipTower(self.module, made.hidden_states, self.text_tower)
            evidence = {name: self._of_tokens(read(tower), images) for name, read in readers.items()}
        for index, features_VD in enumerate(made.pooler_output):
            yield SeenImage(features_VD, {name: rows[index] for name, rows in evidence.items()})

    def project(self, features_PC: Tensor) -> Tensor:
        projected_PD: Tensor = self.module.model.multi_modal_projector(features_PC)
        return projected_PD

    def _of_tokens(self, rows_NPX: Tensor, images: Sequence[Pixels]) -> Sequence[Tensor]:
        """For each image (V, ...): tiles are put together as their features are, with 0 at the ends of rows."""
        if self._tiling is None:
            return list(rows_NPX)
        return of_tokens(rows_NPX, self._tiling, [None if image.squares == 1 else image.size for image in images])

    def letter_tokens(self, letters: str) -> list[int]:
        """With LLaVA-OneVision an answer begins a line of its own, so that no space belongs to its first token."""
        if self.module.config.model_type != ONEVISION:
            return super().letter_tokens(letters)
        return self.letters_of_a_line(letters)

    def inputs(self, prompt: Encoded) -> dict[str, Tensor]:
        ids_BS = torch.tensor([prompt.ids], device=self.device)
        if any(image.most is not None for image in prompt.pixels):
            # `generate` lets nobody ask the tower for stretched positions.
            rows_SD = self.decoder.embed(ids_BS[0])
            made = self.module.model.get_image_features(**self._pixels(prompt.pixels))
            rows_SD[prompt.system : prompt.system + prompt.visual] = made.pooler_output[0]
            return {"inputs_embeds": rows_SD[None]}
        return {"input_ids": ids_BS, **(self._pixels(prompt.pixels) if prompt.images else {})}

    def _pixels(self, images: Sequence[Pixels]) -> dict[str, Any]:
        """What transformers' image features are made of; padding of tiles is left out there, and row ends marked."""
        many = [image.values for image in images]
        if self._tiling is None:
            stretched = {} if images[0].most is None else {"interpolate_pos_encoding": True}
            return {"pixel_values": to_device(torch.stack(many), self.device).to(self.dtype), **stretched}
        pixels = to_device(torch.cat(many), self.device).to(self.dtype)
        made = {"pixel_values": pixels, "image_sizes": torch.tensor([image.size for image in images])}
        if images[0].squares == 1:  # of several in a prompt, as it asks; one alone it would expect in tiles
            made["batch_num_images"] = torch.tensor([max(2, len(images))])
        return made
