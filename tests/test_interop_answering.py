"""A pruned model behind lmms-eval's interface, without lmms-eval: the engine's answers, and settings refused early."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from test_workers_engine import make_engine
from workers.images import load_image
from workers.interop.answering import PrunedModel
from workers.work import GridPoint, WorkUnit, unpruned_point

INSTRUCTION = "\nAnswer with the option's letter from the given choices directly."


@pytest.fixture(scope="module")
def engine(small_checkpoint, small_scienceqa):
    return make_engine(small_checkpoint, small_scienceqa, max_new_tokens=6)


def asked(engine, id):
    sample = engine.samples[id]
    return sample.question + INSTRUCTION, [] if sample.image is None else [load_image(sample.image)]


@pytest.mark.parametrize(
    "point",
    [
        unpruned_point(2, 16),
        GridPoint(strategy="fastv", layer=1, rank=5),
        GridPoint(strategy="weighted_combination", layer=1, rank=5, params=(("alpha", 0.25),)),
        GridPoint(strategy="cutoff", layer=1, rank=0),
    ],
    ids=lambda point: point.label,
)
def test_answers_are_the_engines(engine, small_checkpoint, point):
    model = PrunedModel(
        str(small_checkpoint),
        strategy=point.strategy,
        layer=point.layer,
        rank=point.rank,
        device="cpu",
        image_mode="pad",
        **dict(point.params),
    )
    for cell in engine.run(WorkUnit(samples=("1", "2", "6"), points=(point,))).outcomes:
        assert model.answer(*asked(engine, cell.sample), max_new_tokens=6) == cell.answer


def test_settings_of_generate(engine, small_checkpoint):
    model = PrunedModel(str(small_checkpoint), strategy="fastv", layer=1, rank=5, device="cpu")
    question, images = asked(engine, "1")
    whole = model.answer(question, images, max_new_tokens=6)
    first = whole.split()[0]
    assert model.answer(question, images, max_new_tokens=6, until=[whole.split()[-1]]).startswith(first)
    assert model.answer(question, images, max_new_tokens=6, until=[first]) == ""
    # A marker of the harness's own is not a second image, and temperature 0 is greedy whatever else is set.
    same = model.answer(f"{question} <image>", images, max_new_tokens=6, temperature=0, top_p=0.9, do_sample=True)
    assert same == whole
    assert model.answer(question, images, max_new_tokens=6, num_beams=2)
    with pytest.raises(ValueError, match="has 1 places for images, and there are 2 images"):
        model.answer(f"{question} <image>", images * 2, max_new_tokens=1)
    with pytest.raises(ValueError, match="has a video"):
        model.answer(question, ["a.mp4"], max_new_tokens=1)


def test_several_images_are_the_engines(engine, small_checkpoint):
    """Before the question, or where it says."""
    point = GridPoint(strategy="fastv", layer=1, rank=5)
    model = PrunedModel(str(small_checkpoint), strategy="fastv", layer=1, rank=5, device="cpu", image_mode="pad")
    one, other = (engine.samples[id] for id in ("1", "3"))
    for question in (one.question, f"is <image> or <image> {one.question}"):
        both = replace(one, id="both", question=question, more=(other.image,))
        engine.samples["both"] = both
        (cell,) = engine.run(WorkUnit(samples=("both",), points=(point,))).outcomes
        images = [load_image(image) for image in both.images]
        assert model.answer(question + INSTRUCTION, images, max_new_tokens=6) == cell.answer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "fastvv"}, "Did you mean 'fastv'"),
        ({"strategy": "fastv", "rank": 17}, "rank 17 is outside 0..16"),
        ({"strategy": "fastv", "layer": 3}, "layer 3 is outside 0..2"),
        ({"strategy": "weighted_combination", "layer": 1, "rank": 4, "alpha": 3}, "alpha"),
        ({"strategy": "fastv", "layer": 1, "rank": 4, "beta": 1}, "beta"),
        ({"alpha": 0.5}, "alpha: the un-pruned model takes no such setting"),
        ({"conversation": "vicuna"}, "Did you mean 'vicuna_v1'"),
        ({"image_mode": "stretch"}, "image_mode: 'stretch' is unknown"),
        ({"conversation": "chat_template"}, "no chat template"),
        ({"base": "/nowhere"}, "has no adapter"),
    ],
)
def test_settings_are_refused_before_the_first_question(small_checkpoint, settings, message):
    with pytest.raises(ValueError, match=message):
        PrunedModel(str(small_checkpoint), device="cpu", **settings)


@pytest.fixture
def adapter(monkeypatch):
    """The adapter's module, on stand-ins for the three names it takes from lmms-eval."""
    names = ("lmms_eval", "lmms_eval.api", "lmms_eval.api.instance", "lmms_eval.api.model", "lmms_eval.models",
             "lmms_eval.models.registry_v2")  # fmt: skip
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))

    class Base:
        def __init__(self) -> None:
            self.task_dict: dict = {}

    sys.modules["lmms_eval.api.instance"].Instance = SimpleNamespace
    sys.modules["lmms_eval.api.model"].lmms = Base
    sys.modules["lmms_eval.models.registry_v2"].ModelManifest = SimpleNamespace
    monkeypatch.delitem(sys.modules, "workers.interop.lmms_eval", raising=False)
    yield importlib.import_module("workers.interop.lmms_eval")
    sys.modules.pop("workers.interop.lmms_eval", None)


def test_adapter_answers_requests_in_order(adapter, engine, small_checkpoint):
    point = GridPoint(strategy="fastv", layer=1, rank=5)
    model = adapter.Saccade(
        str(small_checkpoint),
        batch_size="1",
        max_batch_size=None,
        device="cpu",
        strategy="fastv",
        layer=1,
        rank=5,
        image_mode="pad",
    )
    ids = ["2", "6", "1"]
    model.task_dict = {"t": {"test": [asked(engine, id) for id in ids]}}
    options = {"max_new_tokens": 6, "until": ["\n\n"], "temperature": 0}
    requests = [
        SimpleNamespace(args=(asked(engine, id)[0], options, lambda doc: doc[1], place, "t", "test"))
        for place, id in enumerate(ids)
    ]
    cells = {cell.sample: cell.answer for cell in engine.run(WorkUnit(samples=tuple(ids), points=(point,))).outcomes}
    assert model.generate_until(requests) == [cells[id] for id in ids]
    assert options == {"max_new_tokens": 6, "until": ["\n\n"], "temperature": 0}  # lmms-eval's own, and used again
    assert adapter.manifest().simple_class_path == "workers.interop.lmms_eval.Saccade"
    with pytest.raises(NotImplementedError, match="generate_until"):
        model.loglikelihood([])


def test_adapter_refuses_batches_and_several_processes(adapter, small_checkpoint, monkeypatch):
    with pytest.raises(ValueError, match="give --batch_size 1"):
        adapter.Saccade(str(small_checkpoint), batch_size=4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="not with accelerate"):
        adapter.Saccade(str(small_checkpoint))
