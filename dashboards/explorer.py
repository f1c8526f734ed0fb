"""What the sample explorer shows, as plain values: an index of samples and points, and one document per sample.

`assets/app/explorer.js` draws both, in the live app and in the report, and counts only what depends on the
configurations that the reader has chosen to compare.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dashboards.rows import with_series
from results.analysis.kept_quality import token_maps
from results.analysis.matrix import Answers
from results.analysis.metrics import flip_matrices
from results.experiment import Experiment
from results.wording import number, plural, shortened
from workers.work import content_key

ALL_POINTS = 12  # so many configurations can be looked at together
MAX_PANELS = 60  # of one comparison
QUESTION_LENGTH = 110  # characters in the list


def index_document(
    experiment: Experiment,
    table: Answers,
    summary: pd.DataFrame,
    pictured: frozenset[str],
    failed: Collection[str],
    only: Collection[str] | None = None,
) -> dict[str, Any]:
    """The samples and what can be compared on them.

    Args:
        experiment: That the rest was read from.
        table: Its answers.
        summary: Its grid points, from `results.analysis.metrics.summarise`.
        pictured: Samples that have a picture.
        failed: Samples that could not be answered.
        only: Keys of the points that may be compared; all by default.

    Returns:
        JSON values. ``points`` are in the order of the grid, ``samples`` in that of the file: image questions that have
        an answer or have failed. ``flips`` of a sample are bits over the points, most significant first, base64.
    """
    images = table.of_images(True)
    lost_PS, gained_PS = flip_matrices(images)
    flipped_SP = (lost_PS | gained_PS).T
    questions = experiment.samples.set_index("id")["question"]
    shown = images.answered_PS.any(axis=0) | images.failed_S
    points = _points(experiment, summary)
    return {
        "name": experiment.name,
        "baseline": table.baseline,
        "points": points,
        "groups": groups(points, only),
        "texts": int((~table.image_S).sum()),
        "waiting": int((~shown).sum()),
        "samples": [
            {
                "id": name,
                "key": content_key(name),
                "question": shortened(str(questions[name]), QUESTION_LENGTH),
                "flips": b64encode(np.packbits(flips).tobytes()).decode(),
                "failed": name in failed,
                "picture": name in pictured,
            }
            for name, flips, here in zip(images.samples, flipped_SP, shown, strict=True)
            if here
        ],
    }


def groups(points: Sequence[dict[str, Any]], only: Collection[str] | None = None) -> list[dict[str, Any]]:
    """What can be compared side by side: axis, name, points (places, no baseline); the largest of an axis first.

    All configurations where they are few; else the strategies at one layer and number of tokens, one strategy at
    several layers, or with several numbers of tokens. What is in none of these comes last.
    """
    places = [
        place for place, point in enumerate(points) if not point["baseline"] and (only is None or point["key"] in only)
    ]
    found: list[dict[str, Any]] = []
    for axis in ("series", "layer", "rank"):
        fixed = [name for name in ("series", "layer", "rank") if name != axis]
        members: dict[tuple[Any, ...], list[int]] = {}
        for place in places:
            members.setdefault(tuple(points[place][name] for name in fixed), []).append(place)
        chosen = [(values, group) for values, group in members.items() if len(group) > 1]
        found += [
            {"axis": axis, "name": _words(dict(zip(fixed, values, strict=True)), group), "points": group[:MAX_PANELS]}
            for values, group in sorted(chosen, key=lambda item: -len(item[1]))
        ]
    if 0 < len(places) <= ALL_POINTS and all(group["points"] != places for group in found):
        found.insert(0, {"axis": "all", "name": plural(len(places), "configuration"), "points": places})
    grouped = {place for group in found for place in group["points"]}
    if alone := [place for place in places if place not in grouped]:
        name = plural(len(alone), "configuration") + " that no other is like"
        found.append({"axis": "alone", "name": name, "points": alone[:MAX_PANELS]})
    return found


def _words(fixed: dict[str, Any], group: Sequence[int]) -> str:
    words = {
        "series": lambda value: str(value),
        "layer": lambda value: f"layer {value}",
        "rank": lambda value: f"{plural(value, 'token')} kept" if value else "no token kept",
    }
    more = f" (the first {MAX_PANELS} of {len(group)})" if len(group) > MAX_PANELS else ""
    return ", ".join(words[name](value) for name, value in fixed.items()) + more


def _points(experiment: Experiment, summary: pd.DataFrame) -> list[dict[str, Any]]:
    series = with_series(summary).set_index("key")["series"].to_dict()
    words = {entry.key: entry.chosen_by for entry in experiment.manifest.points}
    return [
        {
            "key": row["key"],
            "baseline": bool(row["baseline"]),
            "series": series.get(row["key"], row["label"]),
            "label": row["label"],
            "layer": int(row["layer"]),
            "rank": int(row["rank"]),
            "chosen_by": words[row["key"]],
        }
        for row in summary.to_dict("records")
    ]


def sample_documents(experiment: Experiment, names: Sequence[str], failures: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """All that is known of some samples: question, options, ground truth, and each grid point's answer and kept tokens.

    Args:
        experiment: Where they are.
        names: Ids of its samples.
        failures: Of the experiment.

    Returns:
        By sample id. ``cells`` is by the point's place in the grid: answer, parsed, correct, tokens, visual (tokens
        before pruning) and kept (mask as base64; missing where it was not recorded). ``maps`` are the fields of each
        ``TokenMap``, which say where the visual tokens lie in the picture; none where nothing is known of it. A picture
        of several images is a column of them, all as large.
    """
    places = {point.key: place for place, point in enumerate(experiment.points)}
    rows = experiment.samples.set_index("id")
    failures = failures.set_index("sample")
    wanted = list(names)
    cells = experiment.cells(["answer", "parsed", "correct", "score", "tokens_kept", "visual_tokens"], samples=wanted)
    kept = experiment.kept(samples=wanted)
    masks = dict(zip(zip(kept["point"], kept["sample"], strict=True), kept["kept_mask"], strict=True))
    recorded = dict(zip(kept["sample"], kept["maps"], strict=True))
    documents: dict[str, dict[str, Any]] = {}
    for name in wanted:
        row = rows.loc[name]
        patches = row["patches"]
        documents[name] = {
            "id": name,
            "question": row["question"],
            "choices": list(row["choices"]),
            "label": row["label"],
            "about": " · ".join(part for part in (row["subject"], row["topic"], row["category"]) if part),
            "patches": None if patches is None or not len(patches) else [int(patch) for patch in patches],
            "failure": failures.loc[name, ["kind", "message"]].to_dict() if name in failures.index else None,
            "maps": [],
            "cells": {},
        }
    for cell in cells.to_dict("records"):
        document, visual = documents[cell["sample"]], int(cell["visual_tokens"])
        document["maps"] = [one.stated for one in token_maps(experiment.config, recorded.get(cell["sample"]), visual)]
        mask = masks.get((cell["point"], cell["sample"]))
        document["cells"][places[cell["point"]]] = {
            "answer": cell["answer"],
            "parsed": None if pd.isna(cell["parsed"]) else cell["parsed"],
            "correct": bool(cell["correct"]),
            "score": float(cell["correct"]) if pd.isna(cell["score"]) else float(cell["score"]),
            "score_text": number(float("nan") if pd.isna(cell["score"]) else float(cell["score"]), 2),
            "tokens": None if pd.isna(cell["tokens_kept"]) else int(cell["tokens_kept"]),
            "visual": visual,
            **({"kept": b64encode(mask).decode()} if mask is not None and len(mask) == -(-visual // 8) else {}),
        }
    return documents
