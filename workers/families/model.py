"""A loaded model of any family, as the engine asks it; and a question as the model takes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from strategies.evidence import PLACES
from strategies.images import SQUARES
from workers.checkpoints.hub import find_folder
from workers.decoder import Decoder
from workers.families.config import ModelConfig, ModelError
from workers.sequences import numbers
from workers.sites import Question, Questions, Tower
from workers.tasks.base import DataError
from workers.tasks.prompts import IMAGE_MARKER
from workers.text_tower import TextTower, load_text_tower
from workers.token_maps import TokenMap

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where the tokens of an image are in a prompt."""

    start: int  # index of its first token
    tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """An image as the model takes it, whatever is asked about it; on the host."""

    values: Any  # what the family makes features of
    tokens: int  # V
    size: tuple[int, int]  # height and width of the image itself
    most: int | None = None  # tokens that it was to have; None: as many as it has
    squares: int | None = None  # that the tower sees of it, where its tokens do not say it
    maps: tuple[TokenMap, ...] = ()  # where its tokens lie in it; none: as in all images of the model


Shown = Image.Image | Pixels | Sequence[Image.Image | Pixels] | None  # with a prompt: one, several or none


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """A prompt with its images, ready for the model; all on the host."""

    ids: tuple[int, ...]  # S, one for each token; those of an image hold the model's image token
    images: tuple[ImageSpan, ...]  # in order
    positions_PS: Tensor  # int64 position ids; P is 1, or 3 for time, height and width
    next_position: int  # of the first decoded token, the same in all P rows
    pixels: tuple[Pixels, ...] = ()  # of each image
    question: Question | None = None  # its words, for those who read them; None: nobody said

    @classmethod
    def in_order(
        cls, ids: Sequence[int], images: tuple[ImageSpan, ...] = (), pixels: tuple[Pixels, ...] = ()
    ) -> Encoded:
        """A prompt whose tokens are numbered one after another."""
        positions_1S = torch.arange(len(ids))[None]
        return cls(ids=tuple(ids), images=images, positions_PS=positions_1S, next_position=len(ids), pixels=pixels)

    @property
    def length(self) -> int:
        """S, visual tokens included."""
        return len(self.ids)

    @property
    def visual(self) -> int:
        """V, visual tokens."""
        return sum(span.tokens for span in self.images)

    @property
    def system(self) -> int:
        """Tokens before the first image, which see neither it nor the question; 0 for a prompt without an image."""
        return self.images[0].start if self.images else 0

    @property
    def shown(self) -> int:
        """Tokens from the first of the first image to the last of the last."""
        return self.images[-1].start + self.images[-1].tokens - self.system if self.images else 0

    @property
    def words_between(self) -> tuple[int, ...]:
        """Ids of the tokens between images."""
        spans = [(one.start + one.tokens, after.start) for one, after in pairwise(self.images)]
        return tuple(token for first, stop in spans for token in self.ids[first:stop])

    @property
    def places_V(self) -> Tensor | None:
        """int64, where the visual tokens are, counted from the first; None: one beside the other."""
        if self.shown == self.visual:
            return None
        starts = [span.start - self.system for span in self.images]
        return numbers(*(slice(at, at + span.tokens) for at, span in zip(starts, self.images, strict=True)))

    @property
    def squares(self) -> int | None:
        """That the tower sees of the images, or how many these are; None where they are one and its tokens say it."""
        known = [one.squares for one in self.pixels if one.squares is not None]
        return sum(known) if known else len(self.pixels) if len(self.pixels) > 1 else None

    @property
    def maps(self) -> tuple[TokenMap, ...]:
        """Where visual tokens lie in their images."""
        firsts = accumulate((span.tokens for span in self.images), initial=0)
        of_images = zip(firsts, self.pixels, strict=False)
        return tuple(
            replace(one, first=one.first + first, image=number)
            for number, (first, image) in enumerate(of_images)
            for one in image.maps
        )


@dataclass(frozen=True, slots=True, eq=False)
class SeenImage:
    """What tower and projector made of an image, or of all images of a prompt, one after the other."""

    features_VD: Tensor  # the visual tokens, in the model's dtype
    evidence: Mapping[str, Tensor] = field(default_factory=dict)  # (V, ...) by name, what was read of the tower
    added_JVD: Tensor | None = None  # to these rows after decoder layer J; None: nothing is


