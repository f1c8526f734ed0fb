"""Evidence of a vision tower against what transformers' own CLIP hands out, of one square and of several tiles."""

from __future__ import annotations

import json

import pytest
import torch

import checkpoint_forms as forms
from orchestrator.sweep.mistakes import SpecError
from orchestrator.sweep.spec import load_sweep
from small_clip import make_clip
from small_llava import make_checkpoint
from strategies import evidence as names
from strategies import several
from strategies.catalog import CATALOG, Strategy
from strategies.errors import UsageError
from test_workers_cost import SEVEN_B
from test_workers_engine import make_engine
from workers import sites
from workers.encoding import encode_sample
from workers.evidence import provider_of
from workers.families.llava.tower import ClipTower
from workers.runnable import Facts, complaint
from workers.work import GridPoint, ModelSpec, WorkUnit

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
TOWER_METHODS = sorted(name for name, one in CATALOG.items() if one.layers == "input" and one.schedule is None)


@pytest.fixture(scope="module")
def engine(tmp_path_factory, small_scienceqa):
    return make_engine(make_checkpoint(tmp_path_factory.mktemp("llava"), seed=11, layers=2), small_scienceqa)


@pytest.fixture(scope="module")
def run(engine):
    """The small LLaVA's tower on two images, whole matrices and hidden states, and the same as a ``Tower``."""
    module = engine.model.module
    images = [
        encode_sample(engine.model, engine.samples[id], engine.spec.task, "pad").pixels[0].values for id in ("1", "3")
    ]
    tower = module.model.vision_tower
    tower.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = tower(torch.stack(images), output_attentions=True, output_hidden_states=True)
    finally:
        tower.set_attn_implementation("sdpa")
    return out, ClipTower(module, out.hidden_states)


def read(tower, name: str) -> torch.Tensor:
    with torch.no_grad():
        return provider_of(name).give(tower)


@pytest.mark.parametrize(("layer", "index"), [("", -2), ("@-1", -1), ("@0", 0), ("@8/24", 0), ("@20/24", 1)])
def test_attention_of_any_layer(run, layer, index):
    out, tower = run
    whole_NHSS = out.attentions[index]
    close = torch.testing.assert_close
    close(read(tower, names.CLASS_ATTENTION + layer), whole_NHSS[:, :, 0, 1:].transpose(1, 2), **CLOSE)
    close(read(tower, names.TOWER_ATTENTION + layer), whole_NHSS[:, :, 1:].transpose(1, 2), **CLOSE)
    close(read(tower, names.RECEIVED_ATTENTION + layer), whole_NHSS.mean(dim=2)[:, :, 1:].transpose(1, 2), **CLOSE)


def test_received_attention_is_the_same_in_pieces(run, monkeypatch):
    _, tower = run
    whole = read(tower, names.RECEIVED_ATTENTION)
    monkeypatch.setattr(sites, "ATTENTION_VALUES", 2 * 2 * 17 * 5)  # five queries at a time
    torch.testing.assert_close(read(tower, names.RECEIVED_ATTENTION), whole, **CLOSE)


def test_joined_attention_takes_all_heads_as_one(run):
    """softmax(q k' / sqrt(C)) with the heads side by side, q not scaled before."""
    out, tower = run
    layer = tower._layers[-1]
    with torch.no_grad():
        entered = layer.layer_norm1(out.hidden_states[-2])
        query, key = layer.self_attn.q_proj(entered)[:, :1], layer.self_attn.k_proj(entered)
    expected = (query @ key.transpose(1, 2) * 16**-0.5).softmax(dim=-1)[:, 0, 1:]
    torch.testing.assert_close(read(tower, f"{names.JOINED_CLASS_ATTENTION}@-1"), expected, **CLOSE)
    torch.testing.assert_close(read(tower, f"{names.TOWER_KEYS}@-1").flatten(2), key[:, 1:], **CLOSE)


