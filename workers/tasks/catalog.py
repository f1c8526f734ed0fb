"""The table of benchmarks: name -> how its samples are read."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.suggestion import near
from workers.tasks import answers, prompts
from workers.tasks.base import DataError, Sample, Task
from workers.tasks.scienceqa import load_scienceqa
from workers.work import TaskSpec

CATALOG = {
    task.name: task
    for task in (Task(name="scienceqa", load=load_scienceqa, source="Lu et al., NeurIPS 2022; LLaVA's file form"),)
}


def load_samples(spec: TaskSpec) -> tuple[Sample, ...]:
    """All samples of a benchmark, in file order; nothing is decoded, but every name is checked.

    Raises:
        DataError: unknown task, scorer or conversation (with a suggestion), missing or malformed files.
    """
    if spec.name not in CATALOG:
        hint = near(spec.name, CATALOG)
        raise DataError(f"unknown task '{spec.name}'{hint} (known: {', '.join(CATALOG)})")
    answers.get(spec.scorer)
    samples: Sequence[Sample] = CATALOG[spec.name].load(spec)
    prompts.build_prompt(samples[0], spec.conversation, spec.single_prediction)
    return tuple(samples)
