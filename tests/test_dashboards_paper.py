"""Panels as a paper prints them."""

from __future__ import annotations

import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import plotly.graph_objects as go
import pytest
from PIL import Image

from dashboards import charts
from dashboards.chosen_panel import chosen_panel
from dashboards.gallery import Gallery
from dashboards.pages.catalog import PAGES
from dashboards.paper import MARKS, paper_figure
from dashboards.paper_tex import for_tex
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
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="--format pgf needs one of xelatex"):
        paper_figure(panel.figure, "pgf", 3.25, "x")
    for width in ("0.1in", "8 miles", "9000pt"):
        with pytest.raises(UsageError, match="give a column's width"):
            inches(width)
    with pytest.raises(UsageError, match="write NAME=VALUE"):
        choices(["fastv"])


def test_signs_that_tex_reads_specially_are_printed() -> None:
    assert for_tex("weighted_combination 50\u00a0% & #1\n{$} ~^ \\x") == (
        r"weighted\_combination 50~\% \& \#1" "\n" r"\{\$\} \textasciitilde{}\textasciicircum{} \textbackslash{}x"
    )
    assert for_tex("worse  ←  a → b · \u22121.5° …") == (
        r"worse  $\leftarrow$  a $\rightarrow$ b $\cdot$ $-$1.5$^\circ$ \dots{}"
    )


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_a_figure_for_tex_compiles_in_a_document(experiment: Path, tmp_path: Path) -> None:
    for page in ("layer", "alpha", "overview"):
        panel, _ = chosen_panel(experiment, page, None, {})
        content = paper_figure(panel.figure, "pgf", 3.25, "tiny_model\nn = 54").decode()
        assert content.startswith("% tiny_model n = 54\n%% Creator: Matplotlib")
        (tmp_path / f"{page}.pgf").write_text(content, encoding="utf-8")
    assert r"weighted\_combination" in (tmp_path / "overview.pgf").read_text(encoding="utf-8")
    body = " ".join(rf"\input{{{page}.pgf}}" for page in ("layer", "alpha", "overview"))
    (tmp_path / "paper.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{pgf}}\begin{{document}}{body}\end{{document}}", encoding="utf-8"
    )
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert b"Missing character" not in (tmp_path / "paper.log").read_bytes()


def test_every_symbol_of_a_method_is_drawn() -> None:
    assert set(charts.SYMBOLS) <= set(MARKS)
    for symbol in charts.SYMBOLS:
        for form in (symbol, f"{symbol}-open"):
            dots = go.Figure().add_scatter(x=[1, 2], y=[1, 2], mode="markers", marker={"symbol": form, "color": "#000"})
            assert b"<use" in paper_figure(dots, "svg", 3.25, "x")


def test_a_png_has_300_dots_an_inch_and_says_its_source(experiment: Path) -> None:
    panel, _ = chosen_panel(experiment, "layer", None, {})
    picture = Image.open(BytesIO(paper_figure(panel.figure, "png", 3.25, "tiny model")))
    assert picture.width == 975
    assert picture.info["Description"] == "tiny model"
