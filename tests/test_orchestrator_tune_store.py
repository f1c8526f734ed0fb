"""Ray Tune's view: one trial per grid point, telling what the cells tell."""

from __future__ import annotations

import csv
import io
import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

import mirror_overhead
from fake_experiment import fake_manifest, fake_outcome, fake_points, fake_samples
from orchestrator.followers.base import Answered, Begun
from orchestrator.sweep.document import CallbackSpec, SpecError
from orchestrator.tune.callbacks import check_callbacks, make_callback
from orchestrator.tune.mirror import TuneMirror
from orchestrator.tune.rungs import Standing
from orchestrator.tune.trial_files import METRICS, told, trial_names
from orchestrator.tune.trials import LIVE_TRIALS, tell_all
from results.analysis.metrics import summary
from results.experiment import Experiment
from workers.work import GridPoint, UnitOutcome, WorkUnit, unpruned_point

SAMPLES = 40


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Tune takes minutes for what it does in seconds."""
    monkeypatch.setattr("orchestrator.tune.mirror.FINISH_S", 600.0)


def follow(
    folder: Path,
    points: tuple[GridPoint, ...],
    until: int,
    finish: bool = True,
    callbacks: tuple[CallbackSpec, ...] = (),
    samples: int = SAMPLES,
) -> tuple[Experiment, str | None]:
    """Feed shards of ten samples up to ``until``."""
    asked = fake_samples(samples)
    experiment = Experiment.create(folder, fake_manifest(points), asked)
    standing = Standing(points, asked)
    standing.add_cells(experiment.cells(["correct", "score", "tokens_kept"]))
    mirror = TuneMirror(experiment, callbacks)
    mirror.start(Begun(points=len(points), there=0, missing=0, reports=standing.reports()))
    for first in range(0, until, 10):
        unit = WorkUnit(samples=tuple(f"s{place}" for place in range(first, first + 10)), points=points)
        outcome: UnitOutcome = fake_outcome(unit)
        experiment.write(unit, outcome)
        standing.add(outcome)
        mirror.outcome(Answered(unit=unit, outcome=outcome, news=standing.news()))
    if finish:
        warning = mirror.finish()
        assert mirror.lags(standing.reports()) == (until != samples)
        return experiment, warning
    while not all(told(folder / name) for name in trial_names(points).values()):
        time.sleep(0.1)  # on a busy machine the mirror takes a while to start
    mirror.abandon()
    assert mirror.lags({**standing.reports(), points[0].key: []})
    return experiment, None


def trials(folder: Path) -> Any:
    from ray.tune import ExperimentAnalysis

    return ExperimentAnalysis(str(folder)).dataframe().set_index("config/key")


@pytest.mark.slow
@pytest.mark.system
def test_broken_off_then_grown_the_trials_go_on_and_tell_the_final_accuracies(tmp_path: Path):
    from ray.tune import ExperimentAnalysis, ResultGrid

    folder = tmp_path / "experiment"
    points = fake_points()
    follow(folder, points[:6], until=20, finish=False)
    before = {name: told(folder / name) for name in trial_names(points[:6]).values()}
    assert all(before.values())
    experiment, warning = follow(folder, points, until=SAMPLES)  # more strategies, all samples
    assert warning is None
    for name, results in before.items():  # told once, not again
        assert told(folder / name)[: len(results)] == results
    frame = trials(folder)
    assert sorted(frame.index) == sorted(point.key for point in points)
    assert frame["complete"].all()
    expected = summary(experiment).set_index("key")
    for name in ("accuracy", "ci_low", "ci_high", "n", "correct"):
        assert frame[name].sub(expected[name]).abs().max() < 1e-12, name
    grid = ResultGrid(ExperimentAnalysis(str(folder)))
    assert (len(grid), grid.num_errors, grid.num_terminated) == (len(points), 0, len(points))
    assert list(grid[0].metrics_dataframe["samples"]) == [1, 2, 3, 5, 9, 18, 36]
    best = grid.get_best_result("accuracy", "max")
    assert best.metrics["accuracy"] == expected["accuracy"].max()
    assert best.config["strategy"] == expected.loc[best.config["key"], "strategy"]


@pytest.mark.slow
@pytest.mark.system
def test_more_samples_are_other_rungs_and_so_told_anew(tmp_path: Path):
    folder, points = tmp_path / "x", fake_points()[:3]
    follow(folder, points, until=20, samples=20)
    _, warning = follow(folder, points, until=SAMPLES)
    assert warning is None
    assert [result["samples"] for result in told(folder / "unpruned")] == [1, 2, 3, 5, 9, 18, 36]
    again, _ = follow(folder, points[:2], until=SAMPLES)  # a smaller grid: a trial is gone
    assert sorted(trials(folder).index) == sorted(point.key for point in points[:2])
    assert again.points == points[:2]


@pytest.mark.slow
def test_named_callbacks_hear_every_trial_live_and_a_failing_one_is_left_out(tmp_path: Path):
    points = fake_points()[:4]
    callbacks = (
        CallbackSpec("recording_callback:Recorder", (("path", str(tmp_path / "heard.jsonl")),)),
        CallbackSpec("recording_callback.Failing"),
        CallbackSpec("ray.tune.logger.CSVLoggerCallback"),  # is written anyhow, and once
        CallbackSpec("ray.tune.logger.JsonLoggerCallback"),
    )
    _, warning = follow(tmp_path / "x", points, until=SAMPLES, callbacks=callbacks)
    assert warning is not None
    assert "Failing failed in on_trial_result and is told nothing more (ZeroDivisionError: division by zero)" in warning
    heard = [json.loads(line) for line in (tmp_path / "heard.jsonl").read_text().splitlines()]
    assert heard[0] == ["setup", len(points)]
    assert heard[-1] == ["end", len(points)]
    for name in trial_names(points).values():
        mine = [entry for entry in heard if entry[1] == name]
        assert [entry[0] for entry in mine] == ["start", *["result"] * 7, "complete"]
        assert [entry[2] for entry in mine[1:-1]] == [1, 2, 3, 5, 9, 18, 36]
        assert len((tmp_path / "x" / name / "progress.csv").read_text().splitlines()) == 8
        assert len(told(tmp_path / "x" / name)) == 7
    starts = [place for place, entry in enumerate(heard) if entry[0] == "start"]
    assert starts[-1] < min(place for place, entry in enumerate(heard) if entry[0] == "complete")  # side by side


def test_of_many_trials_callbacks_hear_one_after_the_other(tmp_path: Path):
    points = mirror_overhead.many_points(LIVE_TRIALS + 20)
    samples = fake_samples(10)
    experiment = Experiment.create(tmp_path / "x", fake_manifest(points), samples)
    unit = WorkUnit(samples=tuple(sample.id for sample in samples), points=points)
    experiment.write(unit, fake_outcome(unit))
    heard = tmp_path / "heard.jsonl"
    assert tell_all(experiment, [CallbackSpec("recording_callback.Recorder", (("path", str(heard)),))]) == ()
    entries = [json.loads(line) for line in heard.read_text().splitlines()]
    open_trials = most = 0
    for kind, *_ in entries:
        open_trials += {"start": 1, "complete": -1}.get(kind, 0)
        most = max(most, open_trials)
    assert (most, open_trials) == (1, 0)
    assert sum(kind == "complete" for kind, *_ in entries) == len(points)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (CallbackSpec("Recorder"), "write package.module.Class"),
        (CallbackSpec("no_such_package.Thing"), "cannot be imported (No module named 'no_such_package'); install it"),
        (CallbackSpec("recording_callback.Recordr"), "recording_callback has no Recordr; correct the name"),
        (CallbackSpec("subprocess.Popen", (("args", ["false"]),)), "is not a subclass of ray.tune.Callback"),
        (CallbackSpec("recording_callback.Recorder", (("file", "x"),)), "unexpected keyword argument 'file'"),
    ],
)
def test_a_callback_that_cannot_be_had_is_one_line(spec: CallbackSpec, complaint: str):
    with pytest.raises(SpecError) as error:
        make_callback(spec)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_callbacks_are_tried_before_anything_is_computed():
    check_callbacks([CallbackSpec("recording_callback.Failing")])
    with pytest.raises(SpecError, match="cannot be imported"):
        check_callbacks([CallbackSpec("recording_callback.Failing"), CallbackSpec("no_such_package.Thing")])


def events(path: Path) -> list[tuple[int, dict[str, float]]]:
    """(step, tag -> value) of a TensorBoard file; frames and checksums are checked by the reader of tensorboardX."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
        record = content[12 : 12 + length]
        assert struct.unpack("<I", content[12 + length : 16 + length])[0] == masked_crc32c(record)
        event = Event.FromString(record)
        if event.summary.value:
            found.append((event.step, {value.tag: value.simple_value for value in event.summary.value}))
        content = content[16 + length :]
    return found


