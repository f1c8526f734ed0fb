"""Sweep files: what they mean, and what is said about their mistakes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from shutil import copytree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_experiment import fake_engine, fake_manifest, fake_points
from orchestrator.sweep import document
from orchestrator.sweep.document import CallbackSpec
from orchestrator.sweep.mistakes import Mistake, checked
from orchestrator.sweep.prepare import prepare
from orchestrator.sweep.ranges import expand
from orchestrator.sweep.source import shipped_sweeps
from orchestrator.sweep.spec import SpecError, load_sweep
from results.analysis.racing import RacingRule
from results.exchange.point_names import is_named, names_of
from results.manifest import RecordedPoint
from workers.families.config import ModelError
from workers.work import UNPRUNED, GridPoint, TaskSpec

HEAD = "model: embedded\ndata: embedded\n"  # 12 layers, 576 visual tokens
L, N = 12, 576


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaints(folder: Path, text: str) -> list[str]:
    path = write(folder, text)
    with pytest.raises(SpecError) as caught:
        load_sweep(path)
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.1..0.9 step 0.2", [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("0..1 step 0.3", [0.0, 0.3, 0.6, 0.9]),
        ("0.9 .. 0.1 step -0.4", [0.9, 0.5, 0.1]),
    ],
)
def test_a_range_of_fractions_is_the_numbers_that_one_would_write(tmp_path, text, numbers):
    entry = f"grid: [{{strategy: weighted_combination, layer: 2, rank: 144, alpha: {text}}}]\n"
    points = load_sweep(write(tmp_path, HEAD + entry)).points[1:]
    assert [dict(point.params)["alpha"] for point in points] == numbers


@pytest.mark.parametrize("text", ["0.1..0.9", "0.9..0.1 step 0.2", "0..1 step 0", "0..1 step 0.000001", "a..b step 1"])
def test_a_range_of_fractions_that_is_none_is_told_at_its_key(tmp_path, text):
    entry = f"grid: [{{strategy: weighted_combination, layer: 2, rank: 144, alpha: {text}}}]\n"
    assert complaints(tmp_path, HEAD + entry)[0].startswith(f"grid[0].alpha: '{text}'")


def test_mistakes_of_model_data_task_and_grid_are_told_at_once(tmp_path):
    text = "model: embeded\ndata: embeded\ntask: scienceq\ngrid: [{strategy: fastvv, layer: 2, rank: 9}]\n"
    told = complaints(tmp_path, text)
    assert [line.partition(":")[0] for line in told] == ["task", "data", "model", "grid[0].strategy"]
    for line, meant in zip(told, ("scienceqa", "embedded", "embedded", "fastv"), strict=True):
        assert f"Did you mean '{meant}'?" in line


def test_a_mistake_elsewhere_hides_none_of_model_data_and_task(tmp_path):
    text = "model: embeded\ndata: embeded\ntask: scienceq\nsamples: al\nmeassure: {quality: true}\n"
    text += "grid: [{strategy: fastv, layer: 99, rank: 9}]\n"
    told = complaints(tmp_path, text)
    assert sorted(line.partition(":")[0] for line in told) == ["data", "meassure", "model", "samples", "task"]
    told = complaints(tmp_path, text.replace("embeded", "embedded").replace("scienceq", "scienceqa"))
    assert sorted(line.partition(":")[0] for line in told) == ["grid[0].layer", "meassure", "samples"]


def test_files_of_model_and_data_that_are_wrong_are_told_at_once(tmp_path, small_checkpoint):
    whole = "grid: [{strategy: fastv, layer: 1, rank: 1}]\n"
    damaged = copytree(small_checkpoint, tmp_path / "damaged")
    next(damaged.glob("*.safetensors")).unlink()
    spec = load_sweep(write(tmp_path, f"model: {damaged}\ndata: {tmp_path / 'none'}\n{whole}"))
    with pytest.raises(SpecError) as caught:
        prepare(spec)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path / 'sweep.yaml'}: model: ")
    assert second.startswith(f"{tmp_path / 'sweep.yaml'}: data: {tmp_path / 'none'}: no such directory")


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (3, [3]),
        ("L", [12]),
        ("N/8", [72]),
        ("3N/4", [432]),
        ("L/5+1", [3]),
        ("N-6..550 step -10", [570, 560, 550]),
        ("L-1", [11]),
        ("2..5", [2, 3, 4, 5]),
        ("0..L step 4", [0, 4, 8, 12]),
        ("576..540 step -10", [576, 566, 556, 546]),
        ([1, "2..3", "L"], [1, 2, 3, 12]),
    ],
)
def test_values_of_layer_and_rank(value, numbers):
    assert list(expand(value, {"L": L, "N": N})) == numbers


@pytest.mark.parametrize("value", ["", "..", "2..", "x", "L*2", "2..L step 0", "9..2", "1.5", [], "N/0", "2..L step"])
def test_what_is_no_value_is_refused(value):
    with pytest.raises(ValueError, match=r"is|divides|has step"):
        expand(value, {"L": L, "N": N})


@given(st.integers(0, 50), st.integers(0, 50), st.integers(-7, 7).filter(bool))
def test_ranges_include_both_ends_as_far_as_the_step_meets_them(first, last, step):
    if (last - first) * step < 0:
        with pytest.raises(ValueError, match="is empty"):
            expand(f"{first}..{last} step {step}", {})
        return
    numbers = expand(f"{first}..{last} step {step}", {})
    assert numbers[0] == first
    assert {after - before for before, after in pairwise(numbers)} <= {step}
    assert 0 <= (last - numbers[-1]) * (1 if step > 0 else -1) < abs(step)


def test_baseline_first_and_equal_points_once(tmp_path):
    entry = "  - {strategy: [fastv, random], layer: [2, 3], rank: [16, 64]}\n"
    spec = load_sweep(write(tmp_path, f"{HEAD}grid:\n{entry}{entry}  - {{strategy: cutoff, layer: 2..L}}\n"))
    assert spec.points[0].strategy == UNPRUNED
    assert len(spec.points) == 1 + 2 * 2 * 2 + 11
    assert len({point.key for point in spec.points}) == len(spec.points)
    assert {point.rank for point in spec.points if point.strategy == "cutoff"} == {0}
    assert spec.name == "sweep"
    assert (spec.engine.model.dtype, spec.engine.max_new_tokens, spec.engine.seed) == ("float32", 1024, 0)


def test_ranks_of_the_papers(tmp_path):
    """With what the authors set for each of them, unless the sweep says otherwise."""
    pyramid = "  - {strategy: pyramiddrop, layer: 2, rank: paper, second_layer: 4, third_layer: L}\n"
    (point,) = load_sweep(write(tmp_path, f"{HEAD}grid:\n{pyramid}")).points[1:]
    assert (point.rank, dict(point.params)["third_layer"]) == (288, L)
    entry = "  - {strategy: [vispruner, visionzip], layer: 0, rank: paper}\n"
    spec = load_sweep(write(tmp_path, f"{HEAD}grid:\n{entry}"))
    found = {(point.strategy, point.rank, *dict(point.params).values()) for point in spec.points[1:]}
    zipped = {("visionzip", rank, 10 / 64) for rank in (192, 128, 64)}
    assert found == {("vispruner", 128, 0.5), ("vispruner", 64, 0.75)} | zipped
    spec = load_sweep(
        write(tmp_path, f"{HEAD}grid:\n{entry.replace('[vispruner, visionzip]', 'vispruner, important: 1')}")
    )
    assert {(point.rank, *dict(point.params).values()) for point in spec.points[1:]} == {(128, 1.0), (64, 1.0)}


def positions(folder: Path, entry: str) -> list[str | None]:
    spec = load_sweep(write(folder, f"{HEAD}grid: [{{{entry}, rank: 64}}]\n"))
    assert len({point.key for point in spec.points}) == len(spec.points)
    return [point.positions for point in spec.points[1:]]


def test_positions_are_of_the_point_where_they_are_not_the_methods_own(tmp_path):
    """So that saying what is so anyway names the cells that there are."""
    for entry in ("strategy: fastv, layer: 2", "strategy: himap, second_rank: 9, layer: 2"):
        assert positions(tmp_path, entry) == positions(tmp_path, f"{entry}, positions: keep") == [None]
        assert positions(tmp_path, f"{entry}, positions: compact") == ["compact"]
        assert positions(tmp_path, f"{entry}, positions: [compact, keep]") == ["compact", None]
    assert positions(tmp_path, "strategy: [divprune, random], layer: 0, positions: compact") == [None, "compact"]
    assert positions(tmp_path, "strategy: [divprune, random], layer: 0, positions: keep") == ["keep", None]
    assert positions(tmp_path, "strategy: vscan, second_layer: 4, layer: 0, positions: compact") == ["compact"]


def test_a_point_that_says_nothing_of_positions_has_the_address_that_it_always_had():
    point = GridPoint(strategy="visionzip", layer=0, rank=64, params=(("contextual", 0.15625),))
    assert point.key == "29e74a470e854388"  # of an experiment of before
    assert "positions" not in point.to_json()
    other = replace(point, strategy="fastv", positions="compact")
    assert other.key != replace(other, positions="keep").key
    assert GridPoint.from_json(other.to_json()) == RecordedPoint.of(other, "").point == other
    assert other.label == "fastv layer=0 rank=64 contextual=0.15625 positions=compact"


def test_a_point_is_called_as_its_sweep_asked_for_it_and_its_address_does_not_know(tmp_path):
    entries = "{strategy: fastv, layer: 2, tokens: [192, 30%]}, {strategy: fastv, layer: 3, rank: 22.2%}"
    entries += ", {strategy: weighted_combination, layer: 2, rank: 64, alpha: [0.5, 0.7]}"
    spec = load_sweep(write(tmp_path, f"{HEAD}grid: [{entries}]\n"))
    assert [point.label for point in spec.points[1:]] == [
        "fastv layer=2 tokens=192", "fastv layer=2 tokens=30%", "fastv layer=3 rank=22.2%",
        "weighted_combination layer=2 rank=64", "weighted_combination layer=2 rank=64 alpha=0.7",
    ]  # fmt: skip
    assert all(replace(point, name=None).key == point.key for point in spec.points)
    recorded = [RecordedPoint.of(point, "").point for point in spec.points]
    assert [point.label for point in recorded] == [point.label for point in spec.points]
    for pattern in ("tokens=192", "fastv rank=115", "alpha=0.5", "weighted_combination layer=2 rank=64"):
        assert any(is_named(names_of(point), pattern) for point in spec.points), pattern


def test_shipped_sweeps_are_valid():
    assert {"layer_cutoff", "smoke"} <= set(shipped_sweeps())
    assert [point.layer for point in load_sweep("layer_cutoff").points[1:]] == list(range(2, L + 1))
    assert load_sweep("smoke.yaml").sample_limit == 20


def test_the_command_line_overrides_the_file(tmp_path):
    text = "model: {path: /nowhere, dtype: bfloat16}\ndata: /nowhere\ngrid: [{strategy: cutoff, layer: 2}]\n"
    spec = load_sweep(write(tmp_path, text), {"model": "embedded", "data": "embedded", "samples": 3})
    assert spec.engine.model.dtype == "bfloat16"
    assert spec.sample_limit == 3


def test_all_mistakes_are_reported_together_in_file_order(tmp_path):
    text = """
