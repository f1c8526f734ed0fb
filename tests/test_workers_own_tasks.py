"""Benchmarks from users' files and from packages: taken in, tried, sent on, and refused in one line."""

from __future__ import annotations

import pickle
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from own_tasks import JUDGED, MY_TASK, forgotten_tasks, write_my_data
from strategies import own_code
from test_strategies_own import Package
from test_workers_benchmarks import WRITERS
from workers.tasks import catalog, own
from workers.tasks.base import DataError, Task
from workers.tasks.catalog import load_samples, resolved, scorer_of
from workers.tasks.contract import LOADS, OF_BENCHMARKS, task_promises
from workers.tasks.own import TaskError, admit, from_package, from_text, travelling
from workers.work import TaskSpec

pytestmark = pytest.mark.usefixtures("nobodys")
NAME = "my_task.py:load"


@pytest.fixture
def nobodys():
    with forgotten_tasks():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_my_data(tmp_path_factory.mktemp("own") / "data"))


def faults(task: Task, data: str) -> dict[str, str]:
    return {promise.text: promise.fault for promise in task_promises(task, data) if promise.fault}


def test_the_benchmark_of_the_document_is_short_and_keeps_its_promises(data):
    task = from_text("my_task.py", MY_TASK, "load")
    assert MY_TASK.count("\n") <= 26
    assert task is catalog.get(NAME)
    spec = resolved(TaskSpec(name=NAME, data=data))
    assert (spec.split, spec.scorer) == ("test", "strict_letter")
    assert [sample.label for sample in load_samples(spec)] == ["A", "B", "A"]
    assert faults(task, data) == {}
    assert resolved(TaskSpec(name=NAME, data=data, split="val", scorer="llava_official")).split == "val"


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_ours_keep_every_promise(tmp_path, name):
    WRITERS[name](tmp_path)
    found = list(task_promises(catalog.CATALOG[name], str(tmp_path)))
    assert {promise.text: promise.fault for promise in found if promise.fault} == {}
    assert len(found) == 1 + len(OF_BENCHMARKS)


def test_it_may_bring_rules_and_figures_of_its_own(data):
    task = from_text("my_task.py", JUDGED, "judged")
    spec = TaskSpec(name="my_task.py:judged", data=data)
    sample = load_samples(spec)[1]
    assert scorer_of(spec)("b, blue", sample).correct
    assert not scorer_of(TaskSpec(name=spec.name, data=data, scorer="strict_letter"))("b, blue", sample).correct
    assert faults(task, data) == {}
    assert task.source_hash != from_text("my_task.py", JUDGED + "# a word\n", "judged").source_hash


@pytest.mark.parametrize(
    ("old", "new", "promise", "fault"),
    [
        ("id=str(number)", "id='1'", LOADS, "id 1 stands there twice"),
        ('row["image"]', '"none.png"', LOADS, "3 of 3 samples have no image on disk"),
        ('row["right"]', 'row["write"]', LOADS, "my_task.py:18: KeyError: 'write'"),
        ("return [", "return 3, [", LOADS, "gives a int, no workers.tasks.base.Sample"),
        ('image=folder / row["image"]', 'image=folder / "test.csv"', "its images can be decoded", "is no JPEG"),
        ('label=row["right"]', 'label="C"', "labels of questions with options", "has 2 options, and the label 'C'"),
        ('label=row["right"]', 'label="AB"', "labels of questions with options", "has 2 options, and the label 'AB'"),
        ('question=f"{row[', 'question="" and f"{row[', "asks something", "question 0 is empty"),
    ],
)  # fmt: skip
def test_a_benchmark_that_breaks_a_promise_is_found_at_it(data, old, new, promise, fault):
    assert MY_TASK.count(old) == 1
    found = faults(from_text("my_task.py", MY_TASK.replace(old, new), "load"), data)
    (seen,) = [said for name, said in found.items() if name.startswith(promise)]
    assert fault in seen
    assert "\n" not in seen


