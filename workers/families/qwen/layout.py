"""Where everything of a Qwen2-VL lies: configuration, weights, tokenizer, image settings; all in one folder.

Only the standard library is imported: planning a sweep loads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.checkpoints.files import ADAPTER, weight_files
from workers.checkpoints.hub import find_folder
from workers.checkpoints.settings import processor_kind, processor_settings, read_json
from workers.families.config import ModelConfig, ModelError
from workers.families.qwen.config import full_layers, model_config, resizing_of, text_section
from workers.families.qwen.described import described
from workers.families.qwen.names import model_name
from workers.families.qwen.resizing import Resizing
from workers.foreign import readable
from workers.work import ModelSpec

MODE = "native"  # images keep their shape
PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")  # the latter in early files of Qwen2.5-VL


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenCheckpoint:
    """A Qwen2-VL, Qwen2.5-VL or Qwen3-VL on disk."""

    folder: Path
    config: dict[str, Any]
    settings: dict[str, Any]  # of the image processor, as they are stored
    resizing: Resizing
    image_options: tuple[tuple[str, int], ...] = ()  # what was asked for in place of the stored settings

    image_mode = MODE
    image_modes = (MODE,)
    conversation = "chat_template"
    tower = None
    text_tower = None
    notes = ()

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
    def sizes(self) -> ModelConfig:
        """What its config.json states.

        Raises:
            ModelError: a field is no number, or the model is one the engine does not run.
        """
        return model_config(self.config, self.resizing, self.place)

    @property
    def full_layers(self) -> frozenset[int]:
        """The tower's layers without windows."""
        return full_layers(self.config, self.place)

    @property
    def tied(self) -> bool:
        """Whether the embeddings are the head too."""
        return any(part.get("tie_word_embeddings") for part in (self.config, text_section(self.config, self.place)))

    def visual_tokens(self, image: tuple[int, int]) -> int:
        """Of an image of some height and width."""
        rows, columns = self.resizing.grid(image)
        return rows * columns

    @property
    def files(self) -> tuple[Path, ...]:
        """All files with tensors.

        Raises:
            ModelError: there is none, or one that the index names is missing.
        """
        return weight_files(self.folder)

    def check(self) -> None:
        """Find out whether the files are whole and hold the model that config.json describes; nothing is loaded.

        Raises:
            ModelError: a file is missing, truncated, or not what it should be.
        """
        from workers.checkpoints.files import check_files
        from workers.families.contents import check_held, outlines, refuse_quantised  # which opens files with torch

        check_files(self.files)
        refuse_quantised(self.place)
        text = text_section(self.config, self.place)
        check_held(
            {model_name(name): outline for name, outline in outlines(self.files)},
            described(self.config["model_type"], text, self.sizes),
            where=f"model {self.folder}",
            place=self.place,
            tied=self.tied,
            harmless=lambda name: name.endswith("rotary_emb.inv_freq"),  # which old versions of transformers stored
        )


@readable(ModelError)
def open_qwen(spec: ModelSpec) -> QwenCheckpoint:
    """Find all parts of a model.

    Raises:
        ModelError: a folder or a file is missing or malformed, or it is a model the engine does not run.
    """
    folder = find_folder(spec.path, "give a checkpoint directory")
    adapter = spec.base is not None or any(folder.glob(f"{ADAPTER}.*"))
    for given, name, remedy in (
        (adapter, "an adapter", "merge it into its model first"),
        (spec.vision_tower, "model.vision_tower", "the checkpoint holds its own tower; leave it out"),
        (
            spec.text_tower,
            "model.text_tower",
            "the tower is of no CLIP; leave it out",
        ),
    ):
        if given:
            raise ModelError(f"model {folder}: {name} is not supported for Qwen2-VL and its kind: {remedy}")
    place = folder / "config.json"
    config = read_json(place, "model")
    settings = processor_settings(folder)
    if not (kind := processor_kind(settings)).startswith(PROCESSORS):
        raise ModelError(f"model {folder}: image processor '{kind}' is not supported (Qwen2VLImageProcessor)")
    stored = resizing_of(config, place, settings, folder, ModelSpec(path=spec.path))
    resizing = resizing_of(config, place, settings, folder, spec)
    changed = [
        (name, getattr(resizing, name))
        for name in ("min_pixels", "max_pixels")
        if getattr(resizing, name) != getattr(stored, name)
    ]
    return QwenCheckpoint(
        folder=folder, config=config, settings=settings, resizing=resizing, image_options=tuple(changed)
    )
