"""The drawn benchmark: fixed by its seed, balanced, in ScienceQA's file form, and honest about its patches."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from PIL import Image, ImageChops

from embedded_training.drawn import Item, items, lay_out, main, question_text, write
from embedded_training.questions import FAMILIES
from embedded_training.scene import COLOURS, LETTERS, PATCH, SHAPES, SIDE, patches, random_scene, render


@pytest.fixture(scope="module")
def made() -> list[Item]:
    return items(3, "test", 600)


def test_the_seed_decides_everything(tmp_path):
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        write(tmp_path / name, seed, {"train": 2, "val": 5, "test": 20})
    files = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "same", "other")
    }
    assert files["one"] == files["same"]
    assert files["one"] != files["other"]


def test_a_split_does_not_move_when_another_grows(made):
    assert items(3, "test", 600) == made
    assert not {item.scene for item in made if item.scene} & {item.scene for item in items(3, "train", 50)}


def test_letters_options_and_families_are_balanced(made):
    seen = [item for item in made if item.needs_picture]
    assert {item.family for item in seen} == set(FAMILIES)
    spread = Counter(item.family for item in seen).values()
    assert max(spread) - min(spread) <= 1
    assert {len(item.choices) for item in made} == {2, 3, 4, 5}
    for options in (2, 3, 4, 5):
        places = Counter(item.answer for item in seen if len(item.choices) == options)
        assert max(places.values()) - min(places.get(place, 0) for place in range(options)) <= 1
    chance = sum(1 / len(item.choices) for item in seen) / len(seen)
    assert 0.30 <= chance <= 0.37


def test_some_questions_need_no_picture(made):
    told = [item for item in made if item.hint]
    bare = [item for item in made if item.scene is None]
    assert len(bare) == 60
    assert len(told) == 108
    assert all(item.question.answer.lower() in item.hint.lower() for item in told if item.family != "neighbour")


def test_the_right_option_is_where_the_answer_points_and_stands_once(made):
    for item in made:
        assert item.choices[item.answer] == item.question.answer
        assert len(set(item.choices)) == len(item.choices)


def test_counts_are_even_so_that_no_number_is_a_good_guess(made):
    counts = Counter(item.question.answer for item in made if item.needs_picture and item.family.startswith("count"))
    assert set(counts) == set("12345")
    assert max(counts.values()) - min(counts.values()) <= 1


def test_patches_hold_every_pixel_of_what_must_be_seen(made):
    for item in [item for item in made if item.needs_picture][:150]:
        shown = set(patches(item.about))
        assert item.scene is not None
        without = replace(item.scene, things=tuple(thing for thing in item.scene.things if thing not in item.about))
        difference = ImageChops.difference(render(item.scene).convert("RGB"), render(without).convert("RGB"))
        pixels = difference.convert("L").point(lambda level: 255 if level else 0).tobytes()
        touched = {
            (place // SIDE) // PATCH * (SIDE // PATCH) + place % SIDE // PATCH
            for place, level in enumerate(pixels)
            if level
        }
        assert touched == shown, item.question.text


def test_most_patches_do_not_matter(made):
    shares = [len(patches(item.about)) / 576 for item in made if item.needs_picture]
    assert sum(shares) / len(shares) < 0.05


def test_things_stay_in_their_own_cells_inside_the_picture():
    rng = Random(0)
    for _ in range(300):
        scene = random_scene(rng)
        assert len({(thing.row, thing.column) for thing in scene.things}) == len(scene.things)
        for thing in scene.things:
            cell = {(4 * thing.row + down) * 24 + 4 * thing.column + right for down in range(4) for right in range(4)}
            assert set(patches((thing,))) <= cell
            assert thing.colour in COLOURS
            assert thing.kind in SHAPES or thing.kind in LETTERS


def test_every_family_is_answered_right():
    """The questions again, answered from the scene by other means where that is short."""
    rng = Random(1)
    for _ in range(200):
        scene = random_scene(rng)
        if question := FAMILIES["count_colour"].ask(scene, rng):
            colour = question.text.split()[2]
            assert int(question.answer) == sum(thing.colour == colour for thing in scene.shapes)
        if question := FAMILIES["shape_of"].ask(scene, rng):
            colour = question.text.split()[-1].rstrip("?")
            assert [thing.kind for thing in scene.shapes if thing.colour == colour] == [question.answer]
        if question := FAMILIES["present"].ask(scene, rng):
            assert question.answer in {thing.name for thing in scene.things}
            assert not {thing.name for thing in scene.things} & set(question.others)
        if question := FAMILIES["larger"].ask(scene, rng):
            sizes = {thing.name: thing.large for thing in scene.things}
            assert sizes[question.answer]
            assert not any(sizes[name] for name in question.others)
        if question := FAMILIES["neighbour"].ask(scene, rng):
            anchor, thing = question.about
            assert abs(anchor.row - thing.row) + abs(anchor.column - thing.column) == 1


def test_files_are_those_of_scienceqa_and_llava(tmp_path):
    assert main([str(tmp_path), "--seed", "2", "--train", "3", "--val", "4", "--test", "30"]) == 0
    problems = json.loads((tmp_path / "problems.json").read_text())
    ids = json.loads((tmp_path / "pid_splits.json").read_text())
    lines = json.loads((tmp_path / "llava_test_CQM-A.json").read_text())
    assert {split: len(ids[split]) for split in ids} == {
        "train": 3, "val": 4, "test": 30, "trainval": 7, "minitrain": 0, "minival": 0, "minitest": 3,
    }  # fmt: skip
    assert set(problems) == set(ids["trainval"]) | set(ids["test"])
    keys = "question choices answer hint image task grade subject topic category skill lecture solution split patches"
    assert all(set(problem) == set(keys.split()) for problem in problems.values())

    assert [line["id"] for line in lines] == ids["test"]
    for line in lines:
        problem = problems[line["id"]]
        human, answer = line["conversations"]
        text = question_text(problem["question"], problem["choices"], problem["hint"])
        assert answer == {"from": "gpt", "value": "ABCDE"[problem["answer"]]}
        assert problem["hint"] == "" or human["value"].count(f"Context: {problem['hint']}\n") == 1
        if problem["image"] is None:
            assert "image" not in line
            assert human["value"] == text
        else:
            assert line["image"] == f"{line['id']}/image.png"
            assert human["value"] == f"<image>\n{text}"
            with Image.open(tmp_path / "images" / "test" / line["image"]) as image:
                assert image.size == (336, 336)
        assert all(0 <= patch < 576 for patch in problem["patches"])
        assert bool(problem["patches"]) == (problem["subject"] != "text")


def test_text_of_a_question_reads_as_in_the_real_file():
    text = question_text("What colour is the ring?", ("red", "blue"), "The ring is blue.")
    assert text == "Context: The ring is blue.\nWhat colour is the ring?\nA. red\nB. blue"


def test_options_are_laid_out_around_the_answer(made):
    question = next(item.question for item in made if len(item.question.others) >= 4)
    a, b, c, *_ = question.others
    assert lay_out(question, 4, 2) == (a, b, question.answer, c)


def test_negative_sizes_are_refused(tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--test", "-1"]) == 2
    assert "sizes must be >= 0" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
