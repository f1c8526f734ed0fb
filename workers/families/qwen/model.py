"""A Qwen2-VL, Qwen2.5-VL or Qwen3-VL on a device: images in their own shape, positions of three parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from workers.checkpoints.tokenizer import rendered
from workers.decoder import Decoder
from workers.families.config import ModelConfig, ModelError
from workers.families.model import Encoded, Model, Pixels, SeenImage, together
from workers.families.qwen.forward import run_tower
from workers.families.qwen.gated import feed_forwards
from workers.families.qwen.grid import TokenGrid
from workers.families.qwen.pixels import to_patches
from workers.families.qwen.resizing import Resizing
from workers.families.qwen.tower import towers_of
from workers.sites import Tower
from workers.tasks.base import DataError
from workers.tasks.prompts import IMAGE_MARKER
from workers.token_maps import TokenMap
from workers.upload import to_device

BEGIN, PAD, END = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
VIDEO = "<|video_pad|>"
SHOWN = f"{BEGIN}{PAD}{END}"  # what the chat template puts for an image
PATCHES = 2**15  # that go through the tower together, if several images do: the forward of 1.5 GB in half precision
READ_PATCHES = 2**13  # where the states between its layers are kept


class Qwen(Model):
    """A loaded Qwen2-VL, Qwen2.5-VL or Qwen3-VL."""

    def __init__(
        self,
        module: Any,
        config: ModelConfig,
        tokenizer: Any,
        image_processor: Any,
        resizing: Resizing,
        full_layers: Collection[int],
        chat_template: str | None = None,
        away: Collection[int] = (),
    ) -> None:
        super().__init__(module, config, Decoder(module.model.language_model, module.lm_head, away), tokenizer)
        self.image_processor = image_processor
        self.image_token: int = module.config.image_token_id
        self._resizing = resizing
        self._mlps = feed_forwards(module.model.visual)
        if self.device.type == "cuda":
            # It plans anew for every number of windows and patches, 60 to 90 ms each; PyTorch's own does not.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._full_layers, self._window = full_layers, config.vision.window if config.vision else 0
        self._chat_template = chat_template

    def chat(self, question: str, images: int) -> str:
        text = rendered(self.tokenizer, self._chat_template, question, images, marker=PAD)
        if text.count(SHOWN) != images:
            place = f"model {self.tokenizer.name_or_path}"
            raise ModelError(f"{place}: its chat template does not put {SHOWN} where the image belongs")
        return text.replace(SHOWN, IMAGE_MARKER)

    def look(self, image: Image.Image, mode: str, among: int = 1) -> Pixels:
        rows, columns = grid = self._resizing.grid(size := (image.height, image.width))
        patches_RX = to_patches(image, self._resizing, self.image_processor)
        return Pixels(patches_RX, rows * columns, size, maps=(TokenMap(0, *grid),))

    def look_smaller(self, image: Image.Image, mode: str, most: int) -> Pixels:
        rows, columns = grid = self.grid(size := (image.height, image.width), most)
        patches_RX = to_patches(image, self._resizing, self.image_processor, grid)
        return Pixels(patches_RX, rows * columns, size, most, maps=(TokenMap(0, *grid),))

    def grid(self, size: tuple[int, int], most: int | None = None) -> tuple[int, int]:
        return self._resizing.grid(size) if most is None else self._resizing.smaller(size, most)

    def _words(self, prompt: str, whole: bool) -> list[tuple[int, ...]]:
        """Each image stands between two tokens of its own: at once or apart, the ids are the same."""
        parts = prompt.split(IMAGE_MARKER)
        last = len(parts) - 1
        return [
            self._ids((END if place else "") + part + (BEGIN if place < last else ""))
            for place, part in enumerate(parts)
        ]

    def _numbered(self, prompt: Encoded) -> Encoded:
        """As transformers' ``get_rope_index`` does it.

        Text counts on; of an image the time stands still, rows and columns count from where the text had come to, and
        the text goes on behind the longer side.
        """
        parts, at, following = [], 0, 0  # tokens and position ids that are given
        for span, image in zip(prompt.images, prompt.pixels, strict=True):
            grid, words = self._grid(image), span.start - at
            parts += [_counted(following, words), _of_image(following + words, grid)]
            at, following = span.start + span.tokens, following + words + max(grid)
        words = prompt.length - at
        positions_PS = torch.cat((*parts, _counted(following, words)), dim=1)
        return replace(prompt, positions_PS=positions_PS, next_position=following + words)

    def _ids(self, text: str) -> tuple[int, ...]:
        ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        for mark, token in ((PAD, self.image_token), (VIDEO, self.module.config.video_token_id)):
            if token in ids:
                raise DataError(f"the question holds {mark}, which would be taken for a part of an image or a video")
        return ids

    def _together(self, images: Sequence[Pixels], read: bool) -> Iterator[Sequence[Pixels]]:
        return together(images, READ_PATCHES if read else PATCHES)

    def _see(self, images: Sequence[Pixels], readers: Mapping[str, Callable[[Tower], Tensor]]) -> Iterator[SeenImage]:
        visual = self.module.model.visual
        sizes = [self._grid(image) for image in images]
        grids = [TokenGrid(size, visual.spatial_merge_size, self._window, self.device) for size in sizes]
        pixels_RX = self._pixels(images)
        features, states = run_tower(visual, self._mlps, pixels_RX, grids, self._full_layers, keep=bool(readers))
        evidence: list[dict[str, Tensor]] = [{} for _ in images]
        if readers:
            towers = towers_of(visual, states, grids, self._full_layers)
            evidence = [{name: read(tower)[0] for name, read in readers.items()} for tower in towers]
        for (features_VD, added_JVD), read in zip(features, evidence, strict=True):
            yield SeenImage(features_VD, read, added_JVD)

    def project(self, features_PC: Tensor) -> Tensor:
        visual = self.module.model.visual
        projected_PD: Tensor = visual.merger(joined(features_PC, visual))
        return projected_PD

    def inputs(self, prompt: Encoded) -> dict[str, Tensor]:
        ids_BS = torch.tensor([prompt.ids], device=self.device)
        if not prompt.images:
            return {"input_ids": ids_BS}
        grids, merge = [self._grid(image) for image in prompt.pixels], self._resizing.merge
        return {
            "input_ids": ids_BS,
            "mm_token_type_ids": (ids_BS == self.image_token).int(),
            "pixel_values": self._pixels(prompt.pixels),
            "image_grid_thw": torch.tensor(
                [[1, rows * merge, columns * merge] for rows, columns in grids], device=self.device
            ),
        }

    def letter_tokens(self, letters: str) -> list[int]:
        """An answer begins a line of its own, so that no space belongs to its first token."""
        return self.letters_of_a_line(letters)

    def _pixels(self, images: Sequence[Pixels]) -> Tensor:
        """The patches of all images, in the model's dtype, on its device."""
        return to_device(torch.cat([image.values for image in images]), self.device).to(self.dtype)

    def _grid(self, image: Pixels) -> tuple[int, int]:
        """Rows and columns of an image's tokens."""
        return self.grid(image.size, image.most)


def joined(features_PC: Tensor, visual: Any) -> Tensor:
    """(patches, width) as the merger takes them, of rows in which a token's patches stand side by side."""
    return features_PC.unflatten(-1, (visual.spatial_merge_size**2, -1)).flatten(0, 1)


def _counted(first: int, count: int) -> Tensor:
    """(3, count) positions of text, alike in time, height and width."""
    return torch.arange(first, first + count).expand(3, -1)


def _of_image(first: int, grid: tuple[int, int]) -> Tensor:
    """(3, V) positions of an image's tokens."""
    rows, columns = grid
    time_V = torch.zeros(rows * columns, dtype=torch.int64)
    row_V = torch.arange(rows).repeat_interleave(columns)
    return torch.stack((time_V, row_V, torch.arange(columns).repeat(rows))) + first
