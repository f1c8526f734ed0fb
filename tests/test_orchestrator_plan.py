"""Plans: every missing cell once, in an order that lets all curves grow together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_experiment import fake_points, fake_samples
from orchestrator.sweep import image_tokens as module
from orchestrator.sweep.image_tokens import ImageTokens, image_tokens
from orchestrator.sweep.plan import (
    MAX_CELLS,
    MAX_SHARD,
    UNITS_PER_WORKER,
    estimate_work,
    make_units,
    questions_per_image,
)
from small_qwen import make_qwen, noise
from workers.families.catalog import open_checkpoint
from workers.families.config import ModelConfig
from workers.work import GridPoint, ModelSpec, TaskSpec, WorkUnit, unpruned_point

POINTS = fake_points()
KEYS = [point.key for point in POINTS]
FACTS = ModelConfig(
    layers=8, heads=4, kv_heads=4, head_dim=32, hidden=128, ffn=256, vocab=500, image_size=112, patch_size=14,
    visual_tokens=64, parameters=1,
)  # fmt: skip
TASK = TaskSpec(name="scienceqa", data="/nowhere")


@settings(deadline=None)  # the machine may be busy
@given(
    samples=st.integers(0, 60),
    workers=st.integers(1, 9),
    done=st.dictionaries(st.integers(0, 59), st.frozensets(st.sampled_from(KEYS)), max_size=60),
)
def test_every_missing_cell_is_planned_once_and_no_other(samples, workers, done):
    names = [f"s{place}" for place in range(samples)]
    have = {f"s{place}": keys for place, keys in done.items()}
    units = make_units(POINTS, names, have, workers)
    planned = Counter((sample, point.key) for unit in units for sample in unit.samples for point in unit.points)
    assert set(planned.values()) <= {1}
    assert set(planned) == {(name, key) for name in names for key in KEYS if key not in have.get(name, ())}
    assert len({unit.key for unit in units}) == len(units)
    firsts = [names.index(unit.samples[0]) for unit in units]
    assert firsts == sorted(firsts)
    assert units == make_units(POINTS, names, have, workers)


@settings(deadline=None)
@given(samples=st.integers(1, 2000), points=st.integers(1, len(POINTS)), workers=st.integers(1, 64))
def test_units_are_neither_few_nor_large_and_the_last_ones_are_small(samples, points, workers):
    units = make_units(POINTS[:points], [f"s{place}" for place in range(samples)], {}, workers)
    sizes = [len(unit.samples) for unit in units]
    assert max(sizes) <= MAX_SHARD
    assert all(unit.cells <= MAX_CELLS for unit in units)
    assert len(units) >= min(samples, UNITS_PER_WORKER * workers) / 2
    if workers > 1:
        left = samples
        for size in sizes:  # what one worker takes leaves the others as much each, several times over
            assert size <= max(1, -(-left // (UNITS_PER_WORKER * workers)))
            left -= size
        assert sizes[-1] == 1


def test_work_by_hand():
    sample = fake_samples(1)[0]
    points = (
        unpruned_point(8, 64),
        GridPoint(strategy="cutoff", layer=6, rank=0),
        GridPoint(strategy="cutoff", layer=8, rank=0),  # prunes nothing
        GridPoint(strategy="random", layer=2, rank=64),  # drops nothing
    )
    unit = WorkUnit(samples=(sample.id,), points=points)
    baseline = estimate_work((WorkUnit(samples=(sample.id,), points=points[:1]),), (sample,), FACTS, TASK)
    full = baseline.shared // 8  # system + 64 visual + text
    work = estimate_work((unit,), (sample,), FACTS, TASK)
    fork = work.shared - 8 * full  # two layers of text rows
    text = fork // 2
    system = full - 64 - text
    assert baseline.shared == baseline.separate == 8 * full
    assert 0 < text < full
    assert system == 41  # 164 characters of vicuna_v1 before the image; the tokenizer makes 35 of them
    assert work.separate == 3 * 8 * full + 6 * full + 2 * (system + text)


def test_a_question_without_image_costs_one_trunk():
    sample = fake_samples(10)[9]
    work = estimate_work((WorkUnit(samples=(sample.id,), points=POINTS),), (sample,), FACTS, TASK)
    assert work.separate == len(POINTS) * work.shared


def test_questions_about_an_image_share_its_rows():
    """Three of it and one of another, by their files or by their pixels: what reads no question is counted once."""
    first, *others = fake_samples(4)
    samples = (first, *(replace(sample, image=first.image) for sample in others[:2]), others[2])
    points = (
        unpruned_point(8, 64),
        GridPoint(strategy="divprune", layer=0, rank=20),
        GridPoint(strategy="image_column_sum", layer=5, rank=10),
        GridPoint(strategy="fastv", layer=2, rank=30),  # reads the question
        GridPoint(strategy="himap", layer=2, rank=30, params=(("second_layer", 5), ("second_rank", 3))),  # so does it
        GridPoint(strategy="random", layer=2, rank=30),  # draws for each sample
        GridPoint(strategy="cutoff", layer=3, rank=0),
    )
    ids = tuple(sample.id for sample in samples)
    unit = WorkUnit(samples=ids, points=points)
    apart = [estimate_work((WorkUnit(samples=(id,), points=points),), samples, FACTS, TASK) for id in ids]
    together = estimate_work((unit,), samples, FACTS, TASK)
    again = 8 * 64 + 8 * 20 + 3 * 10
    assert together.shared == sum(work.shared for work in apart) - 2 * again
    assert together.separate == sum(work.separate for work in apart)
    known = replace(unit, images=("a", "a", "a", "a"))
    assert estimate_work((known,), samples, FACTS, TASK).shared == together.shared - again
    assert questions_per_image(samples) == 2
    assert questions_per_image(fake_samples(9)) == questions_per_image(fake_samples(10)[9:]) == 1


def test_each_image_counts_as_its_own_size_says(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Work is that of as many tokens, and a share of them; what is not looked at, or cannot be read, is the mean."""
    checkpoint = open_checkpoint(ModelSpec(path=str(make_qwen(tmp_path / "qwen"))))
    samples = [replace(sample, image=tmp_path / f"{place}.png") for place, sample in enumerate(fake_samples(5))]
    for sample, size in zip(samples, ((56, 84), (112, 112), (84, 56), (56, 56)), strict=False):
        noise(size).save(sample.image)
    samples[4].image.write_bytes(b"no image")
    found = image_tokens(samples, checkpoint)
    assert list(found.of.values()) == [6, 16, 6, 4, 8]
    assert (found.mean, found.every) == (8, False)
    assert image_tokens(samples[:4], checkpoint).every
    monkeypatch.setattr(module, "LOOKED_AT", 2)
    assert list(image_tokens(samples[:4], checkpoint).of.values()) == [6, 6, 6, 6]
    facts = replace(FACTS, visual_tokens=30, varies=True)
    fixed = replace(FACTS, visual_tokens=6)
    share = GridPoint(strategy="random", layer=2, rank=15, share=0.5)
    unit = WorkUnit(samples=(samples[0].id,), points=(unpruned_point(8, 30), share))
    same = WorkUnit(samples=unit.samples, points=(unpruned_point(8, 6), replace(share, rank=3, share=None)))
    counted = estimate_work((unit,), samples, facts, TASK, found.of)
    assert counted == estimate_work((same,), samples, fixed, TASK)
    assert counted.shared < estimate_work((unit,), samples, facts, TASK).shared
    assert ImageTokens().mean is None
