"""Evidence from anywhere in the model: one provider, and a line in a strategy, serve the engine and the patch alike."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaModel

import checkpoint_forms as forms
from admitted import admitted
from measured_experiment import write_measured
from orchestrator.sweep.chosen_by import chosen_by
from results.analysis.costs import costs
from small_llava import make_checkpoint
from strategies import catalog
from strategies.catalog import CATALOG, Strategy
from strategies.decoder_evidence import LAYER_KEYS, NORMED_STATES, STATES_BEFORE
from strategies.evidence import (
    CLASS_ATTENTION,
    CLASS_FEATURES,
    LOADINGS,
    PLACES,
    RECEIVED_ATTENTION,
    TOWER_FEATURES,
    TOWER_STATES,
    EvidenceView,
)
from strategies.stages import Stage
from strategies.view import Evidence
from test_workers_cost import SEVEN_B
from test_workers_engine import make_engine
from test_workers_patch import LOGIT_TOLERANCE, TEXT_ONLY, assert_equals_engine, batch_inputs
from tower_evidence import tower_evidence
from workers.attention import causal_mask
from workers.decoder import Decoder
from workers.encoding import encode_sample
from workers.evidence import (
    PROVIDERS,
    needed,
    provider_of,
    scratch,
    view,
    words,
)
from workers.families.config import ModelConfig
from workers.families.model import Encoded, ImageSpan
from workers.packed_layer import LayerAhead, LayerRead, PackedLayer
from workers.patch import pruned
from workers.provider import Provider
from workers.runnable import complaint
from workers.sequences import Packing, new_trunk
from workers.sites import DecoderLayer, InputRows, Site, Tower
from workers.trunks import make_trunks, pack_trunks
from workers.work import GridPoint, ModelSpec, WorkUnit, unpruned_point


def some_states(tower: Tower) -> torch.Tensor:
    return tower.hidden(1)[:, tower.given].norm(dim=-1)


def some_keys(tower: Tower) -> torch.Tensor:
    return tower.keys(-1)[:, tower.given].flatten(2).norm(dim=-1)


def likeness(rows: InputRows) -> torch.Tensor:
    """Of each visual token to the first and the last token after the image, so that both ends count."""
    return rows.visual_VD @ (rows.text_TD[0] + rows.text_TD[-1])


def first_numbers(rows: InputRows) -> torch.Tensor:
    """A view of the rows, which the first layer must not write over; and no sample without an image is asked for it."""
    assert len(rows.visual_VD)
    return rows.visual_VD[:, 0]


def state_norm(layer: DecoderLayer) -> torch.Tensor:
    return layer.visual_hidden().norm(dim=-1) + layer.text_hidden().mean()


def key_norm(layer: DecoderLayer) -> torch.Tensor:
    return layer.keys()[layer.system : layer.system + layer.visual].flatten(1).norm(dim=-1)


MADE_UP = {
    "some_states": (Site.TOWER, some_states),
    "some_keys": (Site.TOWER, some_keys),
    "likeness": (Site.INPUT, likeness),
    "first_numbers": (Site.INPUT, first_numbers),
    "state_norm": (Site.DECODER, state_norm),
    "key_norm": (Site.DECODER, key_norm),
}
READS = {**{name: frozenset({name}) for name in MADE_UP}, "class_mean": frozenset({CLASS_ATTENTION, TOWER_FEATURES})}


def by(name: str):
    """A strategy's function that scores by one evidence alone."""
    return lambda view: view.read(name)


def class_mean(view: EvidenceView) -> torch.Tensor:
    return view.read(CLASS_ATTENTION).mean(dim=1) + 0 * view.read(TOWER_FEATURES).float().mean(dim=1)


