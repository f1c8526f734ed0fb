"""The table of benchmarks: name -> how its samples are read and judged."""

from __future__ import annotations

import re
from dataclasses import replace

from strategies.own_names import in_file
from strategies.suggestion import near
from workers.foreign import readable
from workers.tasks import answers, prompts
from workers.tasks.base import Benchmark, DataError, Sample, Scorer, Task
from workers.tasks.gqa import GQA
from workers.tasks.mmbench import MMBENCH, MMBENCH_CIRCULAR, MMBENCH_CN, MMBENCH_CN_CIRCULAR
from workers.tasks.mme import MME
from workers.tasks.pope import POPE
from workers.tasks.refcoco import REFCOCO, REFCOCO_PLUS, REFCOCOG
from workers.tasks.scienceqa import SCIENCEQA, SCIENCEQA_IMG
from workers.tasks.vlmevalkit import NAMED, VLMEVALKIT
from workers.tasks.vqa import TEXTVQA, VIZWIZ, VQAV2
from workers.work import TaskSpec

OWN_FORMS = (SCIENCEQA, SCIENCEQA_IMG, MMBENCH, MMBENCH_CIRCULAR, MMBENCH_CN, MMBENCH_CN_CIRCULAR, VQAV2, TEXTVQA, GQA,
             MME, POPE, VIZWIZ, REFCOCO, REFCOCO_PLUS, REFCOCOG)  # fmt: skip
CATALOG = {task.name: task for task in (*OWN_FORMS, *NAMED, VLMEVALKIT)}

ADMITTED: dict[str, Task] = {}  # what a user adds to it in this process, see own.py


def find(name: str) -> Task | None:
    """The benchmark of a name, where this process knows it."""
    return CATALOG.get(name) or ADMITTED.get(name)


def get(name: str) -> Task:
    """Look a benchmark up.

    Raises:
        DataError: unknown name, with a suggestion; or one of a user's own file, which nobody has named here.
    """
    if (task := find(name)) is not None:
        return task
    if in_file(name):
        raise DataError(f"task '{name}': is of a user's own file, which is run for its sweep file alone: `saccade run`")
    known = (*CATALOG, *ADMITTED)
    raise DataError(f"unknown task '{name}'{near(name, known)} (known: {', '.join(known)})")


def admit(task: Task) -> Task:
    """Know a benchmark that is not of this project, in this process; one of the same name from before is forgotten."""
    assert task.name not in CATALOG
    ADMITTED[task.name] = task
    return task


def resolved(spec: TaskSpec) -> TaskSpec:
    """The spec with split and scorer named: the task's usual ones where it leaves them open.

    Raises:
        DataError: unknown task, a scorer that cannot judge it, or a split that can be no name.
    """
    task = get(spec.name)
    scorer = spec.scorer or task.scorers[0]
    _judge(task, scorer)
    if scorer not in task.scorers:
        raise DataError(f"scorer '{scorer}' cannot judge {task.name} (it takes {', '.join(task.scorers)})")
    split = spec.split or task.split
    if not re.fullmatch(r"\w[\w.-]*", split):  # it becomes part of file names
        raise DataError(f"split {split[:40]!r} is not the name of a split, such as {task.split}")
    return replace(spec, split=split, scorer=scorer)


def scorer_of(spec: TaskSpec) -> Scorer:
    """The rule that judges the answers of a benchmark.

    Raises:
        DataError: as `resolved`.
    """
    name = resolved(spec).scorer
    assert name is not None
    return _judge(get(spec.name), name)


def _judge(task: Task, name: str) -> Scorer:
    own = {judge.__name__: judge for judge in task.judges}
    return own[name] if name in own else answers.get(name)


@readable(DataError)
def load_benchmark(spec: TaskSpec) -> Benchmark:
    """All samples of a benchmark, in file order; no image is opened, but every file is checked to be there.

    Raises:
        DataError: unknown task, scorer or conversation (with a suggestion), missing or malformed files.
    """
    spec = resolved(spec)
    benchmark = get(spec.name).load(spec)
    prompts.build_prompt(benchmark.samples[0], spec)
    return benchmark


def load_samples(spec: TaskSpec) -> tuple[Sample, ...]:
    """The samples of `load_benchmark`."""
    return load_benchmark(spec).samples
