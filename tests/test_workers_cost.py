"""Costs against the figures of the semantics reference, to the printed digits, and against a count by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.analysis.costs import count_costs
from workers.cost import attention_flop, cost, fastv, kv_bytes, swiglu, visual_by_layer
from workers.families.catalog import open_checkpoint
from workers.families.config import ModelConfig, ModelError, VisionConfig
from workers.work import GridPoint, ModelSpec

SEVEN_B = ModelConfig(
    layers=32, heads=32, kv_heads=32, head_dim=128, hidden=4096, ffn=11008, vocab=32064, image_size=336, patch_size=14,
    visual_tokens=576, parameters=6_476_005_376,
)  # fmt: skip

# K, R, average visual tokens, fastv, swiglu, himap, KV cache; 115 other tokens (semantics 3.5)
TABLE = [
    (1, 432, 436.5, 0.7926, 0.7938, 0.6385, 0.7981),
    (1, 288, 297.0, 0.5881, 0.5898, 0.3611, 0.5962),
    (1, 144, 157.5, 0.3865, 0.3882, 0.1677, 0.3944),
    (2, 432, 441.0, 0.7993, 0.8004, 0.6502, 0.8046),
    (2, 288, 306.0, 0.6013, 0.6031, 0.3817, 0.6093),
    (2, 144, 171.0, 0.4063, 0.4079, 0.1945, 0.4139),
    (2, 166, 191.6, 0.4359, 0.4376, 0.2179, None),
    (2, 98, 127.9, 0.3445, 0.3460, 0.1519, None),
    (2, 30, 64.1, 0.2538, 0.2550, 0.1040, None),
    (4, 432, 450.0, 0.8126, 0.8137, 0.6735, 0.8177),
    (4, 288, 324.0, 0.6279, 0.6295, 0.4229, 0.6353),
    (4, 144, 198.0, 0.4458, 0.4474, 0.2482, 0.4530),
    (2, 0, 36.0, 0.2140, 0.2150, 0.0887, None),
    (16, 0, 288.0, 0.5808, 0.5813, 0.5139, None),
    (31, 0, 558.0, 0.9738, 0.9738, 0.9696, None),
]


def seven_b(*stages: tuple[int, int], system: int = 35, text: int = 80, **more):
    visual = visual_by_layer(32, 576, stages)
    return cost(SEVEN_B, system=system, visual=visual, text=text, image_tokens=576, **more)


@pytest.mark.parametrize("row", TABLE, ids=[f"K{row[0]}-R{row[1]}" for row in TABLE])
def test_the_table_of_the_reference(row):
    layer, rank, average, *ratios = row
    found = seven_b((layer, rank))
    assert f"{found.average_visual_tokens:.1f}" == f"{average:.1f}"
    for value, printed in zip(
        (found.fastv_ratio, found.swiglu_ratio, found.himap_ratio, found.kv_ratio), ratios, strict=True
    ):
        assert printed is None or f"{value:.4f}" == f"{printed:.4f}"


@pytest.mark.parametrize(("rank", "ratio"), [(432, 0.7605), (288, 0.5244), (144, 0.2918), (72, 0.1767), (0, 0.0625)])
def test_image_tokens_only(rank, ratio):
    """FastV counts the 576 image tokens alone."""
    assert f"{seven_b((2, rank), system=0, text=0).fastv_ratio:.4f}" == f"{ratio:.4f}"


@pytest.mark.parametrize(
    ("formula", "tokens", "tera"), [(fastv, 576, 2.986), (swiglu, 576, 3.817), (fastv, 691, 3.603), (swiglu, 691, 4.6)]
)
def test_totals_of_the_unpruned_prefill(formula, tokens, tera):
    assert f"{32 * formula(tokens, 4096, 11008) / 1e12:.3f}" == f"{tera:.3f}"


def test_stages_and_cache_bytes():
    pyramid = [(8, 288), (16, 144), (24, 72)]
    assert seven_b(*pyramid).average_visual_tokens == 270
    assert kv_bytes(SEVEN_B, [576] * 32, 2) == 301_989_888  # semantics 3.6
    assert seven_b().kv_bytes == 2 * 2 * 4096 * 32 * 691
    grouped = replace(SEVEN_B, kv_heads=8)
    assert kv_bytes(grouped, [576] * 32, 2) * 4 == 301_989_888


def test_exact_flops_are_twice_the_multiply_adds_of_llamas_layer():
    """With as many key as query heads the linear maps are those of ``swiglu``; attention is half a square."""
    n, d, m = 691, 4096, 11008
    linear = 32 * 2 * (4 * n * d * d + 3 * n * d * m)
    attention = 32 * 2 * 2 * d * n * (n + 1) // 2
    head = 2 * d * 32064
    assert seven_b().prefill_tflop == pytest.approx((linear + attention + head) / 1e12, rel=1e-12)
    assert seven_b().prefill_tflop == pytest.approx(2 * SEVEN_B.parameters * n / 1e12, rel=0.03)
    step = 2 * SEVEN_B.parameters + 32 * 4 * d * (n + 1) + head
    assert seven_b().decode_tflop == pytest.approx(step / 1e12, rel=1e-12)


def test_grouped_queries_cost_less():
    grouped = replace(SEVEN_B, kv_heads=8)
    visual = visual_by_layer(32, 576, [])
    saved = seven_b().prefill_tflop - cost(grouped, system=35, visual=visual, text=80, image_tokens=576).prefill_tflop
    assert saved == pytest.approx(32 * 2 * 691 * 4096 * 2 * (4096 - 1024) / 1e12, rel=1e-9)


def test_vision_tower_and_selector_are_separate():
    tower = 23 * (2 * 577 * (4 * 1024**2 + 2 * 1024 * 4096) + 4 * 577**2 * 1024)
    projector = 2 * 576 * (1024 * 4096 + 4096**2)
    patches = 2 * 576 * 3 * 14 * 14 * 1024
    assert seven_b().vision_tflop == pytest.approx((tower + projector + patches) / 1e12, rel=1e-12)
    assert seven_b().selector_tflop == 0
    probed = seven_b((2, 128), selector_flop=attention_flop(SEVEN_B, 1, 691))
    assert probed.selector_tflop == pytest.approx(2 * 4096 * 691 / 1e12)
    assert replace(probed, selector_tflop=0.0) == seven_b((2, 128))


def test_a_question_without_an_image_costs_its_text():
    found = cost(SEVEN_B, system=60, visual=(0,) * 32, text=0, image_tokens=0)
    assert (found.vision_tflop, found.flops_ratio, found.kv_ratio, found.average_visual_tokens) == (0, 1, 1, 0)


@given(layer=st.integers(0, 32), rank=st.integers(0, 576), system=st.integers(1, 99), text=st.integers(0, 99))
def test_less_is_cheaper_and_nothing_is_free(layer, rank, system, text):
    found = seven_b((layer, rank), system=system, text=text)
    for ratio in (found.flops_ratio, found.fastv_ratio, found.swiglu_ratio, found.himap_ratio, found.kv_ratio):
        assert 0 < ratio <= 1
        assert (ratio == 1) == (layer == 32 or rank == 576)
    assert found.average_visual_tokens == pytest.approx((layer * 576 + (32 - layer) * rank) / 32)


@pytest.mark.parametrize(
    ("visual", "message"), [((576,) * 31, "31 entries"), ((577,) * 32, r"577\.\.577"), ((-1,) * 32, "outside")]
)
def test_wrong_token_counts_are_refused(visual, message):
    with pytest.raises(ValueError, match=message):
        cost(SEVEN_B, system=35, visual=visual, text=80, image_tokens=576)


def test_vision_sizes_are_read_from_the_checkpoint(small_checkpoint):
    assert open_checkpoint(ModelSpec(path=str(small_checkpoint))).sizes.vision == VisionConfig(
        hidden=16, ffn=32, layers=1, features=1, stored_layers=2
    )


@pytest.mark.parametrize(("chosen", "layers", "features"), [(-1, 2, 1), (1, 1, 1), ([-2, -1], 2, 2), ([0, 1], 1, 2)])
def test_only_layers_that_are_read_count(small_checkpoint, tmp_path, chosen, layers, features):
    write_config(small_checkpoint, tmp_path, chosen)
    found = open_checkpoint(ModelSpec(path=str(tmp_path))).sizes.vision
    assert (found.layers, found.features) == (layers, features)


@pytest.mark.parametrize("chosen", [3, -4, "last", []])
def test_a_feature_layer_outside_the_tower_is_refused(small_checkpoint, tmp_path, chosen):
    write_config(small_checkpoint, tmp_path, chosen)
    with pytest.raises(ModelError, match="vision_feature_layer"):
        _ = open_checkpoint(ModelSpec(path=str(tmp_path))).sizes


def write_config(checkpoint, folder, chosen) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vision_feature_layer": chosen}))


def test_what_reads_the_words_costs_by_their_number():
    """35 tokens before the image, 80 after it; where cells do not say how many, there is no figure."""
    points = [
        GridPoint(strategy=name, layer=2, rank=128)
        for name in ("text_sum", "text_weighted", "sparsevlm_stage", "sparsevlm_plus_stage")
    ]
    rows, mass, pull = 2 * 4096 * 80 * 691, 2 * 4096 * 80 * 576, 2 * 128 * 80 * 576
    lengths = np.array([[691], [576], [80], [-1], [3]])
    counted = count_costs(points, SEVEN_B, "float16", lengths)["selector_tflop"]
    assert counted.tolist() == pytest.approx(
        [n / 1e12 for n in (rows, rows, rows + mass, rows + mass + pull)], rel=1e-12
    )
    mixed = np.array([[691, 700], [576, 576], [80, -1], [-1, -1], [3, 1]])
    assert count_costs(points, SEVEN_B, "float16", mixed)["selector_tflop"].isna().all()
    assert count_costs(points, SEVEN_B, "float16", mixed)["prefill_tflop"].notna().all()
