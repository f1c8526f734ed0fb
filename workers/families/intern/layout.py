"""Where everything of an InternVL lies: configuration, weights, tokenizer, image settings; all in one folder.

Only the standard library is imported: planning a sweep loads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.checkpoints.files import ADAPTER, weight_files
from workers.checkpoints.hub import find_folder
from workers.checkpoints.settings import processor_kind, processor_settings, read_json
from workers.families.config import ModelConfig, ModelError, section
from workers.families.intern.config import model_config, text_section, tiling_of
from workers.families.intern.described import described
from workers.families.intern.names import model_name
from workers.families.intern.tiling import Tiling
from workers.foreign import readable
from workers.work import ModelSpec

MODE = "tiles"
PROCESSOR = "GotOcr2ImageProcessor"


@dataclass(frozen=True, slots=True, kw_only=True)
class InternCheckpoint:
    """An InternVL3 or InternVL3.5 on disk."""

    folder: Path
    config: dict[str, Any]
    settings: dict[str, Any]  # of the image processor, as they are stored
    tiling: Tiling

    image_mode = MODE
    image_modes = (MODE,)
    image_options = ()
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
        return model_config(self.config, self.tiling, self.place)

    @property
    def tied(self) -> bool:
        """Whether the embeddings are the head where no file holds one; transformers' class has it so."""
        return any(part.get("tie_word_embeddings", part is self.config) for part in (self.config, self._text))

    def visual_tokens(self, image: tuple[int, int]) -> int:
        """Of an image of some height and width."""
        return self.tiling.tokens(image)

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
        check_held(
            {model_name(name): outline for name, outline in outlines(self.files)},
            described(section(self.config, "vision_config", self.place), self._text, self.sizes),
            where=f"model {self.folder}",
            place=self.place,
            tied=self.tied,
            harmless=lambda name: name.endswith("rotary_emb.inv_freq"),  # which old versions of transformers stored
        )

    @property
    def _text(self) -> dict[str, Any]:
        return text_section(self.config, self.place)


@readable(ModelError)
def open_intern(spec: ModelSpec) -> InternCheckpoint:
    """Find all parts of a model.

    Raises:
        ModelError: a folder or a file is missing or malformed, or it is a model the engine does not run.
    """
    folder = find_folder(spec.path, "give a checkpoint directory")
    adapter = spec.base is not None or any(folder.glob(f"{ADAPTER}.*"))
    sized = spec.min_pixels is not None or spec.max_pixels is not None
    for given, name, remedy in (
        (adapter, "an adapter", "merge it into its model first"),
        (spec.vision_tower, "model.vision_tower", "the checkpoint holds its own tower; leave it out"),
        (spec.text_tower, "model.text_tower", "the tower is of no CLIP; leave it out"),
        (sized, "model.min_pixels or max_pixels", "tiles fix the size of images; leave it out"),
    ):
        if given:
            raise ModelError(f"model {folder}: {name} is not supported for InternVL: {remedy}")
    place = folder / "config.json"
    config, settings = read_json(place, "model"), processor_settings(folder)
    if not (kind := processor_kind(settings)).startswith(PROCESSOR):
        raise ModelError(f"model {folder}: image processor '{kind}' is not supported ({PROCESSOR})")
    return InternCheckpoint(
        folder=folder, config=config, settings=settings, tiling=tiling_of(config, place, settings, folder)
    )