def test_the_files_are_what_tunes_own_loggers_write(tmp_path: Path):
    from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback

    points = fake_points()[:2]
    experiment = Experiment.create(tmp_path / "x", fake_manifest(points), fake_samples(20))
    unit = WorkUnit(samples=tuple(f"s{place}" for place in range(20)), points=points)
    experiment.write(unit, fake_outcome(unit))
    assert tell_all(experiment) == ()
    ours = tmp_path / "x" / "cutoff_2_0"
    results = told(ours)
    assert len(results) > 3

    class Other:
        """A trial somewhere else, for Tune's loggers."""

        local_path = str(tmp_path / "theirs")
        config = results[0]["config"]
        evaluated_params: dict[str, object] = {}  # noqa: RUF012
        checkpoint = None
        trial_id = "x"

        def init_local_path(self) -> None:
            Path(self.local_path).mkdir(exist_ok=True)

    for logger in (JsonLoggerCallback(), CSVLoggerCallback(), TBXLoggerCallback()):
        trial: Any = Other()
        trial.init_local_path()
        logger.log_trial_start(trial)
        for number, result in enumerate(results):
            logger.log_trial_result(number, trial, dict(result))
        logger.log_trial_end(trial)
    theirs = tmp_path / "theirs"
    assert told(theirs) == results
    assert json.loads((theirs / "params.json").read_text()) == json.loads((ours / "params.json").read_text())
    tables = [list(csv.DictReader(io.StringIO((place / "progress.csv").read_text()))) for place in (ours, theirs)]
    assert tables[0] == tables[1]
    told_steps = events(ours / "events.out.tfevents.1.saccade")
    (file,) = theirs.glob("events.out.tfevents.*")
    by_step: dict[int, dict[str, float]] = {}
    for step, values in events(file):
        by_step.setdefault(step, {}).update(values)
    assert [step for step, _ in told_steps] == list(by_step) == [result["samples"] for result in results]
    for step, values in told_steps:
        assert values == {tag: value for tag, value in by_step[step].items() if tag in values}
        assert values.keys() == {f"ray/tune/{name}" for name in METRICS}


