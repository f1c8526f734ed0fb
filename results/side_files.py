"""JSON files that stand beside an experiment's cells: bounded, typed, and left out with a note where they are damaged.

The cells are the truth. What stands beside them may be written again, and must not take the tables and pages down.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from results.experiment import Experiment
from results.validation import first_fault
from workers.json_file import UnreadableError, read_json

MAX_BYTES = 2**28
Kind = TypeVar("Kind", bound=BaseModel)


def read_side_file(experiment: Experiment, name: str, kind: type[Kind], remedy: str) -> Kind | None:
    """What a file says; None where there is none, or where it is noted as damaged.

    Args:
        experiment: Beside whose cells it stands.
        name: Of the file.
        kind: What it must hold.
        remedy: For the note.
    """
    path = experiment.path / name
    try:
        if not path.exists():
            experiment.forget(path)
            return None
        value = kind.model_validate(read_json(path, MAX_BYTES))
    except ValidationError as error:
        experiment.note(path, ValueError(first_fault(error)), remedy)
        return None
    except (UnreadableError, OSError) as error:
        experiment.note(path, error, remedy)
        return None
    experiment.forget(path)
    return value
