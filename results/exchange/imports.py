"""Result files of the original projects, brought beside ours: aggregate numbers, without the answers behind them.

There are no cells, so there are no paired tests: an imported directory is not an experiment. Its ``imported.json``
holds one tidy row per figure, with what is wrong with it; `saccade compare` and the pictures read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import AfterValidator, Field, Strict, TypeAdapter, ValidationError

from results.analysis.metrics import compared_with_none, reachable, suspicions
from results.analysis.significance import Floats, wilson
from results.disk import StoreError, make_folder, write_whole
from results.validation import first_fault
from workers.foreign import expanded
from workers.json_file import UnreadableError, read_json
from workers.work import UNPRUNED

IMPORTED_FILE = "imported.json"
FORMAT = 1
LARGEST_N = 5000  # questions of a benchmark; a larger one would explain any accuracy
VISUAL_TOKENS = 576  # of LLaVA-1.5, which all these files are about
CONSTANT_FIGURES = 4
MOST = 1e12


def _bounded(value: float) -> float:
    if abs(value) > MOST:
        raise ValueError("is larger than any figure")
    return value


Size = Annotated[int, Strict(), Field(ge=0, lt=2**31)]
Number = Annotated[float, Strict(), AfterValidator(_bounded)]  # NaN: missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One accuracy (or score) of a file. What the file does not say is None."""

    file: str
    strategy: str  # `none`: the un-pruned model
    layer: Size | None = None
    rank: Size | None = None
    params: str = ""  # "name=value ..."
    metric: str = "accuracy"  # a share from 0 to 1; anything else is shown and not compared
    value: Number = math.nan
    correct: Size | None = None
    n: Size | None = None
    latency_s: Number | None = None
    flops_ratio: Number | None = None
    measures: tuple[tuple[str, Number], ...] = ()

    @property
    def run(self) -> str:
        """Figures of one run may be compared: a file, or the files that hold a configuration each, of equal count."""
        stem = Path(self.file).stem
        single = stem.partition("_results_")
        return f"{single[0]}_results, {self.n} samples" if single[1] and self.n else stem

    @property
    def label(self) -> str:
        if self.strategy == UNPRUNED:
            return "un-pruned"
        known = [f"{name}={value}" for name, value in (("layer", self.layer), ("rank", self.rank)) if value is not None]
        return " ".join([self.strategy, *known, *([self.params] if self.params else [])])


FIGURES = TypeAdapter(list[Figure])
Content = Any


class UnknownKindError(StoreError):
    """A file holds no accuracies in a form that is known."""


