"""Questions about one image: they are asked together, and intervals, tests and races know that they are alike."""

from __future__ import annotations

import io
import itertools
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

import stub_engine
from answer_matrix import write_matrix
from cluster_simulation import Design, Rates, simulate
from fake_experiment import fake_points, fake_samples
from orchestrator.policy import Policy, policy_of
from orchestrator.run import RunOptions, run_sweep
from orchestrator.show import accuracy_table
from orchestrator.sweep.plan import MAX_CELLS, MAX_SHARD, by_image, make_units
from orchestrator.sweep.prepare import Prepared, prepare
from orchestrator.sweep.spec import load_sweep
from racing_simulation import alike
from racing_simulation import simulate as race
from results.analysis.clusters import clusters_of
from results.analysis.measured import measure_summary
from results.analysis.metrics import answers as answers_of
from results.analysis.metrics import summarise, summary
from results.analysis.racing import Race, RacingRule, shuffled
from results.analysis.significance import (
    bootstrap_mean,
    mcnemar,
    mcnemar_of_images,
    paired_bootstrap,
    paired_test,
    wilson,
    wilson_mean,
)
from results.experiment import Experiment
from results.tables import samples_table, write_table
from workers import image_digests as digesting
from workers.image_digests import image_digests
from workers.tasks.base import Sample
from workers.work import UnitOutcome, WorkUnit

POINTS = fake_points()
INTERVALS, TESTS = ("wilson", "bootstrap", "paired"), ("mcnemar", "bootstrap_test")


# -- statistics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "design",
    [
        Design(images=100, questions=6, alike=0.3, share=0.85),
        Design(images=60, questions=12, alike=0.2, share=0.6, uneven=True),
    ],
    ids=["pope", "uneven"],
)
def test_intervals_cover_and_tests_keep_their_size_where_answers_about_an_image_are_alike(design: Design):
    found = simulate(design, 600)
    assert {field.name for field in fields(Rates)} == {*INTERVALS, *TESTS}
    for name in INTERVALS:
        assert 0.93 <= getattr(found, name) <= 0.97, (name, found)
    for name in TESTS:
        assert 0.03 <= getattr(found, name) <= 0.07, (name, found)
    ignorant = simulate(design, 600, clustered=False)
    assert max(getattr(ignorant, name) for name in INTERVALS) < 0.92
    assert min(getattr(ignorant, name) for name in TESTS) > 0.07


def test_flips_of_images_are_turned_around_in_all_ways():
    net_PG = np.array([[3, -1, 2, 1, -2, 1], [0, 0, 0, 0, 0, 0], [4, 1, 1, 1, 2, 2], [5, -5, 0, 0, 0, 0]])
    signs = np.array(list(itertools.product((-1, 1), repeat=net_PG.shape[1])))
    expected = [(np.abs(signs @ row) >= abs(row.sum())).mean() for row in net_PG]
    assert mcnemar_of_images(net_PG) == pytest.approx(expected, rel=1e-12)


def test_one_question_an_image_changes_no_digit():
    draw = np.random.default_rng(0)
    score_PS = (draw.random((5, 200)) < np.linspace(0, 1, 5)[:, None]).astype(np.float32)
    answered_PS = draw.random(score_PS.shape) < 0.9
    score_PS[~answered_PS] = 0
    change_PS = np.where(answered_PS & answered_PS[0], score_PS - score_PS[0], 0)
    own = draw.permutation(200)
    for told, plain in (
        (wilson_mean(score_PS, answered_PS, own), wilson(score_PS.sum(axis=1).astype(int), answered_PS.sum(axis=1))),
        (bootstrap_mean(score_PS, answered_PS, cluster_S=own), bootstrap_mean(score_PS, answered_PS)),
        (
            paired_bootstrap(score_PS, answered_PS, 0, cluster_S=own).drop,
            paired_bootstrap(score_PS, answered_PS, 0).drop,
        ),
        (paired_test(change_PS, False, own), paired_test(change_PS, False)),
    ):
        for one, other in zip(told, plain, strict=True):
            np.testing.assert_array_equal(one, other)
    lost, gained = (change_PS < 0).sum(axis=1), (change_PS > 0).sum(axis=1)
    np.testing.assert_array_equal(paired_test(change_PS, True, own).p, mcnemar(lost, gained))