def test_questions_rules_and_figures_are_looked_at(data):
    again = MY_TASK.replace("id=str(number)", "id=str(next(COUNT))").replace(
        "\ndef load", "\nimport itertools\n\nCOUNT = itertools.count()\n\n\ndef load"
    )
    assert "another the second time" in faults(from_text("my_task.py", again, "load"), data)[OF_BENCHMARKS[0][0]]
    for old, new, said in (
        ("float(answer[:1].upper() == sample.label)", "0.0", "judges 'A' wrong, which is right for question 0"),
        ("float(answer[:1].upper() == sample.label)", "1.0", "judges every empty answer right"),
        ("float(answer[:1].upper() == sample.label)", "2.0", "a score is outside 0..1"),
        ('headline="second half"', 'headline="first half"', "'first half' is none of second half"),
        ('[Metric("second half"', '[("second half"', "gives a tuple, no workers.tasks.base.Metric"),
    ):
        assert JUDGED.count(old) == 1
        found = faults(from_text("my_task.py", JUDGED.replace(old, new), "judged"), data)
        assert any(said in fault for fault in found.values()), said


@pytest.mark.parametrize(
    ("text", "name", "complaint"),
    [
        (MY_TASK, "lod", "my_task.py: has no 'lod'. Did you mean 'load'?"),
        (MY_TASK, "Path", "my_task.py:Path: is no benchmark; give a workers.tasks.base.Task, or a function"),
        ("def load(a, b): ...", "load", "my_task.py:load: is no benchmark"),
        ("\n\ndef load(\n", "load", "my_task.py:3: "),
        ("import helper_beside", "load", "my_task.py:1: ModuleNotFoundError: No module named 'helper_beside'; it"),
        (JUDGED.replace('scorers=("loose"', 'scorers=("lose"'), "judged", "my_task.py:judged: scorer 'lose' is un"),
        (JUDGED.replace('scorers=("loose", "strict_letter")', "scorers=()"), "judged", "my_task.py:judged: it names"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(text, name, complaint):
    with pytest.raises(TaskError) as refused:
        from_text("my_task.py", text, name)
    assert str(refused.value).startswith(complaint)
    assert "\n" not in str(refused.value)
    assert not catalog.ADMITTED


def test_it_travels_as_text_and_runs_where_no_file_is(data):
    from_text("my_task.py", MY_TASK, "load")
    sent = pickle.dumps((travelling("gqa"), travelling(NAME)))
    with forgotten_tasks():
        with pytest.raises(DataError, match=f"task '{NAME}': is of a user's own file"):
            catalog.get(NAME)
        none, (task,) = pickle.loads(sent)
        assert none == ()
        admit([task])
        assert len(load_samples(TaskSpec(name=NAME, data=data))) == 3
        with pytest.raises(TaskError, match="another version is installed here"):
            admit([own.OwnTask(name=NAME, source="0" * 16, text=task.text)])
        with pytest.raises(TaskError, match="its package is not installed here"):
            admit([own.OwnTask(name="nowhere", source="0" * 16, text=None)])


def test_a_benchmark_of_an_installed_package_goes_by_its_entry_point(monkeypatch):
    values = {"dogs": "workers.tasks.gqa:GQA", "gqa": "nowhere:x", "broken": "nowhere.at_all:x"}
    points = [EntryPoint(name, value, own.GROUP)._for(Package()) for name, value in values.items()]  # type: ignore[attr-defined]
    monkeypatch.setattr(own_code, "entry_points", lambda group: EntryPoints(points if group == own.GROUP else ()))
    task = from_package("dogs")
    assert task is catalog.get("dogs")
    assert len(task.source_hash) == 16
    assert travelling("dogs") == (own.OwnTask(name="dogs", source=task.source_hash, text=None),)
    assert from_package("nothing") is None
    assert from_package("gqa") is None
    assert own.collisions() == ["task 'gqa' of pruners 1.2 is not used: Saccade has one of that name; rename it there"]
    with pytest.raises(TaskError, match=r"pruners 1.2: ModuleNotFoundError: No module named 'nowhere'"):
        from_package("broken")


def test_a_loader_says_its_own_complaint(tmp_path: Path):
    from_text("my_task.py", MY_TASK, "load")
    with pytest.raises(DataError, match=r"^my_task.py:\d+: FileNotFoundError: .*test.csv"):
        load_samples(TaskSpec(name=NAME, data=str(tmp_path)))
