"""Answers as LLaVA's evaluation writes them, NAME.jsonl a grid point, for its own scripts that judge them.

Source: haotian-liu/LLaVA, llava/eval/model_vqa_loader.py and model_vqa_science.py: a line a question with question_id,
prompt, text, answer_id, model_id and metadata. We differ in two points: ``prompt`` is the question of the file without
the instruction, and ``answer_id`` follows from the answer, where LLaVA draws one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from results.disk import write_whole
from results.exchange.asked_for import made_for, nothing_of, points_asked_for
from results.exchange.point_names import file_name
from results.experiment import Experiment
from workers.work import content_key

NUMBERED = ("vqav2",)  # benchmarks whose question_id is a number in LLaVA's files


def write_llava_answers(experiment: Experiment, folder: Path, patterns: Sequence[str] = ()) -> list[Path]:
    """Write POINT.jsonl for each grid point that has answers, in the order of the benchmark's file.

    As `asked_for.Export`.
    """
    asked = experiment.samples.set_index("id")["question"]
    task, model = experiment.spec.task.name, Path(experiment.spec.model.path).name
    chosen = points_asked_for(experiment, patterns)
    cells = experiment.cells(["answer"], points=list(chosen))
    if cells.empty:
        raise nothing_of(experiment, patterns)
    made_for(experiment, folder)
    written = []
    for key, point in chosen.items():
        rows = cells[cells["point"] == key]
        if rows.empty:
            continue
        lines = [
            {
                "question_id": int(sample) if task in NUMBERED else sample,
                "prompt": asked[sample],
                "text": answer,
                "answer_id": content_key({"point": key, "sample": sample, "answer": answer}),
                "model_id": model,
                "metadata": point.to_json(),
            }
            for sample, answer in zip(rows["sample"], rows["answer"], strict=True)
        ]
        written.append(folder / f"{file_name(point.label)}.jsonl")
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_whole(written[-1], text.encode())
    return written
