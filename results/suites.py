"""The folder of a suite: experiments of one grid on several benchmarks and models, and a file that says which."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from results.disk import StoreError, write_whole
from results.experiment import Experiment
from results.validation import first_fault
from workers.json_file import UnreadableError, read_json

if TYPE_CHECKING:
    import pandas as pd

    from results.analysis.matrix import Answers

FILE = "suite.json"
MAX_BYTES = 2**20
TITLE = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # of a benchmark or a model: also its folder's name


class SuiteMember(BaseModel):
    """An experiment of a suite."""

    model_config = ConfigDict(frozen=True)

    model: Annotated[str, Field(pattern=rf"^$|{TITLE}")] = ""  # "" where there is one model
    benchmark: Annotated[str, Field(pattern=TITLE)]

    @property
    def folder(self) -> Path:
        """Inside the suite's."""
        return Path(self.model, self.benchmark)


class LeftOut(BaseModel):
    """A method of the grid that one of several models cannot run."""

    model_config = ConfigDict(frozen=True)

    model: Annotated[str, Field(pattern=TITLE)]
    strategy: str
    reason: str


class SuiteFile(BaseModel):
    """What ``suite.json`` says."""

    name: str
    members: list[SuiteMember]
    left_out: list[LeftOut] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """An experiment, and what it is called in a table."""

    model: str
    benchmark: str
    experiment: Experiment
    answers: Answers | None = None  # where they have been read already
    costed: Callable[[], pd.DataFrame | None] | None = None  # `results.analysis.costs.costs`, where they are known


def write_suite(folder: Path, name: str, members: Sequence[SuiteMember], left_out: Sequence[LeftOut] = ()) -> None:
    """Say which experiments a folder holds, those of earlier runs included, and what this run leaves out."""
    folder.mkdir(parents=True, exist_ok=True)
    known = read_suite(folder).members if is_suite(folder) else []
    whole = SuiteFile(name=name, members=list(dict.fromkeys([*members, *known])), left_out=list(left_out))
    write_whole(folder / FILE, json.dumps(whole.model_dump(), indent=1).encode() + b"\n")


def read_suite(folder: Path) -> SuiteFile:
    """What a suite's folder holds.

    Raises:
        StoreError: It is none, or its file is damaged.
    """
    path = folder / FILE
    try:
        return SuiteFile.model_validate(read_json(path, MAX_BYTES))
    except ValidationError as error:
        raise StoreError(f"{path}: is damaged ({first_fault(error)}); run the suite again, which writes it") from error
    except (UnreadableError, OSError) as error:
        raise StoreError(
            f"{folder}: is no suite's folder ({error}); give one that `saccade run SUITE` wrote"
        ) from error


def member_of(path: Path) -> SuiteMember | None:
    """What an experiment's folder is in the suite around it; None where there is none that can be read."""
    for folder in path.resolve().parents[:2]:
        if (folder / FILE).is_file():
            try:
                known = read_suite(folder).members
            except StoreError:
                continue
            return next((one for one in known if folder / one.folder == path.resolve()), None)
    return None


def left_out_of(places: Sequence[Path]) -> list[LeftOut]:
    """What models of suites cannot run, of those among the places that are suites' folders."""
    return [one for place in places if is_suite(place) for one in read_suite(place).left_out]


def is_suite(place: Path) -> bool:
    """Whether a folder is a suite's."""
    return (place / FILE).exists()


def begun(place: Path) -> list[SuiteMember]:
    """The experiments of a suite's folder that have begun.

    Raises:
        StoreError: It is no suite's folder, or its file is damaged.
    """
    return [one for one in read_suite(place).members if (place / one.folder / "sweep.yaml").exists()]


def results_of(places: Sequence[Path]) -> list[Results]:
    """The experiments of suites' folders, as far as they have begun, and those that are named alone, in this order.

    Raises:
        StoreError: A place is neither, or nothing has begun.
    """
    found: list[Results] = []
    for place in places:
        if not is_suite(place):
            experiment = Experiment.open(place)
            found.append(Results(model="", benchmark=experiment.name, experiment=experiment))
            continue
        for member in begun(place):
            experiment = Experiment.open(place / member.folder)
            found.append(Results(model=member.model, benchmark=member.benchmark, experiment=experiment))
    if not found:
        raise StoreError(f"{places[0]}: no benchmark of the suite has begun")
    return found
