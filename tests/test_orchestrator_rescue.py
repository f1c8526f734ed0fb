"""Rescued and retained, counted by hand; their figure, their page and their file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from answer_matrix import MISSING, write_matrix
from dashboards.gallery import Gallery
from dashboards.pages.catalog import asked
from dashboards.rescued import rescue_figure, rescue_rows
from results.analysis.matrix import Answers
from results.analysis.metrics import answers
from results.analysis.rescue import controls_of, rescue
from results.analysis.significance import wilson
from results.exchange.exports import write_exports
from workers.work import GridPoint, unpruned_point

POINTS = (
    unpruned_point(8, 64),
    GridPoint(strategy="fastv", layer=2, rank=16),
    GridPoint(strategy="random", layer=2, rank=16),
    GridPoint(strategy="random", layer=0, rank=16),
    GridPoint(strategy="downsample_features", layer=0, rank=16),
    GridPoint(strategy="fastv", layer=2, rank=4),
    GridPoint(strategy="cutoff", layer=2, rank=0),
)
RIGHT = np.array(
    [
        [1, 1, 1, 1, 1, 0, 1, 1, 0],
        [1, 1, 1, 0, 0, 1, 1, MISSING, 1],  # fastv: of the control's five wrong ones two right, one missing
        [0, 0, 1, 0, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, MISSING, 1, 0, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
)
TEXT_ONLY = 8


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    path = tmp_path_factory.mktemp("rescue") / "e"
    return answers(write_matrix(path, POINTS, RIGHT, text_only=(TEXT_ONLY,)))


def test_shares_are_those_counted_by_hand(table: Answers) -> None:
    rows = rescue(table, "downsample_features").set_index("label")
    assert list(rows.index) == ["fastv layer=2 rank=16", "random layer=2 rank=16", "random layer=0 rank=16"]
    assert set(rows["control"]) == {"downsample_features layer=0 rank=16"}
    fastv = rows.loc["fastv layer=2 rank=16"]
    assert (fastv["wrong"], fastv["rescued"]) == (3, 2)  # s1, s2, s3; it has not answered s7
    assert (fastv["right"], fastv["retained"]) == (6, 4)  # s0 to s4 and s6
    assert (fastv["rescue"], fastv["retain"]) == (2 / 3, 4 / 6)
    low, high, by = (ends[0] for ends in wilson(np.array([2]), np.array([3])))
    assert (fastv["rescue_low"], fastv["rescue_high"], fastv["interval"]) == (low, high, by)
    assert fastv["floor"] == 1 / 4  # of s1, s2, s3 and s7 the random choice of its own layer has s2
    assert fastv["ceiling"] == 1.0


def test_a_control_of_the_same_layer_goes_before_the_first(table: Answers) -> None:
    rows = rescue(table, "random").set_index("label")
    assert rows.loc["fastv layer=2 rank=16", "control"] == "random layer=2 rank=16"
    assert rows.loc["downsample_features layer=0 rank=16", "control"] == "random layer=0 rank=16"
    assert rows["floor"].isna().all()


def test_what_may_be_held_against_something(table: Answers) -> None:
    assert controls_of(POINTS) == ["downsample_features", "random", "fastv"]
    assert controls_of(POINTS[:1]) == []
    assert rescue(table, "nobody").empty
    nothing = rescue(replace(table, correct_PS=np.ones_like(table.correct_PS)), "downsample_features")
    assert set(nothing["wrong"]) == {0}
    assert nothing["rescue"].isna().all()


def test_questions_about_one_image_count_together(table: Answers) -> None:
    alone = rescue(table, "downsample_features").iloc[0]
    pairs = replace(table, cluster_S=np.arange(len(table.samples)) // 2)
    together = rescue(pairs, "downsample_features").iloc[0]
    assert together["interval"] == "Wilson, clustered by image file"
    assert together["retain_high"] - together["retain_low"] > alone["retain_high"] - alone["retain_low"]
    assert together["retain"] == alone["retain"]


def test_the_page_draws_them_and_the_file_holds_them(tmp_path: Path) -> None:
    experiment = write_matrix(tmp_path / "e", POINTS, RIGHT, text_only=(TEXT_ONLY,))
    page, shown = asked(Gallery([experiment.path]).snapshot, "/rescued", "")
    (panel,) = page.panels(shown)
    rows = rescue_rows(rescue(answers(experiment), "downsample_features"), shown.rows)
    assert panel.rows.equals(rows)
    assert rows["name"].tolist()[0] == "fastv layer=2 rank=16"
    dots = {trace.name: list(trace.x) for trace in panel.figure.data if trace.name}
    assert dots["rescued"] == (100 * rows["rescue"]).tolist()
    assert dots["retained"] == (100 * rows["retain"]).tolist()
    assert dots["floor"] == (100 * rows["floor"]).tolist()
    (control,) = page.controls(shown)
    assert control.values == ["downsample_features", "random", "fastv"]
    unpruned = rows.assign(retain=np.nan, retain_low=np.nan, retain_high=np.nan)  # has not answered yet
    assert rescue_figure(unpruned, "random").layout.xaxis2.range == (0, 100)
    page, shown = asked(shown.snapshot, "/rescued", "?control=random&strategy=fastv")
    assert page.panels(shown)[0].rows["label"].tolist() == ["fastv layer=2 rank=16"]
    written = write_exports(experiment)
    (file,) = [path for path in written if path.name == "rescued.csv"]
    assert (
        pd.read_csv(file)["rescued"].tolist() == rescue(answers(experiment), "downsample_features")["rescued"].tolist()
    )
