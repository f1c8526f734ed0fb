"""Whose numbers an experiment holds, in names: of which model, on which benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from results.experiment import Experiment, names_apart
from results.suites import member_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Equal names mean equal weights, and equal questions."""

    experiment: str  # unique
    model: str
    benchmark: str


def owners_of(experiments: Sequence[Experiment]) -> list[Owner]:
    """The names of experiments that are looked at together; a suite's are those that its file gives."""
    names = names_apart(experiments)
    members = [member_of(experiment.path) for experiment in experiments]
    models, benchmarks = [], []
    for experiment, member in zip(experiments, members, strict=True):
        engine = experiment.spec
        models.append((member.model if member else "") or PurePath(engine.model.path).name)
        benchmarks.append(member.benchmark if member else engine.task.name)
    parts = [experiment.manifest.context_parts for experiment in experiments]
    models = _apart(models, [str(part["model"]) for part in parts], names)
    entries = [member.benchmark if member else "" for member in members]  # a suite may ask the same questions otherwise
    asked = [f"{part['data']} {part['task']} {entry}" for part, entry in zip(parts, entries, strict=True)]
    benchmarks = _apart(benchmarks, asked, names)
    return [Owner(experiment=a, model=b, benchmark=c) for a, b, c in zip(names, models, benchmarks, strict=True)]


def _apart(names: Sequence[str], prints: Sequence[str], owners: Sequence[str]) -> list[str]:
    """One name for what has one fingerprint; with an experiment's where others of this name have another one."""
    first: dict[str, int] = {}
    for place, one in enumerate(prints):
        first.setdefault(one, place)
    told = {one: names[place] for one, place in first.items()}
    shared = {name for name in told.values() if list(told.values()).count(name) > 1}
    told |= {one: f"{name} ({owners[first[one]]})" for one, name in told.items() if name in shared}
    return [told[one] for one in prints]
