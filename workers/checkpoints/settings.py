"""The JSON files of a checkpoint, whatever its family.

Only the standard library is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workers.checkpoints.files import MAX_JSON_BYTES
from workers.families.config import ModelError
from workers.json_file import UnreadableError
from workers.json_file import read_json as read_value

PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def read_json(place: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelError: the file is missing, or holds no JSON object.
    """
    if not place.is_file():
        raise ModelError(f"{what} {place.parent}: has no {place.name}; give a checkpoint directory")
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


def having(name: str, *folders: Path) -> Path:
    """The first folder with a file of that name; else the last one, whose reader then says what is missing."""
    return next((folder for folder in folders if any(folder.glob(f"{name}*"))), folders[-1])