def test_questions_that_are_asked_again_count_once():
    """Each question three times over, with the same answer: what is known is known of the images."""
    right_PS = (np.random.default_rng(1).random((2, 90)) < np.array([[0.8], [0.6]])).astype(float)
    again_PS, cluster_S = np.repeat(right_PS, 3, axis=1), np.repeat(np.arange(90), 3)
    once, thrice = (np.ones(cells.shape, dtype=bool) for cells in (right_PS, again_PS))
    plain, told = wilson_mean(right_PS, once), wilson_mean(again_PS, thrice, cluster_S)
    assert told.low == pytest.approx(plain.low, abs=0.003)  # Student's t instead of the normal
    assert told.high == pytest.approx(plain.high, abs=0.003)
    assert paired_test(again_PS - again_PS[0], True, cluster_S).p == pytest.approx(
        paired_test(right_PS - right_PS[0], True).p
    )


def of_images(path: Path, images: tuple[str, ...], digests: bool) -> Experiment:
    """An experiment whose samples show these images; ``digests``: known by their pixels, else by their files."""
    right_PS = np.random.default_rng(2).integers(0, 2, (3, len(images)))
    experiment = write_matrix(path, POINTS[:3], right_PS)
    samples = [
        Sample(id=f"s{n}", question="?", label="A", image=Path(f"{n if digests else image}.png"))
        for n, image in enumerate(images)
    ]
    write_table(path / "samples.parquet", samples_table(samples, images if digests else ()))
    return Experiment.open(experiment.path)


@pytest.mark.parametrize(("digests", "said"), [(True, "clustered by image"), (False, "clustered by image file")])
def test_tables_say_how_many_images_there_are_and_what_was_counted_together(tmp_path, digests, said):
    rows = summary(of_images(tmp_path, ("x", "y", "x", "z", "y", "x") * 5, digests))
    assert rows["n"].tolist() == [30] * 3
    assert rows["n_images"].tolist() == [3] * 3
    assert set(rows["interval"]) == {f"Wilson, {said}"}
    assert set(rows["test"][1:]) == {f"McNemar, exact, {said}"}
    assert set(rows["diff_interval"][1:]) == {f"paired bootstrap, {said}"}
    console = Console(file=io.StringIO(), width=160)
    console.print(accuracy_table(rows))
    assert f"(Wilson, {said} 95 %)" in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_experiment_of_before_there_were_digests_is_read(tmp_path):
    experiment = of_images(tmp_path, ("x", "y", "x", "z"), digests=False)
    path = experiment.path / "samples.parquet"
    old = pq.read_table(path).drop_columns(["pixels"])
    write_table(path, old)
    rows = summarise(answers_of(Experiment.open(tmp_path)))
    assert rows["n_images"].tolist() == [3] * 3


def test_standard_errors_of_measures_are_those_of_images(tmp_path, monkeypatch):
    experiment = of_images(tmp_path, ("x", "x", "y", "z"), digests=True)
    frame = experiment.cells(["correct"]).rename(columns={"correct": "value"}).assign(name="m")
    frame["value"] = frame["sample"].map({"s0": 1.0, "s1": 3.0, "s2": 2.0, "s3": 6.0})
    monkeypatch.setattr(Experiment, "measures", lambda self: frame)
    row = measure_summary(experiment).iloc[0]
    assert (row["mean"], row["n"]) == (3.0, 4)
    assert row["se"] == pytest.approx(np.sqrt(3 / 2 * ((-2 + 0) ** 2 + (-1) ** 2 + 3**2)) / 4)


# -- racing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("against", ["best", "baseline"])
def test_a_race_errs_as_rarely_as_asked_where_answers_about_an_image_are_alike(against):
    rule = RacingRule(against=against, alpha=0.2)
    assert race(rule, alike(6, 40, 5), sweeps=200, an_image=5).interval[0] <= rule.alpha
    assert race(rule, alike(6, 40, 5), sweeps=200, an_image=5, told=False).interval[0] > rule.alpha


