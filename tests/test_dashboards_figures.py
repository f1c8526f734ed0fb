"""The figures and their matplotlib twins draw the rows they are given."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from answer_matrix import MISSING, write_matrix
from dashboards.figures import curve_figure, forest_figure, heat_figure
from dashboards.plots import comparison_plot, curve_plot, write_plots
from dashboards.rows import ACCURACY, DROP, against_first, curves, forest, heat, leftovers, slices
from dashboards.theme import line_look
from fake_experiment import fake_points, write_fake_experiment
from results.analysis.metrics import summary
from workers.work import GridPoint, unpruned_point

BASE = unpruned_point(8, 64)
NAMES = ("fastv", "random", "divprune", "visionzip <b>")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory):
    rng = np.random.default_rng(0)
    points = (BASE, *(GridPoint(strategy=s, layer=2, rank=r) for s in NAMES for r in (4, 8, 16)))
    right = (rng.random((13, 60)) < 0.7).astype(int)
    right[2] = MISSING  # fastv, rank 8: a gap
    right[4, 30:] = MISSING  # random, rank 4: partial
    return summary(write_matrix(tmp_path_factory.mktemp("figures") / "e", points, right))


def lines(figure) -> dict[str, object]:
    return {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}


@pytest.mark.parametrize("measure", [ACCURACY, DROP])
def test_curve_figure_draws_every_series_and_bands_of_the_focused_ones(rows, measure) -> None:
    (part,) = slices(rows, "rank")
    figure = curve_figure(rows, part, measure)
    expected = curves(part, measure)
    assert set(lines(figure)) == {"fastv", "random", "divprune", "visionzip &lt;b&gt;"}
    for name in ("fastv", "random", "divprune"):
        of_series = expected[expected["series"] == name]
        np.testing.assert_array_equal(lines(figure)[name].y, of_series["y"])
        assert list(lines(figure)[name].x) == [16, 8, 4]
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len({trace.name for trace in bands}) == 2
    assert all(trace.mode == "lines" and trace.line.width == 0 for trace in bands)  # no stray markers
    assert figure.layout.xaxis.range[0] > figure.layout.xaxis.range[1]
    assert any(shape.line.dash == "dash" for shape in figure.layout.shapes)  # the un-pruned model


def test_a_gap_splits_the_band_and_partial_points_are_hollow(rows) -> None:
    (part,) = slices(rows[rows["strategy"].isin(["none", "fastv", "random"])], "rank")
    figure = curve_figure(rows, part, ACCURACY)
    assert sum(trace.fill == "toself" and trace.name == "fastv" for trace in figure.data) == 2
    assert list(lines(figure)["random"].marker.symbol) == ["circle", "circle", "circle-open"]


def test_end_labels_do_not_overlap(rows) -> None:
    (part,) = slices(rows, "rank")
    figure = curve_figure(rows, part, ACCURACY)
    low, high = figure.layout.yaxis.range
    per_px = (high - low) / (figure.layout.height - figure.layout.margin.t - figure.layout.margin.b)
    heights = sorted(note.y / per_px - note.ay for note in figure.layout.annotations)
    assert len(heights) == 5
    assert min(np.diff(heights)) >= 15.9  # px
    assert "<b>random</b>" in [note.text for note in figure.layout.annotations] or any(
        note.text.startswith("<b>random") for note in figure.layout.annotations
    )


def test_hover_tells_the_interval_and_the_flips(rows) -> None:
    (part,) = slices(rows, "rank")
    text = lines(curve_figure(rows, part, ACCURACY))["random"].hovertext[-1]
    assert "random layer=2 rank=4" in text
    assert "n = 30 of 60" in text
    assert "gained" in text


def test_heat_figure_writes_a_number_in_every_cell_that_was_run(rows) -> None:
    (part,) = slices(rows, "rank")
    cells = heat(part)
    assert cells is not None
    trace = heat_figure(cells, "rank").data[0]
    text = np.array(trace.text)
    assert text[0, 1] == ""
    assert text[1, 0].endswith("°…")
    assert (text != "").sum() == 11
    assert trace.zmin == -trace.zmax


def test_forest_figure_has_a_dot_and_a_line_for_each(tmp_path: Path) -> None:
    alone = forest(leftovers(summary(write_fake_experiment(tmp_path / "e", samples=30))))
    figure = forest_figure(alone)
    dots = figure.data[-1]
    np.testing.assert_array_equal(dots.x, alone["x"])
    assert len(figure.data) == len(alone) + 1


def test_plots_draw_the_same_rows(rows) -> None:
    (part,) = slices(rows, "rank")
    axes = curve_plot(rows, part, ACCURACY).axes[0]
    expected = curves(part, ACCURACY)
    drawn = [line.get_ydata() for line in axes.lines if line.get_linestyle() != "None" and len(line.get_xdata()) == 3]
    for name, ys in zip(expected["series"].unique(), drawn, strict=True):
        np.testing.assert_array_equal(ys, expected.loc[expected["series"] == name, "y"])


def test_write_plots_makes_the_promised_files(tmp_path: Path) -> None:
    ablated = tuple(
        GridPoint(strategy="ablation", layer=2, rank=16, params=(("head", head), ("heads_kept", 2), ("query", query)))
        for head, query in (("sum", "last_token"), ("variance", "last_token"), ("variance", "text"))
    )
    written = write_plots(write_fake_experiment(tmp_path / "e", samples=30, points=(*fake_points(), *ablated)))
    names = {path.name for path in written}
    assert {"fastv_layer_cutoff_plot.png", "fastv_layer_cutoff_plot_relative_drop.png"} <= names
    assert "fastv_layer_cutoff_plot_drop_against_first_layer.png" in names
    assert {"accuracy_by_alpha_at_layer_2_rank_16.png", "head_ablation_2_heads_rank_16.png"} <= names
    assert "query_ablation_2_heads_rank_16.pdf" in names
    assert {"accuracy_by_rank_at_layer_2.png", "single_configurations.pdf"} <= names
    for path in written:
        content = path.read_bytes()
        if path.suffix == ".png":
            assert content.startswith(b"\x89PNG")
        else:
            assert content.startswith(b"%PDF")
            assert b"/FontType 3" not in content
            assert b"/Type3" not in content  # text stays text: TrueType, not outlines


def test_the_drop_of_the_originals_documents_is_of_the_first_layer(tmp_path: Path) -> None:
    points = (BASE, *(GridPoint(strategy="cutoff", layer=layer, rank=0) for layer in (2, 3, 4)))
    right = np.zeros((4, 8), dtype=int)
    for row, count in enumerate((8, 4, 3, 6)):
        right[row, :count] = 1
    (part,) = slices(summary(write_matrix(tmp_path / "e", points, right)), "layer")
    found = against_first(part)
    assert found is not None
    drawn, measure = found
    assert measure.name == "Relative drop against layer 2"
    assert curves(drawn, measure)["y"].tolist() == [0.0, 25.0, -50.0]
    right[1] = 0  # nothing right at the first
    (part,) = slices(summary(write_matrix(tmp_path / "none", points, right)), "layer")
    assert against_first(part) is None


def test_no_two_lines_of_a_picture_look_alike_nor_labels_cover_one_another(tmp_path: Path) -> None:
    assert len({line_look(place) for place in range(30)}) == 30
    points = (BASE, *(GridPoint(strategy=f"s{i}", layer=2, rank=rank) for i in range(9) for rank in (4, 16)))
    right = np.random.default_rng(1).integers(0, 2, (len(points), 12))
    figure = comparison_plot(summary(write_matrix(tmp_path / "e", points, right)).assign(experiment="e"))
    (axes,) = figure.axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 9
    FigureCanvasAgg(figure).draw()
    labels = [Text.get_window_extent(text) for text in axes.texts if text.get_text().startswith("e\n")]
    assert len(labels) == 9
    assert not any(one.overlaps(other) for one, other in combinations(labels, 2))
