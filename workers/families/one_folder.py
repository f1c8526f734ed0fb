"""A checkpoint all of whose parts lie in one folder, as transformers saves them: what such families have in common.

Only the standard library is imported: planning a sweep loads no weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from workers.checkpoints.files import ADAPTER, weight_files
from workers.checkpoints.hub import find_folder
from workers.checkpoints.settings import processor_kind, processor_settings, read_json
from workers.families.base import refuse_image_options
from workers.families.config import ModelConfig, ModelError
from workers.families.described import Shape, renamed
from workers.work import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class OneFolder(ABC):
    """A model on disk, see ``base.Checkpoint``."""

    folder: Path
    config: dict[str, Any]
    settings: dict[str, Any]  # of the image processor, as they are stored
    image_options: tuple[tuple[str, int], ...] = ()  # what was asked for in place of the stored settings

    image_modes: ClassVar[tuple[str, ...]]  # that a sweep may ask for
    prefixes: ClassVar[tuple[tuple[str, str], ...]]  # of stored tensors, and what the model has in their place
    conversation = "chat_template"
    tower = None
    text_tower = None
    notes = ()

    @property
    def image_mode(self) -> str:
        """The pre-processing of images that it was trained with."""
        return self.image_modes[0]

    @property
    def place(self) -> Path:
        """The config.json that says what it is, for messages."""
        return self.folder / "config.json"

    @property
    def base(self) -> Path:
        return self.folder

    @property
    def tokenizer(self) -> Path:
        return self.folder

    @property
    def images(self) -> Path:
        return self.folder

    @property
    def files(self) -> tuple[Path, ...]:
        """All files with tensors.

        Raises:
            ModelError: there is none, or one that the index names is missing.
        """
        return weight_files(self.folder)

    @property
    @abstractmethod
    def sizes(self) -> ModelConfig:
        """What its config.json states.

        Raises:
            ModelError: a field is no number, or the model is one the engine does not run.
        """

    @property
    @abstractmethod
    def tied(self) -> bool:
        """Whether the embeddings are the head where no file holds one."""

    @property
    @abstractmethod
    def described(self) -> dict[str, Shape]:
        """Shape of every tensor that its config.json describes, by the model's name."""

    def model_name(self, stored: str) -> str:
        """The model's name of a stored tensor."""
        return renamed(stored, self.prefixes)

    def check(self) -> None:
        """Find out whether the files are whole and hold the model that config.json describes; nothing is loaded.

        Raises:
            ModelError: a file is missing, truncated, or not what it should be.
        """
        from workers.checkpoints.files import check_files
        from workers.families.contents import check_held, outlines, refuse_quantised  # which opens files with torch

        check_files(self.files)
        refuse_quantised(self.place)
        check_held(
            {self.model_name(name): outline for name, outline in outlines(self.files)},
            self.described,
            where=f"model {self.folder}",
            place=self.place,
            tied=self.tied,
            harmless=lambda name: name.endswith("rotary_emb.inv_freq"),  # which old versions of transformers stored
        )


def find_parts(
    spec: ModelSpec, kind: str, processors: Sequence[str], options: Sequence[str], instead: str
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Folder, configuration, and settings of the image processor.

    Args:
        spec: of the model.
        kind: what it is called, for messages.
        processors: image processors that it may have; the first is named where it has another.
        options: of ``IMAGE_OPTIONS`` those that it has.
        instead: what is to be said where another is asked for.

    Raises:
        ModelError: a folder or a file is missing or malformed, or something was asked for that there is not.
    """
    folder = find_folder(spec.path, "give a checkpoint directory")
    adapter = spec.base is not None or any(folder.glob(f"{ADAPTER}.*"))
    for given, name, remedy in (
        (adapter, "an adapter", "merge it into its model first"),
        (spec.vision_tower, "model.vision_tower", "the checkpoint holds its own tower; leave it out"),
        (spec.text_tower, "model.text_tower", "the tower is of no CLIP; leave it out"),
    ):
        if given:
            raise ModelError(f"model {folder}: {name} is not supported for {kind}: {remedy}")
    refuse_image_options(spec, folder, kind, options, instead)
    config, settings = read_json(folder / "config.json", "model"), processor_settings(folder)
    if not (found := processor_kind(settings)).startswith(tuple(processors)):
        raise ModelError(f"model {folder}: image processor '{found}' is not supported ({processors[0]})")
    return folder, config, settings
