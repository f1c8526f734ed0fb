"""Where everything of an InternVL lies: configuration, weights, tokenizer, image settings; all in one folder.

Only the standard library is imported: planning a sweep loads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workers.families.config import ModelConfig, ModelError, section
from workers.families.described import Shape
from workers.families.intern.config import MOST_TILES, model_config, text_section, tiling_of
from workers.families.intern.described import described
from workers.families.intern.names import PREFIXES
from workers.families.intern.tiling import Tiling
from workers.families.one_folder import OneFolder, find_parts
from workers.foreign import readable
from workers.work import ModelSpec

PROCESSOR = "GotOcr2ImageProcessor"


@dataclass(frozen=True, slots=True, kw_only=True)
class InternCheckpoint(OneFolder):
    """An InternVL3 or InternVL3.5 on disk."""

    tiling: Tiling

    image_modes = ("tiles",)
    prefixes = PREFIXES

    @property
    def sizes(self) -> ModelConfig:
        return model_config(self.config, self.tiling, self.place)

    @property
    def tied(self) -> bool:
        """Transformers' class has it so where config.json says nothing."""
        return any(part.get("tie_word_embeddings", part is self.config) for part in (self.config, self._text))

    @property
    def described(self) -> dict[str, Shape]:
        return described(section(self.config, "vision_config", self.place), self._text, self.sizes)

    def visual_tokens(self, image: tuple[int, int], among: int = 1) -> int:
        return self.tiling.tokens(image)

    @property
    def _text(self) -> dict[str, Any]:
        return text_section(self.config, self.place)


@readable(ModelError)
def open_intern(spec: ModelSpec) -> InternCheckpoint:
    """Find all parts of a model.

    Raises:
        ModelError: a folder or a file is missing or malformed, or it is a model the engine does not run.
    """
    instead = "tiles fix the size of images; max_tiles says how many"
    folder, config, settings = find_parts(spec, "InternVL", [PROCESSOR], ["max_tiles"], instead)
    stored = tiling_of(config, folder / "config.json", settings, folder)
    tiling = stored if spec.max_tiles is None else _with_most(stored, spec.max_tiles, folder)
    changed = () if tiling == stored else (("max_tiles", tiling.most),)
    return InternCheckpoint(folder=folder, config=config, settings=settings, tiling=tiling, image_options=changed)


def _with_most(stored: Tiling, most: int, folder: Path) -> Tiling:
    """Other images than the stored settings make.

    Raises:
        ModelError: no image has so many tiles, or too many.
    """
    if not stored.least <= most <= MOST_TILES:
        between = f"max_tiles {most} is not between {stored.least} (min_patches) and {MOST_TILES}"
        raise ModelError(f"model {folder}: {between}")
    return replace(stored, most=most)
