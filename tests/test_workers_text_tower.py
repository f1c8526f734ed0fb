"""CLIP's text tower beside a LLaVA: against transformers' own CLIP, and what is said where it cannot be used."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from orchestrator.sweep.mistakes import SpecError
from orchestrator.sweep.spec import load_sweep
from small_clip import LONGEST, make_clip
from small_llava import make_checkpoint
from strategies.catalog import CATALOG, Strategy
from strategies.errors import UsageError
from test_workers_engine import assert_equals_naive, make_engine
from workers.encoding import encode_sample, question_of
from workers.evidence import provider_of
from workers.families.catalog import open_checkpoint
from workers.families.config import ModelError
from workers.fingerprint import model_fingerprint
from workers.latency import measure_latency, prepare_prompts
from workers.patch import pruned
from workers.slow_path import slow_answer
from workers.tasks.base import Sample
from workers.text_tower import load_text_tower
from workers.work import GridPoint, ModelSpec, TaskSpec, WorkUnit

SHORT, LONG = "what colour is the shape ?", "which of these is red or green ? " * 3
POINTS = tuple(GridPoint(strategy=name, layer=0, rank=5) for name in ("cdpruner", "trim"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip"), seed=4)


@pytest.fixture(scope="module")
def tower(clip_folder):
    return load_text_tower(clip_folder, torch.float32, "cpu")


@pytest.fixture(scope="module")
def whole(clip_folder):
    return CLIPModel.from_pretrained(clip_folder).eval()


def own(whole, ids: list[list[int]]) -> torch.Tensor:
    found = whole.text_projection(whole.text_model(input_ids=torch.tensor(ids)).pooler_output)
    return found.detach()


def test_a_short_question_is_one_segment(clip_folder, tower, whole):
    (embedding,) = tower.embeddings([SHORT])
    ids = AutoTokenizer.from_pretrained(clip_folder)(SHORT)["input_ids"]
    assert len(ids) < LONGEST
    torch.testing.assert_close(embedding, own(whole, [ids, ids]), atol=1e-5, rtol=1e-5)


def test_a_long_question_is_cut_or_taken_in_segments(clip_folder, tower, whole):
    """The cut one keeps its end mark; of the segments only the last has one."""
    short, long = tower.embeddings([SHORT, LONG])
    ids = AutoTokenizer.from_pretrained(clip_folder)(LONG)["input_ids"]
    assert 2 * LONGEST < len(ids) < 3 * LONGEST
    cut = [*ids[: LONGEST - 1], ids[-1]]
    expected = own(whole, [cut, ids[:LONGEST], ids[LONGEST : 2 * LONGEST]])
    torch.testing.assert_close(long[:3], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(long[3:], own(whole, [ids[2 * LONGEST :]]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(short, tower.embeddings([SHORT])[0], atol=1e-5, rtol=1e-5)


def test_a_segment_without_an_end_says_nothing(tower):
    """It is pooled at its begin mark, which sees no word: the authors' form, and why the cut is the default."""
    first, other = tower.embeddings([LONG, "left of right . " * 9])
    torch.testing.assert_close(first[1], other[1])
    assert not torch.allclose(first[0], other[0])


def test_patches_come_into_the_same_space(tower, whole):
    states = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    expected = whole.visual_projection(whole.vision_model.post_layernorm(states)).detach()
    torch.testing.assert_close(tower.image_embeddings(states), expected)


@pytest.fixture(scope="module")
def engine(tmp_path_factory, small_scienceqa, clip_folder):
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("llava"), seed=5, layers=2)
    return make_engine(checkpoint, small_scienceqa, model=ModelSpec(path=str(checkpoint), text_tower=str(clip_folder)))


def test_it_is_loaded_only_if_a_point_reads_it(engine):
    engine.run(WorkUnit(samples=("1",), points=(GridPoint(strategy="fastervlm", layer=0, rank=5),)))
    assert engine.model.text_tower is None
    outcome = engine.run(WorkUnit(samples=("1", "6"), points=POINTS))
    assert not outcome.failures
    assert engine.model.text_tower is not None


