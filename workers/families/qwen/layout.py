"""Where everything of a Qwen2-VL lies: configuration, weights, tokenizer, image settings; all in one folder.

Only the standard library is imported: planning a sweep loads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.families.config import ModelConfig, ModelError
from workers.families.described import Shape
from workers.families.one_folder import OneFolder, find_parts
from workers.families.qwen.config import full_layers, model_config, resizing_of, text_section
from workers.families.qwen.described import described
from workers.families.qwen.names import PREFIXES
from workers.families.qwen.resizing import Resizing
from workers.foreign import readable
from workers.work import ModelSpec

PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")  # the latter in early files of Qwen2.5-VL


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenCheckpoint(OneFolder):
    """A Qwen2-VL, Qwen2.5-VL or Qwen3-VL on disk."""

    resizing: Resizing

    image_modes = ("native",)  # images keep their shape
    prefixes = PREFIXES

    @property
    def sizes(self) -> ModelConfig:
        return model_config(self.config, self.resizing, self.place)

    @property
    def full_layers(self) -> frozenset[int]:
        """The tower's layers without windows."""
        return full_layers(self.config, self.place)

    @property
    def tied(self) -> bool:
        return any(part.get("tie_word_embeddings") for part in (self.config, text_section(self.config, self.place)))

    @property
    def described(self) -> dict[str, Shape]:
        return described(self.config["model_type"], text_section(self.config, self.place), self.sizes)

    def visual_tokens(self, image: tuple[int, int], among: int = 1) -> int:
        rows, columns = self.resizing.grid(image)
        return rows * columns


@readable(ModelError)
def open_qwen(spec: ModelSpec) -> QwenCheckpoint:
    """Find all parts of a model.

    Raises:
        ModelError: a folder or a file is missing or malformed, or it is a model the engine does not run.
    """
    options, instead = ("min_pixels", "max_pixels"), "it cuts no tiles; max_pixels says how large images are"
    folder, config, settings = find_parts(spec, "Qwen2-VL and its kind", PROCESSORS, options, instead)
    place = folder / "config.json"
    stored = resizing_of(config, place, settings, folder, ModelSpec(path=spec.path))
    resizing = resizing_of(config, place, settings, folder, spec)
    both = [(name, getattr(resizing, name), getattr(stored, name)) for name in options]
    changed = [(name, value) for name, value, usual in both if value != usual]
    return QwenCheckpoint(
        folder=folder, config=config, settings=settings, resizing=resizing, image_options=tuple(changed)
    )
