"""Panels as a paper prints them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dashboards import paper
from dashboards.chosen_panel import chosen_panel
from dashboards.gallery import Gallery
from dashboards.pages.catalog import PAGES
from dashboards.paper import paper_figure
from dashboards.view import State, view
from fake_experiment import write_fake_experiment
from orchestrator.commands.options import choices, inches
from strategies.errors import UsageError


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("paper") / "e"
    write_fake_experiment(path)
    return path


def test_a_panel_of_every_page_is_drawn_as_wide_as_its_column_with_letters_of_8_pt(experiment: Path) -> None:
    shown = view(Gallery([experiment]).snapshot, State())
    figures = {page.path: one.figure for page in PAGES for one in page.panels(shown) if one.figure}  # one of each page
    assert len(figures) > 4
    for name, figure in figures.items():
        text = paper_figure(figure, "svg", 3.25, "tiny model · n = 54").decode()
        assert 'width="234pt"' in text, name  # 3.25 inches of 72 points
        sizes = {float(size) for size in re.findall(r"font: [^;]*?([0-9.]+)px", text)}
        assert sizes <= {8.0}, (name, sizes)
        assert "tiny model · n = 54" in text
        assert "<image" not in text


def test_only_the_chosen_curves_are_drawn_and_the_same_results_give_the_same_bytes(experiment: Path) -> None:
    chosen = choices(["strategy=fastv", "strategy=weighted_combination"])
    panel, _ = chosen_panel(experiment, "overview", "forest", chosen)
    text = paper_figure(panel.figure, "svg", inches("84mm"), "x").decode()
    assert "fastv" in text
    assert "random" not in text
    assert paper_figure(panel.figure, "svg", inches("84mm"), "x").decode() == text
    assert b"/Subject" in paper_figure(panel.figure, "pdf", 3.25, "x")
    with pytest.raises(UsageError, match=r"no panel 'forrest'"):
        chosen_panel(experiment, "overview", "forrest", chosen)


def test_what_cannot_be_drawn_is_said(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panel, _ = chosen_panel(experiment, "layer", None, {})
    monkeypatch.setattr(paper, "TEX", ("no-such-tex",))
    with pytest.raises(UsageError, match="--format pgf needs one of no-such-tex"):
        paper_figure(panel.figure, "pgf", 3.25, "x")
    for width in ("0.1in", "8 miles", "9000pt"):
        with pytest.raises(UsageError, match="give a column's width"):
            inches(width)
    with pytest.raises(UsageError, match="write NAME=VALUE"):
        choices(["fastv"])
