"""Answers in the form that a benchmark's server judges, one file a grid point: VQAv2 and VizWiz.

Source: haotian-liu/LLaVA, scripts/convert_vqav2_for_submission.py and convert_vizwiz_for_submission.py: a JSON list of
objects with ``question_id`` (VQAv2) or ``image`` (VizWiz) and ``answer``, normalised as for the soft accuracy. LLaVA's
script for VQAv2 lists all questions of test2015, those that were not asked with an empty answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from results.disk import StoreError, write_whole
from results.exchange.asked_for import made_for, nothing_of, points_asked_for
from results.exchange.point_names import file_name
from results.experiment import Experiment
from workers.tasks.vqa_answers import normalised

KEYS = {"vqav2": "question_id", "vizwiz": "image"}  # by benchmark: what its server calls a question


def write_server_answers(experiment: Experiment, folder: Path, patterns: Sequence[str] = ()) -> list[Path]:
    """Write TASK_SPLIT_POINT.json for each grid point, in the order of the benchmark's file.

    As `asked_for.Export`; refused too is a benchmark without a server, and a question without an answer yet.
    """
    task = experiment.spec.task
    if task.name not in KEYS:
        raise StoreError(f"{experiment.path}: of {task.name}, which has no server (these have: {', '.join(KEYS)})")
    chosen = points_asked_for(experiment, patterns)
    if not chosen:
        raise nothing_of(experiment, patterns)
    made_for(experiment, folder)
    cells = experiment.cells(["point", "sample", "answer"])
    order = list(experiment.samples["id"])
    written = []
    for point in chosen.values():
        said: dict[str, str] = dict(
            cells.loc[cells["point"] == point.key, ["sample", "answer"]].itertuples(index=False)
        )
        if missing := len(order) - len(said):
            raise StoreError(
                f"{experiment.path}: {point.label} lacks {missing} of {len(order)} answers; run the sweep to its end"
            )
        key = KEYS[task.name]
        lines = [{key: int(id) if key == "question_id" else id, "answer": normalised(said[id])} for id in order]
        name = file_name(f"{task.name} {task.split} {point.label}")
        written.append(folder / f"{name}.json")
        write_whole(written[-1], json.dumps(lines, ensure_ascii=False).encode())
    return written