def test_a_look_counts_images_that_are_settled_whole():
    """The last image's first answers are against all points alike, and nothing is known of its others."""
    draw = np.random.default_rng(0)
    score_PS = (draw.random((4, 120)) < np.array([[0.95], [0.95], [0.1], [0.1]])).astype(float)
    cluster_S = np.arange(120) // 5
    whole, part = score_PS.copy(), score_PS.copy()
    part[:, 15] = 1 - part[:, 15]  # the sixteenth question begins an image
    found = []
    for scores in (whole, part):
        decided = Race(RacingRule(), 4, 120, cluster_S=cluster_S)
        found.append(decided.decide(scores, np.ones(scores.shape, dtype=bool), 16))
    assert found[0] == found[1]


@given(images=st.lists(st.sampled_from("abcde") | st.just(""), min_size=1, max_size=40), seed=st.integers(0, 3))
def test_orders_keep_images_together(images, seed):
    samples = fake_samples(len(images))
    name = dict(zip((sample.id for sample in samples), images, strict=True))
    for order in (by_image(samples, images), shuffled(samples, seed, images)):
        assert sorted(sample.id for sample in order) == sorted(name)
        runs = [image for image, _ in itertools.groupby(name[sample.id] for sample in order) if image]
        assert len(runs) == len(set(runs))
    turned = shuffled(samples[::-1], seed, images[::-1])
    assert turned == shuffled(samples, seed, images)  # the order of the file says nothing
    assert by_image(samples, [""] * len(samples)) == samples
    assert shuffled(samples, seed, [""] * len(samples)) == shuffled(samples, seed)


# -- plans -------------------------------------------------------------------------------------------------------------