def read_original(path: Path) -> list[Figure]:
    """The figures of one file.

    Raises:
        UnknownKindError: It is of no kind that is known.
        StoreError: It is not JSON, or not what it looks like.
    """
    try:
        content = read_json(path)
    except UnreadableError as error:
        raise StoreError(f"{error}; give a result file of the original projects") from error
    for known, reader in READERS:
        if known(content):
            try:
                figures = FIGURES.validate_python([asdict(figure) for figure in reader(path.name, content)])
            except ValidationError as error:
                raise StoreError(f"{path}: looks like a result file, but figure {first_fault(error)}") from error
            except (LookupError, TypeError, ValueError, AttributeError) as error:  # JSON of another's, in any form
                raise StoreError(f"{path}: looks like a result file, but {type(error).__name__}: {error}") from error
            if not figures:
                raise StoreError(f"{path}: looks like a result file, but holds no figure")
            return figures
    raise UnknownKindError(
        f"{path}: holds no accuracies in a form that is known; known are results of layer cut-off, rank and "
        "text-weighted scans, input pruning, scienceqa_results_*, per_sample_results_*, FinePruner's head ablation, MME"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What importing did."""

    path: Path  # of the file written
    rows: pd.DataFrame  # as `imported_summary` gives them
    skipped: tuple[Path, ...]  # files of no kind that is known


def import_files(paths: Sequence[Path], out: Path) -> Imported:
    """Read result files into a directory; those of no known kind are left out, as long as there is another.

    Raises:
        StoreError: A file cannot be read, none is of a known kind, or the directory holds an experiment.
    """
    if (out / "sweep.yaml").exists() or (out.exists() and not out.is_dir()):
        raise StoreError(f"{out}: is an experiment, or a file; give --out a directory of its own")
    figures: list[Figure] = []
    unknown: dict[Path, UnknownKindError] = {}
    for path in map(expanded, paths):
        try:
            figures += read_original(path)
        except UnknownKindError as error:
            unknown[path] = error
    if not figures and unknown:
        raise next(iter(unknown.values()))
    make_folder(out)
    rows = [{**asdict(figure), "measures": dict(figure.measures)} for figure in figures]
    for row in rows:
        row["value"] = None if math.isnan(row["value"]) else row["value"]
    content = {
        "format": FORMAT,
        "name": out.name,
        "sources": [str(path) for path in paths if expanded(path) not in unknown],
        "rows": rows,
    }
    write_whole(out / IMPORTED_FILE, (json.dumps(content, indent=1) + "\n").encode())
    return Imported(path=out / IMPORTED_FILE, rows=imported_summary(out), skipped=tuple(unknown))


def imported_summary(folder: Path) -> pd.DataFrame:
    """Imported rows in the columns of `metrics.summarise`, so that the same pictures and tables show them.

    Besides them experiment (directory/run), metric, value, latency_s, flops_ratio. What was not stated is missing.
    Scores that are no shares keep accuracy missing. ``n`` is what the file states; without it ``flags`` says how many
    answers would fit.
    """
    path = folder / IMPORTED_FILE
    try:
        content = read_json(path)
        figures = FIGURES.validate_python(
            [
                {**row, "value": math.nan if row["value"] is None else row["value"],
                 "measures": tuple(row["measures"].items())}
                for row in content["rows"]
            ]
        )  # fmt: skip
        if not figures:
            raise ValueError("holds no figure")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else str(error).removeprefix(f"{path}: ")
        raise StoreError(f"{path}: cannot be read ({reason}); import the files again") from error
    tables = []
    for run in dict.fromkeys(figure.run for figure in figures):
        own = [figure for figure in figures if figure.run == run]
        tables.append(_table(own).assign(experiment=f"{content['name']}/{run}"))
    return pd.concat(tables, ignore_index=True)


def _table(figures: Sequence[Figure]) -> pd.DataFrame:
    shares = np.array([figure.value if figure.metric == "accuracy" else math.nan for figure in figures])
    n = np.array([figure.n or 0 for figure in figures])
    correct = np.array(
        [
            figure.correct if figure.correct is not None else round(share * count) if count and share == share else 0
            for figure, share, count in zip(figures, shares, n, strict=True)
        ]
    )
    interval = wilson(correct, n)
    highest = max((figure.layer for figure in figures if figure.layer is not None), default=0)
    rows = pd.DataFrame(
        {
            "key": [f"{figure.file}#{place}" for place, figure in enumerate(figures)],
            "baseline": [figure.strategy == UNPRUNED for figure in figures],
            "strategy": [figure.strategy for figure in figures],
            "layer": _axis(figures, [figure.layer for figure in figures], highest),
            "rank": _axis(figures, [figure.rank for figure in figures], VISUAL_TOKENS),
            "alpha": np.nan,
            "params": [figure.params for figure in figures],
            "label": [figure.label for figure in figures],
            "n": n,
            "n_expected": n,
            "correct": correct,
            "failed": 0,
            "lacking": 0,
            "short": False,
            "state": "complete",
            "accuracy": shares,
            "ci_low": interval.low,
            "ci_high": interval.high,
            "interval": interval.by,
            "n_images": n,  # as if each question had its own: files of others do not say
            "design_effect": 1.0,
            **compared_with_none(len(n)),
            "metric": [figure.metric for figure in figures],
            "value": [figure.value for figure in figures],
            "latency_s": [math.nan if f.latency_s is None else f.latency_s for f in figures],
            "flops_ratio": [math.nan if f.flops_ratio is None else f.flops_ratio for f in figures],
            "no_option": math.nan,
            "prefill_tflop": math.nan,
            "fastv_ratio": math.nan,
            "average_visual_tokens": math.nan,
        }
    )
    rows["flags"] = _flags(figures, rows)
    return rows


def _axis(figures: Sequence[Figure], values: Sequence[int | None], untouched: int) -> Floats:
    """Layers or ranks, NaN where they are not stated; the un-pruned model's is known."""
    stated = np.array(values, dtype=float)
    base = np.array([figure.strategy == UNPRUNED for figure in figures])
    return np.where(base & np.isnan(stated), float(untouched), stated)


def _flags(figures: Sequence[Figure], rows: pd.DataFrame) -> list[str]:
    """What cannot be, of each figure: the same rules as for our own cells, and some for figures without counts."""
    found: list[list[str]] = [[] for _ in figures]
    shares = rows["accuracy"].to_numpy()
    for place, figure in enumerate(figures):
        if figure.n and not math.isnan(shares[place]):
            if figure.correct is not None and abs(figure.correct / figure.n - shares[place]) > 1e-6:
                found[place].append(f"{figure.correct} of {figure.n} is not the accuracy stated")
            if not reachable(shares[place], figure.n):
                found[place].append(f"no {figure.n} answers give this accuracy")
        if not math.isnan(shares[place]) and not 0 <= shares[place] <= 1:
            found[place].append("an accuracy outside 0..1")
    uncounted = [place for place, f in enumerate(figures) if not f.n and f.metric == "accuracy"]
    if uncounted and any(shares[place] > 0 for place in uncounted):
        fitting = fitting_count([float(shares[place]) for place in uncounted])
        note = (
            f"no count stated; {fitting} answers would fit" if fitting else "no count of answers gives these accuracies"
        )
        for place in uncounted:
            found[place].append(note)
    curve = [place for place, figure in enumerate(figures) if figure.strategy != UNPRUNED]
    values = rows["value"].to_numpy()[curve]
    scan = len({(figures[place].layer, figures[place].rank) for place in curve}) >= CONSTANT_FIGURES
    if len(curve) >= CONSTANT_FIGURES and scan and len(set(values)) == 1:
        text = (
            f"all {len(curve)} values are 0"
            if values[0] == 0
            else f"the same to the last digit at {len(curve)} settings"
        )
        for place in curve:
            found[place].append(text)
    for name in dict(figures[0].measures):
        series = [dict(figure.measures).get(name) for figure in figures]
        if len(figures) >= CONSTANT_FIGURES and len(set(series)) == 1:
            for place in range(len(figures)):
                found[place].append(f"{name} is constant ({series[0]:g})")
    own = suspicions(rows.fillna({"layer": -1, "rank": -1}))
    return ["; ".join(dict.fromkeys([*texts, *filter(None, [extra])])) for texts, extra in zip(found, own, strict=True)]


def fitting_count(values: Sequence[float], highest: int = LARGEST_N) -> int | None:
    """The smallest number of answers of which all these accuracies are whole shares; None if there is none."""
    return next((n for n in range(1, highest + 1) if all(reachable(value, n) for value in values)), None)


# -- the kinds of files -----------------------------------------------------------------------------------------


def _cutoff(file: str, content: Content) -> list[Figure]:
    """Layer cut-off and its relatives: ``layers``, ``accuracies`` and, where stated, counts and the baseline."""
    n = content.get("total_samples")
    counts = content.get("correct_counts", [None] * len(content["layers"]))
    kept = content.get("kept_tokens", 0)
    strategy = "fastv" if kept else "cutoff"
    figures = [
        Figure(file=file, strategy=strategy, layer=layer, rank=kept, value=value, correct=count, n=n)
        for layer, value, count in zip(content["layers"], content["accuracies"], counts, strict=True)
    ]
    if (base := content.get("baseline_acc")) is not None:
        figures.insert(
            0, Figure(file=file, strategy=UNPRUNED, value=base, correct=content.get("baseline_correct"), n=n)
        )
    return figures


def _layer_map(file: str, content: Content) -> list[Figure]:
    return [
        Figure(file=file, strategy="cutoff", layer=int(name), rank=0, value=value) for name, value in content.items()
    ]


def _rank_scan(file: str, content: Content) -> list[Figure]:
    """Scans over the tokens kept, with ranks of matrices beside the accuracies."""
    strategy = "text_weighted" if "textweighted" in file else "fastv"
    layer = next((int(part[5:]) for part in file.split("_") if part.startswith("layer") and part[5:].isdecimal()), None)
    tokens = content["tokens"] if "tokens" in content else content["ranks"]
    series = {
        name: values
        for name, values in content.items()
        if name not in ("tokens", "ranks", "accuracies") and isinstance(values, list) and len(values) == len(tokens)
    }
    return [
        Figure(
            file=file, strategy=strategy, layer=layer, rank=rank, value=value,
            measures=tuple((name, values[place]) for name, values in series.items()),
        )
        for place, (rank, value) in enumerate(zip(tokens, content["accuracies"], strict=True))
    ]  # fmt: skip


def _input_pruning(file: str, content: Content) -> list[Figure]:
    prefix = "raw_" if "raw_accuracies" in content else ""
    names = (f"{prefix}first_layer_ranks", f"{prefix}last_layer_ranks")
    return [
        Figure(
            file=file, strategy="l2_norm", layer=0, rank=rank, value=value / 100,  # percent there
            measures=tuple((name, content[name][place]) for name in names),
        )
        for place, (rank, value) in enumerate(zip(content["token_counts"], content[f"{prefix}accuracies"], strict=True))
    ]  # fmt: skip


def _single_run(file: str, content: Content) -> list[Figure]:
    config = content.get("model_config", {})
    layer, rank, params = config.get("fast_v_agg_layer"), config.get("fast_v_attention_rank"), ""
    if config.get("use_himap"):
        strategy, layer, rank = "himap", config.get("txt_layer"), config.get("txt_rank")
        params = f"second_layer={config.get('img_layer')} second_rank={config.get('img_rank')}"
    elif config.get("use_adaptinfer"):
        strategy, rank = "adaptinfer", config.get("keep_tokens")
    elif config.get("use_fastv"):
        strategy = config.get("fast_v_token_selection_method") or "fastv"
        alpha = config.get("fast_v_weighted_alpha")
        params = "" if alpha is None else f"alpha={alpha}"
    else:
        strategy = UNPRUNED
    return [
        Figure(
            file=file, strategy=strategy, layer=layer, rank=rank, params=params, value=content["accuracy"],
            correct=content.get("correct_samples"), n=content.get("total_samples"),
            latency_s=content.get("avg_latency"), flops_ratio=content.get("flops_info"),
        )
    ]  # fmt: skip


def _per_sample(file: str, content: Content) -> list[Figure]:
    config = content["config"]
    strategy = UNPRUNED if config.get("baseline") else str(config.get("selection_method"))
    return [
        Figure(
            file=file, strategy=strategy, layer=config.get("agg_layer"), rank=config.get("kept_tokens"),
            value=content["accuracy"], correct=content["correct"], n=content["total"],
        )
    ]  # fmt: skip


def _finepruner(file: str, content: Content) -> list[Figure]:
    """Rounded figures of several benchmarks: shown, not compared."""
    return [
        Figure(
            file=file, strategy="ablation", layer=2, metric=f"{row['benchmark']} {row['metric']}", value=_value(row),
            params=f"head={row['strategy']} heads_kept={row['heads_kept']} tokens={row['visual_token_budget']}",
        )
        for row in content["rows"]
    ]  # fmt: skip


def _mme_scan(file: str, content: Content) -> list[Figure]:
    return [
        Figure(file=file, strategy="cutoff", layer=layer, rank=0, metric="MME total", value=value)
        for layer, value in zip(content["layers"], content["total_scores"], strict=True)
    ]


def _mme(file: str, content: Content) -> list[Figure]:
    total = content["perception_score"] + content["cognition_score"]
    return [Figure(file=file, strategy="himap", metric="MME total", value=total)]


def _value(row: dict[str, Any]) -> float:
    return math.nan if row["value"] is None else float(row["value"])


def _has(*names: str) -> Callable[[Content], bool]:
    return lambda content: isinstance(content, dict) and all(name in content for name in names)


def _only_layers(content: Content) -> bool:
    return isinstance(content, dict) and bool(content) and all(
        str(name).isdecimal() and isinstance(value, float) for name, value in content.items()
    )  # fmt: skip


READERS: tuple[tuple[Callable[[Content], bool], Callable[[str, Content], list[Figure]]], ...] = (
    (_has("layers", "accuracies"), _cutoff),
    (_has("tokens", "accuracies"), _rank_scan),
    (_has("ranks", "accuracies"), _rank_scan),
    (_has("token_counts", "raw_accuracies"), _input_pruning),
    (_has("token_counts", "accuracies"), _input_pruning),
    (_has("accuracy", "total_samples"), _single_run),
    (_has("accuracy", "config", "total"), _per_sample),
    (_has("rows", "source"), _finepruner),
    (_has("layers", "total_scores"), _mme_scan),
    (_has("perception_score", "cognition_score"), _mme),
    (_only_layers, _layer_map),
)
