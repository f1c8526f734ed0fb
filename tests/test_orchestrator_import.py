"""The originals' own result files: what they say, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fake_experiment import write_fake_experiment
from orchestrator.cli import app
from results.analysis.metrics import answers as answers_of
from results.analysis.metrics import summarise
from results.disk import StoreError
from results.exchange.exports import write_exports
from results.exchange.imports import fitting_count, import_files, imported_summary, read_original

ORIGINALS = Path(__file__).parent / "originals"


def flags(tmp_path: Path, *names: str) -> list[str]:
    rows = import_files([ORIGINALS / name for name in names], tmp_path / "imported").rows
    return rows["flags"].tolist()


def test_a_sound_file_keeps_its_numbers_and_has_no_flag(tmp_path: Path) -> None:
    rows = import_files([ORIGINALS / "fastv_layer_cutoff_results.json"], tmp_path / "i").rows
    assert set(rows["flags"]) == {""}
    assert rows["layer"].tolist() == [32, *range(2, 33)]
    assert rows["baseline"].tolist() == [True] + [False] * 31
    assert (rows["n"].unique().tolist(), rows["correct"][0]) == ([2017], 1370)
    assert rows["accuracy"][0] == rows["accuracy"].iloc[-1] == 1370 / 2017
    ours = summarise(answers_of(write_fake_experiment(tmp_path / "x", samples=3)))
    assert set(ours.columns) - set(rows.columns) == {"n_text_only", "accuracy_text_only"}


def test_the_text_weighted_curve_never_moved(tmp_path: Path) -> None:
    texts = flags(tmp_path, "fastv_textweighted_layer3_experiment.json")
    assert set(texts) == {"no count stated; 300 answers would fit; the same to the last digit at 57 settings"}


@pytest.mark.parametrize("name", ["pruning_raw_results.json", "pruning_normalized_results.json"])
def test_the_input_pruning_is_zero_throughout(tmp_path: Path, name: str) -> None:
    assert all("all 57 values are 0" in text for text in flags(tmp_path, name))
    assert all("first_layer_ranks is constant (0)" in text for text in flags(tmp_path, name))


def test_accuracies_that_no_count_gives(tmp_path: Path) -> None:
    path = tmp_path / "scienceqa_results_fastv_max_head.json"
    config = {"use_fastv": True, "fast_v_agg_layer": 2, "fast_v_attention_rank": 288}
    config["fast_v_token_selection_method"] = "max_head"
    content = {
        "accuracy": 0.775,
        "avg_latency": 1.2,
        "total_samples": 100,
        "correct_samples": 77,
        "model_config": config,
    }
    path.write_text(json.dumps(content))
    rows = import_files([path], tmp_path / "i").rows
    assert rows["label"][0] == "max_head layer=2 rank=288"
    assert "no 100 answers give this accuracy" in rows["flags"][0]
    assert "77 of 100 is not the accuracy stated" in rows["flags"][0]


def test_fitting_count() -> None:
    assert fitting_count([0.25, 0.5]) == 4
    assert fitting_count([1 / 3, 1 / 7]) == 21
    assert fitting_count([0.1234567], highest=100) is None


def test_files_with_a_configuration_each_are_one_run(tmp_path: Path) -> None:
    names = [f"scienceqa_results_{name}.json" for name in ("baseline", "himap")]
    rows = import_files([ORIGINALS / name for name in names], tmp_path / "i").rows
    assert rows["experiment"].nunique() == 1
    assert rows["label"].tolist() == ["un-pruned", "himap layer=2 rank=288 second_layer=8 second_rank=72"]
    assert rows["flops_ratio"].tolist() == [1.0, pytest.approx(0.1923, abs=1e-4)]


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2]")
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text('{"layers": [1], "accuracies": []}')
    for name, message in (
        ("a", "holds no accuracies"),
        ("b", "is not valid JSON"),
        ("c", "looks like"),
        ("d", "no such file"),
    ):
        with pytest.raises(StoreError, match=message):
            read_original(tmp_path / f"{name}.json")
    for content in (
        '{"perception_score": "", "cognition_score": ""}',
        '{"layers": [1], "accuracies": [[0.5]]}',
        '{"layers": [1], "accuracies": [1e999]}',
        '{"layers": [-1], "accuracies": [0.5]}',
        '{"layers": [true], "accuracies": [0.5]}',
        '{"tokens": 3, "accuracies": [0.5]}',
        '{"accuracy": 0.5, "total_samples": 1e3, "model_config": {}}',
        '{"accuracy": 0.5, "total_samples": 10, "model_config": null}',
        '{"accuracy": 0.5, "total": 1, "config": 1}',
    ):
        (tmp_path / "e.json").write_text(content)
        with pytest.raises(StoreError, match=r"e\.json: looks like a result file, but ") as caught:
            read_original(tmp_path / "e.json")
        assert "\n" not in str(caught.value)
    write_fake_experiment(tmp_path / "x", samples=3)
    with pytest.raises(StoreError, match="directory of its own"):
        import_files([ORIGINALS / "pruning_raw_results.json"], tmp_path / "x")


def test_files_of_no_known_kind_are_skipped_and_named(tmp_path: Path) -> None:
    """As `originals/*.json` gives them; alone such a file is refused."""
    other = tmp_path / "statistics.json"
    other.write_text('{"attention": [0.1, 0.2]}')
    files = [str(other), str(ORIGINALS / "fastv_layer_cutoff_results.json")]
    result = CliRunner().invoke(app, ["import", *files, "--out", str(tmp_path / "i")])
    assert result.exit_code == 0, result.output
    assert f"note {other}: skipped: a file of no kind that is known" in result.output.replace("\n", " ")
    assert imported_summary(tmp_path / "i")["experiment"].unique().tolist() == ["i/fastv_layer_cutoff_results"]
    assert json.loads((tmp_path / "i" / "imported.json").read_text())["sources"] == files[1:]
    alone = CliRunner().invoke(app, ["import", str(other), "--out", str(tmp_path / "j")])
    assert (alone.exit_code, (tmp_path / "j").exists()) == (2, False)
    assert "holds no accuracies in a form that is known" in alone.stderr


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/i: cannot be made: Not a directory; give --out another directory"):
        import_files([ORIGINALS / "fastv_layer_cutoff_results.json"], tmp_path / "file" / "i")
    (tmp_path / "x").mkdir()
    experiment = write_fake_experiment(tmp_path / "x", samples=3)
    (tmp_path / "x" / "exports").touch()
    with pytest.raises(StoreError, match="x/exports: cannot be made: File exists"):
        write_exports(experiment)
