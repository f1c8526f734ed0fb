"""Where everything of a LLaVA lies: configuration, weights, vision tower, adapter, tokenizer, image settings.

Only the standard library is imported: planning a sweep loads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.checkpoints.files import ADAPTER, holds_weights, weight_files
from workers.checkpoints.hub import find_folder
from workers.checkpoints.settings import having, processor_kind, processor_settings, read_json
from workers.families.base import refuse_image_options
from workers.families.config import ModelConfig, ModelError, section
from workers.families.llava.anyres import Tiling
from workers.families.llava.config import ANY_RESOLUTION, MODEL_TYPES, model_config, tiling_of
from workers.families.llava.onevision import ONEVISION, onevision_config
from workers.families.llava.original import image_mode, is_original, llava_config
from workers.families.llava.pixel_modes import SQUARE_MODES
from workers.foreign import readable
from workers.work import ModelSpec

TEXT_TOWER = "for LLaVA openai/clip-vit-large-patch14-336"
NON_LORA, PROJECTOR = "non_lora_trainables.bin", "mm_projector.bin"  # beside LLaVA's adapters, or instead of one


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaCheckpoint:
    """A LLaVA on disk. Folders may be the same one."""

    folder: Path
    original: bool  # LLaVA's own form; else Hugging Face's
    config: dict[str, Any]  # as transformers' LlavaConfig reads it
    place: Path  # the config.json that says so, for messages
    image_mode: str  # pre-processing that the checkpoint was made with: pad, crop or anyres
    base: Path  # folder of the weights: of the whole model, or what an adapter changes
    tower: Path | None  # folder of the vision tower's own checkpoint
    extras: tuple[Path, ...]  # files with tensors that replace or adapt those of ``base``
    tokenizer: Path  # folder of tokenizer and generation settings
    images: Path  # folder of the image processor's settings
    text_tower: Path | None = None  # folder of the CLIP whose text tower strategies may read

    image_options = ()

    @property
    def sizes(self) -> ModelConfig:
        """What its config.json states.

        Raises:
            ModelError: a field is no number, or the decoder is one the engine does not run.
        """
        return model_config(self.config, self.place)

    @property
    def tiling(self) -> Tiling | None:
        """How any-resolution cuts images; None for a model that sees one square."""
        return tiling_of(self.config, self.place)

    @property
    def conversation(self) -> str:
        """LLaVA-OneVision was trained on Qwen2's."""
        return "chat_template" if self.config["model_type"] == ONEVISION else "vicuna_v1"

    @property
    def image_modes(self) -> tuple[str, ...]:
        """Those that a sweep may ask for."""
        return SQUARE_MODES if self.tiling is None else ("anyres",)

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files of ``base``.

        Raises:
            ModelError: there is none, or one that the index names is missing.
        """
        return weight_files(self.base)

    def visual_tokens(self, image: tuple[int, int], among: int = 1) -> int:
        return self.sizes.visual_tokens if self.tiling is None else self.tiling.tokens(image, among)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files with tensors."""
        apart = [folder for folder in (self.tower, self.text_tower) if folder is not None]
        return (*self.weights, *(file for folder in apart for file in weight_files(folder)), *self.extras)

    @property
    def notes(self) -> tuple[str, ...]:
        """That an adapter's base names another. Names are no proof: it may run."""
        return _base_notes(self)

    def check(self) -> None:
        """Find out whether the files are whole and hold the model that config.json describes; nothing is loaded.

        Raises:
            ModelError: a file is missing, truncated, or not what it should be.
        """
        from workers.families.llava.contents import check_checkpoint  # which opens files of tensors with torch

        check_checkpoint(self)