def test_a_line_cut_in_half_is_told_again(tmp_path: Path):
    points = fake_points()[:2]
    experiment = Experiment.create(tmp_path / "x", fake_manifest(points), fake_samples(20))
    unit = WorkUnit(samples=tuple(f"s{place}" for place in range(20)), points=points)
    experiment.write(unit, fake_outcome(unit))
    tell_all(experiment)
    file = tmp_path / "x/unpruned/result.json"
    file.write_bytes(file.read_bytes()[:-20])
    assert told(file.parent) == []
    standing = Standing(points, fake_samples(20))
    standing.add_cells(experiment.cells(["correct", "score", "tokens_kept"]))
    assert TuneMirror(experiment).lags(standing.reports())


def test_a_mirror_that_cannot_keep_up_tells_all_in_the_end(tmp_path: Path):
    assert mirror_overhead.measure(300, 0.0, 60, tmp_path / "x").endswith("complete")
    assert len(trials(tmp_path / "x")) == 300


@pytest.mark.timing
def test_a_sweep_is_not_held_up_by_its_mirror(tmp_path: Path):
    text = mirror_overhead.measure(300, 6.0, 60, tmp_path / "x")
    assert float(text.split("driver held ")[1].split(" s")[0]) < 1.0


@pytest.mark.parametrize(
    ("point", "name"),
    [
        (unpruned_point(32, 576), "unpruned"),
        (GridPoint(strategy="fastv", layer=2, rank=128), "fastv_2_128"),
        (GridPoint(strategy="fastv", layer=2, rank=128, positions="compact"), "fastv_2_128_positions=compact"),
        (
            GridPoint(strategy="x", layer=2, rank=8, params=(("alpha", 0.5), ("mode", "a/b"))),
            "x_2_8_alpha=0.5_mode=a-b",
        ),
    ],
)
def test_trials_have_names_to_read_and_to_use_as_directories(point, name):
    assert trial_names([point]) == {point.key: name}


def test_trials_have_different_names_whatever_their_parameters_are():
    points = [
        GridPoint(strategy="x", layer=2, rank=8, params=(("mode", mode),)) for mode in ("a/b", "a b", "A-b", "y" * 300)
    ]
    names = list(trial_names(points).values())
    assert len({name.lower() for name in names}) == len(points)
    assert max(map(len, names)) < 255
