"""The description of an experiment, its ``sweep.yaml``: read typed, bounded, and true to its own addresses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from results.disk import StoreError, write_whole
from results.manifest import FORMATS
from results.validation import first_fault
from results.yaml_text import MAX_BYTES, YamlError, parse_yaml
from workers.json_file import UnreadableError, read_bytes
from workers.work import EngineSpec, GridPoint, content_key

DTYPES = ("float32", "bfloat16", "float16")

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
Size = Annotated[StrictInt, Field(ge=0)]


class _Point(BaseModel):
    key: StrictStr
    source: StrictStr
    strategy: StrictStr
    layer: Size
    rank: Size
    params: dict[StrictStr, Scalar] = {}
    chosen_by: StrictStr = ""


class _Facts(BaseModel):
    """`workers.families.config.ModelConfig`, of which earlier versions did not know all."""

    layers: Size | None = None
    heads: Size | None = None
    kv_heads: Size | None = None
    head_dim: Size | None = None
    hidden: Size | None = None
    ffn: Size | None = None
    vocab: Size | None = None
    image_size: Size | None = None
    patch_size: Size | None = None
    visual_tokens: Size | None = None
    parameters: Size | None = None
    vision: dict[StrictStr, Size] | None = None
    pinpoints: list[tuple[Size, Size]] | None = None  # of earlier versions
    grid: tuple[Size, Size] | None = None
    varies: bool | None = None


class _Engine(BaseModel):
    """In all its parts, because what nobody knows here may decide an answer."""

    model_config = ConfigDict(extra="forbid")

    engine: EngineSpec


class _Description(BaseModel):
    name: StrictStr
    context: StrictStr
    context_parts: dict[StrictStr, Scalar | None]
    facts: _Facts = Field(alias="model_facts")
    sources_hash: StrictStr
    versions: dict[StrictStr, StrictStr]
    points: Annotated[list[_Point], Field(min_length=1)]
    samples: Size
    created: StrictStr = ""
    updated: StrictStr = ""


class DamagedDescriptionError(StoreError):
    """An experiment's description cannot be read; the sweep that wrote it can write it again."""


def read_description(folder: Path) -> dict[str, Any]:
    """What ``sweep.yaml`` of an experiment says.

    Raises:
        StoreError: ``folder`` is not an experiment, one of another format, or may not be read.
        DamagedDescriptionError: Its description is damaged.
    """
    place = folder / "sweep.yaml"
    if not place.exists():
        what = "is not an experiment directory: it has no sweep.yaml" if folder.is_dir() else "does not exist"
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
        known = _Description.model_validate(value)
        engine = _Engine.model_validate({"engine": value.get("engine")}).engine
    except ValidationError as error:
        raise _damaged(place, first_fault(error)) from error
    if engine.model.dtype not in DTYPES:
        raise _damaged(place, f"engine.model.dtype: {engine.model.dtype!r:.40} is none of {', '.join(DTYPES)}")
    for point in known.points:
        if GridPoint.from_json(point.model_dump()).key != point.key:
            raise _damaged(place, f"the grid point {point.key:.40} does not say what its key was made of")
    if content_key(value["context_parts"]) != known.context:
        raise _damaged(place, "context_parts does not say what the context was made of")
    return value


def _damaged(place: Path, reason: str) -> DamagedDescriptionError:
    return DamagedDescriptionError(
        f"{place}: is damaged ({' '.join(reason.split())[:200]}); run the same sweep with the same --out to write it "
        "again (the cells are kept)"
    )


def write_description(folder: Path, value: dict[str, Any], command: str) -> None:
    """Write ``sweep.yaml``, whole.

    Args:
        folder: Of the experiment.
        value: What it is to say.
        command: Of saccade, which writes it.
    """
    text = (
        f"# Written by `saccade {command}`. Cells are addressed by what stands here: change the sweep file instead.\n"
    )
    text += yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    write_whole(folder / "sweep.yaml", text.encode())


class _Dumper(yaml.SafeDumper):
    """Writes a value twice rather than a reference to it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