@readable(ModelError)
def open_llava(spec: ModelSpec) -> LlavaCheckpoint:
    """Find all parts of a model.

    Raises:
        ModelError: a folder or a file is missing or malformed, or it is a model the engine does not run.
    """
    folder = find_folder(spec.path, "give a checkpoint directory")
    refuse_image_options(spec, folder, "LLaVA", (), "its tower fixes the size of images; leave it out")
    extras = _extras(folder)
    if extras and spec.base is None:
        hint = f" ({name})" if (name := _base_name(folder)) else ""
        raise ModelError(f"model {folder}: is an adapter, not a whole model; give its base{hint}: --model-base DIR")
    if spec.base is None:
        base = folder
    elif not extras:
        raise ModelError(f"model {folder}: has no adapter ({ADAPTER}.* or {PROJECTOR}); leave --model-base out")
    else:
        base = find_folder(spec.base, "give the base model's directory with --model-base")
    place = (folder if (folder / "config.json").is_file() else base) / "config.json"
    config = read_json(place, "model")
    if is_original(config):
        tower = _tower(config, spec, place)
        vision = read_json(tower / "config.json", "vision tower")
        _check_tower(vision, tower)
        return LlavaCheckpoint(
            folder=folder,
            original=True,
            config=llava_config(config, vision, place),
            place=place,
            image_mode=image_mode(config, place),
            base=base,
            tower=tower,
            extras=extras,
            tokenizer=having("tokenizer", folder, base),
            images=tower,
            text_tower=_text_tower(spec, llava_config(config, vision, place)),
        )
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ModelError(f"{place}: model_type: '{kind}' is not supported ({', '.join(MODEL_TYPES)})")
    if spec.vision_tower is not None:
        raise ModelError(f"model {folder}: holds its own vision tower; leave model.vision_tower out")
    if kind == ONEVISION:
        config = onevision_config(config, place)
        if spec.text_tower is not None:
            raise ModelError(f"model {folder}: model.text_tower is not supported for SigLIP, its tower; leave it out")
    images = having("p*processor_config", folder, base)
    return LlavaCheckpoint(
        folder=folder,
        original=False,
        config=config,
        place=place,
        image_mode="anyres" if kind in (ANY_RESOLUTION, ONEVISION) else _mode_of_processor(images),
        base=base,
        tower=None,
        extras=extras,
        tokenizer=having("tokenizer", folder, base),
        images=images,
        text_tower=_text_tower(spec, config),
    )


def _text_tower(spec: ModelSpec, config: dict[str, Any]) -> Path | None:
    """A whole CLIP, whose image tower is as wide as the model's."""
    if spec.text_tower is None:
        return None
    folder = find_folder(spec.text_tower, f"name a CLIP, {TEXT_TOWER}: --set model.text_tower=DIR")
    place = folder / "config.json"
    settings = read_json(place, "text tower")
    if (kind := settings.get("model_type")) != "clip":
        raise ModelError(f"{place}: model_type: '{kind}' is no CLIP with both towers; name one, {TEXT_TOWER}")
    width = section(settings, "vision_config", place).get("hidden_size", 768)
    own = section(config, "vision_config", place).get("hidden_size", 1024)
    if width != own:
        raise ModelError(f"{place}: its image tower is {width} wide and the model's {own}; name the CLIP it is made of")
    return folder


def _extras(folder: Path) -> tuple[Path, ...]:
    """An adapter's files; none for a whole model, of which LLaVA's have a projector file too, a copy."""
    adapter = [file for suffix in ("safetensors", "bin") if (file := folder / f"{ADAPTER}.{suffix}").is_file()][:1]
    if adapter or (folder / "adapter_config.json").is_file():
        if not adapter:
            raise ModelError(f"model {folder}: has adapter_config.json, but no {ADAPTER}.safetensors or .bin")
        return (*adapter, *(file for file in (folder / NON_LORA,) if file.is_file()))
    return (folder / PROJECTOR,) if (folder / PROJECTOR).is_file() and not holds_weights(folder) else ()


def _base_name(folder: Path) -> str | None:
    place = folder / "adapter_config.json"
    return read_json(place, "model").get("base_model_name_or_path") if place.is_file() else None


def _base_notes(checkpoint: LlavaCheckpoint) -> tuple[str, ...]:
    stated = _base_name(checkpoint.folder) if checkpoint.extras else None
    if not isinstance(stated, str):
        return ()
    base = checkpoint.base
    names = {base.name, base.resolve().name, base.parent.parent.name.rpartition("--")[2]}  # the last: of a hub snapshot
    if stated.rstrip("/").rpartition("/")[2].lower() in {name.lower() for name in names}:
        return ()
    return (f"model {checkpoint.folder}: says that it was trained on {stated}; the base given is {base}",)


def _tower(config: dict[str, Any], spec: ModelSpec, place: Path) -> Path:
    name = spec.vision_tower or str(config["mm_vision_tower"])
    said = "model.vision_tower" if spec.vision_tower else f"mm_vision_tower of {place}"
    return find_folder(name, f"say where the vision tower lies: --set model.vision_tower=DIR ({said})", place.parent)


def _check_tower(config: dict[str, Any], tower: Path) -> None:
    """CLIP's vision tower alone, or a whole CLIP."""
    kind = config.get("model_type")
    if kind not in ("clip", "clip_vision_model") or not isinstance(config.get("vision_config", config), dict):
        raise ModelError(f"{tower / 'config.json'}: model_type: '{kind}' is not supported (clip, clip_vision_model)")


def _mode_of_processor(folder: Path) -> str:
    """LLaVA-1.5 was trained on padded images. Only LLaVA's own image processor says whether it pads."""
    try:
        settings = processor_settings(folder)
    except ModelError:  # the loader will say so
        return "pad"
    return "pad" if settings.get("do_pad") or not processor_kind(settings).startswith("Llava") else "crop"