@pytest.fixture(scope="module")
def made_up():
    """Providers and strategies as a contributor would add them, and methods of two stages that end with each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, (site, give) in MADE_UP.items():
            provider = Provider(
                name=name, site=site, give=give, words=name, flop=lambda *_: 0, layer_before=name == "key_norm"
            )
            patch.setitem(PROVIDERS, name, provider)
        for name, needs in READS.items():
            score = class_mean if name == "class_mean" else by(name)
            patch.setitem(CATALOG, name, Strategy(name=name, score=score, needs=needs, source="test"))

            def twice(layer: int, rank: int, name: str = name) -> tuple[Stage, ...]:
                return Stage("random", layer, rank), Stage(name, layer + 1, rank - 3)

            patch.setitem(CATALOG, f"later_{name}", Strategy(name=f"later_{name}", schedule=twice, source="test"))
        yield


@pytest.fixture(scope="module")
def engine(tmp_path_factory, small_scienceqa, made_up):
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("evidence"), seed=3, layers=3, end_bias=-0.9)
    made = make_engine(checkpoint, small_scienceqa, max_new_tokens=3)
    made.micro_batch = 3
    return made


def points() -> list[GridPoint]:
    once = [
        GridPoint(strategy=name, layer=layer, rank=6)
        for name in READS
        for layer in (0, 2)
        if complaint(CATALOG[name], {}, layer=layer) is None
    ]
    return once + [GridPoint(strategy=f"later_{name}", layer=1, rank=9) for name in READS]


@pytest.mark.parametrize("ids", [["3"], ["3", TEXT_ONLY, "2"]], ids=["alone", "padded"])
def test_one_provider_serves_engine_and_patch(engine, ids):
    assert len(points()) == 2 * len(READS) - 1 + len(READS)
    assert_equals_engine(engine, ids, points())


def test_other_evidence_keeps_other_tokens(engine):
    """Or the equality above would say nothing."""
    once = tuple(GridPoint(strategy=name, layer=2, rank=6) for name in READS)
    masks = {cell.kept_mask for cell in engine.run(WorkUnit(samples=("3",), points=once)).outcomes}
    assert len(masks) == len(READS)


def test_right_padding_and_beams_share_the_image(engine):
    module = engine.model.module
    ids, names = ["2", TEXT_ONLY, "3"], ("some_states", "likeness")
    grid = tuple(GridPoint(strategy=name, layer=1, rank=4) for name in names)
    cells = {(cell.sample, cell.point): cell for cell in engine.run(WorkUnit(samples=tuple(ids), points=grid)).outcomes}
    for point in grid:
        with torch.no_grad(), pruned(module, point.strategy, 1, 4) as report:
            module(**batch_inputs(engine, ids, side="right", extra=3))
            right = [kept.tolist() for kept in report.kept]
            single = batch_inputs(engine, ["3"])
            module.generate(**single, num_beams=2, do_sample=False, max_new_tokens=1, pad_token_id=0)
            beams = [kept.tolist() for kept in report.kept]
        assert right == [kept(cells[id, point.key]) for id in ids]
        assert beams == [right[2]] * len(beams)


def test_image_tokens_without_an_image_are_named(engine):
    inputs = batch_inputs(engine, ["3"])
    del inputs["pixel_values"]
    with (
        pruned(engine.model.module, "class_mean", 1, 4),
        pytest.raises(ValueError, match="without pixel_values, whose"),
    ):
        engine.model.module(**inputs)


def kept(cell) -> list[int]:
    return np.flatnonzero(np.unpackbits(np.frombuffer(cell.kept_mask, np.uint8))[: cell.visual_tokens]).tolist()


def test_class_attention_is_that_of_the_tower(engine):
    """Against what transformers itself hands out under eager attention, where it keeps whole matrices."""
    module, prompts = engine.model.module, []
    for id in ("1", TEXT_ONLY, "2"):
        prompts.append(encode_sample(engine.model, engine.samples[id], engine.spec.task, "pad"))
    readers = {name: PROVIDERS[name].give for name in (CLASS_ATTENTION, TOWER_FEATURES)}
    first, text, second = engine.model.see(prompts, readers)
    assert text is None
    tower = module.model.vision_tower
    tower.set_attn_implementation("eager")
    try:
        pixels = torch.stack([prompts[0].pixels[0].values, prompts[2].pixels[0].values])
        out = tower(pixels, output_attentions=True, output_hidden_states=True)
    finally:
        tower.set_attn_implementation("sdpa")
    for image, theirs_HSS, state_SC in zip((first, second), out.attentions[-2], out.hidden_states[-2], strict=True):
        torch.testing.assert_close(image.evidence[CLASS_ATTENTION], theirs_HSS[:, 0, 1:].T, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(image.evidence[TOWER_FEATURES], state_SC[1:], **LOGIT_TOLERANCE)
        projected = module.model.multi_modal_projector(image.evidence[TOWER_FEATURES])
        torch.testing.assert_close(projected, image.features_VD, **LOGIT_TOLERANCE)
    point = GridPoint(strategy="class_mean", layer=1, rank=5)
    (cell,) = engine.run(WorkUnit(samples=("1",), points=(point,))).outcomes
    assert kept(cell) == sorted(out.attentions[-2][0, :, 0, 1:].mean(dim=0).topk(5).indices.tolist())


def test_tiles_are_put_together_as_their_features_are(tmp_path, small_scienceqa, made_up):
    engine = make_engine(
        forms.hugging_face_next(tmp_path / "next"),
        small_scienceqa,
        model=ModelSpec(path=str(tmp_path / "next"), image_mode="anyres"),
    )
    prompts = [
        encode_sample(engine.model, engine.samples[id], engine.spec.task, "anyres") for id in ("1", TEXT_ONLY, "3")
    ]
    readers = {name: PROVIDERS[name].give for name in (TOWER_FEATURES, "some_keys")}
    module = engine.model.module.model
    for prompt, image in zip(prompts, engine.model.see(prompts, readers), strict=True):
        if image is None:
            assert not prompt.images
            continue
        assert image.evidence["some_keys"].shape == (prompt.visual,)
        ends_V = (image.features_VD == module.image_newline).all(dim=1)
        assert ends_V.any()
        assert not image.evidence["some_keys"][ends_V].any()
        projected = module.multi_modal_projector(image.evidence[TOWER_FEATURES])
        torch.testing.assert_close(projected[~ends_V], image.features_VD[~ends_V], **LOGIT_TOLERANCE)
    point = GridPoint(strategy="class_mean", layer=1, rank=7)
    (cell,) = engine.run(WorkUnit(samples=("3",), points=(point,))).outcomes
    assert len(kept(cell)) == 7


def test_nothing_is_computed_that_no_point_reads(engine, monkeypatch):
    asked, counts = [], dict.fromkeys(PROVIDERS, 0)
    features = engine.model.module.model.get_image_features

    def seen(**how):
        asked.append("output_hidden_states" in how)
        return features(**how)

    monkeypatch.setattr(engine.model.module.model, "get_image_features", seen)
    for name, provider in list(PROVIDERS.items()):

        def give(site, name=name, give=provider.give):
            counts[name] += 1
            return give(site)

        monkeypatch.setitem(PROVIDERS, name, replace(provider, give=give))
    blind = (unpruned_point(3, 16), GridPoint(strategy="random", layer=1, rank=4))
    engine.run(WorkUnit(samples=("1", "2"), points=blind))
    assert (asked, set(counts.values())) == ([False], {0})
    reading = tuple(GridPoint(strategy="class_mean", layer=layer, rank=rank) for layer in (0, 1, 2) for rank in (3, 8))
    engine.run(WorkUnit(samples=("1", "2"), points=(*reading, GridPoint(strategy="fastv", layer=1, rank=4))))
    assert asked == [False, True]
    # Of the tower once for all images of a batch, of a layer once for each sample.
    assert {name: n for name, n in counts.items() if n} == {CLASS_ATTENTION: 1, TOWER_FEATURES: 1, Evidence.LAST_ROW: 2}


def test_needs_are_those_of_all_stages():
    himap = GridPoint(strategy="himap", layer=2, rank=100)
    assert needed([unpruned_point(3, 16), himap]) == {Evidence.TEXT_ROWS, Evidence.VISUAL_ROWS}
    assert needed([unpruned_point(3, 16)]) == frozenset()


def test_last_rows_may_reach_back_to_what_samples_share():
    """One token after one visual token: the last five rows are the shared prefix's too, which lies further ahead."""
    prompts = [Encoded.in_order((1, 2, 3, 4, 9, last), (ImageSpan(4, 1),)) for last in (5, 6)]
    first, second = trunks = make_trunks(prompts)
    packing, generator = pack_trunks(trunks), torch.Generator().manual_seed(0)
    query_RHE, key_RGE = (torch.randn(8, heads, 4, generator=generator) for heads in (2, 1))
    for trunk, rows in ((first, [0, 1, 2, 3, 4, 5]), (second, [0, 1, 2, 3, 6, 7])):
        layer = PackedLayer(trunk, packing, torch.zeros(8, 8), LayerRead(packing, query_RHE, key_RGE, 0.5))
        scores_HQS = torch.einsum("qhe,she->hqs", query_RHE[rows], key_RGE[rows].expand(-1, 2, -1)) * 0.5
        whole_HQS = scores_HQS.masked_fill(~causal_mask(6, 6, scores_HQS.device), -torch.inf).softmax(dim=-1)
        torch.testing.assert_close(layer.last_rows(5), whole_HQS[:, 1:])
        torch.testing.assert_close(layer.last_rows(2), whole_HQS[:, 4:])


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_what_reads_the_layer_before_begins_after_one(name):
    """No draw at random under a method's name; a method of several stages counts by its first."""
    strategy, params = CATALOG[name], {"ablation": {"heads_kept": 2}, "fitprune": {"left": "9"}}.get(name, {})
    needs = catalog.get(strategy.stages(0, 300, params)[0].strategy).needs
    reads, before = words(needs), any(provider_of(need).layer_before for need in needs)
    assert before or "attention" not in reads or "comes next" in reads or strategy.layers == "input"
    if before:
        said = f"layer: {name} reads {reads}, which there is from layer 1 on; at layer 0 take `random`"
        assert complaint(strategy, params, layer=0, rank=300) == said
        assert complaint(strategy, params, layer=1, rank=300) is None
    else:
        assert complaint(strategy, params, layer=0, rank=300) is None


