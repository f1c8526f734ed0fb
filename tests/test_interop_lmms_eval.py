"""The model `saccade` inside the real lmms-eval, on a task made here: it needs both packages installed together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from conftest import write_scienceqa
from workers.engine import Engine
from workers.tasks.base import DataError, Sample
from workers.tasks.catalog import load_benchmark, load_samples, resolved
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


PRUNED = ",strategy=weighted_combination,layer=1,rank=5,alpha=0.25"


def run_lmms_eval(
    folder: Path, checkpoint: Path, *more: str, tasks: str = TASK, settings: str = PRUNED, logs: str = "logs"
) -> Path:
    """Run the command, and return the file of its results."""
    model = f"pretrained={checkpoint},image_mode=pad{settings}"
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "saccade", "--model_args", model, "--tasks", tasks,
        "--include_path", str(folder / "tasks"), "--batch_size", "1", "--device", "cpu", "--log_samples",
        "--output_path", str(folder / logs), *more,
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "LMMS_EVAL_HOME": ""}
    done = subprocess.run(command, env=os.environ | offline, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (results,) = (folder / logs).rglob("*_results.json")
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


DOCUMENTS = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: generate_until
doc_to_visual: !function {name}.images
doc_to_text: "{{{{question}}}}\\nAnswer briefly."
doc_to_target: {target}
generation_kwargs:
  max_new_tokens: 6
  until: [" "]
"""
KINDS = {  # each with post-processing and figures of another kind
    "saccade_match": """
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "saccade_filter": """
filter_list:
  - name: first
    filter: [{function: regex, regex_pattern: "([a-z])"}, {function: take_first}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}]
""",
    "saccade_whole": """
process_results: !function saccade_whole.judged
metric_list:
  - {metric: balance, aggregation: !function saccade_whole.balance, higher_is_better: true}
  - {metric: length, aggregation: mean, higher_is_better: true}
""",
}
WHOLE = """
from pathlib import Path

def images(doc):
    return [doc["image"].convert("RGB")]

def judged(doc, results):
    doc["label"] += "!"  # as some tasks do, which may not show the next time
    return {"balance": {"said": results[0], "kind": doc["label"]}, "length": len(results[0])}

def balance(values, args):
    Path(args.output_path, "own").mkdir(parents=True)
    print("noise")
    return len({value["said"] for value in values if value["kind"].count("!") == 1}) / len(values)
"""


def write_kinds(folder: Path, samples: list[Sample]) -> None:
    """Three tasks on one parquet file, whose images are inside."""
    from datasets import Dataset, Image

    words = ("which", "from")  # which the small random model says
    rows = [
        {"question": one.question, "label": words[number % 2], "image": str(one.image)}
        for number, one in enumerate(samples)
    ]
    folder.mkdir()
    Dataset.from_list(rows).cast_column("image", Image()).to_parquet(folder / "rows.parquet")
    for name, more in KINDS.items():
        target = '"{{label[0]}}"' if name == "saccade_filter" else "label"
        head = DOCUMENTS.format(name=name, target=target, questions=folder / "rows.parquet")
        (folder / f"{name}.yaml").write_text(head + more)
        (folder / f"{name}.py").write_text(WHOLE)


def test_a_task_of_lmms_eval_as_benchmark_gives_what_the_adapter_gives(tmp_path, small_checkpoint, monkeypatch):
    """Three kinds of tasks, every grid point in one shared forward against one lmms-eval run a point."""
    from orchestrator.sweep.own_rules import task_of

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    write_scienceqa(tmp_path / "data", 6)
    questions = load_samples(TaskSpec(name="scienceqa_img", data=str(tmp_path / "data")))
    write_kinds(tmp_path / "tasks", list(questions))
    runs = {
        point: run_lmms_eval(tmp_path, small_checkpoint, tasks=",".join(KINDS), settings=settings, logs=str(number))
        for number, (point, settings) in enumerate(((unpruned_point(2, 16), ""), (POINT, PRUNED)))
    }
    seen: list[float] = []
    for name in KINDS:
        task = task_of(f"lmms_eval/{name}", tmp_path)
        spec = EngineSpec(
            model=ModelSpec(path=str(small_checkpoint), image_mode="pad"),
            task=resolved(TaskSpec(name=task.name, data=str(tmp_path / "tasks"))),
            max_new_tokens=6,
        )
        engine = Engine.load(spec, device="cpu")
        outcomes = engine.run(WorkUnit(samples=tuple(engine.samples), points=tuple(runs))).outcomes
        for point, results in runs.items():
            ours = {int(one.sample): one for one in outcomes if one.point == point.key}
            (log,) = results.parent.glob(f"*_samples_{name}.jsonl")
            lines = {line["doc_id"]: line for line in map(json.loads, log.read_text().splitlines())}
            for id, line in lines.items():
                filtered = line["filtered_resps"]
                assert filtered == (ours[id].parsed[:1] if name == "saccade_filter" else ours[id].parsed)
            theirs = json.loads(results.read_text())["results"][name]
            rows = pd.DataFrame([{"id": one.sample, "parsed": one.parsed} for one in ours.values()])
            found = task.metrics(rows)
            assert found[0].name.startswith(task.headline)
            for metric in found:
                figure = metric.name.partition("(")[2].rstrip(")") or metric.name
                (key,) = [key for key in theirs if key.startswith(f"{figure},")]
                assert metric.value == pytest.approx(theirs[key])
                seen.append(metric.value)
        assert engine.samples["0"].question.endswith("\nAnswer briefly.")
        assert load_benchmark(spec.task).notes == (f"lmms_eval/{name}: asked there with max_new_tokens: 6",)
    assert sum(0 < value < 1 for value in seen) > 3


def test_what_lmms_eval_has_not_is_one_line(tmp_path):
    from orchestrator.sweep.own_rules import task_of

    for name, complaint in (("nothing_of_this_name", "is no task"), ("mme_realworld_gen", "is ")):
        task = task_of(f"lmms_eval/{name}", tmp_path)
        with pytest.raises(DataError, match=f"lmms_eval/{name}: {complaint}"):
            load_benchmark(TaskSpec(name=task.name, data=str(tmp_path)))


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


def test_distances_relaxed_numbers_and_boxes_are_lmms_evals():
    import random

    from lmms_eval.api.metrics import anls
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness
    from lmms_eval.tasks.refcoco.utils_rec import compute_accuracy, parse_float_sequence_within

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
        left, top = draw.uniform(0, 0.5), draw.uniform(0, 0.5)
        box = [round(n, 3) for n in (left, top, left + draw.uniform(0.1, 0.5), top + draw.uniform(0.1, 0.5))]
        said = f"at {[round(n + draw.uniform(-0.1, 0.1), 3) for n in box]}."
        ours = SCORERS["box_iou"](said, Sample(id="1", question="?", label=str(box), image=None))
        assert ours.score == compute_accuracy(box, parse_float_sequence_within(said)), (said, box)
