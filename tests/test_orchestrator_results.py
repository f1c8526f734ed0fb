"""The promised files: keys, order and types of the originals' own files, and numbers that agree with the cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dashboards.plots import write_plots
from measured_experiment import LAYERS, write_measured
from orchestrator.cli import app
from results.analysis.metrics import summary
from results.exchange.exports import write_exports
from results.exchange.originals import min_max
from workers.work import GridPoint

ORIGINALS = Path(__file__).parent / "originals"
LAST = LAYERS - 1


def original(name: str) -> dict[str, Any]:
    return json.loads((ORIGINALS / name).read_text())


def kinds(content: Any) -> Any:
    """Keys in order, and types; a list by its first element, a number as a number."""
    if isinstance(content, dict):
        return {name: kinds(value) for name, value in content.items()}
    if isinstance(content, list):
        return [kinds(content[0])]
    return "number" if isinstance(content, int | float) and not isinstance(content, bool) else type(content).__name__


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_text_weighted(tmp_path: Path) -> None:
    params = (("normalise_by_visible_queries", False),)
    points = tuple(GridPoint(strategy="text_weighted", layer=2, rank=rank, params=params) for rank in (64, 32, 16))
    prefix = f"attention_weights.{LAST}"
    experiment = write_measured(
        tmp_path / "x",
        points,
        lambda point: ((f"{prefix}.numerical_rank", point.rank), (f"{prefix}.effective_rank", point.rank / 4)),
    )
    write_exports(experiment)
    path = experiment.path / "exports" / "fastv_textweighted_layer2_experiment.json"
    content = read(path)
    assert kinds(content) == kinds(original("fastv_textweighted_layer3_experiment.json"))
    assert list(content) == list(original("fastv_textweighted_layer3_experiment.json"))
    assert (content["tokens"], content["layer31_effective_ranks"]) == ([64, 32, 16], [16, 8, 4])
    assert content["accuracies"] == summary(experiment)["accuracy"][1:].tolist()
    beside = read(path.with_suffix(".provenance.json"))
    assert (beside["pruning_layer"], beside["scores_from_attention_of_layer_index"]) == (2, 1)
    assert (beside["ranks_of_layer_index"], beside["total_samples"], beside["rank_samples"]) == (LAST, 27, 27)
    names = {path.name for path in write_plots(experiment)}
    assert {"fastv_textweighted_layer2_experiment.png", "fastv_textweighted_layer2_experiment.pdf"} <= names


def test_text_weighted_without_spectra_gives_no_file(tmp_path: Path) -> None:
    points = tuple(GridPoint(strategy="text_weighted", layer=2, rank=rank) for rank in (64, 32))
    assert not [path for path in write_exports(write_measured(tmp_path / "x", points)) if path.suffix == ".json"]


def test_l2_input(tmp_path: Path) -> None:
    points = tuple(GridPoint(strategy="l2_norm", layer=0, rank=rank) for rank in (64, 48, 32))
    experiment = write_measured(
        tmp_path / "x",
        points,
        lambda point: tuple(
            (f"{matrix}.{layer}.numerical_rank", float(rank))
            for matrix in ("hidden_states", "attention_output")
            for layer, rank in ((0, point.rank), (LAST, 7))
        ),
    )
    write_exports(experiment)
    folder = experiment.path / "exports" / "pruning_results"
    raw, scaled = read(folder / "raw_results.json"), read(folder / "normalized_results.json")
    for content, name in ((raw, "pruning_raw_results.json"), (scaled, "pruning_normalized_results.json")):
        assert kinds(content) == kinds(original(name))
        assert list(content) == list(original(name))
    assert raw["accuracies"] == [100 * value for value in summary(experiment)["accuracy"][1:]]
    assert raw["accuracies"] == scaled["raw_accuracies"]
    assert scaled["normalized_first_layer_ranks"] == [1, 0.5, 0]
    assert scaled["normalized_last_layer_ranks"] == [0, 0, 0]
    assert read(folder / "raw_results.provenance.json")["constant_series"] == ["last_layer_ranks"]
    assert (folder / "raw_results_attention_output.json").is_file()
    names = {path.name for path in write_plots(experiment)}
    assert {"pruning_experiment_results.png", "pruning_experiment_results.pdf"} <= names


def test_fastv_advanced_has_a_folder_for_each_rank_and_layer(tmp_path: Path) -> None:
    points = tuple(
        GridPoint(strategy=name, layer=layer, rank=16, params=params)
        for layer in (1, 2)
        for name, params in (("max_head", ()), ("avg_all_heads", ()), ("weighted_combination", (("alpha", 0.3),)))
    )
    experiment = write_measured(tmp_path / "x", points)
    (experiment.path / "latency.json").write_text(
        json.dumps({"rows": [{"key": point.key, "total_ms": {"mean": 25.0}} for point in experiment.points[:2]]})
    )
    write_exports(experiment)
    folder = experiment.path / "exports" / "fastv_advanced_R16_K2"
    names = ("baseline", "fastv_max_head", "fastv_avg_all_heads", "fastv_weighted_combination_alpha0.3")
    for name in names:
        content = read(folder / f"scienceqa_results_{name}.json")
        assert list(content) == list(original("scienceqa_results_baseline.json"))
        assert set(original("scienceqa_results_baseline.json")["model_config"]) < set(content["model_config"])
        assert content["accuracy"] == content["correct_samples"] / content["total_samples"]
        assert content["model_config"]["use_fastv"] == (name != "baseline")
    last = read(folder / f"scienceqa_results_{names[-1]}.json")
    assert last["model_config"]["fast_v_attention_rank"] == 16
    assert (last["model_config"]["fast_v_agg_layer"], last["model_config"]["fast_v_weighted_alpha"]) == (2, 0.3)
    assert last["flops_info"] < 1
    assert last["avg_latency"] is None
    baseline = read(folder / "scienceqa_results_baseline.json")
    assert (baseline["flops_info"], baseline["avg_latency"]) == (1, 0.025)
    assert len(list((experiment.path / "exports").glob("fastv_advanced_*"))) == 2


def test_ablation_has_a_file_for_each_run_and_a_table(tmp_path: Path) -> None:
    points = tuple(
        GridPoint(
            strategy="ablation",
            layer=2,
            rank=16,
            params=(("head", head), ("heads_kept", kept), ("query", "last_token")),
        )
        for head in ("sum", "variance")
        for kept in (1, 2)
    )
    experiment = write_measured(tmp_path / "x", points, lambda point: (("concentration.gini", 0.5),))
    write_exports(experiment)
    folder = experiment.path / "exports"
    runs = sorted((folder / "ablation").glob("*.json"))
    assert len(runs) == 4
    content = read(folder / "ablation" / "layer-2_rank-16_head-sum_heads_kept-2_query-last_token.json")
    assert content["config"] == {"head": "sum", "heads_kept": 2, "query": "last_token", "layer": 2, "rank": 16}
    assert content["measures"] == {"concentration.gini": 0.5}
    table = (folder / "ablation_summary.csv").read_text(encoding="utf-8-sig").splitlines()
    assert table[0].startswith("head,heads_kept,query,layer,rank,average_visual_tokens,n,correct,accuracy")
    assert len(table) == 5


def test_min_max_of_a_constant_is_zero() -> None:
    assert min_max([3, 3]) == [0, 0]
    assert min_max([1, 3, 2]) == [0, 1, 0.5]


@pytest.mark.parametrize("again", [1, 2])
def test_report_rebuilds_everything_from_the_cells(tmp_path: Path, again: int) -> None:
    experiment = write_measured(tmp_path / "x", tuple(GridPoint(strategy="cutoff", layer=k, rank=0) for k in (2, 3, 8)))
    for _ in range(again):
        result = CliRunner().invoke(app, ["report", str(experiment.path)])
        assert result.exit_code == 0, result.output
    assert "fastv_layer_cutoff_plot.png" in result.output
    for name in ("exports/fastv_layer_cutoff_plot_relative_drop.png", "exports/summary.csv", "report/index.html"):
        assert (experiment.path / name).is_file()
    assert "flops_ratio" in (experiment.path / "exports/summary.csv").read_text(encoding="utf-8-sig").splitlines()[0]