def test_evidence_that_nobody_provides_is_named(engine, monkeypatch):
    strategy = Strategy(name="far", score=by("saliency"), needs=frozenset({"saliency"}), source="test")
    monkeypatch.setitem(CATALOG, "far", strategy)
    said = "strategy 'far' reads 'saliency', which nothing provides"
    with pytest.raises(ValueError, match=said):
        engine.run(WorkUnit(samples=("1",), points=(GridPoint(strategy="far", layer=1, rank=4),)))
    with pytest.raises(ValueError, match=said), pruned(engine.model.module, "far", 1, 4):
        pass


def test_what_was_not_declared_is_not_there(engine, monkeypatch):
    monkeypatch.setitem(CATALOG, "sly", Strategy(name="sly", score=by(CLASS_ATTENTION), source="test"))
    point = GridPoint(strategy="sly", layer=1, rank=4)
    (failure,) = engine.run(WorkUnit(samples=("1",), points=(point,))).failures
    assert failure.message == "the strategy reads class_attention but did not declare it"


def test_every_provider_has_its_words_and_its_cost():
    for name, provider in PROVIDERS.items():
        if name in MADE_UP:
            continue
        assert provider.name == name
        assert provider.words
        flop = provider.flop(SEVEN_B, 691, 576)
        flop += provider.text_flop(SEVEN_B, 691, 576, 80) if provider.text_flop else 0
        there_already = {
            Evidence.HIDDEN,
            TOWER_FEATURES,
            TOWER_STATES,
            CLASS_FEATURES,
            PLACES,
            LAYER_KEYS,
            NORMED_STATES,
            STATES_BEFORE,
            Evidence.TEXT_TO_TEXT,
        }
        assert flop != 0 or name in there_already
    assert PROVIDERS.keys() >= set(Evidence)
    # The keys of 577 rows and one query again, and one row of scores.
    assert PROVIDERS[CLASS_ATTENTION].flop(SEVEN_B, 691, 576) == 2 * 578 * 1024**2 + 2 * 577 * 1024
    assert math.isnan(PROVIDERS[CLASS_ATTENTION].flop(replace(SEVEN_B, vision=None), 691, 576))
    # Queries and keys of 577 rows again, and all their scores; products of the patches' features, and their spectrum.
    assert PROVIDERS[RECEIVED_ATTENTION].flop(SEVEN_B, 691, 576) == 2 * 577 * 2 * 1024**2 + 2 * 577**2 * 1024
    assert PROVIDERS[LOADINGS].flop(SEVEN_B, 691, 576) == 2 * 576**2 * 1024 + 9 * 576**3


