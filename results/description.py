"""The description of an experiment, its ``sweep.yaml``: read typed, bounded, and true to its own addresses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from results.disk import StoreError, write_whole
from results.manifest import FORMATS, Manifest
from results.validation import first_fault
from results.yaml_text import MAX_BYTES, YamlError, parse_yaml
from workers.json_file import UnreadableError, read_bytes
from workers.work import content_key

DTYPES = ("float32", "bfloat16", "float16")


class DamagedDescriptionError(StoreError):
    """An experiment's description cannot be read; the sweep that wrote it can write it again."""


def read_description(folder: Path) -> Manifest:
    """What ``sweep.yaml`` of an experiment says.

    Raises:
        StoreError: ``folder`` is not an experiment, one of another format, or may not be read.
        DamagedDescriptionError: Its description is damaged.
    """
    place = folder / "sweep.yaml"
    if not place.exists():
        if folder.is_dir():
            what = "is not an experiment directory: it has no sweep.yaml"
        else:
            what = "is a file, not an experiment directory" if folder.exists() else "does not exist"
        raise StoreError(f"{folder}: {what}. `saccade run` makes one, by default under ./experiments")
    if not os.access(place, os.R_OK):  # whole, it may be, and nothing to write again
        raise StoreError(f"{place}: may not be read; see to it that this user may")
    try:
        value = parse_yaml(read_bytes(place, MAX_BYTES).decode())
    except (UnreadableError, UnicodeDecodeError, YamlError) as error:
        raise _damaged(place, str(error).removeprefix(f"{place}: ")) from error
    if not isinstance(value, dict) or "format" not in value:
        raise StoreError(f"{folder}: is not an experiment directory: its sweep.yaml was not written by `saccade run`")
    if value["format"] not in FORMATS:
        raise StoreError(
            f"{place}: has format {value['format']!r:.40}, and this version of saccade reads "
            f"{' and '.join(map(str, FORMATS))}: use the version that wrote it, or run the sweep again with another "
            "--out"
        )
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        raise _damaged(place, first_fault(error)) from error
    if manifest.engine.model.dtype not in DTYPES:
        raise _damaged(place, f"engine.model.dtype: {manifest.engine.model.dtype!r:.40} is none of {', '.join(DTYPES)}")
    for entry in manifest.points:
        if entry.point.key != entry.key:
            raise _damaged(place, f"the grid point {entry.key:.40} does not say what its key was made of")
    if content_key(manifest.context_parts) != manifest.context:
        raise _damaged(place, "context_parts does not say what the context was made of")
    return manifest


def _damaged(place: Path, reason: str) -> DamagedDescriptionError:
    return DamagedDescriptionError(
        f"{place}: is damaged ({' '.join(reason.split())[:200]}); run the same sweep with the same --out to write it "
        "again (the cells are kept)"
    )


def write_description(folder: Path, manifest: Manifest, command: str) -> None:
    """Write ``sweep.yaml``, whole.

    Args:
        folder: Of the experiment.
        manifest: What it is to say.
        command: Of saccade, which writes it.
    """
    text = (
        f"# Written by `saccade {command}`. Cells are addressed by what stands here: change the sweep file instead.\n"
    )
    text += yaml.dump(manifest.to_json(), Dumper=_Dumper, sort_keys=False)
    write_whole(folder / "sweep.yaml", text.encode())


class _Dumper(yaml.SafeDumper):
    """Writes a value twice rather than a reference to it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