modl: embedded
model: {path: embedded, dtype: float3}
data: embedded
samples: some
seed: -1
grid:
  - {strategy: fastv, layer: 2..L, rank: 600}
  - {strategy: fastvv, layer: 40, rank: 3}
  - {strategy: random, layr: 2, layer: 9..2, rank: 5}
  - 4
  - {strategy: cutoff, layer: 2, rank: 3}
  - {strategy: random, layer: [1, 2.5]}
"""
    lines = complaints(tmp_path, text)
    assert lines[:4] == [
        "model.dtype: 'float3' is not known. Did you mean 'float32'? (known: auto, float32, bfloat16, float16)",
        "samples: 'some' is not `all` or a whole number",
        "seed: -1 is below 0",
        "modl: unknown key. Did you mean 'model'? "
        "(known: name, model, task, data, samples, max_new_tokens, seed, measure, racing, tune, grid)",
    ]
    # Without a valid document the model is not known, so numbers are not compared with its sizes.
    assert any(line.startswith("grid[1].strategy: unknown strategy 'fastvv'. Did you mean 'fastv'?") for line in lines)
    assert "grid[3]: is not a mapping; write `- strategy: NAME` with `layer:` and `rank:` below it" in lines
    places = [line.split(":")[0] for line in lines if line.startswith("grid[")]
    assert places == sorted(places)


def test_numbers_are_compared_with_the_model(tmp_path):
    text = f"""{HEAD}grid:
  - {{strategy: fastv, layer: 2..L, rank: 600}}
  - {{strategy: fastv, layer: 13, rank: -1}}
  - {{strategy: random, layr: 2, layer: 9..2, rank: 5}}
  - {{strategy: cutoff, layer: 2, rank: 3}}
  - {{strategy: random, layer: 2}}
  - {{strategy: none, layer: 2, rank: 4}}
