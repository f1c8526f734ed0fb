"""Cells as lmms-eval's per-sample files (`--log_samples`), one per grid point, for its paired test and its viewers.

    lmms-eval ... --baseline EXPORTS/lmms_eval/un-pruned/DATE_samples_TASK.jsonl

Source: EvolvingLMMs-Lab/lmms-eval 0.7, loggers/evaluation_tracker.py (the lines) and baselines/loader.py (which pairs
samples by ``doc_id`` and takes the first number whose name holds "score"). ``doc_id`` is the question's place in the
benchmark's file, 0-based: it pairs with an lmms-eval run only if that asks the same questions in the same order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from results.analysis.metrics import scores
from results.disk import write_whole
from results.exchange.asked_for import made_for, nothing_of, points_asked_for
from results.exchange.point_names import file_name
from results.experiment import Experiment
from workers.work import GridPoint, content_key


def write_lmms_samples(experiment: Experiment, folder: Path, patterns: Sequence[str] = ()) -> list[Path]:
    """Write a folder per grid point with DATE_samples_TASK.jsonl and DATE_results.json.

    As `asked_for.Export`; given are the sample files.
    """
    columns = ["point", "sample", "answer", "parsed", "correct", "score", "tokens_kept", "decoded_tokens"]
    cells = experiment.cells(columns)
    cells["score"] = scores(cells)
    cells = cells.merge(experiment.samples, left_on="sample", right_on="id", validate="many_to_one")
    date = re.sub(r"\D", "", experiment.manifest.created[:10]) + "_000000"
    written = []
    for key, point in points_asked_for(experiment, patterns).items():
        rows = cells[cells["point"] == key]
        if rows.empty:
            continue
        home = made_for(experiment, folder / file_name(point.label))
        task = experiment.spec.task.name.rpartition("/")[2]  # lmms_eval/pope
        lines = [json.dumps(_line(row), ensure_ascii=False) for row in rows.to_dict("records")]
        written.append(home / f"{date}_samples_{task}.jsonl")
        write_whole(written[-1], ("\n".join(lines) + "\n").encode())
        results = json.dumps(_results(experiment, point, rows), indent=2, allow_nan=False)
        write_whole(home / f"{date}_results.json", (results + "\n").encode())
    if not written:
        raise nothing_of(experiment, patterns)
    return written


def _line(row: dict[Any, Any]) -> dict[str, Any]:
    asked = {"id": row["id"], "question": row["question"], "choices": list(row["choices"])}
    return {
        "doc_id": int(row["position"]),
        "target": row["label"],
        "filtered_resps": row["answer"],
        "doc_hash": content_key(asked),
        "input": row["question"],
        "score": float(row["score"]),
        "sample": row["id"],
        "parsed": None if pd.isna(row["parsed"]) else row["parsed"],
        "correct": bool(row["correct"]),
        "tokens_kept": int(row["tokens_kept"]),
        "decoded_tokens": int(row["decoded_tokens"]),
    }


def _results(experiment: Experiment, point: GridPoint, rows: pd.DataFrame) -> dict[str, Any]:
    task = experiment.spec.task.name
    return {
        "results": {task: {"alias": task, "score,none": float(rows["score"].mean()), "samples": len(rows)}},
        "configs": {task: {"task": task, "score_key": "score", "output_type": "generate_until"}},
        "config": {
            "model": "saccade",
            "model_args": {"pretrained": experiment.spec.model.path, **point.to_json()},
            "context": experiment.context,
        },
        "n-samples": {task: {"original": experiment.manifest.samples, "effective": len(rows)}},
    }
