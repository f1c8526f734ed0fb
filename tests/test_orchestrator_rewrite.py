"""Cells under another address, in a new directory: older formats brought into today's, answers judged again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fake_experiment import fake_manifest, fake_outcome, fake_points, fake_samples, into_format_1, write_fake_experiment
from orchestrator import rewrite
from orchestrator.rewrite import migrate, rescore
from results.analysis.metrics import summary
from results.disk import StoreError
from results.experiment import Experiment, check_target
from results.inventory import verify
from results.latencies import LATENCY_FILE
from results.pictures import Pictures, write_pictures
from results.tables import write_table
from workers.fingerprint import data_fingerprint, whole_data_fingerprint
from workers.rules import prompt_fingerprint, scorer_fingerprint
from workers.tasks.answers import llava_official, strict_letter
from workers.tasks.base import DataError
from workers.tasks.catalog import load_samples
from workers.work import SampleOutcome, TaskSpec, WorkUnit

POINTS = fake_points()


@pytest.fixture
def same_data(monkeypatch):
    """The benchmark of a made-up experiment, which is nowhere, is taken for the one that was asked."""
    monkeypatch.setattr(rewrite, "_whole_data", lambda experiment: experiment.meta["context_parts"]["data"])


def todays(**changes: object):
    """The manifest of the made-up sweep by the rules of today."""
    names = {"prompt": prompt_fingerprint("vicuna_v1", True), "scorer": scorer_fingerprint(strict_letter)}
    manifest = replace(fake_manifest(POINTS), prompt_fingerprint=names["prompt"], scorer_fingerprint=names["scorer"])
    return replace(manifest, **changes)


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_an_older_format_is_read_and_migrated_without_losing_a_cell(same_data, tmp_path):
    write_fake_experiment(tmp_path / "x", samples=40, failed=("s7",))
    write_pictures(Experiment.open(tmp_path / "x"), {"s3": b"webp"})
    (tmp_path / "x" / LATENCY_FILE).write_text(json.dumps({"how": {"context": "old"}, "rows": []}))
    old = into_format_1(tmp_path / "x")
    before, table = files_of(old.path), summary(old)
    assert len(old.cells()) == 39 * len(POINTS)
    with pytest.raises(StoreError, match=r"has format 1, whose cells .* `saccade migrate .*x --out .*x.2` makes"):
        check_target(old.path, todays())
    with pytest.raises(StoreError, match=r"another version \(sources 5eed\).*give --assume-current"):
        migrate(old.path, tmp_path / "new")
    result = migrate(old.path, tmp_path / "new", assume_current=True)
    assert (result.cells, result.notes) == (39 * len(POINTS), ())
    new = result.experiment
    assert new.context == todays().context
    assert summary(new).equals(table)
    assert new.cells().drop(columns="context").equals(old.cells().drop(columns="context"))
    assert new.kept().drop(columns="context").equals(old.kept().drop(columns="context"))
    assert list(new.failures()["sample"]) == ["s7"]
    assert Pictures(new).get("s3") == b"webp"
    assert json.loads((new.path / LATENCY_FILE).read_text())["how"]["context"] == new.context
    assert new.meta["migrated_from"]["format"] == 1
    assert [finding.text for finding in verify(new) if not finding.well] == [
        f"{39 * len(POINTS)} of {40 * len(POINTS)} cells are there, {len(POINTS)} missing (1 samples failed; `saccade "
        f"status {new.path}` says why): the same `saccade run` computes them"
    ]
    assert files_of(old.path) == before
    going_on = Experiment.create(new.path, todays(), fake_samples(40))  # as `saccade run` does
    assert len(going_on.done()) == 39


def test_an_older_experiment_is_migrated_where_its_data_are(tmp_path, small_scienceqa):
    """Format 1 named an image by its first KiB, today's by all of it: who migrates has to see them."""
    samples = load_samples(TaskSpec(name="scienceqa", data=str(small_scienceqa)))
    write_fake_experiment(tmp_path / "x", samples=10)
    old = into_format_1(tmp_path / "x")
    spec = replace(old.spec, task=replace(old.spec.task, data=str(small_scienceqa)))
    old.spec, old.meta["context_parts"]["data"] = spec, data_fingerprint(samples)
    assert rewrite._whole_data(old) == whole_data_fingerprint(samples)
    old.meta["context_parts"]["data"] = data_fingerprint(samples[1:])
    with pytest.raises(StoreError, match="are not those that were asked; migrate it where they are"):
        rewrite._whole_data(old)
    old.spec = replace(spec, task=replace(spec.task, data=str(tmp_path / "none")))
    with pytest.raises(StoreError, match=r"its data cannot be read .*none: no such directory.*migrate it where they"):
        rewrite._whole_data(old)


