"""The model `saccade` inside the real lmms-eval, on a task made here: it needs both packages installed together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from conftest import write_scienceqa
from workers.engine import Engine
from workers.work import EngineSpec, GridPoint, ModelSpec, TaskSpec, UnitOutcome, WorkUnit, unpruned_point

INSTALLED = find_spec("lmms_eval") is not None and any(
    entry.name == "saccade" for entry in entry_points(group="lmms_eval.models")
)
pytestmark = pytest.mark.skipif(
    not INSTALLED, reason="needs lmms-eval and saccade in one environment: pip install lmms-eval ."
)
TASK = "saccade_colours"
POINT = GridPoint(strategy="weighted_combination", layer=1, rank=5, params=(("alpha", 0.25),))
YAML = """
task: saccade_colours
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: generate_until
doc_to_visual: !function helpers.images
doc_to_text: !function helpers.question
doc_to_target: label
process_results: !function helpers.score
generation_kwargs:
  max_new_tokens: 6
  temperature: 0
metric_list:
  - metric: score
    aggregation: mean
    higher_is_better: true
metadata:
  - version: 0.0
"""
HELPERS = """
from PIL import Image

def images(doc):
    return [Image.open(doc["image"]).convert("RGB")] if doc["image"] else []

def question(doc, lmms_eval_specific_kwargs=None):
    return doc["question"] + "\\nAnswer with the option's letter from the given choices directly."

def score(doc, results):
    return {"score": float(results[0].strip() == doc["label"])}
"""


def write_task(folder: Path, engine: Engine) -> None:
    rows = [
        {
            "question": sample.question,
            "image": "" if sample.image is None else str(sample.image),
            "label": sample.label,
        }
        for sample in engine.samples.values()
    ]
    folder.mkdir()
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{TASK}.yaml").write_text(YAML.format(questions=questions))
    (folder / "helpers.py").write_text(HELPERS)


def run_lmms_eval(folder: Path, checkpoint: Path, *more: str) -> Path:
    """Run the command, and return the folder with its results."""
    settings = f"pretrained={checkpoint},image_mode=pad,strategy={POINT.strategy},layer=1,rank=5,alpha=0.25"
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "saccade", "--model_args", settings, "--tasks", TASK,
        "--include_path", str(folder / "tasks"), "--batch_size", "1", "--device", "cpu", "--log_samples",
        "--output_path", str(folder / "logs"), *more,
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "LMMS_EVAL_HOME": ""}
    done = subprocess.run(command, env=os.environ | offline, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (results,) = (folder / "logs").rglob("*_results.json")
    return results


def test_lmms_eval_gives_the_engines_answers_and_pairs_with_our_export(tmp_path, small_checkpoint):
    from orchestrator.sweep.prepare import prepare
    from orchestrator.sweep.spec import SweepSpec
    from results.exchange.lmms_samples import write_lmms_samples
    from results.experiment import Experiment
    from workers.families.catalog import open_checkpoint

    write_scienceqa(tmp_path / "data", 6)
    spec = EngineSpec(
        model=ModelSpec(path=str(small_checkpoint), image_mode="pad"),
        task=TaskSpec(name="scienceqa", data=str(tmp_path / "data")),
        max_new_tokens=6,
    )
    points = (unpruned_point(2, 16), POINT)
    prepared = prepare(
        SweepSpec(name="x", engine=spec, points=points, sample_limit=None, config=open_checkpoint(spec.model).sizes)
    )
    experiment = Experiment.create(tmp_path / "experiment", prepared.manifest, prepared.samples)
    engine = Engine.load(spec, device="cpu")
    unit = WorkUnit(samples=tuple(engine.samples), points=points)
    outcome: UnitOutcome = engine.run(unit)
    experiment.write(unit, outcome)
    baseline, ours = write_lmms_samples(experiment, tmp_path / "export")

    write_task(tmp_path / "tasks", engine)
    results = run_lmms_eval(tmp_path, small_checkpoint, "--baseline", str(baseline))
    (samples,) = results.parent.glob("*_samples_*.jsonl")
    theirs = {line["doc_id"]: line for line in map(json.loads, samples.read_text().splitlines())}
    exported = {line["doc_id"]: line for line in map(json.loads, ours.read_text().splitlines())}
    assert len(theirs) == 6
    for doc_id, line in theirs.items():
        assert line["filtered_resps"] == exported[doc_id]["filtered_resps"]
        assert (line["score"], line["target"]) == (exported[doc_id]["score"], exported[doc_id]["target"])
    paired = json.loads(results.read_text())["results"][TASK]
    unpruned = [json.loads(line)["score"] for line in baseline.read_text().splitlines()]
    assert paired["paired_baseline_score"] == pytest.approx(100 * sum(unpruned) / 6)
    assert 0 <= paired["paired_pvalue"] <= 1


def test_normalised_answers_equal_lmms_evals():
    """Its copy of the EvalAI processor, on texts made of what it treats specially."""
    import random

    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    from workers.tasks.vqa_answers import normalised

    theirs, draw = EvalAIAnswerProcessor(), random.Random(0)
    signs = "abI 01,.?!'-/;:\"()[]{}=+_><@`\n\t"
    words = [*theirs.CONTRACTIONS, "none", "Two", "the", "a", "3,000", "1.5", "x.", "'s", "y'all"]
    for _ in range(5000):
        text = "".join(draw.choices(signs, k=draw.randint(0, 14)))
        sentence = " ".join(
            draw.choice(words) + draw.choice(["", ",", ".", "?", "-"]) for _ in range(draw.randint(0, 5))
        )
        for answer in (text, sentence):
            assert normalised(answer) == theirs(answer), answer


def test_distances_and_relaxed_numbers_are_lmms_evals():
    import random

    from lmms_eval.api.metrics import anls
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    from workers.tasks.answers import SCORERS
    from workers.tasks.base import Sample

    draw = random.Random(0)
    for _ in range(3000):
        answer, *answers = ("".join(draw.choices("abB1", k=draw.randint(1, 9))) for _ in range(3))
        sample = Sample(id="1", question="?", label="", answers=tuple(answers), image=None)
        assert SCORERS["anls"](answer, sample).score == pytest.approx(anls(answers, [answer])["anls"])
        said, right = (f"{draw.choice([10, 100, 0, 0.1]) * draw.uniform(0.9, 1.1):.2f}{draw.choice(['', '', '%', 'k'])}"
                       for _ in range(2))  # fmt: skip
        ours = SCORERS["relaxed_accuracy"](said, Sample(id="1", question="?", label=right, image=None))
        assert ours.score == relaxed_correctness(said, right), (said, right)
