"""A made-up experiment with pictures and known kept tokens, and everything in it that is hard to show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fake_experiment import fake_manifest
from results.experiment import Experiment
from results.pictures import write_pictures
from workers.images import encoded
from workers.tasks.base import Sample
from workers.work import GridPoint, SampleFailure, SampleOutcome, UnitOutcome, WorkUnit, unpruned_point

SIDE = 8  # visual tokens along a side
VISUAL = SIDE * SIDE
EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
LONG = " ".join(["because the shape that the arrow points at is"] * 200)
POINTS = (
    unpruned_point(8, VISUAL),
    GridPoint(strategy="fastv", layer=2, rank=16),
    GridPoint(strategy="random", layer=2, rank=16),
    GridPoint(strategy="tome_merged", layer=2, rank=16),
    GridPoint(strategy="cutoff", layer=3, rank=0),
    GridPoint(strategy="fastv", layer=3, rank=16),
)
CHOSEN_BY = ("", "chosen by attention", "drawn at random", f"merged {EVIL}", "every visual token is removed", "")
IDS = ("plain", "中文 7", "../../etc/passwd", f"id {EVIL}", "text-only", "damaged", "waiting")
QUESTIONS = (
    "Which colour is it?\nA. red\nB. green",
    "图中有多少个圆形？\nA. 三\nB. 四",
    "ما لون المربع؟\nA. أحمر\nB. أخضر",
    f"What? {EVIL}",
    "Is water wet?",
    "Which one?",
    "Which two?",
)
# Rows as POINTS, columns as IDS: 1 right, 0 wrong, -1 no cell.
RIGHT = np.array(
    [
        [1, 1, 0, 1, 1, -1, -1],
        [1, 0, 1, 0, 1, -1, -1],
        [1, 0, 0, 0, 1, -1, -1],
        [1, 1, 0, 0, 1, -1, -1],
        [0, 0, 0, 0, 1, -1, -1],
        [1, 1, 0, -1, 1, -1, -1],
    ]
)
ANSWERS = {0: "B", 1: "红色的那个", 2: "الأحمر", 3: LONG}  # of a wrong cell, by column
PATCHES = (9, 10, 17, 18)


def write_seen(path: Path) -> Experiment:
    """Write it. `random` has no kept positions; the sample of column 2 has no picture."""
    manifest = replace(fake_manifest(POINTS, name="seen"), chosen_by=CHOSEN_BY)
    samples = tuple(
        Sample(
            id=name, question=question, choices=("red", "green"), label="A", topic="colours",
            image=None if name == "text-only" else Path("/nowhere/x.png"), patches=PATCHES if place == 0 else None,
        )
        for place, (name, question) in enumerate(zip(IDS, QUESTIONS, strict=True))
    )  # fmt: skip
    experiment = Experiment.create(path, manifest, samples)
    cells = tuple(
        _cell(point, place, bool(RIGHT[row, place]))
        for row, point in enumerate(POINTS)
        for place in range(len(IDS))
        if RIGHT[row, place] >= 0
    )
    failure = SampleFailure(sample="damaged", kind="DataError", message=f"cannot be read {EVIL}", traceback="")
    unit = WorkUnit(samples=IDS, points=POINTS)
    experiment.write(unit, UnitOutcome(unit=unit.key, outcomes=cells, failures=(failure,)))
    write_pictures(experiment, {IDS[place]: encoded(_picture(place)) for place in (0, 1, 3)})
    return experiment


def kept_flags(point: GridPoint, place: int) -> np.ndarray:
    """(VISUAL,) uint8: what a grid point keeps of the sample in a column."""
    flags = np.zeros(VISUAL, dtype=np.uint8)
    flags[np.random.default_rng([len(point.strategy), place]).permutation(VISUAL)[: point.rank]] = 1
    return flags


def _cell(point: GridPoint, place: int, right: bool) -> SampleOutcome:
    seen = IDS[place] != "text-only"
    flags = kept_flags(point, place)
    return SampleOutcome(
        point=point.key,
        sample=IDS[place],
        answer="A" if right else ANSWERS[place],
        parsed="A" if right else "B" if place == 0 else None,
        correct=right,
        first_token=1,
        option_logits=(0.0, 0.0),
        margin=0.0,
        tokens_kept=int(flags.sum()) if seen else 0,
        kept_mask=b"" if point.strategy == "random" or not seen else np.packbits(flags).tobytes(),
        decoded_tokens=2,
        prompt_tokens=40,
        visual_tokens=VISUAL if seen else 0,
    )


def _picture(place: int) -> Image.Image:
    image = Image.new("RGB", (336, 336), [(232, 240, 250), (250, 240, 226), (0, 0, 0), (40, 60, 90)][place])
    draw = ImageDraw.Draw(image)
    draw.ellipse((60, 60, 180, 180), fill=(214, 40, 40))
    draw.rectangle((200, 190, 300, 310), fill=(34, 150, 62))
    return image