def test_states_and_features(run):
    out, tower = run
    assert torch.equal(read(tower, f"{names.TOWER_STATES}@0"), out.hidden_states[0][:, 1:])
    assert torch.equal(read(tower, f"{names.TOWER_STATES}@-1"), out.hidden_states[-1][:, 1:])
    assert torch.equal(read(tower, names.TOWER_FEATURES), out.hidden_states[-2][:, 1:])
    classes = read(tower, names.CLASS_FEATURES)
    assert classes.shape == (2, 16, 16)
    assert torch.equal(classes, out.hidden_states[-2][:, :1].expand(-1, 16, -1))


def test_loadings_are_those_of_the_singular_vectors(run):
    """As torch.pca_lowrank's, without its draw: patches as variables, centred, the largest component first."""
    out, tower = run
    rows = out.hidden_states[-2][:, 1:].double().sigmoid()
    centred = (rows - rows.mean(dim=2, keepdim=True)).transpose(1, 2)  # channels x patches
    loading = torch.linalg.svd(centred, full_matrices=False).Vh.transpose(1, 2).abs()
    torch.testing.assert_close(read(tower, names.LOADINGS)[:, :, :5], loading[:, :, :5].float(), **CLOSE)


def test_places_are_row_by_row(run):
    place = read(run[1], names.PLACES)
    assert place[0, :6].tolist() == [[1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 1, 4], [1, 2, 1], [1, 2, 2]]
    assert place[1, -1].tolist() == [2, 4, 4]


@pytest.mark.parametrize("name", TOWER_METHODS)
def test_every_method_has_its_cost(name):
    """Of a 7B model's tower, in FLOPs that are known: below a hundredth of the prefill's 9 TFLOP."""
    flops = [provider_of(need).flop(SEVEN_B, 691, 576) for need in CATALOG[name].needs]
    assert 0 <= sum(flops) < 9e10


def test_a_layer_of_what_has_none_is_nobodys():
    assert provider_of("places@3") is None
    assert provider_of("last_row@3") is None
    assert provider_of("unheard") is None


@pytest.fixture(scope="module")
def tiled(tmp_path_factory, small_scienceqa):
    folder = forms.hugging_face_next(tmp_path_factory.mktemp("next") / "model")
    clip = make_clip(tmp_path_factory.mktemp("clip"), seed=2)
    model = ModelSpec(path=str(folder), image_mode="anyres", text_tower=str(clip))
    return make_engine(folder, small_scienceqa, model=model)


@pytest.mark.parametrize("name", [name for name in TOWER_METHODS if not CATALOG[name].grids])
def test_any_resolution_keeps_exactly_the_rank(tiled, name):
    ranks = (4, 9, 20)
    points = tuple(GridPoint(strategy=name, layer=0, rank=rank) for rank in ranks)
    outcome = tiled.run(WorkUnit(samples=("1", "3"), points=points))
    assert not outcome.failures
    kept = {(cell.sample, cell.point): cell.tokens_kept for cell in outcome.outcomes}
    assert kept == {(id, point.key): point.rank for id in ("1", "3") for point in points}


def test_what_needs_one_square_says_so_of_tiles(tiled):
    point = GridPoint(strategy="pool", layer=0, rank=4)
    with pytest.raises(UsageError, match="pool makes one square of tokens coarser, and this model's images are none"):
        tiled.run(WorkUnit(samples=("1",), points=(point,)))


@pytest.mark.parametrize("name", ["fastervlm", "vispruner", "cdpruner", "trim", "scope", "hiprune"])
def test_the_ends_of_rows_go_first(tiled, name):
    """No patch stands behind them, so that no patch may give way to one."""
    prompt = encode_sample(tiled.model, tiled.samples["3"], tiled.spec.task, "anyres")
    (seen,) = tiled.model.see([prompt], {"places": provider_of("places").give})
    ends = (seen.evidence["places"][:, 0] == 0).nonzero()[:, 0].tolist()
    assert ends
    point = GridPoint(strategy=name, layer=0, rank=prompt.visual - len(ends))
    (cell,) = tiled.run(WorkUnit(samples=("3",), points=(point,))).outcomes
    bits = "".join(f"{byte:08b}" for byte in cell.kept_mask)
    assert [place for place in ends if bits[place] == "1"] == []


