"""Tasks of lmms-eval without lmms-eval: what is made of a task that calls as its tasks do. With it: test_interop_*."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orchestrator.sweep.own_rules import task_of
from own_tasks import forgotten_tasks
from workers.rules import scorer_fingerprint
from workers.tasks import from_lmms_eval
from workers.tasks.base import DataError, Sample
from workers.tasks.catalog import scorer_of
from workers.work import TaskSpec


class Theirs:
    """A task of two documents: the second shows two images."""

    def __init__(self, first):
        self.config = SimpleNamespace(task="x", generation_kwargs={"until": ["."]}, num_fewshot=None)
        self.eval_docs = [{"label": "cat"}, {"label": "dog"}]
        self._first = first

    def doc_to_visual(self, doc):
        return [Image.new("L", (3, 2))] * (1 + (doc["label"] == "dog"))

    def process_results(self, doc, results):
        doc["label"] += "!"  # as some do
        return {"unknown": 3, "first": self._first(doc["label"], results[0])}

    def aggregation(self):
        return {"first": lambda values, args: 100 * sum(map(bool, values)) / len(values), "other": np.mean}


@pytest.fixture
def judged(monkeypatch):
    """A function that opens a task and gives the score of an answer to its first document."""
    monkeypatch.setattr(from_lmms_eval, "version", lambda name: "0.7")

    def score(first, answer: str) -> tuple[str | None, float]:
        from_lmms_eval._document.cache_clear()
        monkeypatch.setitem(from_lmms_eval._open, "x", Theirs(first))
        judge = scorer_of(TaskSpec(name="lmms_eval/x", data="."))
        verdict = judge(answer, Sample(id="0", question="?", label="cat", image=None))
        return verdict.parsed, verdict.score

    with forgotten_tasks():
        task_of("lmms_eval/x", None)
        yield score


@pytest.mark.parametrize(
    ("first", "score"),
    [
        (lambda label, said: label == said + "!", 1.0),
        (lambda label, said: np.float32(0.25), 0.25),
        (lambda label, said: {"score": 0.5, "kind": "a"}, 0.5),
        (lambda label, said: {"kind": "a"}, 1.0),  # 100 by the aggregation
        (lambda label, said: float("nan"), 0.0),
        (lambda label, said: "", 0.0),
    ],
)
def test_a_score_is_the_number_of_the_first_figure(judged, first, score):
    assert judged(first, " cat. A cat.") == ("cat", score)
    assert judged(first, "cat") == ("cat", score)  # what a task writes to a document does not stay


def test_figures_are_the_aggregations_over_all_answers(judged):
    judged(lambda label, said: label == said + "!", "cat")
    task = task_of("lmms_eval/x", None)
    (figure,) = task.metrics(pd.DataFrame({"id": ["0", "1"], "parsed": ["cat", None]}))
    assert (figure.name, figure.value, figure.n, figure.unit) == ("score (first)", 50.0, 2, "points")
    assert len(scorer_fingerprint(task.judges[0])) == 16
    assert scorer_fingerprint(task.judges[0]) != scorer_fingerprint(scorer_of(TaskSpec(name="gqa", data=".")))


def test_an_image_is_read_when_it_is_asked_about(judged, tmp_path):
    judged(lambda label, said: 1, "cat")
    image = from_lmms_eval.DocumentImage("x", tmp_path, 0)
    assert Image.open(BytesIO(image.read())).size == (3, 2)
    with pytest.raises(OSError, match="shows 2 images or videos; images are supported, 1 of them here"):
        from_lmms_eval.DocumentImage("x", tmp_path, 1).read()
    second = from_lmms_eval.DocumentImage("x", tmp_path, 1, 1, 2)
    assert Image.open(BytesIO(second.read())).size == (3, 2)
    assert str(second) == "lmms_eval/x: document 1, image 2"
    assert str(image) == "lmms_eval/x: document 0"


def test_documents_say_how_many_images_they_show(judged):
    """A column of single images does without decoding; else the task is asked."""
    theirs = Theirs(None)
    assert from_lmms_eval._shown(theirs, theirs.eval_docs) == [1, 2]
    assert from_lmms_eval._asked("<image>\nwhat ? ", 1) == "what ?"
    assert from_lmms_eval._asked("is <image> or <image> ? ", 2) == "is <image> or <image> ?"


def test_without_the_package_it_is_one_line(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(from_lmms_eval, "version", version)
    with pytest.raises(DataError, match=r"task lmms_eval/pope: needs lmms-eval: pip install .saccade\[lmms-eval\]"):
        task_of("lmms_eval/pope", None)
