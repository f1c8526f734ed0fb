"""Decoder layers in host memory: the same answers, each layer copied when it is its turn, and how many are away."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from small_llava import make_checkpoint
from test_workers_engine import assert_equals_naive, make_engine
from test_workers_waves import GRID, LLAVA_7B, ONE_FORK
from workers.families.config import ModelError
from workers.memory import free_bytes, layer_bytes, layers_away, resident_bytes, weight_bytes
from workers.offload import Layers, spread
from workers.work import GridPoint, ModelSpec, WorkUnit

LAYERS = 4
GIB = 1 << 30


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("offload"), seed=5, layers=LAYERS)


def offloaded(checkpoint, data, away: int, **changes):
    return make_engine(checkpoint, data, model=ModelSpec(path=str(checkpoint), offload=away), **changes)


@pytest.mark.parametrize("away", [1, 2, 3, LAYERS])
def test_layers_in_host_memory_change_no_bit(checkpoint, small_scienceqa, away):
    stages = (("second_layer", 2), ("third_layer", 3))  # each asks for a layer before it is its turn
    ahead = GridPoint(strategy="pyramiddrop", layer=1, rank=8, params=stages)
    unit = WorkUnit(samples=("1", "2", "6"), points=(*GRID, ahead))
    here, there = make_engine(checkpoint, small_scienceqa), offloaded(checkpoint, small_scienceqa, away)
    assert there.model.decoder.layers.away == away
    for budget in (None, ONE_FORK):
        here.budget = there.budget = budget
        assert there.run(unit).outcomes == here.run(unit).outcomes


def test_layers_in_host_memory_equal_naive(checkpoint, small_scienceqa):
    """The naive forward runs transformers' own layers, whose weights lie where the loader put them."""
    assert_equals_naive(offloaded(checkpoint, small_scienceqa, 3), ["1", "6"], GRID[:6])


@pytest.mark.parametrize("text_model", ["qwen2", "mistral"])
def test_biases_and_grouped_heads_come_along(tmp_path, small_scienceqa, text_model):
    checkpoint = make_checkpoint(tmp_path, seed=7, layers=3, heads=8, kv_heads=2, side=3, text_model=text_model)
    points = (GridPoint(strategy="fastv", layer=1, rank=4), GridPoint(strategy="random", layer=0, rank=3))
    unit = WorkUnit(samples=("1", "2"), points=points)
    expected = make_engine(checkpoint, small_scienceqa).run(unit).outcomes
    assert offloaded(checkpoint, small_scienceqa, 3).run(unit).outcomes == expected


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_order_finds_the_weights_of_the_layer_that_is_asked_for(data):
    """Waves begin at any layer; what is copied ahead may be the wrong one."""
    count = data.draw(st.integers(1, 6))
    away = data.draw(st.sets(st.integers(0, count - 1)))
    modules = [_layer(number) for number in range(count)]
    layers = Layers(modules, away, torch.device("cpu"))
    assert (len(layers), layers.away) == (count, len(away))
    for layer in data.draw(st.lists(st.integers(0, count - 1), max_size=20)):
        fused = layers[layer]
        assert fused.kv.unique().tolist() == [layer]
        assert fused.gate_up.unique().tolist() == [layer]
        assert fused.module.mlp.down_proj.weight.unique().tolist() == [layer]


def test_in_order_each_layer_is_copied_once_a_pass(monkeypatch):
    copied: list[int] = []
    copy = Layers._copy
    monkeypatch.setattr(Layers, "_copy", lambda self, layer, buffer: (copied.append(layer), copy(self, layer, buffer)))
    layers = Layers([_layer(number) for number in range(6)], {1, 3, 5}, torch.device("cpu"))
    for _ in range(3):
        for layer in range(6):
            for _ in range(4):  # norm, queries, keys, feed-forward
                _ = layers[layer]
    assert copied == [1, 3, 5] * 3 + [1]  # the last is ahead of a pass that does not come


def _layer(value: float) -> torch.nn.Module:
    module = torch.nn.Module()
    module.self_attn, module.mlp = torch.nn.Module(), torch.nn.Module()
    for part, names in ((module.self_attn, "q k v o"), (module.mlp, "gate up down")):
        for name in names.split():
            linear = torch.nn.Linear(4, 4, bias=name == "k" or name == "v")
            for parameter in linear.parameters():
                parameter.requires_grad_(False)
                parameter.fill_(value)
            part.add_module(f"{name}_proj", linear)
    return module


@pytest.mark.parametrize("layers", [1, 7, 32, 80])
def test_layers_that_are_away_are_spread(layers):
    for away in range(layers + 1):
        chosen = spread(away, layers)
        assert len(chosen) == away
        assert chosen <= set(range(layers))
        if away > 1:
            gaps = [after - before for before, after in zip(sorted(chosen), sorted(chosen)[1:], strict=False)]
            assert max(gaps) - min(gaps) <= 1


def test_how_many_layers_are_away():
    def away(gib: float, offload: int | str = "auto") -> int:
        return layers_away(LLAVA_7B, 2, offload, int(gib * GIB))

    assert away(24) == away(16) == away(24, "never") == away(8, "never") == 0
    assert away(24, 5) == 5
    found = [away(gib) for gib in (14, 12, 10, 8, 4)]
    assert found == sorted(found)
    assert found[0] > 0
    for gib, count in zip((14, 12, 10, 8, 4), found, strict=True):
        assert resident_bytes(LLAVA_7B, 2, count) < 0.65 * gib * GIB
        assert resident_bytes(LLAVA_7B, 2, count - 1) + layer_bytes(LLAVA_7B, 2) > 0.6 * gib * GIB - 600 * 2**20
    assert resident_bytes(LLAVA_7B, 2, 0) == weight_bytes(LLAVA_7B, 2)
    with pytest.raises(ModelError, match=r"a GPU of 2 GiB is too small .* that needs 3\.8 GiB; take a larger card"):
        away(2)
    with pytest.raises(ModelError, match=r"model.offload: 33 is outside 0..32, the model's decoder layers"):
        away(24, 33)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_the_memory_of_a_card_is_found_with_and_without_its_number(monkeypatch, device):
    """PyTorch's share of a process takes a number only."""
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * GIB)
    monkeypatch.setattr("workers.memory._read_share", lambda index: asked.append(index) or 0.5)
    assert free_bytes(torch.device(device)) == 12 * GIB
    assert asked == [1 if device == "cuda:1" else 0]
