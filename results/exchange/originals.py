"""The result files that the user's documents promise, in the originals' shapes (semantics, section 5).

The promised schema stays exact: only these keys, in this order. What else must be known to read a file - which layer,
which matrix, which questions - stands in a sidecar, ``NAME.provenance.json``. Accuracies are over the image questions
that every point of the file has answered; a point that has fewer answers than the un-pruned model is left out until it
has caught up. What was not measured is null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from results.analysis.matrix import Answers
from results.analysis.significance import Bools
from workers.work import UNPRUNED, GridPoint

TEXT_WEIGHTED = "text_weighted"
L2_NORM = "l2_norm"
ABLATION = "ablation"
ADVANCED = ("max_head", "avg_all_heads", "weighted_combination")
PRUNING_FOLDER = "pruning_results"
PRIMARY_MATRIX = "hidden_states"  # what the originals' code measured; their text says attention_output


@dataclass(frozen=True, slots=True, kw_only=True)
class PromisedFile:
    """A file below ``exports/``: its content in the original's schema, and what is to be known besides."""

    name: str
    content: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the files are made of."""

    answers: Answers  # of the image questions
    measures: pd.DataFrame  # point, name, mean
    costs: pd.DataFrame | None
    latency: Mapping[str, float]  # point key -> seconds per sample, where measured
    layers: int
    visual_tokens: int


def promised_files(found: Found) -> list[PromisedFile]:
    """All files that the grid of an experiment gives."""
    return [*text_weighted(found), *l2_input(found), *fastv_advanced(found), *ablation(found)]


# -- S2 ---------------------------------------------------------------------------------------------------------


def text_weighted(found: Found) -> list[PromisedFile]:
    """``fastv_textweighted_layer{K}_experiment.json`` for each layer with a scan over ranks and measured spectra."""
    files = []
    last = found.layers - 1
    prefix = f"attention_weights.{last}"
    for layer, members in _scans(found, TEXT_WEIGHTED):
        rows, used = finished(found.answers, members)
        numeric = _means(found, rows, f"{prefix}.numerical_rank")
        effective = _means(found, rows, f"{prefix}.effective_rank")
        if len(rows) < 2 or not used.any() or numeric is None or effective is None:
            continue
        files.append(
            PromisedFile(
                name=f"fastv_textweighted_layer{layer}_experiment.json",
                content={
                    "tokens": [found.answers.points[row].rank for row in rows],
                    "accuracies": accuracies(found.answers, rows, used),
                    "layer31_numeric_ranks": numeric,
                    "layer31_effective_ranks": effective,
                },
                provenance={
                    "source": "HiMAP, fastv_textweighted_experiment.py",
                    "pruning_layer": layer,
                    "scores_from_attention_of_layer_index": layer - 1 if layer else None,
                    "ranks_of_layer_index": last,
                    "keys": "the original's names say 31 whatever the model's last layer is",
                    "matrix": "attention_weights of the kept visual tokens in the pruned prefill, mean over heads",
                    "numeric_rank": "carries no information: a causal softmax block has full rank",
                    "accuracy": "of the pruned generation; the original never pruned",
                    "total_samples": int(used.sum()),
                    "rank_samples": _measured(found, rows, f"{prefix}.effective_rank"),
                },
            )
        )
    return files


# -- S4 ---------------------------------------------------------------------------------------------------------


def l2_input(found: Found) -> list[PromisedFile]:
    """``pruning_results/raw_results.json`` and ``normalized_results.json``; accuracies in percent, as there.

    Where other matrices were measured too, each has its own pair of files, with the matrix in the name.
    """
    files = []
    first, last = 0, found.layers - 1
    for layer, members in _scans(found, L2_NORM):
        rows, used = finished(found.answers, members)
        if layer != 0 or len(rows) < 2 or not used.any():
            continue
        for matrix in (PRIMARY_MATRIX, "attention_output", "hidden_states_prenorm"):
            first_ranks = _means(found, rows, f"{matrix}.{first}.numerical_rank")
            last_ranks = _means(found, rows, f"{matrix}.{last}.numerical_rank")
            if first_ranks is None or last_ranks is None:
                continue
            percent = [100 * value for value in accuracies(found.answers, rows, used)]
            counts = [found.answers.points[row].rank for row in rows]
            ending = "" if matrix == PRIMARY_MATRIX else f"_{matrix}"
            provenance = {
                "source": "HiMAP, src/LLaVA/scripts/pruning_experiment.py",
                "accuracies": "percent, 0 to 100",
                "matrix": f"{matrix} of the kept visual tokens, numerical rank",
                "first_layer_index": first,
                "last_layer_index": last,
                "constant_series": [
                    name
                    for name, values in (
                        ("accuracies", percent), ("first_layer_ranks", first_ranks), ("last_layer_ranks", last_ranks)
                    )
                    if len(set(values)) == 1
                ],
                "decoding": "greedy; the original sampled at temperature 0.2",
                "total_samples": int(used.sum()),
                "rank_samples": _measured(found, rows, f"{matrix}.{last}.numerical_rank"),
            }  # fmt: skip
            raw = {
                "token_counts": counts,
                "accuracies": percent,
                "first_layer_ranks": first_ranks,
                "last_layer_ranks": last_ranks,
            }
            normalised = {
                "token_counts": counts,
                "normalized_accuracies": min_max(percent),
                "normalized_first_layer_ranks": min_max(first_ranks),
                "normalized_last_layer_ranks": min_max(last_ranks),
                "raw_accuracies": percent,
                "raw_first_layer_ranks": first_ranks,
                "raw_last_layer_ranks": last_ranks,
            }
            for name, content in (("raw_results", raw), ("normalized_results", normalised)):
                path = f"{PRUNING_FOLDER}/{name}{ending}.json"
                files.append(PromisedFile(name=path, content=content, provenance=provenance))
    return files


# -- S5 ---------------------------------------------------------------------------------------------------------


def fastv_advanced(found: Found) -> list[PromisedFile]:
    """``scienceqa_results_*.json``, a folder for each (R, K), because their names hold neither."""
    answers = found.answers
    settings: dict[tuple[int, int], list[int]] = {}
    for row, point in enumerate(answers.points):
        if point.strategy in ADVANCED and point.positions is None and point.rank < found.visual_tokens:
            settings.setdefault((point.rank, point.layer), []).append(row)
    files = []
    for (rank, layer), members in settings.items():
        rows, used = finished(answers, members)
        if not rows or not used.any() or answers.baseline is None:
            continue
        for row in (answers.baseline, *rows):
            files.append(
                PromisedFile(
                    name=f"fastv_advanced_R{rank}_K{layer}/{_advanced_name(answers.points[row])}",
                    content=_advanced_content(found, row, used),
                    provenance={
                        "source": "HiMAP, eval_scivqa.py",
                        "flops_info": "ratio by the formula `fastv`, prefill; the original printed 1.0 for FastV",
                        "avg_latency": "seconds per sample; null: not measured, `saccade latency` does",
                        "sys_length": "null: found for each sample from its prompt",
                    },
                )
            )
    return files


def _advanced_name(point: GridPoint) -> str:
    if point.strategy == UNPRUNED:
        return "scienceqa_results_baseline.json"
    alpha = f"_alpha{point.alpha}" if point.alpha is not None else ""
    return f"scienceqa_results_fastv_{point.strategy}{alpha}.json"


def _advanced_content(found: Found, row: int, used: Bools) -> dict[str, Any]:
    point = found.answers.points[row]
    pruned = point.strategy != UNPRUNED
    (accuracy,), correct = accuracies(found.answers, [row], used), int(found.answers.correct_PS[row, used].sum())
    ratio = None if found.costs is None else float(found.costs["fastv_ratio"].iloc[row])
    return {
        "accuracy": accuracy,
        "avg_latency": found.latency.get(point.key),
        "total_samples": int(used.sum()),
        "correct_samples": correct,
        "flops_info": ratio,
        "model_config": {
            "use_himap": False,
            "use_fastv": pruned,
            "sys_length": None,
            "img_length": None,
            "txt_layer": None,
            "img_layer": None,
            "txt_rank": None,
            "img_rank": None,
            "fast_v_sys_length": None,
            "fast_v_image_token_length": found.visual_tokens if pruned else None,
            "fast_v_attention_rank": point.rank if pruned else None,
            "fast_v_agg_layer": point.layer if pruned else None,
            "fast_v_token_selection_method": point.strategy if pruned else None,
            "fast_v_weighted_alpha": point.alpha,
        },
    }


# -- S3 ---------------------------------------------------------------------------------------------------------


def ablation(found: Found) -> list[PromisedFile]:
    """One JSON per run, keyed by the full configuration. The documents promise no names; these are ours."""
    files = []
    for row, point in enumerate(found.answers.points):
        used = found.answers.answered_PS[row]
        if point.strategy != ABLATION or not used.any():
            continue
        settings = "_".join(f"{name}-{value}" for name, value in point.settings)
        content: dict[str, Any] = {
            "config": {**dict(point.settings), "layer": point.layer, "rank": point.rank},
            "accuracy": accuracies(found.answers, [row], used)[0],
            "correct_samples": int(found.answers.correct_PS[row, used].sum()),
            "total_samples": int(used.sum()),
        }
        if found.costs is not None:
            cost = found.costs.iloc[row]
            content["avg_visual_tokens"] = float(cost["average_visual_tokens"])
            content["flops_ratio"] = {
                name: float(cost[f"{name}_ratio"]) for name in ("flops", "fastv", "swiglu", "himap")
            }
        own = found.measures[found.measures["point"] == point.key]
        content["measures"] = {
            name: _number(mean) for name, mean in zip(own["name"], own["mean"], strict=True)
        }  # fmt: skip
        files.append(
            PromisedFile(name=f"ablation/layer-{point.layer}_rank-{point.rank}_{settings}.json", content=content)
        )
    return files


def ablation_table(summary: pd.DataFrame, points: Sequence[GridPoint]) -> pd.DataFrame | None:
    """All runs of an ablation side by side: its parameters as columns, then accuracy and comparison."""
    rows = [row for row, point in enumerate(points) if point.strategy == ABLATION]
    if not rows:
        return None
    params = pd.DataFrame([dict(points[row].settings) for row in rows])
    wanted = ["layer", "rank", "average_visual_tokens", "n", "correct", "accuracy", "ci_low", "ci_high",
              "interval", "difference", "diff_low", "diff_high", "diff_interval", "p", "test", "p_holm"]  # fmt: skip
    values = summary.iloc[rows][[name for name in wanted if name in summary]].reset_index(drop=True)
    return pd.concat([params, values], axis=1)


# -- shared -----------------------------------------------------------------------------------------------------


def finished(answers: Answers, rows: Iterable[int]) -> tuple[list[int], Bools]:
    """Rows that have caught up with the un-pruned model, and the samples that it and all of them have answered."""
    base = np.ones(len(answers.samples), bool) if answers.baseline is None else answers.answered_PS[answers.baseline]
    settled_PS = answers.answered_PS | answers.failed_S
    done = [row for row in rows if settled_PS[row, base].all() and answers.answered_PS[row].any()]
    return done, base & answers.answered_PS[done].all(axis=0)


def accuracies(answers: Answers, rows: Sequence[int], used: Bools) -> list[float]:
    """Mean score of each row over the samples used."""
    return [float(answers.score_PS[row, used].mean(dtype=np.float64)) for row in rows]


def min_max(values: Sequence[float]) -> list[float]:
    """``(x - min) / (max - min)``; all zeros when constant, as in the originals (a picture has to say so)."""
    low, high = min(values), max(values)
    return [0.0 if high == low else (value - low) / (high - low) for value in values]


def _scans(found: Found, strategy: str) -> list[tuple[int, list[int]]]:
    """(layer, rows) of each scan of a strategy over ranks, in the order of the grid; default settings only."""
    scans: dict[tuple[int, tuple[Any, ...]], list[int]] = {}
    for row, point in enumerate(found.answers.points):
        if point.strategy == strategy and point.positions is None:
            scans.setdefault((point.layer, point.params), []).append(row)
    layers: dict[int, list[int]] = {}
    for (layer, _), rows in scans.items():
        layers.setdefault(layer, rows)  # the first of several settings, which the grid lists first
    return [(layer, rows) for layer, rows in layers.items() if len(rows) > 1]


def _means(found: Found, rows: Sequence[int], name: str) -> list[float] | None:
    """Mean of a measure at each row; None where one of them lacks it."""
    own = found.measures[found.measures["name"] == name].set_index("point")["mean"]
    values = own.reindex([found.answers.points[row].key for row in rows])
    return None if values.isna().any() else [float(value) for value in values]


def _measured(found: Found, rows: Sequence[int], name: str) -> int:
    own = found.measures[found.measures["name"] == name].set_index("point")["n"]
    return int(min(own[found.answers.points[row].key] for row in rows))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
