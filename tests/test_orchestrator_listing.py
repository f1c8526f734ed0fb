"""What there is to choose from: the tables of the terminal and of the documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.listing import DOCUMENTS, in_full, parameters, renewed, strategy_rows, task_rows
from own_rules import PEAKED, forgotten
from strategies.catalog import CATALOG, Strategy, get
from strategies.limits import AtMostHeads, Range
from workers.tasks.catalog import CATALOG as TASKS

HOLD_TABLES = ("strategies.md", "benchmarks.md")


def printed(*arguments: str, width: int = 200) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": str(width)})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("path", sorted(DOCUMENTS.glob("*.md")), ids=lambda path: path.name)
def test_the_tables_of_the_documents_are_those_of_the_catalogs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert renewed(text) == text, f"{path.name}: `make docs` renews it"
    assert (" made by `make docs` -->" in text) == (path.name in HOLD_TABLES)


def test_a_table_that_is_out_of_date_is_renewed_and_the_rest_stays() -> None:
    text = (DOCUMENTS / "strategies.md").read_text(encoding="utf-8")
    spoilt = text.replace("| fastv |", "| fastvv |")
    assert spoilt != text
    assert renewed(spoilt) == text


def test_every_strategy_and_benchmark_is_a_row_with_all_that_it_should_say() -> None:
    rows = {row.name: row for row in strategy_rows(CATALOG.values())}
    assert rows.keys() == CATALOG.keys()
    assert all(row.family and row.reads and row.acts and row.source for row in rows.values())
    assert rows["himap"].family == "stages"
    assert rows["himap"].reads == "the attention of the question's words and the attention of the image's tokens"
    assert (rows["fastv"].acts, rows["random"].acts) == ("layer 1 or later", "any layer, draws for each question")
    assert rows["divprune"].acts == "layer 0, positions renumbered"
    said = {name: dict(in_full(CATALOG[name]))["positions"] for name in ("fastv", "divprune", "visionzip", "vscan")}
    assert said == {
        "fastv": "keep, or compact",
        "divprune": "compact, or keep",
        "visionzip": "compact",
        "vscan": "compact then keep, or compact",
    }
    listed = task_rows(TASKS.values())
    assert [row.task.strip("`") for row in listed] == list(TASKS)
    assert all(row.asks and row.files and row.splits and row.scorers for row in listed)


def test_parameters_say_what_they_may_be() -> None:
    def rule(
        view: object,
        *,
        heads: Annotated[int, Range(1), AtMostHeads()],
        share: Annotated[float, Range(0, 1)] = 0.5,
        kind: Literal["a", "b", "c"] = "a",
        drawn: bool = False,
    ) -> None: ...

    said = dict(parameters(Strategy(name="x", score=rule, source=""), many=2))  # type: ignore[arg-type]
    assert said == {
        "heads": "1..H, to be given",
        "share": "0..1, default 0.5",
        "kind": "a | b | ..., default a",
        "drawn": "true | false, default false",
    }


def test_the_commands_list_all_and_show_one_in_full() -> None:
    table = printed("strategies")
    assert all(name in table for name in CATALOG)
    full = printed("strategies", "ablation")
    assert "parameter head: sum | variance | entropy | max_attention" in full
    assert "| ..." not in full
    assert f"hash: {get('ablation').source_hash}" in full
    assert "FinePruner" in full
    assert all(name in printed("tasks") for name in TASKS)
    assert "source: Li et al., EMNLP 2023" in printed("tasks", "pope")
    assert "Read one split; rows of other splits in the same file are left out." in printed("tasks", "mmbench")


@pytest.mark.parametrize(("what", "near"), [("strategies", "fastvv"), ("tasks", "popee")])
def test_an_unknown_name_is_one_line(what: str, near: str) -> None:
    result = CliRunner().invoke(app, [what, near])
    assert result.exit_code == 2
    assert f"Did you mean '{near[:-1]}'?" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_rule_of_ones_own_is_shown_and_tried(tmp_path, monkeypatch, small_checkpoint, small_scienceqa) -> None:
    monkeypatch.setattr("workers.embedded.location.MODEL_DIR", small_checkpoint)
    monkeypatch.setattr("workers.embedded.location.DATA_DIR", small_scienceqa)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rule.py").write_text(
        PEAKED + "\n\ndef odd(view):\n    import torch\n    return torch.rand(view.visual)\n"
    )
    with forgotten():
        assert "parameter power: 0..4, default 2" in printed("strategies", "./my_rule.py:my_rule")
        lines = printed("strategies", "check", "./my_rule.py:my_rule").splitlines()
        assert lines[0] == "ok   chooses by the evidence that it declares"
        assert all(line.startswith("ok   ") for line in lines)
        result = CliRunner().invoke(app, ["strategies", "check", "./my_rule.py:odd"])
        assert result.exit_code == 2, result.stdout
        assert "FAIL chooses the same again, whatever else is drawn: it chooses otherwise" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check"], "strategies check: write"),
        (["fastv", "random"], "strategies fastv: write"),
        (["check", "fastvv"], "unknown strategy 'fastvv'. Did you mean 'fastv'?"),
        (["check", "ablation"], "ablation: strategy 'ablation' needs the parameter 'heads_kept'"),
        (["./nowhere.py:x"], "nowhere.py: no such file"),
    ],
)
def test_what_cannot_be_shown_or_tried_is_one_line(arguments, said) -> None:
    result = CliRunner().invoke(app, ["strategies", *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