def test_units_hold_as_many_images_however_many_questions_each_has():
    """Questions of an image share its rows, so that a micro-batch takes as many images."""
    for questions in (1, 6, 31):
        names = [f"s{place}" for place in range(200 * questions)]
        shown = {name: str(place // questions) for place, name in enumerate(names)}
        units = make_units(POINTS[:2], names, {}, 1, shown)
        assert {len(set(unit.images)) for unit in units[:-1]} == {MAX_SHARD}
        assert max(unit.cells for unit in units) <= MAX_CELLS


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), workers=st.integers(1, 3))
def test_units_are_cut_between_images(sizes, workers):
    images = [str(place) for place, size in enumerate(sizes) for _ in range(size)]
    names = [f"s{place}" for place in range(len(images))]
    shown = dict(zip(names, images, strict=True))
    units = make_units(POINTS[:2], names, {}, workers, shown)
    assert [name for unit in units for name in unit.samples] == names
    assert all(unit.images == tuple(shown[name] for name in unit.samples) for unit in units)
    for unit, following in itertools.pairwise(units):
        if unit.images[-1] == following.images[0]:  # cut: nothing else is in it, and it has more than two units hold
            assert len(set(unit.images)) == 1
            assert sizes[int(unit.images[0])] > len(unit.samples)
        assert len(unit.samples) <= 2 * MAX_SHARD * (len(names) // len(sizes))
    bare = make_units(POINTS[:2], names, {}, workers)
    assert [unit.key for unit in bare] == [replace(unit, images=()).key for unit in bare]
    if workers == 1 and max(sizes) <= max(len(unit.samples) for unit in bare):
        assert all(a.images[-1] != b.images[0] for a, b in itertools.pairwise(units))


def test_parts_of_a_unit_keep_their_images():
    unit = WorkUnit(samples=("a", "b", "c"), points=POINTS[:1], images=("x", "x", ""))
    assert unit.of(["c", "a"]) == WorkUnit(samples=("c", "a"), points=POINTS[:1], images=("", "x"))
    assert unit.key == WorkUnit(samples=("a", "b", "c"), points=POINTS[:1]).key  # files of cells keep their names


# -- digests -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded."""
    found: list[str] = []
    load = digesting.load_image

    def told(source: Path, content: bytes) -> Image.Image:
        found.append(source.name)
        return load(source, content)

    monkeypatch.setattr(digesting, "load_image", told)
    return found


def shown(*files: Path | None) -> tuple[Sample, ...]:
    return tuple(Sample(id=f"s{n}", question="?", label="A", image=file) for n, file in enumerate(files))


def drawing(path: Path, colour: str) -> Path:
    Image.new("RGB", (9, 7), colour).save(path)
    return path


def test_images_are_recognised_by_their_pixels(tmp_path, decoded):
    red, other, blue = (drawing(tmp_path / name, name[0:-5]) for name in ("red1.png", "red2.bmp", "blue3.png"))
    tall = tmp_path / "tall.png"
    Image.new("RGB", (7, 9), "red").save(tall)
    broken = tmp_path / "broken.png"
    broken.write_bytes(red.read_bytes()[:40])
    os.link(red, tmp_path / "linked.png")
    files = (red, other, blue, tall, None, broken, tmp_path / "gone.png", red, tmp_path / "linked.png")
    first = image_digests(shown(*files))
    assert first[0] == first[1] == first[7] == first[8] != ""
    assert len({first[0], first[2], first[3]}) == 3
    assert first[4:7] == ("", "", "")  # none, damaged, missing
    assert len(decoded) == 5  # a file with two names once, and none that is missing
    decoded.clear()
    known = {f"s{n}": digest for n, digest in enumerate(first)}
    assert image_digests(shown(*files), known) == first
    assert decoded == ["broken.png"]


@pytest.fixture
def asked(tmp_path: Path) -> Prepared:
    """A sweep of 24 questions about four images, which have a file for each question."""
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("model: embedded\ndata: embedded\ngrid:\n  - {strategy: cutoff, layer: 2..4}\n")
    colours = ("red", "green", "blue", "black")
    samples = tuple(
        replace(sample, image=sample.image and drawing(tmp_path / f"{n}.png", colours[n % 4]))
        for n, sample in enumerate(fake_samples(24))
    )
    return replace(prepare(load_sweep(sweep)), samples=samples)


class Noting(stub_engine.StubEngine):
    units: tuple[WorkUnit, ...] = ()

    def run(self, unit: WorkUnit) -> UnitOutcome:
        Noting.units += (unit,)
        return super().run(unit)


def test_a_run_asks_about_one_image_after_the_other_and_going_on_decodes_nothing(asked, tmp_path, decoded):
    def run() -> Experiment:
        options = RunOptions(local=True, engine=Noting, pictures=0)
        return run_sweep(asked, tmp_path / "x", options, Console(file=io.StringIO())).experiment

    Noting.units = ()
    experiment = run()
    assert len(decoded) == 4  # equal files once
    images = [image for unit in Noting.units for image in unit.images if image]
    assert len(images) == 22
    assert len(list(itertools.groupby(images))) == 4
    assert summary(experiment)["n_images"].tolist() == [4] * 4
    assert policy_of(experiment).images == {
        sample: image for unit in Noting.units for sample, image in zip(unit.samples, unit.images, strict=True)
    }
    decoded.clear()
    again = run()
    assert (decoded, again.samples["pixels"].tolist()) == ([], experiment.samples["pixels"].tolist())
    Experiment.create(tmp_path / "x", experiment.manifest, asked.samples)  # as `saccade latency` does
    assert Experiment.open(tmp_path / "x").samples["pixels"].tolist() == again.samples["pixels"].tolist()


def test_racing_bets_on_images(asked):
    cells = pd.DataFrame(columns=["point", "sample", "correct", "score", "tokens_kept"])
    policy = Policy(RacingRule(), POINTS, asked.samples, 0, cells, (), ("x", "x", "y") * 8)
    order = [policy.images[sample.id] for sample in policy.samples if sample.image is not None]
    assert len(list(itertools.groupby(order))) == 2
    assert len(set(policy.standing.cluster_S.tolist())) == 2
    assert len(set(clusters_of(["", "", "x"], ["a", "b", "c"]).tolist())) == 3