"""
    assert complaints(tmp_path, text) == [
        "grid[0].rank: 600 is above the model's 576 visual tokens",
        "grid[1].layer: 13 is above the model's 12 layers",
        "grid[1].rank: -1 is below 0",
        "grid[2].layer: '9..2' is empty: it counts down from 9 to 2; add for example 'step -1'",
        "grid[2].layr: unknown key. Did you mean 'layer'? (known for random: strategy, layer, rank, tokens, positions)",
        "grid[3].rank: cutoff always keeps 0 visual tokens; leave rank out",
        "grid[4].rank: is missing: say how many visual tokens random keeps",
        "grid[5].strategy: 'none' is the un-pruned model, which every sweep holds; leave it out",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "model: embedded\ngrid:\n  - strategy: cutoff\n   layer: 2\n",
            "line 4, column 4: did not find expected '-' indicator while parsing a block collection; check the "
            "indentation",
        ),
        ("model: embedded\nmodel: embedded\n", "line 2, column 1: the key 'model' is given twice"),
        ("- 3\n", "is not a sweep: it must be a mapping with the keys model, data and grid"),
        (f"{HEAD}grid: []\n", "grid: is empty; list at least one grid entry"),
        (f"{HEAD}grid: {{strategy: cutoff}}\n", "grid: {'strategy': 'cutoff'} is not a list of entries, each starting "
                                                "with `- strategy:`"),
        ("model: embedded\ngrid: [{strategy: cutoff, layer: 2}]\n", "data: is missing: give the benchmark's directory, "
                                                                    "or `embedded`"),
        (f"{HEAD}grid: [{{strategy: cutoff}}]\n", "grid[0].layer: is missing"),
        (f"{HEAD}grid: [{{strategi: cutoff, layer: 2}}]\n",
         "grid[0].strategy: is missing: should 'strategi' be 'strategy'?"),
        (f"name: a b\n{HEAD}grid: [{{strategy: cutoff, layer: 2}}]\n",
         "name: 'a b' names a directory: use letters, digits, '.', '_' and '-'"),
        (f"{HEAD}task: 3\ngrid: [{{strategy: cutoff, layer: 2}}]\n", "task: 3 is neither a name nor a mapping"),
        (f"{HEAD}grid: [{{strategy: [random, fastv, l2_norm], layer: 0, rank: 4}}]\n",
         "grid[0].layer: fastv reads the attention of the prompt's last token, which there is from layer 1 on; "
         "at layer 0 take `random`"),
        (f"{HEAD}grid: [{{strategy: himap, layer: 0, rank: 288}}]\n",
         "grid[0].layer: himap reads the attention of the question's words, which there is from layer 1 on; "
         "at layer 0 take `random`"),
        (f"{HEAD}grid: [{{strategy: [fastervlm, random], layer: 0, rank: paper}}]\n",
         "grid[0].rank: paper: of random no published ranks are known; give numbers"),
        (f"{HEAD}grid: [{{strategy: [divprune, visionzip], layer: 0, rank: 64, positions: keep}}]\n",
         "grid[0].positions: visionzip feeds rows of its own making, which have no place to keep; leave `keep` out"),
        (f"{HEAD}grid: [{{strategy: random, layer: 0, rank: 64, positions: [kept]}}]\n",
         "grid[0].positions: 'kept' is not known. Did you mean 'keep'? (known: keep, compact)"),
        (f"{HEAD}grid: [{{strategy: random, layer: 0, rank: 64, positions: 3}}]\n",
         "grid[0].positions: 3 is not `keep`, `compact`, or a list of both"),
        (f"{HEAD}grid: [{{strategy: [], layer: 2}}]\n", "grid[0].strategy: is an empty list"),
        (f"{HEAD}grid: [{{strategy: cutoff, layer: true}}]\n",
         "grid[0].layer: True is not a whole number, a list of them, or a range such as 2..L"),
    ],
)  # fmt: skip
def test_one_mistake_one_line(tmp_path, text, line):
    assert complaints(tmp_path, text) == [line]


def test_racing_and_callbacks(tmp_path):
    grid = "grid: [{strategy: cutoff, layer: 2}]\n"
    plain = load_sweep(write(tmp_path, HEAD + grid))
    assert (plain.racing, plain.callbacks) == (None, ())
    path = write(tmp_path, HEAD + grid + "racing: true\ntune: {callbacks: [a.B, {c.D: {x: 1}}, {e.F: }]}\n")
    sweep = load_sweep(path)
    assert sweep.racing == RacingRule(against="best", alpha=0.05, margin=0.0)
    assert sweep.callbacks == (CallbackSpec("a.B"), CallbackSpec("c.D", (("x", 1),)), CallbackSpec("e.F"))
    changed = load_sweep(path, {"racing.alpha": 0.1, "racing.against": "baseline", "tune.callbacks": ["g.H"]})
    assert changed.racing == RacingRule(against="baseline", alpha=0.1)
    assert changed.callbacks == (CallbackSpec("g.H"),)
    assert load_sweep(path, {"racing": False}).racing is None
    assert complaints(
        tmp_path, HEAD + grid + "racing: {against: bst, alpha: 1.5, margin: -1}\ntune: {callback: x}\n"
    ) == [
        "racing.against: 'bst' is not known. Did you mean 'best'? (known: best, baseline)",
        "racing.alpha: 1.5 is not above 0 and below 1",
        "racing.margin: -1 is below 0.0",
        "tune.callback: unknown key. Did you mean 'callbacks'? (known: callbacks)",
    ]


def test_a_missing_model_is_told_with_the_other_mistakes_or_alone(tmp_path):
    head = f"model: {tmp_path}/nope\ndata: embedded\n"
    assert complaints(tmp_path, f"{head}grid: [{{strategy: cutof, layer: 2}}]\n")[0].startswith(
        f"model: {tmp_path}/nope: no such directory"
    )
    with pytest.raises(ModelError, match="no such directory"):
        load_sweep(write(tmp_path, f"{head}grid: [{{strategy: cutoff, layer: 2}}]\n"))


def test_an_unknown_sweep_is_answered_with_the_shipped_ones():
    with pytest.raises(SpecError, match=r"layer_cutof: no such file, .* Did you mean 'layer_cutoff'\?"):
        load_sweep("layer_cutof")


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("strategy: random, layer: 1, rank: 0..10000000000",
         "grid[0].rank: '0..10000000000' stands for 10,000,000,001 numbers, more than 100,000"),
        (f"strategy: random, layer: 1, rank: [{', '.join(['0..60000'] * 2)}]",
         "grid[0].rank: stands for more than 100,000 numbers"),
        (f"strategy: random, layer: 1, rank: '{' ' * 100_000}..'", "grid[0].rank: '   "),
        (f"strategy: random, layer: 1, rank: '{'1' * 5_000}'", "grid[0].rank: '11111111111111111111...' has 5,000"),
        (f"strategy: random, layer: 0..L, tokens: [{', '.join(map(str, range(1, 50_000)))}]",
         "grid[0].tokens: stands for 649,987 grid points"),
    ],
    ids=["range", "ranges", "spaces", "digits", "product"],
)  # fmt: skip
def test_a_grid_larger_than_any_is_counted_and_not_made(tmp_path, entry, line):
    began = time.process_time()
    found = complaints(tmp_path, f"{HEAD}grid: [{{{entry}}}]\n")
    assert found[0].startswith(line)
    assert time.process_time() - began < 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterTask(TaskSpec):
    """As if somebody had added options."""

    shout: bool = False
    shots: int = 0


def test_an_option_of_a_benchmark_is_declared_in_one_place():
    @document._of(LaterTask)
    class Section(document.Section):
        name: str = "scienceqa"
        data: str | None = None

    class Sweep(document.Section):
        task: Section

    def said(**task):
        return checked(document.valid(Sweep, {"task": task}, ""))

    found, mistakes = said(shout=True, shots=2)
    assert not mistakes
    task = LaterTask(**{**found.task.model_dump(), "data": "x"})
    assert (task.name, task.conversation, task.shout, task.shots) == ("scienceqa", "vicuna_v1", True, 2)
    assert said(shout="loud", shots=1.5, shot=1)[1] == [
        ("task.shout", "'loud' is not true or false"),
        ("task.shots", "1.5 is not a whole number"),
        ("task.shot", "unknown key. Did you mean 'shout'? (known: name, data, questions, split, conversation, "
                      "single_prediction, scorer, shout, shots)"),
    ]  # fmt: skip

    def context(**options):
        task = LaterTask(name="scienceqa", data="/nowhere/data", **options)
        return fake_manifest(fake_points(), engine=fake_engine(task=task)).context

    plain = fake_manifest(fake_points()).context
    assert context() == plain  # other sweeps keep their cells
    assert len({plain, context(shout=True), context(shots=2)}) == 3
    assert context(split="test") == plain  # which samples there are is said by their fingerprint


def test_a_check_gives_its_part_and_all_mistakes():
    def inner(value):
        if value < 0:
            yield Mistake("b", "is below 0")
        return abs(value)

    def outer(*values):
        total = 0
        for value in values:
            total += yield from inner(value)
        return total

    assert checked(outer(1, -2, -3)) == (6, [("b", "is below 0")] * 2)
