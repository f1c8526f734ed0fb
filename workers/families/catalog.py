"""The table of model families; the ``model_type`` of a checkpoint's config.json says which one it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from strategies.errors import UsageError
from workers.checkpoints.hub import find_folder
from workers.checkpoints.settings import read_json
from workers.families.base import Checkpoint, Family, Parts
from workers.families.config import ModelError
from workers.families.intern.family import INTERN
from workers.families.llava.family import LLAVA
from workers.families.qwen.family import QWEN
from workers.work import ModelSpec

if TYPE_CHECKING:
    from workers.families.model import Model

FAMILIES: tuple[Family, ...] = (LLAVA, QWEN, INTERN)


def family_of(spec: ModelSpec) -> Family:
    """Whose checkpoint it is.

    Raises:
        ModelError: there is none, or it is of no family known.
    """
    folder = find_folder(spec.path, "give a checkpoint directory")
    place = folder / "config.json"
    if not place.is_file() and spec.base is not None:
        place = find_folder(spec.base, "give the base model's directory with --model-base") / "config.json"
    if not place.is_file():
        return FAMILIES[0]  # which says what is missing
    kind = read_json(place, "model").get("model_type")
    for family in FAMILIES:
        if kind in family.model_types:
            return family
    known = sorted({kind for family in FAMILIES for kind in family.model_types})
    raise ModelError(f"{place}: model_type: '{kind}' is not supported ({', '.join(known)})")


def open_checkpoint(spec: ModelSpec) -> Checkpoint:
    """Find all parts of a model.

    Raises:
        ModelError: a folder or a file is missing or malformed, or it is a model the engine does not run.
    """
    return family_of(spec).open(spec)


def load_model(spec: ModelSpec, device: str) -> Model:
    """A model on a device, as torch names it: ``cpu`` or ``cuda:0``.

    Raises:
        ModelError: the checkpoint is incomplete or not what its config.json says, or its parts do not fit.
    """
    return family_of(spec).load(spec, device)


def parts_of(module: Any) -> Parts:
    """Where the parts of a model that transformers built are.

    Raises:
        UsageError: it is of no family that can be hooked.
    """
    for family in FAMILIES:
        if (parts := family.parts(module)) is not None:
            return parts
    *others, last = [name for family in FAMILIES for name in family.hooked]
    raise UsageError(f"pruned needs a {', '.join(others)} or {last}, got {type(module).__name__}")
