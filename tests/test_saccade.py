"""`import saccade`: what a notebook asks for, on a sweep that runs here in some seconds."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import saccade
from orchestrator.cli import app
from results.analysis.metrics import summary
from results.experiment import Experiment as Stored
from results.timeline import read_timeline
from strategies.errors import SaccadeError, UsageError

SWEEP = {
    "name": "own",
    "model": "embedded",
    "task": "scienceqa",
    "data": "embedded",
    "samples": 6,
    "max_new_tokens": 2,
    "grid": [
        {"strategy": ["random", "fastv"], "layer": 1, "rank": [0, 40, 576]},
        {"strategy": "cutoff", "layer": [1, 2]},
    ],
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> saccade.Experiment:
    return saccade.run(SWEEP, tmp_path_factory.mktemp("library") / "own", quiet=True)


def test_the_public_surface() -> None:
    """What notebooks are written against: names, and what they are called with."""
    assert saccade.__all__ == ["Experiment", "open", "pruned", "run", "strategies"]
    assert dir(saccade) == saccade.__all__
    methods = {name for name in vars(saccade.Experiment) if not name.startswith("_")}
    assert methods == {
        "cells", "compare", "failures", "figure", "flips", "mask", "name", "path", "picture", "points", "samples",
        "table",
    }  # fmt: skip
    assert list(inspect.signature(saccade.run).parameters) == [
        "sweep", "out", "samples", "model", "data", "changes", "local", "workers", "address", "pictures", "quiet",
    ]  # fmt: skip
    for name in saccade.__all__:
        assert getattr(saccade, name).__doc__
    with pytest.raises(AttributeError, match="'prune' \\(it has: Experiment"):
        saccade.prune  # noqa: B018


def test_it_is_light_to_import() -> None:
    code = "import sys, saccade; print({'torch', 'ray', 'pandas', 'plotly', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_number_of_workers_that_is_none_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="workers=-1: give 1 or more"):
        saccade.run(SWEEP, tmp_path / "x", local=False, workers=-1)


def test_a_run_says_what_it_spent_its_time_on(experiment) -> None:
    spent = read_timeline(Stored.open(experiment.path))
    assert spent is not None
    assert spent.text.startswith("first cell after ")
    assert {"data", "images", "pictures and Tune"} <= {span.what for span in spent.spans}


def test_a_run_goes_on_from_what_is_there(experiment, capsys) -> None:
    again = saccade.run(SWEEP, experiment.path)
    assert "computed" not in capsys.readouterr().out
    assert again.cells().equals(experiment.cells())
    more = saccade.run(SWEEP, experiment.path, samples=7, quiet=True)
    assert more.cells()["sample"].nunique() == 7
    saccade.run(SWEEP, experiment.path, quiet=True)


def test_table_and_cells_are_the_stored_ones(experiment) -> None:
    stored = Stored.open(experiment.path)
    pd.testing.assert_frame_equal(experiment.table(), summary(stored))
    cells = saccade.open(experiment.path).cells()
    assert len(cells) == len(stored.cells()) == 9 * 6
    right = cells.groupby("label", sort=False)["score"].mean()
    table = experiment.table().set_index("label")
    has_image = experiment.samples["image"].notna().all()
    assert has_image
    np.testing.assert_allclose(right, table.loc[right.index, "accuracy"])
    some = experiment.cells(strategy=["random", "fastv"], rank=40)
    assert set(some["strategy"]) == {"random", "fastv"}
    assert set(some["rank"]) == {40}
    assert set(some["tokens_kept"]) == {40}


def test_the_command_line_exports_the_same_cells(experiment, tmp_path) -> None:
    ask = ["export", str(experiment.path), "--out", str(tmp_path)]
    assert CliRunner().invoke(app, ask).exit_code == 0
    ours = experiment.cells()
    written = pd.read_csv(tmp_path / "cells.csv", dtype={"sample": str, "answer": str, "parsed": str})
    wanted = dict(ours.drop(columns="option_logits").set_index(["label", "sample"]))
    for name, values in wanted.items():
        found = written.set_index(["label", "sample"])[name]
        pd.testing.assert_series_equal(found, values, check_dtype=False, check_index_type=False, rtol=1e-6)
    labels = dict(zip(experiment.samples["id"], experiment.samples["label"], strict=True))
    assert (written["right_answer"] == written["sample"].map(labels)).all()


def test_the_command_line_writes_answers_as_llava_does(experiment, tmp_path) -> None:
    ask = ["export", str(experiment.path), "--out", str(tmp_path), "--format", "llava", "--points", "fastv rank=40"]
    assert CliRunner().invoke(app, ask).exit_code == 0
    (file,) = tmp_path.iterdir()
    assert file.name == "fastv_layer=1_rank=40.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert list(lines[0]) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    said = experiment.cells(strategy="fastv", rank=40)
    assert [(line["question_id"], line["text"]) for line in lines] == list(
        zip(said["sample"], said["answer"], strict=True)
    )
    nothing = CliRunner().invoke(app, [*ask[:-1], "fastv rank=41"])
    assert nothing.exit_code == 2


def test_masks_are_what_is_kept(experiment) -> None:
    sample = experiment.samples["id"].iloc[0]
    mask = experiment.mask(sample, strategy="fastv", rank=40)
    assert mask.dtype == bool
    assert mask.sum() == 40
    assert experiment.mask(sample, strategy="fastv", rank=576).all()
    assert not experiment.mask(sample, strategy="cutoff", layer=1).any()


def test_a_picture_fades_what_is_dropped(experiment) -> None:
    sample = experiment.samples["id"].iloc[0]
    mask = experiment.mask(sample, strategy="fastv", rank=40).reshape(24, 24)
    whole, pruned = (
        np.asarray(experiment.picture(sample, strategy="fastv", rank=rank), dtype=int) for rank in (576, 40)
    )
    side = whole.shape[0] // 24
    same = (whole == pruned).all(axis=-1).reshape(24, side, 24, side).all(axis=(1, 3))
    white = (whole == 255).all(axis=-1).reshape(24, side, 24, side).all(axis=(1, 3))
    assert (same == (mask | white)).all()
    assert abs((255 - pruned) - (255 - whole) * 0.2)[~np.kron(mask, np.ones((side, side), dtype=bool))].max() <= 1


def test_flips_are_questions_that_one_gets_right(experiment) -> None:
    a, b = {"strategy": "cutoff", "layer": 1}, {"strategy": "fastv", "rank": 40}
    flips = experiment.flips(a, b)
    score = {name: experiment.cells(**one).set_index("sample")["score"] for name, one in (("a", a), ("b", b))}
    differ = [name for name in experiment.samples["id"] if score["a"][name] != score["b"][name]]
    assert flips["sample"].tolist() == differ
    assert [score[right][name] for name, right in zip(flips["sample"], flips["right"], strict=True)] == [1.0] * len(
        differ
    )
    assert experiment.flips({"strategy": "none"}).empty


def test_figures_are_the_dashboard_s(experiment) -> None:
    whole, filtered = (experiment.figure("overview", **only).to_json() for only in ({}, {"strategy": "fastv"}))
    assert "random" in whole
    assert "random" not in filtered
    assert experiment.figure("tokens", strategy="fastv").data


def test_comparison_pairs_experiments(experiment, tmp_path) -> None:
    other = saccade.run(SWEEP, tmp_path / "other", changes={"grid[0].rank": [40]}, quiet=True)
    rows = experiment.compare(other)
    assert set(rows["experiment"]) == {"own", "other"}


def test_strategies_are_listed() -> None:
    listed = saccade.strategies()
    assert {"fastv", "divprune", "visionzip"} <= set(listed["name"])


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda it: it.cells(strat="fastv"), "strat: no grid point has such a value. Did you mean 'strategy'?"),
        (lambda it: it.mask("1", strategy="fastv"), "3 grid points have strategy=fastv"),
        (lambda it: it.mask("no such", strategy="fastv", rank=40), "there is no cell of sample 'no such'"),
        (lambda it: it.cells(strategy="fasterv"), "no grid point has strategy=fasterv; `points` lists them"),
        (lambda it: it.figure("layers"), "there is no page 'layers'. Did you mean 'layer'?"),
        (lambda it: it.figure("overview", "nothing"), "page 'overview' has no panel 'nothing'"),
    ],
)
def test_mistakes_are_one_line(experiment, ask, says) -> None:
    with pytest.raises(UsageError) as caught:
        ask(experiment)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sweep_with_mistakes_names_them_all() -> None:
    with pytest.raises(SaccadeError) as caught:
        saccade.run({**SWEEP, "grid": [{"strategy": "fastvv", "layer": 1, "rank": 4}], "samples": -1})
    assert "the sweep: grid[0].strategy" in str(caught.value)
    assert "samples" in str(caught.value)