def test_costs_and_captions_read_the_table(tmp_path, made_up, monkeypatch):
    monkeypatch.setitem(PROVIDERS, "some_states", replace(PROVIDERS["some_states"], flop=lambda *_: 7e12))
    spent = {"state_norm": lambda config, tokens, visual: 1e12 * tokens + visual * 1e9}
    monkeypatch.setitem(PROVIDERS, "state_norm", replace(PROVIDERS["state_norm"], flop=spent["state_norm"]))
    both = frozenset({"some_states", "state_norm"})
    monkeypatch.setitem(CATALOG, "both", Strategy(name="both", score=by("state_norm"), needs=both, source="test"))

    def again(layer: int, rank: int) -> tuple[Stage, ...]:
        return Stage("both", layer, rank), Stage("both", layer + 1, 4)

    monkeypatch.setitem(CATALOG, "again", Strategy(name="again", schedule=again, source="test"))
    grid = [GridPoint(strategy=name, layer=2, rank=16) for name in ("both", "again")]
    table = costs(write_measured(tmp_path / "x", tuple(grid), samples=10))
    assert isinstance(table, pd.DataFrame)
    visual, others = 64, 40
    first = 7 + visual + others + visual / 1000
    assert table["selector_tflop"].tolist() == pytest.approx([0, first, first + 16 + others + 16 / 1000])
    assert chosen_by(grid[0]) == "chosen by some_states and state_norm"


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, while they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in args if isinstance(one, torch.Tensor)}
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor) and (place := one.untyped_storage().data_ptr()) not in given:
                self._alive[place] = (StorageWeakRef(one.untyped_storage()), one.untyped_storage().nbytes())
        self._alive = {place: known for place, known in self._alive.items() if not known[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self._alive.values()))
        return made