def test_relevance_is_that_of_transformers_clip(engine, whole, clip_folder):
    """From pixels and words to the score, in the small LLaVA's own tower."""
    engine.run(WorkUnit(samples=("1",), points=POINTS))
    sample, module = engine.samples["1"], engine.model.module
    prompt = encode_sample(engine.model, sample, engine.spec.task, "pad")
    (seen,) = engine.model.see([prompt], {"image_embeddings": provider_of("image_embeddings").give})
    states = module.model.vision_tower(prompt.pixels[0].values[None], output_hidden_states=True).hidden_states[-2][
        :, 1:
    ]
    image = whole.visual_projection(whole.vision_model.post_layernorm(states))[0].detach()
    torch.testing.assert_close(seen.evidence["image_embeddings"], image, atol=1e-5, rtol=1e-5)
    ids = AutoTokenizer.from_pretrained(clip_folder)(prompt.question.whole, truncation=True, max_length=LONGEST)
    score = -image @ own(whole, [ids["input_ids"]])[0]
    (cell,) = (
        cell for cell in engine.run(WorkUnit(samples=("1",), points=POINTS)).outcomes if cell.point == POINTS[1].key
    )
    assert bytes(cell.kept_mask) == mask(score.topk(5).indices.tolist())


def mask(kept: list[int]) -> bytes:
    return bytes(sum(1 << (7 - i % 8) for i in kept if i // 8 == byte) for byte in range(2))


def test_another_question_keeps_other_tokens_of_the_same_image(engine):
    """And none of another question that goes through the model with it."""
    first = engine.samples["1"]
    engine.samples["other"] = replace(first, id="other", question="which shape is left of the green circle ?")
    engine.micro_batch = 3
    together = engine.run(WorkUnit(samples=("1", "6", "other"), points=POINTS)).outcomes
    kept = {(cell.sample, cell.point): cell.kept_mask for cell in together}
    for point in POINTS:
        assert kept["1", point.key] != kept["other", point.key]
        for id in ("1", "other"):
            (alone,) = engine.run(WorkUnit(samples=(id,), points=(point,))).outcomes
            assert alone.kept_mask == kept[id, point.key]


def test_rows_made_with_a_look_at_the_question_are_not_shared(engine, monkeypatch):
    """Two questions about one image keep the same tokens, and what stands in their place is each one's own."""

    def rows(views, kept_BK):
        own = zip(views, kept_BK, strict=True)
        return torch.stack([one.hidden_VD[kept_K] * one.read("prompt_embedding").sum() for one, kept_K in own])

    strategy = Strategy(
        name="told",
        select=lambda view, keep: torch.arange(keep),
        rows=rows,
        needs=frozenset({"hidden", "prompt_embedding"}),
        positions="compact",
        layers="input",
        source="test",
    )
    monkeypatch.setitem(CATALOG, "told", strategy)
    engine.samples["other"] = replace(engine.samples["1"], id="other", question="left of red ?")
    engine.micro_batch = 2
    point = GridPoint(strategy="told", layer=0, rank=5)
    first, other = engine.run(WorkUnit(samples=("1", "other"), points=(point,))).outcomes
    assert first.kept_mask == other.kept_mask
    assert_equals_naive(engine, ["1", "other"], [point])


def test_the_slow_path_and_latency_read_it_too(engine):
    """What `saccade compare` and `saccade latency` run: transformers' own forward, with the question beside it."""
    cells = {cell.point: cell for cell in engine.run(WorkUnit(samples=("1",), points=POINTS)).outcomes}
    for point in POINTS:
        slow = slow_answer(engine.model, engine.spec, engine.samples["1"], point, [])
        assert slow.kept_mask == cells[point.key].kept_mask
    prompts = prepare_prompts(engine.model, [engine.samples["1"]], engine.spec.task, "pad")
    measured = measure_latency(engine.model, prompts, POINTS, repeats=1, warmup=0, decode_tokens=1)
    assert [one.point for one in measured[1:]] == list(POINTS)


def test_pruned_without_the_question_is_refused(engine):
    said = "asked: is missing, and trim compares the question with the image by CLIP; give both"
    with pytest.raises(UsageError, match=said), pruned(engine.model.module, "trim", 0, 5):
        pass


def test_the_question_goes_without_its_conversation():
    sample = Sample(id="", question="What is it?", label="A", image=None, instruction="In one word.")
    asked = question_of(sample, TaskSpec(name="scienceqa", data=""))
    assert (asked.plain, asked.whole) == ("What is it?", "What is it?\nIn one word.")
    asked = question_of(sample, TaskSpec(name="scienceqa", data="", single_prediction=False))
    assert asked.whole == "What is it?"


def test_none_named_is_said_before_the_run(small_checkpoint, small_scienceqa, tmp_path):
    said = "model.text_tower: is missing, and a strategy compares the question with the image by CLIP; name the CLIP"
    engine = make_engine(small_checkpoint, small_scienceqa)
    with pytest.raises(UsageError, match=said):
        engine.run(WorkUnit(samples=("1",), points=POINTS))
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"model: {small_checkpoint}\ndata: {small_scienceqa}\ntask: scienceqa\ndtype: float32\n"
        "grid:\n- {strategy: [fastervlm, trim], layer: 0, rank: 4}\n".replace("dtype: float32\n", "")
    )
    with pytest.raises(SpecError, match=said):
        load_sweep(sweep)
    clip = make_clip(tmp_path / "clip")
    spec = load_sweep(sweep, {"model.text_tower": str(clip)})
    assert spec.engine.model.text_tower == str(clip)


def test_it_is_part_of_the_models_fingerprint(small_checkpoint, clip_folder, tmp_path):
    other = make_clip(tmp_path / "other", seed=5)
    names = {
        model_fingerprint(open_checkpoint(ModelSpec(path=str(small_checkpoint), text_tower=text_tower)))
        for text_tower in (None, str(clip_folder), str(other))
    }
    assert len(names) == 3


def broken(clip_folder, folder, **changed):
    shutil.copytree(clip_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    return folder


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model_type": "siglip"}, "model_type: 'siglip' is no CLIP with both towers"),
        ({"vision_config": {"hidden_size": 32}}, "its image tower is 32 wide and the model's 16"),
        ({"vision_config": 3}, "vision_config: is not an object"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(small_checkpoint, clip_folder, tmp_path, changed, said):
    folder = broken(clip_folder, tmp_path / "clip", **changed)
    with pytest.raises(ModelError, match=said) as raised:
        open_checkpoint(ModelSpec(path=str(small_checkpoint), text_tower=str(folder)))
    assert "\n" not in str(raised.value)


def test_no_such_folder_and_no_weights_are_named(small_checkpoint, clip_folder, tmp_path):
    with pytest.raises(ModelError, match="no such directory; name a CLIP"):
        open_checkpoint(ModelSpec(path=str(small_checkpoint), text_tower=str(tmp_path / "none")))
    folder = broken(clip_folder, tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        open_checkpoint(ModelSpec(path=str(small_checkpoint), text_tower=str(folder))).check()
    with pytest.raises(ModelError, match="has no weights"):
        load_text_tower(folder, torch.float32, "cpu")


def test_half_a_clip_is_named(whole, clip_folder, tmp_path):
    folder = broken(clip_folder, tmp_path / "clip")
    whole.text_model.save_pretrained(folder)
    shutil.copy(clip_folder / "config.json", folder)
    with pytest.raises(ModelError, match="is missing; give a whole CLIP, text and image tower"):
        load_text_tower(folder, torch.float32, "cpu")
