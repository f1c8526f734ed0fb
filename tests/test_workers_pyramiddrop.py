"""PyramidDrop against its rule in plain loops of float64, which share nothing with ours but the model's weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from results.analysis.costs import count_costs
from small_llava import make_checkpoint
from strategies.catalog import get, own_positions
from strategies.stages import Stage
from test_workers_engine import make_engine
from workers.cost import visual_by_layer
from workers.encoding import encode_sample
from workers.engine import Engine
from workers.evidence import PROVIDERS, words
from workers.families.config import ModelConfig
from workers.work import GridPoint, WorkUnit

LAYERS = 5
STAGES = (("second_layer", 3), ("second_share", 0.5), ("third_layer", 4), ("third_share", 0.25))


@pytest.fixture(scope="module", params=[(4, 4), (4, 2)], ids=["heads", "grouped heads"])
def engine(request, tmp_path_factory, small_scienceqa) -> Engine:
    heads, kv_heads = request.param
    folder = tmp_path_factory.mktemp("pyramid")
    return make_engine(make_checkpoint(folder, seed=11, layers=LAYERS, heads=heads, kv_heads=kv_heads), small_scienceqa)


def normed(row: Tensor, module) -> Tensor:
    return row / ((row**2).mean() + module.variance_epsilon).sqrt() * module.weight.double()


def turned(row: Tensor, position: int, theta: float) -> Tensor:
    """Rotary position of one head's vector: its halves are the two parts of complex numbers."""
    half = len(row) // 2
    angle = position * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    first, second = row[:half], row[half:]
    return torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()))


def heads_of(rows: list[Tensor], linear, size: int) -> list[list[Tensor]]:
    return [list((linear.weight.double() @ row).split(size)) for row in rows]


def attention(layer, rows: list[Tensor], positions: list[int], theta: float) -> tuple[list[Tensor], list[Tensor]]:
    """What each row gets, and the last row's weights by head."""
    module, inside = layer.self_attn, [normed(row, layer.input_layernorm) for row in rows]
    size = module.head_dim
    queries, keys, values = (heads_of(inside, part, size) for part in (module.q_proj, module.k_proj, module.v_proj))
    shared = len(queries[0]) // len(keys[0])
    queries, keys = (
        [[turned(head, at, theta) for head in row] for row, at in zip(part, positions, strict=True)]
        for part in (queries, keys)
    )
    got, last = [], []
    for place, query in enumerate(queries):
        parts, last = [], []
        for head, vector in enumerate(query):
            scores = torch.stack([keys[key][head // shared] @ vector for key in range(place + 1)]) / math.sqrt(size)
            last.append(scores.softmax(dim=0))
            parts.append(sum(w * values[key][head // shared] for key, w in enumerate(last[-1])))
        got.append(module.o_proj.weight.double() @ torch.cat(parts))
    return got, last


def pyramid(engine: Engine, id: str, layers: list[int], ratios: list[float]) -> tuple[list[int], Tensor]:
    """The visual tokens that are left in the end, and the first token's logits."""
    model, prompt = engine.model, encode_sample(engine.model, engine.samples[id], engine.spec.task, "pad")
    (span,), (image,) = prompt.images, model.image_features([prompt])
    embedded = model.module.get_input_embeddings()(torch.tensor(prompt.ids))
    rows = list(torch.cat((embedded[: span.start], image, embedded[span.start + span.tokens :])).double())
    decoder, left = model.module.model.language_model, list(range(span.tokens))
    theta = decoder.config.rope_parameters["rope_theta"]
    for index, layer in enumerate(decoder.layers):
        if index in layers:
            _, last = attention(layer, rows, list(range(len(rows))), theta)  # numbered anew, here too
            score = sum(weights[span.start : span.start + len(left)] for weights in last) / len(last)
            best = sorted(range(len(left)), key=lambda v: -float(score[v]))
            stay = sorted(best[: int(span.tokens * ratios[layers.index(index)])])
            rows = rows[: span.start] + [rows[span.start + v] for v in stay] + rows[span.start + len(left) :]
            left = [left[v] for v in stay]
        got, _ = attention(layer, rows, list(range(len(rows))), theta)
        rows = [row + more for row, more in zip(rows, got, strict=True)]
        for place, row in enumerate(rows):
            inside, mlp = normed(row, layer.post_attention_layernorm), layer.mlp
            gate, up = mlp.gate_proj.weight.double() @ inside, mlp.up_proj.weight.double() @ inside
            rows[place] = row + mlp.down_proj.weight.double() @ (gate * gate.sigmoid() * up)
    return left, model.module.lm_head.weight.double() @ normed(rows[-1], decoder.norm)


@torch.inference_mode()
def test_it_is_the_authors_rule(engine):
    """Three stages, each with the next layer's own projections, renumbered, a share of the original number."""
    point = GridPoint(strategy="pyramiddrop", layer=1, rank=8, params=STAGES)
    (cell,) = engine.run(WorkUnit(samples=("1",), points=(point,))).outcomes
    left, logits = pyramid(engine, "1", [1, 3, 4], [0.5, 0.25, 0.125])
    mask = np.unpackbits(np.frombuffer(cell.kept_mask, np.uint8))[: cell.visual_tokens]
    assert np.flatnonzero(mask).tolist() == left
    assert cell.tokens_kept == len(left) == 2
    assert cell.first_token == int(logits.argmax())
    letters = engine.letter_tokens[: len(cell.option_logits)]
    np.testing.assert_allclose(cell.option_logits, logits[letters], atol=1e-4, rtol=1e-5)


def test_the_published_setting_leaves_270_tokens_on_average():
    stages = get("pyramiddrop").stages(8, 288, {})
    assert stages == tuple(Stage("pyramiddrop_stage", at, rank) for at, rank in ((8, 288), (16, 144), (24, 72)))
    assert sum(visual_by_layer(32, 576, [(stage.layer, stage.rank) for stage in stages])) / 32 == 270
    assert own_positions(get("pyramiddrop"), 8, 288, {}) == ("compact",)
    assert [stage.rank for stage in get("pyramiddrop").stages(8, 99, {})] == [99, 49, 24]


def test_what_it_looks_at_is_counted():
    """Keys of all tokens that there still are, one query, one row of scores; each time, as the authors do it."""
    heads, width = {"heads": 32, "kv_heads": 8, "head_dim": 128}, {"hidden": 4096, "ffn": 11008, "vocab": 32000}
    image = {"image_size": 336, "patch_size": 14, "visual_tokens": 576}
    config = ModelConfig(layers=32, **heads, **width, **image, parameters=0)
    point = GridPoint(strategy="pyramiddrop", layer=8, rank=288, params=tuple(get("pyramiddrop").params.items()))
    table = count_costs([point], config, "bfloat16", np.array([[700], [576], [80], [-1], [1]]))
    lengths = [700, 700 - 288, 700 - 288 - 144]
    expected = sum(2 * 4096 * (n * 8 * 128 + 32 * 128) + 2 * 32 * 128 * n for n in lengths)
    assert table["selector_tflop"][0] == pytest.approx(expected / 1e12, rel=1e-12)
    assert words(get("pyramiddrop_stage").needs) == PROVIDERS["row_ahead"].words