def one_layer(config: ModelConfig) -> Decoder:
    text = LlamaConfig(
        num_hidden_layers=1,
        hidden_size=config.hidden,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.hidden,
        vocab_size=8,
    )
    return Decoder(LlamaModel(text).bfloat16().requires_grad_(False), torch.nn.Identity())


READERS = sorted(name for name, one in CATALOG.items() if any(provider_of(need).scratch for need in one.needs))


@pytest.mark.parametrize("name", READERS)
def test_the_plan_bounds_what_a_strategy_takes_to_choose(name):
    """Of one sequence of a half-precision model; and it is no more than some times that."""
    strategy = CATALOG[name]
    trunk = new_trunk(0, None, 196, torch.arange(256)[None], 256)
    packing, draw = Packing([trunk]), torch.Generator().manual_seed(0)
    hidden_RD, query_RHE, key_RGE = (
        torch.randn(256, *size, generator=draw).bfloat16() for size in ((256,), (8, 32), (4, 32))
    )
    config = replace(SEVEN_B, heads=8, kv_heads=4, head_dim=32, hidden=256)
    planned = scratch(strategy.needs, config, trunk.length, trunk.visual)
    ahead = LayerAhead(one_layer(config), 0, packing, hidden_RD, lambda: None)
    of_image = {need for need in strategy.needs if provider_of(need).site is not Site.DECODER}
    tower = tower_evidence(of_image, trunk.visual, width=config.hidden, text=trunk.text)
    before = LayerRead(packing, query_RHE, key_RGE, 32**-0.5, hidden_RD.flip(dims=(0,)))
    with Peak() as peak:
        place = PackedLayer(trunk, packing, hidden_RD, before, ahead)
        seen = view(strategy.needs, place, tower, 1, hidden_RD.device, lambda features_KC: features_KC)
        params = {**strategy.params, "heads_kept": 3} if name == "ablation" else strategy.params
        (kept_K,) = strategy.choose(seen, [strategy.fixed_rank or admitted(strategy, 50, 196)], params)
        if strategy.merge is not None:
            strategy.merge(place.visual_hidden(), kept_K)
        if strategy.rows is not None:
            strategy.rows([seen], kept_K[None], **strategy.params)
    assert planned / (16 if tower else 4) < peak.bytes <= planned