def test_a_tower_without_a_class_token_is_named_before_the_run(engine, tmp_path, small_scienceqa, monkeypatch):
    said = "reads the attention of the vision tower's class token, and this model's tower has no class token; take"
    assert complaint(CATALOG["fastervlm"], {}, Facts(class_token=False), layer=0, rank=4).startswith(
        f"fastervlm {said}"
    )
    assert "no class token" in complaint(CATALOG["vscan"], {}, Facts(class_token=False), layer=0, rank=40)
    assert complaint(CATALOG["hiprune"], {}, Facts(class_token=False), layer=0, rank=4) is None
    assert complaint(CATALOG["divprune"], {}, Facts(class_token=False), layer=0, rank=4) is None
    folder = make_checkpoint(tmp_path / "siglip", layers=2)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["model_type"] = "siglip_vision_model"
    (folder / "config.json").write_text(json.dumps(config))
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(f"model: {folder}\ndata: {small_scienceqa}\ngrid:\n- {{strategy: fastervlm, layer: 0, rank: 4}}\n")
    with pytest.raises(SpecError, match=said) as raised:
        load_sweep(sweep)
    weights, grid = str(raised.value).splitlines()  # CLIP's, in place of SigLIP's
    assert "model: " in weights
    assert f"grid[0]: fastervlm {said}" in grid


@pytest.mark.parametrize(("name", "rank"), [("trim", 1), ("prumerge", 1), ("prumerge_plus", 1), ("prunesid", 3)])
def test_a_rank_below_the_least_is_named(engine, tmp_path, small_checkpoint, small_scienceqa, name, rank):
    said = f"rank: {rank} is below the {rank + 1} rows that {name} keeps at least; give more, or 0"
    assert CATALOG[name].check({}, layer=0, rank=rank) == said
    assert CATALOG[name].check({}, layer=0, rank=rank + 1) is None
    assert CATALOG[name].check({}, layer=0, rank=0) is None
    with pytest.raises(UsageError, match=said):
        engine.run(WorkUnit(samples=("1",), points=(GridPoint(strategy=name, layer=0, rank=rank),)))
    sweep, clip = tmp_path / "sweep.yaml", make_clip(tmp_path / "clip")
    grid = f"- {{strategy: {name}, layer: 0, rank: {rank}}}"
    sweep.write_text(
        f"model: {{path: {small_checkpoint}, text_tower: {clip}}}\ndata: {small_scienceqa}\ngrid:\n{grid}\n"
    )
    with pytest.raises(SpecError, match=rf"grid\[0\].rank: {rank} is below the {rank + 1} rows"):
        load_sweep(sweep)


def test_rows_of_the_images_of_a_micro_batch_are_made_at_once(engine, monkeypatch):
    """And what was read of the images is looked through for NaN once, for all strategies and grid points."""
    monkeypatch.setattr(engine, "micro_batch", 2)
    made, looked = [], []
    goes_on, without_nan = Strategy.goes_on, several.without_nan

    def seen(strategy, views, kept_BK, params):
        made.append((strategy.name, tuple(kept_BK.shape)))
        return goes_on(strategy, views, kept_BK, params)

    monkeypatch.setattr(Strategy, "goes_on", seen)
    for module in (names, several):
        monkeypatch.setattr(module, "without_nan", lambda rows, what: looked.append(what) or without_nan(rows, what))
    own = ("visionzip", "prumerge", "prunesid")  # make rows
    points = tuple(GridPoint(strategy=name, layer=0, rank=rank) for name in (*own, "hiprune") for rank in (6, 9))
    assert not engine.run(WorkUnit(samples=("1", "3"), points=points)).failures
    assert sorted(made) == sorted((name, (2, rank)) for name in own for rank in (6, 9))
    assert looked == []
