"""What a model family is to the rest: how its checkpoints are found and read, and how one is loaded.

A family is a folder of this package and one line in ``catalog.py``. Nobody else learns its name: the engine, the
planner and the pages see a ``Checkpoint`` with its ``ModelConfig``, and a ``Model`` (``model.py``). Only the standard
library is imported here: planning a sweep loads no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workers.families.config import ModelConfig, ModelError
from workers.work import ModelSpec

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from workers.families.model import Model
    from workers.sites import Tower


IMAGE_OPTIONS = ("min_pixels", "max_pixels", "max_tiles")  # fields of ``ModelSpec``


class Checkpoint(Protocol):
    """A model on disk. Folders may be the same one."""

    @property
    def folder(self) -> Path:
        """Where the user said that it lies."""

    @property
    def place(self) -> Path:
        """The config.json that says what it is, for messages."""

    @property
    def base(self) -> Path:
        """The folder of the weights: of the whole model, or what an adapter changes."""

    @property
    def tower(self) -> Path | None:
        """The folder of a vision tower that lies apart."""

    @property
    def text_tower(self) -> Path | None:
        """The folder of the CLIP whose text tower strategies may read; no part of the model."""

    @property
    def tokenizer(self) -> Path:
        """The folder of tokenizer and generation settings."""

    @property
    def images(self) -> Path:
        """The folder of the image processor's settings."""

    @property
    def image_mode(self) -> str:
        """The pre-processing of images that it was trained with."""

    @property
    def image_modes(self) -> tuple[str, ...]:
        """Those that a sweep may ask for."""

    @property
    def image_options(self) -> tuple[tuple[str, int], ...]:
        """What a sweep set of its image processor other than it is stored, by name; part of what model it is."""

    @property
    def conversation(self) -> str:
        """How it is asked where a sweep says nothing: a mode of ``workers/tasks/prompts.py``."""

    @property
    def sizes(self) -> ModelConfig:
        """What its config.json states.

        Raises:
            ModelError: a field is no number, or the model is one the engine does not run.
        """

    def visual_tokens(self, image: tuple[int, int], among: int = 1) -> int:
        """Of an image of some height and width, in a prompt with so many images."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files with tensors.

        Raises:
            ModelError: one is missing.
        """

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of it that is no mistake."""

    def check(self) -> None:
        """Find out whether the files are whole and hold the model that config.json describes; nothing is loaded.

        Raises:
            ModelError: a file is missing, truncated, or not what it should be.
        """


Call = Mapping[str, Any]  # arguments of a ``get_image_features`` by name
OfImages = Callable[["Tensor"], Sequence["Tensor"]]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Where the parts of a model that transformers built are: for those who hook into its own forward."""

    tower: Any  # the module that is given the pixels
    # From a call for features, and the (B, S) ids of the prompts that have them: each image's pixels and visual tokens.
    pictures: Callable[[Call, Tensor], Sequence[tuple[Tensor, int]]]
    projectors: Sequence[Any]  # the modules that make rows of the decoder: visual tokens, and what is added to them
    project: Callable[[Tensor], Tensor]  # (P, D) visual tokens of rows as the projector is given them
    body: Any  # the module that takes ``input_ids``, and puts what its ``get_image_features`` gives among them
    decoder: Any  # the language model: ``layers``, ``rotary_emb``, ``config``
    image_token: int  # id that stands for each visual token
    visual_tokens: int | None  # V; None: each image has its own number
    position_parts: int  # 1, or 3 for time, height and width
    class_token: bool  # whether the tower has one
    clip: bool  # whether it is CLIP's
    tower_layers: Sequence[Any]  # each takes hidden states as its first argument, and gives them alone
    # From what entered each of these layers, and what left the last, and the same two: of all images, together or one
    # by one, each with what makes (N, P, ...) that is read of it rows (V, ...) of each of its images.
    read_tower: Callable[[Sequence[Tensor], Call, Tensor], Sequence[tuple[Tower, OfImages]]]
    # The decoder's method that adds rows to those of visual tokens between layers; called with hidden states (B, S, D),
    # (B, S) bool where these are, and their rows. None: nothing is added.
    adding: str | None = None


def refuse_image_options(spec: ModelSpec, folder: Path, kind: str, known: Collection[str], instead: str) -> None:
    """Say that a family has no such setting of its image processor.

    Args:
        spec: what is asked for.
        folder: of the model, for messages.
        kind: what the family is called there.
        known: those of ``IMAGE_OPTIONS`` that it has.
        instead: why, and what is to be done.

    Raises:
        ModelError: another is asked for.
    """
    for name in IMAGE_OPTIONS:
        if name not in known and getattr(spec, name) is not None:
            raise ModelError(f"model {folder}: model.{name} is not supported for {kind}: {instead}")


class Family(Protocol):
    """A kind of model."""

    @property
    def model_types(self) -> tuple[str, ...]:
        """What ``model_type`` of a config.json of this family may say; no two families share one."""

    def open(self, spec: ModelSpec) -> Checkpoint:
        """Find all parts of a model.

        Raises:
            ModelError: a folder or a file is missing or malformed, or it is a model the engine does not run.
        """

    @property
    def hooked(self) -> tuple[str, ...]:
        """transformers' classes of which there are ``parts``."""

    def load(self, spec: ModelSpec, device: str) -> Model:
        """A model on a device, ready to answer.

        Raises:
            ModelError: the checkpoint is incomplete or not what its config.json says, or its parts do not fit.
        """

    def picturer(self, checkpoint: Checkpoint, mode: str) -> Callable[[Image.Image, int], Image.Image]:
        """What the tower is given of an image, of so many of a prompt, before it is normalised; without a model.

        Raises:
            ModelError: the checkpoint has no image processor of the family's.
        """

    def parts(self, module: Any) -> Parts | None:
        """The parts of a model that transformers built; None where it is none of this family that can be hooked."""
