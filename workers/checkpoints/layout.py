"""Where everything of a model lies: configuration, weights, vision tower, adapter, tokenizer, image settings.

Only the standard library is imported: planning a sweep loads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.checkpoints.files import ADAPTER, MAX_JSON_BYTES, check_files, holds_weights, weight_files
from workers.checkpoints.hub import find_folder
from workers.checkpoints.original import image_mode, is_original, llava_config, vision_section
from workers.foreign import readable
from workers.json_file import UnreadableError
from workers.json_file import read_json as read_value
from workers.models import ANY_RESOLUTION, ModelError, ModelFacts, facts_from
from workers.work import ModelSpec

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
NON_LORA, PROJECTOR = "non_lora_trainables.bin", "mm_projector.bin"  # beside LLaVA's adapters, or instead of one


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model on disk. Folders may be the same one."""

    folder: Path
    original: bool  # LLaVA's own form; else Hugging Face's
    config: dict[str, Any]  # as transformers' LlavaConfig reads it
    place: Path  # the config.json that says so, for messages
    image_mode: str  # pre-processing that the checkpoint was made with: pad, crop or anyres
    base: Path  # folder of the weights: of the whole model, or what an adapter changes
    tower: Path | None  # folder of the vision tower's own checkpoint
    extras: tuple[Path, ...]  # files with tensors that replace or adapt those of ``base``
    words: Path  # folder of tokenizer and generation settings
    images: Path  # folder of the image processor's settings

    @property
    def facts(self) -> ModelFacts:
        """Sizes of the model.

        Raises:
            ModelError: a field is no number, or the decoder is one the engine does not run.
        """
        return facts_from(self.config, self.place)

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files of ``base``.

        Raises:
            ModelError: there is none, or one that the index names is missing.
        """
        return weight_files(self.base)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files with tensors."""
        return (*self.weights, *(weight_files(self.tower) if self.tower else ()), *self.extras)

    def check(self) -> None:
        """Find truncated files without loading them.

        Raises:
            ModelError: a file is missing, truncated, or not what its name says.
        """
        check_files(self.files)


@readable(ModelError)
def open_checkpoint(spec: ModelSpec) -> Checkpoint:
    """Find all parts of a model.

    Raises:
        ModelError: a folder or a file is missing or malformed, or it is a model the engine does not run.
    """
    folder = find_folder(spec.path, "give a LLaVA checkpoint directory")
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
        return Checkpoint(
            folder=folder,
            original=True,
            config=llava_config(config, vision, place),
            place=place,
            image_mode=image_mode(config, place),
            base=base,
            tower=tower,
            extras=extras,
            words=_having("tokenizer", folder, base),
            images=tower,
        )
    kind = config.get("model_type")
    if kind not in ("llava", ANY_RESOLUTION):
        raise ModelError(f"{place}: model_type: '{kind}' is not 'llava' or '{ANY_RESOLUTION}'")
    if spec.vision_tower is not None:
        raise ModelError(f"model {folder}: holds its own vision tower; leave model.vision_tower out")
    images = _having("p*processor_config", folder, base)
    return Checkpoint(
        folder=folder,
        original=False,
        config=config,
        place=place,
        image_mode="anyres" if kind == ANY_RESOLUTION else _mode_of_processor(images),
        base=base,
        tower=None,
        extras=extras,
        words=_having("tokenizer", folder, base),
        images=images,
    )


def read_json(place: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelError: the file is missing, or holds no JSON object.
    """
    if not place.is_file():
        raise ModelError(f"{what} {place.parent}: has no {place.name}; give a LLaVA checkpoint directory")
    try:
        value = read_value(place, MAX_JSON_BYTES)
    except UnreadableError as error:
        raise ModelError(str(error)) from error
    if not isinstance(value, dict):
        raise ModelError(f"{place}: is not a JSON object")
    return value


def processor_settings(folder: Path) -> dict[str, Any]:
    """Settings of the image processor, which has a file of its own or a section of the processor's.

    Raises:
        ModelError: no file names an image processor.
    """
    for name in PROCESSORS:
        if (folder / name).is_file():
            settings = read_json(folder / name, "model")
            settings = settings.get("image_processor", settings)
            if isinstance(settings, dict) and processor_kind(settings):
                return dict(settings)
    raise ModelError(f"model {folder}: neither {' nor '.join(PROCESSORS)} names an image processor")


def processor_kind(settings: dict[str, Any]) -> str:
    """The class that image processor settings name; empty where they name none."""
    return str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")


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


def base_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What is to be said of an adapter's base: that it names another. Names are no proof: it may run."""
    stated = _base_name(checkpoint.folder) if checkpoint.extras else None
    if not isinstance(stated, str):
        return ()
    base = checkpoint.base
    names = {base.name, base.resolve().name, base.parent.parent.name.rpartition("--")[2]}  # the last: of a hub snapshot
    if stated.rstrip("/").rpartition("/")[2].lower() in {name.lower() for name in names}:
        return ()
    return (f"model {checkpoint.folder}: says that it was trained on {stated}; the base given is {base}",)


def _having(name: str, *folders: Path) -> Path:
    """The first folder with a file of that name; the last where none has it, which its reader will complain of."""
    return next((folder for folder in folders if any(folder.glob(f"{name}*"))), folders[-1])


def _tower(config: dict[str, Any], spec: ModelSpec, place: Path) -> Path:
    name = spec.vision_tower or str(config["mm_vision_tower"])
    said = "model.vision_tower" if spec.vision_tower else f"mm_vision_tower of {place}"
    return find_folder(name, f"say where the vision tower lies: --set model.vision_tower=DIR ({said})", place.parent)


def _check_tower(config: dict[str, Any], tower: Path) -> None:
    """CLIP's vision tower alone, or a whole CLIP."""
    kind = config.get("model_type")
    if kind not in ("clip", "clip_vision_model") or not isinstance(vision_section(config), dict):
        raise ModelError(f"{tower / 'config.json'}: model_type: '{kind}' is not supported (clip, clip_vision_model)")


def _mode_of_processor(folder: Path) -> str:
    """LLaVA-1.5 was trained on padded images. Only LLaVA's own image processor says whether it pads."""
    try:
        settings = processor_settings(folder)
    except ModelError:  # the loader will say so
        return "pad"
    return "pad" if settings.get("do_pad") or not processor_kind(settings).startswith("Llava") else "crop"
