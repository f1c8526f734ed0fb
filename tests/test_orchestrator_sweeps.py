"""The shipped sweeps: on the embedded model, and with the documents' own grids on a model of LLaVA-1.5's sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.sweep.source import shipped_sweeps
from orchestrator.sweep.spec import SpecError, load_sweep
from strategies.heads import HeadRule
from strategies.queries import QueryRule
from test_orchestrator_spec import HEAD, complaints, write
from workers.work import SpectrumSpec

FASTV_ADVANCED_SUITE = 6  # with the baseline


def config(folder: Path, layers: int, heads: int) -> str:
    """config.json alone, which is all that a planner reads."""
    text = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": 128 * heads}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": text,
                    "vision_config": {"image_size": 336, "patch_size": 14}})
    )  # fmt: skip
    return str(folder)


@pytest.fixture
def seven_b(tmp_path: Path) -> str:
    return config(tmp_path, layers=32, heads=32)


@pytest.mark.parametrize("name", shipped_sweeps())
def test_every_shipped_sweep_resolves(name: str, seven_b: str) -> None:
    for overrides in ({}, {"model": seven_b}):
        spec = load_sweep(name, overrides)
        assert len({point.key for point in spec.points}) == len(spec.points) > 1
        assert spec.name == name


def test_layer_cutoff_has_the_31_points_of_the_document(seven_b: str) -> None:
    assert [point.layer for point in load_sweep("layer_cutoff", {"model": seven_b}).points[1:]] == list(range(2, 33))


def test_text_weighted_has_the_57_points_of_the_document(seven_b: str) -> None:
    spec = load_sweep("text_weighted", {"model": seven_b})
    assert [point.rank for point in spec.points[1:]] == list(range(576, 15, -10))
    assert {point.layer for point in spec.points[1:]} == {2}
    assert spec.sample_limit == 50
    assert spec.engine.measure.spectra == (
        SpectrumSpec(matrix="attention_weights", layer=31, threshold=1e-6, power=2),
    )  # fmt: skip
    assert load_sweep("text_weighted", {"measure.spectra.samples": 50}).engine.measure.spectra_samples == 50


def test_l2_input_has_the_57_points_of_the_document(seven_b: str) -> None:
    spec = load_sweep("l2_input", {"model": seven_b, "samples": "all"})
    assert [point.rank for point in spec.points[1:]] == [576, *range(570, 19, -10)]
    assert len(spec.points) == 1 + 57
    assert {point.layer for point in spec.points[1:]} == {0}
    assert (spec.engine.task.conversation, spec.engine.task.scorer) == ("llava_v1", "llava_official")
    assert spec.sample_limit is spec.engine.measure.spectra_samples is None
    assert {(s.matrix, s.layer, s.threshold) for s in spec.engine.measure.spectra} == {
        (matrix, layer, 1e-5) for matrix in ("hidden_states", "attention_output") for layer in (0, 31)
    }


def test_ablations_have_the_published_ranks_and_heads(seven_b: str) -> None:
    heads = load_sweep("head_ablation", {"model": seven_b})
    assert {(point.layer, point.rank) for point in heads.points[1:]} == {(2, 166), (2, 98), (2, 30)}
    assert {dict(point.params)["heads_kept"] for point in heads.points[1:]} == {24, 16, 8}
    nine = {dict(point.params)["head"] for point in heads.points[1:]}
    assert nine == set(HeadRule.__args__) - {"multi_objective", "graph_based", "hierarchical"}
    assert len(heads.points) == 1 + 9 * 3 * 3
    assert [round(budget.average, 1) for budget in heads.budgets] == [191.6, 127.9, 64.1]
    queries = load_sweep("query_ablation", {"model": seven_b})
    assert {dict(point.params)["query"] for point in queries.points[1:]} == set(QueryRule.__args__)
    assert len(queries.points) == 1 + 9 * 3


def test_ablations_on_13b_prune_after_two_layers_too(tmp_path: Path) -> None:
    spec = load_sweep("head_ablation", {"model": config(tmp_path, layers=40, heads=40)})
    assert {(point.layer, point.rank) for point in spec.points[1:]} == {(2, 172), (2, 104), (2, 37)}


def test_fastv_advanced_has_suite_and_scans(seven_b: str) -> None:
    points = load_sweep("fastv_advanced", {"model": seven_b}).points[1:]
    weighted = "weighted_combination"
    at = {(p.strategy, p.layer, p.rank, p.alpha) for p in points}
    for layer, rank in ((2, 288), (2, 144), (2, 432), (1, 288), (4, 288)):
        suite = {("max_head", layer, rank, None), ("avg_all_heads", layer, rank, None)}
        assert suite | {(weighted, layer, rank, alpha) for alpha in (0.3, 0.5, 0.7)} <= at
    assert {alpha for name, layer, rank, alpha in at if (name, layer, rank) == (weighted, 2, 288)} == {
        0.1, 0.3, 0.5, 0.7, 0.9,
    }  # fmt: skip
    assert len(points) == 5 * (FASTV_ADVANCED_SUITE - 1) + 2


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (
            "strategy: fastv, layer: 2, tokens: 64",
            "grid[0].tokens: an average of 64 visual tokens cannot be reached by pruning at layer 2 of 12: "
            "it lies between 96 and 576",
        ),
        (
            "strategy: fastv, layer: 2, tokens: 64, rank: 3",
            "grid[0].tokens: is given, and so is `rank`: keep one of them",
        ),
        (
            "strategy: cutoff, layer: 2, tokens: 200",
            "grid[0].tokens: cutoff always keeps 0 visual tokens; leave tokens out",
        ),
        ("strategy: ablation, layer: 2, rank: 9, heads_kept: 9", "grid[0].heads_kept: 9 is above the model's 8 heads"),
        ("strategy: ablation, layer: 2, rank: 9, heads_kept: H/0", "grid[0].heads_kept: 'H/0' divides by 0"),
        ("strategy: ablation, layer: 2, rank: 9", "grid[0]: strategy 'ablation' needs the parameter 'heads_kept'"),
        (
            "strategy: l2_norm, layer: [1, 2], rank: 9",
            "grid[0].layer: l2_norm chooses before the first decoder layer, so that layer is 0, not 1",
        ),
        ("strategy: weighted_combination, layer: 2, rank: 9, alpha: 2", "grid[0].alpha: 2 is outside 0..1"),
        (
            "strategy: himap, layer: 2, tokens: 200",
            "grid[0].tokens: himap prunes in stages, which one budget does not fix; give rank",
        ),
    ],
)
def test_what_a_strategy_cannot_do_is_said_at_its_place(tmp_path: Path, entry: str, complaint: str) -> None:
    assert complaints(tmp_path, f"{HEAD}grid: [{{{entry}}}]\n") == [complaint]


def test_a_budget_may_be_a_fraction_and_serves_several_layers(tmp_path: Path) -> None:
    spec = load_sweep(write(tmp_path, HEAD + "grid: [{strategy: fastv, layer: [1, 2], tokens: [192, 200.5]}]\n"))
    assert [(budget.tokens, budget.layer, budget.rank) for budget in spec.budgets] == [
        (192, 1, 157), (200.5, 1, 166), (192, 2, 115), (200.5, 2, 125),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("measure", "complaint"),
    [
        ("{spectra: {matrix: hidden, threshold: 1.0e-5}}", "measure.spectra.matrix"),
        ("{spectra: {matrix: hidden_states}}", "measure.spectra.threshold: is missing"),
        (
            "{spectra: {matrix: hidden_states, threshold: 1e-5}}",
            "measure.spectra.threshold: '1e-5' is not a number such as",
        ),
        (
            "{spectra: {matrix: hidden_states, threshold: 2.0}}",
            "measure.spectra.threshold: 2.0 is not above 0 and below 1",
        ),
        ("{spectra: {matrix: hidden_states, threshold: 0.1, layer: 12}}", "measure.spectra.layer: 12 is outside 0..11"),
        (
            "{spectra: {matrix: hidden_states, threshold: 0.1, layr: 1}}",
            "measure.spectra.layr: unknown key. Did you mean",
        ),
        ("{quality: 3}", "measure.quality: 3 is not true or false"),
    ],
)
def test_mistakes_of_what_is_measured(tmp_path: Path, measure: str, complaint: str) -> None:
    text = f"{HEAD}measure: {measure}\ngrid: [{{strategy: cutoff, layer: 2}}]\n"
    lines = complaints(tmp_path, text)
    assert len(lines) == 1
    assert lines[0].startswith(complaint)


def test_any_place_of_a_file_can_be_set_from_outside() -> None:
    spec = load_sweep("query_ablation", {"grid[0].head": "sum", "task.conversation": "llava_v1", "grid[0].tokens": 128})
    assert {dict(point.params)["head"] for point in spec.points[1:]} == {"sum"}
    assert (len(spec.points), spec.engine.task.conversation) == (1 + 9, "llava_v1")
    assert spec.engine.task.name == "scienceqa"
    with pytest.raises(SpecError, match=r"--set grid\[4\].head: the sweep file has no 4 there"):
        load_sweep("query_ablation", {"grid[4].head": "sum"})
