"""What is measured besides answers: on disk, in the address of cells, and as means; and what masks and counts tell."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fake_experiment import fake_engine, fake_manifest, fake_points, write_fake_experiment
from measured_experiment import LAYERS, VISUAL, write_measured
from results.analysis.costs import costs, count_costs
from results.analysis.kept_quality import agreement, kept_masks, overlap
from results.analysis.matrix import CellMatrix, image_lengths
from results.analysis.measured import measure_summary
from results.experiment import Experiment
from strategies.catalog import CATALOG
from strategies.view import Evidence
from test_workers_cost import SEVEN_B
from workers.evidence import needed, provider_of
from workers.work import GridPoint, MeasureSpec, SpectrumSpec

FASTV = GridPoint(strategy="fastv", layer=2, rank=16)
RANDOM = GridPoint(strategy="random", layer=2, rank=16)


def test_measures_come_back_in_the_order_of_the_cells(tmp_path: Path) -> None:
    write_measured(tmp_path / "x", (FASTV,), lambda point: (("a", float(point.rank)), ("b", math.nan)), samples=11)
    table = Experiment.open(tmp_path / "x").measures()
    assert table.columns.tolist() == ["point", "sample", "name", "value"]
    assert len(table) == 2 * 2 * 10  # two points, two names, ten image questions
    assert table["name"][:4].tolist() == ["a", "b", "a", "b"]
    assert table[table["point"] == FASTV.key]["value"].dropna().unique().tolist() == [16.0]
    rows = measure_summary(Experiment.open(tmp_path / "x"))
    assert rows[["label", "name", "mean", "se", "n"]].values.tolist() == [
        ["un-pruned", "a", VISUAL, 0.0, 10],
        [FASTV.label, "a", 16.0, 0.0, 10],
    ]


def test_the_standard_error_is_that_of_the_mean(tmp_path: Path) -> None:
    values = iter(range(100))
    write_measured(tmp_path / "x", (), lambda point: (("a", float(next(values))),), samples=5)
    row = measure_summary(Experiment.open(tmp_path / "x")).iloc[0]
    assert (row["mean"], row["n"]) == (2.0, 5)
    assert row["se"] == pytest.approx(np.std([0, 1, 2, 3, 4], ddof=1) / math.sqrt(5))


def test_an_experiment_without_measures_has_an_empty_table(tmp_path: Path) -> None:
    experiment = write_fake_experiment(tmp_path / "x", samples=3)
    assert len(experiment.measures()) == len(measure_summary(experiment)) == 0
    assert not list((tmp_path / "x" / "measures").glob("*"))


def test_only_a_sweep_that_measures_has_it_in_its_address() -> None:
    plain = fake_manifest(fake_points())
    assert "measure" not in plain.context_parts
    spectrum = SpectrumSpec(matrix="hidden_states", layer=0, threshold=1e-5, power=2)
    measuring = [
        fake_manifest(fake_points(), engine=fake_engine(measure=measure))
        for measure in (MeasureSpec(quality=True), MeasureSpec(spectra=(spectrum,)))
    ]
    assert len({manifest.context for manifest in (plain, *measuring)}) == 3


def test_overlap_agrees_with_the_definition_for_one_sample(tmp_path: Path) -> None:
    experiment = write_measured(tmp_path / "x", (FASTV,), samples=8)
    masks = kept_masks(experiment)
    assert masks is not None
    row = overlap(masks).set_index("key").loc[FASTV.key]
    samples = experiment.samples.set_index("id")
    each = []
    for place, name in enumerate(masks.samples):
        kept = set(np.flatnonzero(masks.mask_PSV[1, place]).tolist())
        answer = set(samples.loc[name, "patches"])
        precision, recall = len(kept & answer) / len(kept), len(kept & answer) / len(answer)
        touched = {(token // 8 // 2, token % 8 // 2) for token in kept}  # 8 x 8 tokens, 4 x 4 cells
        lift = precision / (len(answer) / VISUAL)
        each.append([precision, recall, len(kept & answer) / len(kept | answer), lift, len(touched) / 16])
    expected = np.mean(each, axis=0)
    np.testing.assert_allclose(row[["precision", "recall", "iou", "lift", "coverage"]].astype(float), expected)
    assert (row["n"], row["n_answer"], row["kept"]) == (8, 8, 16)


def test_keeping_everything_has_lift_one_and_keeping_nothing_none(tmp_path: Path) -> None:
    cutoff = GridPoint(strategy="cutoff", layer=2, rank=0)
    masks = kept_masks(write_measured(tmp_path / "x", (cutoff,), samples=6))
    assert masks is not None
    whole, nothing = overlap(masks).to_dict("records")
    assert (whole["lift"], whole["recall"], whole["coverage"]) == (1, 1, 1)
    assert (nothing["recall"], nothing["kept"], math.isnan(nothing["precision"])) == (0, 0, True)


def test_images_of_differing_tokens_are_judged_each_in_its_own_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = write_measured(tmp_path / "x", (FASTV, RANDOM), samples=3)
    names, points = experiment.samples["id"], [point.key for point in experiment.points]
    rows = [  # of two images the un-pruned model's, and what both rules keep
        (names[0], 6, "0 2 3 0 0 0", ("111111", "100001", "100000")),
        (names[1], 20, "0 4 4 2 0 0;16 2 2 0 0 1", ("1" * 20, "1" + "0" * 18 + "1", "1" * 20)),
        (names[2], 4, None, ("1111", "1111", "1111")),
    ]
    kept = pd.DataFrame(
        [
            {"point": point, "sample": name, "visual_tokens": visual, "kept_mask": packed(bits), "maps": maps}
            for name, visual, maps, masks in rows
            for point, bits in zip(points, masks, strict=True)
        ]
    )
    monkeypatch.setattr(experiment, "kept", lambda: kept)
    monkeypatch.setattr(experiment, "config", replace(experiment.config, grid=None, varies=True))
    masks = kept_masks(experiment)
    assert masks is not None
    table = overlap(masks).set_index("key")
    # Of six cells two; of 16 the first, and as a whole the last place, which is another one.
    assert table.loc[FASTV.key, "coverage"] == pytest.approx((2 / 6 + 2 / 16) / 2)
    (row,) = agreement(masks).to_dict("records")
    assert (row["jaccard"], row["n"]) == (pytest.approx((1 / 2 + 2 / 20) / 2), 2)  # that keep everything say nothing


def packed(bits: str) -> bytes:
    return np.packbits([bit == "1" for bit in bits]).tobytes()


def test_agreement_is_jaccard_among_points_of_equal_layer_and_rank(tmp_path: Path) -> None:
    points = (
        FASTV,
        RANDOM,
        GridPoint(strategy="fastv", layer=3, rank=16),
        GridPoint(strategy="cutoff", layer=2, rank=0),
    )
    masks = kept_masks(write_measured(tmp_path / "x", points, samples=7))
    assert masks is not None
    table = agreement(masks)
    assert table[["left", "right"]].values.tolist() == [[FASTV.label, RANDOM.label]]
    each = []
    for place in range(len(masks.samples)):
        left, right = (set(np.flatnonzero(masks.mask_PSV[row, place]).tolist()) for row in (1, 2))
        each.append(len(left & right) / len(left | right))
    assert table["jaccard"][0] == pytest.approx(np.mean(each))
    assert table["n"][0] == 7


def test_costs_are_counted_from_the_prompts(tmp_path: Path) -> None:
    points = (
        FASTV,
        GridPoint(strategy="fastv", layer=LAYERS, rank=3),
        GridPoint(strategy="text_sum", layer=2, rank=16),
    )
    table = costs(write_measured(tmp_path / "x", points, samples=10))
    assert table is not None
    rows = table.to_dict("records")
    n, pruned = VISUAL + 40, 16 + 40
    assert rows[1]["himap_ratio"] == pytest.approx((2 * (n * n + n) + 6 * (pruned**2 + pruned)) / (8 * (n * n + n)))
    assert rows[1]["average_visual_tokens"] == (2 * VISUAL + 6 * 16) / 8
    assert rows[1]["kv_bytes"] == 2 * 4 * 4 * 32 * (2 * n + 6 * pruned)
    assert rows[0]["flops_ratio"] == rows[2]["flops_ratio"] == 1
    assert rows[1]["selector_tflop"] > 0
    assert pd.isna(rows[3]["selector_tflop"])  # the length of the text is not known


def test_every_method_has_its_selector_cost(tmp_path: Path) -> None:
    """Of a 7B model, but for what depends on how long the text is, which these cells do not say."""
    params = {"ablation": (("heads_kept", 2),), "fitprune": (("left", "9"),)}
    points = [
        GridPoint(strategy=name, layer=0 if one.layers == "input" else 2, rank=576, params=params.get(name, ()))
        for name, one in CATALOG.items()
    ]
    matrix = CellMatrix(write_measured(tmp_path / "x", (FASTV,), samples=3))
    matrix.read()
    counted = count_costs(points, SEVEN_B, "float16", image_lengths(matrix))
    assert counted is not None
    for point, tflop in zip(points, counted["selector_tflop"], strict=True):
        needs = needed([point])
        reads_text = bool({Evidence.TEXT_ROWS, Evidence.TEXT_TO_TEXT} & needs)
        reads_text |= any(getattr(provider_of(need), "text_flop", None) for need in needs)
        assert math.isnan(tflop) == reads_text, point.label
        assert reads_text or 0 <= tflop < 0.1, point.label  # the prefill takes about 9
        assert needs or tflop == 0, point.label


def test_a_smaller_image_costs_the_tower_less() -> None:
    """As many tokens in every layer of the decoder, and a sixteenth of the patches before it."""
    points = [GridPoint(strategy=name, layer=0, rank=36) for name in ("downsample", "divprune")]
    counted = count_costs(points, SEVEN_B, "float16", np.array([[691], [576], [80], [-1], [1]]))
    smaller, whole = counted.to_dict("records")
    assert smaller["prefill_tflop"] == whole["prefill_tflop"]
    assert smaller["average_visual_tokens"] == whole["average_visual_tokens"] == 36
    assert 0.05 < smaller["vision_tflop"] / whole["vision_tflop"] < 1 / 16


def test_without_the_sizes_of_the_model_there_is_no_cost(tmp_path: Path) -> None:
    assert costs(write_fake_experiment(tmp_path / "x", samples=3)) is None