class Model(ABC):
    """A checkpoint on a device: tokenizer, image processor, tower and decoder.

    A family says how a question is encoded and how pixels become visual tokens; what is done with rows of a decoder is
    the same for all (``workers/decoder.py``).
    """

    image_token: int  # id that stands for each visual token

    def __init__(self, module: Any, config: ModelConfig, decoder: Decoder, tokenizer: Any) -> None:
        """Take over what transformers loaded.

        Args:
            module: as transformers built it.
            config: its sizes.
            decoder: its language model and head.
            tokenizer: its own.
        """
        self.module = module.eval()
        self.config = config
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.end_tokens = _end_tokens(module, tokenizer)
        self.text_tower: TextTower | None = None  # of CLIP; loaded only where a strategy reads the question by it

    @property
    def visual_tokens(self) -> int:
        """Tokens of one image; the most that one can have, where that varies."""
        return self.config.visual_tokens

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.dtype

    @abstractmethod
    def chat(self, question: str, images: int) -> str:
        """One question in the checkpoint's own chat template, ready for ``encode(..., whole=True)``.

        Args:
            question: with as many image markers as there are images where it says where they go, else with none.
            images: how many.

        Raises:
            ModelError: the checkpoint has no template, or one that loses the question or its images.
        """

    @abstractmethod
    def look(self, image: Image.Image, mode: str, among: int = 1) -> Pixels:
        """Pre-process an RGB image.

        Args:
            image: of a prompt.
            mode: one of the checkpoint's image modes.
            among: images that the prompt has.
        """

    def look_smaller(self, image: Image.Image, mode: str, most: int) -> Pixels:
        """The same with fewer pixels, so that it has so many tokens at most; of a tower of one size a square number."""
        raise AssertionError("a point was let through whose images cannot be shown smaller")

    def grid(self, size: tuple[int, int], most: int | None = None) -> tuple[int, int]:
        """Rows and columns of the tokens of an image that can be shown smaller.

        Args:
            size: its height and width.
            most: tokens of ``look_smaller``; None: of ``look``.
        """
        raise AssertionError("a point was let through whose images cannot be shown smaller")

    def encode(self, prompt: str, images: Shown, mode: str, whole: bool = False) -> Encoded:
        """Tokenise a prompt and pre-process its images.

        Args:
            prompt: text, with an ``<image>`` marker wherever an image belongs.
            images: RGB, or what ``look`` made of them, in the order of the markers; None for text alone.
            mode: one of the checkpoint's image modes.
            whole: give the tokenizer the whole text, as transformers' processors do; else as the family's authors do.

        Raises:
            ModelError: the tokenizer does not belong to the model.
            DataError: there are more or fewer images than markers, or the text holds what would be taken for one.
        """
        given = [] if images is None else [images] if isinstance(images, Image.Image | Pixels) else list(images)
        if (markers := prompt.count(IMAGE_MARKER)) != len(given):
            raise DataError(f"the prompt has {markers} places for images ({IMAGE_MARKER}), and {len(given)} are given")
        pixels = [one if isinstance(one, Pixels) else self.look(one, mode, len(given)) for one in given]
        first, *others = self._words(prompt, whole)
        ids, spans = list(first), []
        for one, after in zip(pixels, others, strict=True):
            spans.append(ImageSpan(len(ids), one.tokens))
            ids += [self.image_token] * one.tokens
            ids += after
        return self._numbered(Encoded.in_order(ids, tuple(spans), tuple(pixels)))

    @abstractmethod
    def _words(self, prompt: str, whole: bool) -> Sequence[Sequence[int]]:
        """Ids of the text before, between and after the image markers; see ``encode``."""

    def _numbered(self, prompt: Encoded) -> Encoded:
        """With the position ids that the model gives its tokens."""
        return prompt

    def see(
        self, prompts: Sequence[Encoded], readers: Mapping[str, Callable[[Tower], Tensor]]
    ) -> list[SeenImage | None]:
        """Tower and projector: for each prompt its images, None where it has none.

        Args:
            prompts: whose images go through the tower together.
            readers: what is to be read of the tower, by name: from what its forward leaves to (N, P, ...), of which the
                rows become those of the visual tokens; 0 for a token that no row of the tower stands behind. With none
                nothing is kept of the tower.
        """
        every = [image for prompt in prompts for image in prompt.pixels]
        images = (image for some in self._together(every, bool(readers)) for image in self._see(some, readers))
        return [joined([next(images) for _ in prompt.pixels]) for prompt in prompts]

    @abstractmethod
    def _together(self, images: Sequence[Pixels], read: bool) -> Iterator[Sequence[Pixels]]:
        """The same in the same order, those together that go through the tower together.

        Args:
            images: of all prompts.
            read: whether states between the tower's layers are kept.
        """

    @abstractmethod
    def _see(self, images: Sequence[Pixels], readers: Mapping[str, Callable[[Tower], Tensor]]) -> Iterable[SeenImage]:
        """Of each of some images that go through the tower together."""

    def load_text_tower(self, name: str) -> TextTower:
        """Load what strategies compare question and image by, unless that was done.

        Args:
            name: directory or hub id of a CLIP.

        Raises:
            ModelError: it is none that can be used.
        """
        if self.text_tower is None:
            folder = find_folder(name, "name a CLIP with model.text_tower")
            self.text_tower = load_text_tower(folder, self.dtype, self.device)
        return self.text_tower

    def asked(self, prompts: Sequence[Encoded]) -> Questions | None:
        """The prompts' questions, for ``workers.patch``; None where no text tower is loaded."""
        if self.text_tower is None:
            return None
        return Questions([one.question or Question("", "") for one in prompts], self.text_tower)

    @abstractmethod
    def project(self, features_PC: Tensor) -> Tensor:
        """(P, D) visual tokens of rows as the projector is given them: of patches, or of what was merged of some."""

    def image_features(self, prompts: Sequence[Encoded]) -> list[Tensor | None]:
        """For each prompt (V, D) in the model's dtype; None where it has no image."""
        return [None if image is None else image.features_VD for image in self.see(prompts, {})]

    @abstractmethod
    def inputs(self, prompt: Encoded) -> dict[str, Tensor]:
        """The same as transformers' own forward takes it: a batch of one, on the device."""

    def text(self, ids: Sequence[int]) -> str:
        """Decoded tokens as an answer."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def letter_tokens(self, letters: str) -> list[int]:
        """The id with which the model begins an answer that is one of the letters."""
        return [self._last_token(f"ASSISTANT: {letter}") for letter in letters]

    def letters_of_a_line(self, letters: str) -> list[int]:
        """The same where an answer begins a line of its own, so that no space belongs to its first token."""
        return [self._last_token(letter) for letter in letters]

    def _last_token(self, text: str) -> int:
        token: int = self.tokenizer(text, add_special_tokens=False)["input_ids"][-1]
        return token


def together(images: Sequence[Pixels], most: int | None) -> Iterator[list[Pixels]]:
    """Images in order, as many at a time as have no more patches, or tiles, or one; None: all."""
    some: list[Pixels] = []
    for image in images:
        if some and most is not None and sum(len(one.values) for one in (*some, image)) > most:
            yield some
            some = []
        some.append(image)
    if some:
        yield some


def joined(images: Sequence[SeenImage]) -> SeenImage | None:
    """What was seen of a prompt's images, as of one; None where there are none.

    Methods that feed the class token take the first row's, which is the first image's: one budget has one row for it.
    """
    if len(images) < 2:
        return images[0] if images else None
    added = [image.added_JVD for image in images if image.added_JVD is not None]
    return SeenImage(
        torch.cat([image.features_VD for image in images]),
        {name: joined_rows(name, [image.evidence[name] for image in images]) for name in images[0].evidence},
        torch.cat(added, dim=1) if added else None,
    )


def joined_rows(name: str, images: Sequence[Tensor]) -> Tensor:
    """(V, ...) what was read of the tower for each image, (V, ...), as of one: squares of each have other numbers.

    Where a row has one value for each patch of its image, those of smaller images are followed by 0.
    """
    if name == PLACES:
        images = [torch.cat((_apart(rows[:, :1], number), rows[:, 1:]), 1) for number, rows in enumerate(images)]
    if len({rows.shape[1:] for rows in images}) > 1:
        widest = [max(sizes) for sizes in zip(*(rows.shape[1:] for rows in images), strict=True)]
        images = [pad(rows, [side for at in _missing(rows, widest) for side in (0, at)]) for rows in images]
    return torch.cat(list(images))


def _apart(square_V1: Tensor, number: int) -> Tensor:
    """Numbers of squares that no other image of a prompt has; 0 stays what it says of no patch."""
    return (square_V1 + number * SQUARES) * (square_V1 > 0)


def _missing(rows_VX: Tensor, sizes: Sequence[int]) -> list[int]:
    """By how much rows are smaller in each dimension, the last first."""
    return [size - own for size, own in zip(sizes, rows_VX.shape[1:], strict=True)][::-1]


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _end_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that end an answer: as ``generate`` would take them, else the tokenizer's."""
    end = module.generation_config.eos_token_id if module.generation_config is not None else None
    end = end if end is not None else tokenizer.eos_token_id
    if end is None:
        raise ModelError("neither generation_config.json nor the tokenizer names an end-of-sequence token")
    return frozenset(end if isinstance(end, list) else [end])