def test_a_version_that_is_known_to_have_had_these_rules_needs_no_word(same_data, tmp_path, monkeypatch):
    write_fake_experiment(tmp_path / "x", samples=10)
    old = into_format_1(tmp_path / "x")
    monkeypatch.setattr(rewrite, "SAME_RULES", frozenset({"5eed"}))
    assert migrate(old.path, tmp_path / "new").cells == 10 * len(POINTS)
    with pytest.raises(StoreError, match="has format 2 already"):
        migrate(tmp_path / "new", tmp_path / "newer")
    with pytest.raises(StoreError, match="is there already"):
        migrate(old.path, tmp_path / "new")


def test_what_is_damaged_is_left_behind_and_said(same_data, tmp_path):
    write_fake_experiment(tmp_path / "x", samples=40)
    old = into_format_1(tmp_path / "x")
    file = old.files("kept")[0]
    file.write_bytes(file.read_bytes()[:50])
    result = migrate(old.path, tmp_path / "new", assume_current=True)
    assert result.cells == 30 * len(POINTS)
    (note,) = result.notes
    assert note.startswith(f"{file}: left out: ")


def worded(cell: SampleOutcome) -> SampleOutcome:
    """As LLaVA's parse reads it and the strict rule does not."""
    return replace(cell, answer=f"{cell.answer}. red", parsed=None, correct=False, score=0.0)


def test_answers_are_judged_again(tmp_path):
    experiment = Experiment.create(tmp_path / "x", todays(), fake_samples(10))
    unit = WorkUnit(samples=tuple(f"s{place}" for place in range(10)), points=POINTS)
    outcome = fake_outcome(unit)
    experiment.write(unit, replace(outcome, outcomes=tuple(map(worded, outcome.outcomes))))
    assert not experiment.cells()["correct"].any()
    before = files_of(experiment.path)
    result = rescore(tmp_path / "x", tmp_path / "new", "llava_official")
    cells = result.experiment.cells()
    right = [cell.correct for cell in outcome.outcomes]
    assert cells["correct"].tolist() == right
    assert cells["score"].tolist() == [float(correct) for correct in right]
    assert cells["parsed"].tolist() == [cell.parsed for cell in outcome.outcomes]
    assert (result.cells, result.changed) == (len(right), sum(right))
    parts = result.experiment.meta["context_parts"]
    assert (parts["scorer"], parts["scoring"]) == ("llava_official", scorer_fingerprint(llava_official))
    assert result.experiment.spec.task.scorer == "llava_official"
    assert all(finding.well for finding in verify(result.experiment))
    assert files_of(experiment.path) == before
    with pytest.raises(DataError, match="unknown scorer 'llava_oficial'"):
        rescore(tmp_path / "x", tmp_path / "newer", "llava_oficial")
    with pytest.raises(StoreError, match="`saccade migrate` it first"):
        rescore(into_format_1(tmp_path / "x").path, tmp_path / "newer")


def test_a_changed_scoring_rule_is_told_and_judges_again(tmp_path):
    write_fake_experiment(tmp_path / "x", samples=10)
    changed = todays(scorer_fingerprint="changed", prompt_fingerprint=fake_manifest(POINTS).prompt_fingerprint)
    with pytest.raises(StoreError) as caught:
        Experiment.create(tmp_path / "x", changed, fake_samples(10))
    assert "scoring was 5c0e5c0e5c0e5c0e, now changed" in str(caught.value)
    assert str(caught.value).endswith(f"or `saccade rescore {tmp_path}/x --out NEW` judges its answers again")
    with pytest.raises(StoreError, match=r"prompt was .*restore the old setting$"):
        Experiment.create(tmp_path / "x", todays(prompt_fingerprint="changed"), fake_samples(10))
    with pytest.raises(StoreError, match="numerics was 1, now 2"):
        Experiment.create(tmp_path / "x", replace(fake_manifest(POINTS), numerics=2), fake_samples(10))


def test_annotators_answers_come_from_the_experiment_or_are_asked_for(tmp_path):
    manifest = todays()
    task = replace(manifest.engine.task, name="vqav2", scorer="vqa_soft")
    manifest = replace(manifest, engine=replace(manifest.engine, task=task))
    samples = [replace(sample, choices=(), answers=("B",) * 3 + ("no",) * 7, label="no") for sample in fake_samples(3)]
    experiment = Experiment.create(tmp_path / "x", manifest, samples)
    unit = WorkUnit(samples=("s0", "s1", "s2"), points=POINTS)
    outcome = fake_outcome(unit)
    cells = tuple(replace(cell, answer="b", score=0.0, correct=False) for cell in outcome.outcomes)
    experiment.write(unit, replace(outcome, outcomes=cells))
    result = rescore(tmp_path / "x", tmp_path / "new")
    assert set(result.experiment.cells()["score"].round(2)) == {0.9}
    place = tmp_path / "x/samples.parquet"
    write_table(place, pq.read_table(place).drop_columns(["answers"]))  # as versions before wrote it
    with pytest.raises(StoreError, match=r"does not hold the annotators' answers .* rescore where the data are"):
        rescore(tmp_path / "x", tmp_path / "newer")
