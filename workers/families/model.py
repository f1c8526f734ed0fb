"""A loaded model of any family, as the engine asks it; and a question as the model takes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from workers.checkpoints.hub import find_folder
from workers.decoder import Decoder
from workers.families.config import ModelConfig, ModelError
from workers.sites import Question, Questions, Tower
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """A prompt with its images, ready for the model; all on the host."""

    ids: tuple[int, ...]  # S, one for each token; those of an image hold the model's image token
    images: tuple[ImageSpan, ...]  # in order
    positions_PS: Tensor  # int64 position ids; P is 1, or 3 for time, height and width
    next_position: int  # of the first decoded token, the same in all P rows
    pixels: Any = None  # what the family makes features of; None without an image
    size: tuple[int, int] = (0, 0)  # height and width of the image itself
    squares: int | None = None  # that the tower sees of the image, where its tokens do not say it
    most: int | None = None  # tokens that it was to have; None: as many as it has
    maps: tuple[TokenMap, ...] = ()  # where the image's tokens lie in it; none: as in all images of the model
    question: Question | None = None  # its words, for those who read them; None: nobody said

    @classmethod
    def in_order(cls, ids: Sequence[int], images: tuple[ImageSpan, ...], **image: Any) -> Encoded:
        """A prompt whose tokens are numbered one after another."""
        return cls(
            ids=tuple(ids), images=images, positions_PS=torch.arange(len(ids))[None], next_position=len(ids), **image
        )

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
        """Tokens before the image, which see neither it nor the question; 0 for a prompt without an image."""
        return self.images[0].start if self.images else 0


@dataclass(frozen=True, slots=True, eq=False)
class SeenImage:
    """What tower and projector made of a prompt's image."""

    features_VD: Tensor  # the visual tokens, in the model's dtype
    evidence: Mapping[str, Tensor] = field(default_factory=dict)  # (V, ...) by name, what was read of the tower
    added_JVD: Tensor | None = None  # to these rows after decoder layer J; None: nothing is


class Model(ABC):
    """A checkpoint on a device: tokenizer, image processor, tower and decoder.

    A family says how a question is encoded and how pixels become visual tokens; what is done with rows of a decoder is
    the same for all (``workers/decoder.py``).
    """

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
    def chat(self, question: str, image: bool) -> str:
        """One question in the checkpoint's own chat template, ready for ``encode(..., whole=True)``.

        Raises:
            ModelError: the checkpoint has no template, or one that loses the question or its image.
        """

    @abstractmethod
    def look(self, image: Image.Image, mode: str) -> Pixels:
        """Pre-process an RGB image in one of the checkpoint's image modes."""

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

    @abstractmethod
    def encode(self, prompt: str, image: Image.Image | Pixels | None, mode: str, whole: bool = False) -> Encoded:
        """Tokenise a prompt and pre-process its image.

        Args:
            prompt: text, with one ``<image>`` marker where the image belongs.
            image: RGB, or what ``look`` made of it; None for text alone.
            mode: one of the checkpoint's image modes.
            whole: give the tokenizer the whole text, as transformers' processors do; else as the family's authors do.

        Raises:
            ModelError: the tokenizer does not belong to the model, or the prompt has more images than are supported.
        """

    @abstractmethod
    def see(
        self, prompts: Sequence[Encoded], readers: Mapping[str, Callable[[Tower], Tensor]]
    ) -> list[SeenImage | None]:
        """Tower and projector: for each prompt its image, None where it has none.

        Args:
            prompts: whose images go through the tower together.
            readers: what is to be read of the tower, by name: from what its forward leaves to (N, P, ...), of which the
                rows become those of the visual tokens; 0 for a token that no row of the tower stands behind. With none
                nothing is kept of the tower.
        """

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


def together(prompts: Sequence[Encoded], most: int | None) -> Iterator[list[Encoded]]:
    """Images in order, as many at a time as have no more patches, or tiles, or one; None: all."""
    some: list[Encoded] = []
    for prompt in prompts:
        if some and most is not None and sum(len(one.pixels) for one in (*some, prompt)) > most:
            yield some
            some = []
        some.append(prompt)
    if some:
        yield some


def seen_together(
    prompts: Sequence[Encoded], most: int | None, see: Callable[[Sequence[Encoded]], Iterable[SeenImage]]
) -> list[SeenImage | None]:
    """What was seen of each prompt's image, None where it has none; ``see`` is given those that ``together`` makes."""
    groups = together([prompt for prompt in prompts if prompt.images], most)
    images = (image for some in groups for image in see(some))
    return [next(images) if prompt.images else None for prompt in prompts]


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _end_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that end an answer: as ``generate`` would take them, else the tokenizer's."""
    end = module.generation_config.eos_token_id if module.generation_config is not None else None
    end = end if end is not None else tokenizer.eos_token_id
    if end is None:
        raise ModelError("neither generation_config.json nor the tokenizer names an end-of-sequence token")
    return frozenset(end if isinstance(end, list) else [end])
