"""Shared fixtures: a small random LLaVA checkpoint, a small benchmark on disk."""

from __future__ import annotations

import json
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from PIL import Image, ImageDraw

from small_llava import make_checkpoint

# The models are tiny, and idle threads spin against whatever else the machine does.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

# A machine that does other things too takes its time; and what is found is found again.
settings.register_profile("busy", deadline=None, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=2000)  # `make fuzz`
settings.load_profile("busy")

ROOT = Path(__file__).parent.parent
COLOURS = ("red", "green", "blue")


SLOW_S = 900  # limit of a test that starts several processes: on a busy machine they take minutes to come up
ASKED_FOR = {
    "system": "starts a whole system: `make test-systems` runs it",
    "timing": "claims a duration: `make test-all` runs it alone",
}


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@cache
def starts_ray(file: str) -> bool:
    """Whether a file has tests that start Ray."""
    return "mark.ray" in (ROOT / file).read_text(encoding="utf-8")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that start Ray come first: they wait more than they compute, and all else finds its place beside them."""
    items.sort(key=lambda item: not starts_ray(file_of(item.nodeid)))
    asked = config.option.markexpr
    for item in items:
        if {"slow", "system"} & set(item.keywords):
            item.add_marker(pytest.mark.timeout(SLOW_S))
        for mark, reason in ASKED_FOR.items():
            if mark in item.keywords and mark not in asked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n` a file is one worker's, which makes its fixtures once, and the files that start Ray are all one's."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if starts_ray(file_of(nodeid)) else file_of(nodeid)

    config.option.loadscopereorder = False  # in the order above, not by the number of tests
    return ByFile(config, log)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, four heads over two key-value heads, 16 visual tokens."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def small_scienceqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions in LLaVA's file form, the last one without an image."""
    folder = tmp_path_factory.mktemp("scienceqa")
    write_scienceqa(folder, count=6)
    return folder


def write_scienceqa(folder: Path, count: int) -> None:
    """Questions about one coloured square; ids 1, 2, ...; the last has no image, images are not all square."""
    draw = random.Random(0)
    problems, items = {}, []
    for number in range(1, count + 1):
        id, answer = str(number), draw.randrange(3)
        text_only = number == count
        problems[id] = {
            "question": "what colour is the square ?",
            "choices": list(COLOURS),
            "answer": answer,
            "hint": "",
            "image": None if text_only else "image.png",
            "subject": "natural science" if number % 2 else "language science",
            "split": "test",
        }
        options = "\n".join(f"{letter}. {colour}" for letter, colour in zip("ABC", COLOURS, strict=True))
        marker = "" if text_only else "<image>\n"
        item = {
            "id": id,
            "conversations": [
                {"from": "human", "value": f"{marker}what colour is the square ?\n{options}"},
                {"from": "gpt", "value": "ABC"[answer]},
            ],
        }
        if not text_only:
            item["image"] = f"{id}/image.png"
            image = Image.new("RGB", (60 + 10 * number, 80), (255, 255, 255))
            x, y = draw.randrange(40), draw.randrange(50)
            ImageDraw.Draw(image).rectangle((x, y, x + 20, y + 20), fill=COLOURS[answer])
            place = folder / "images" / "test" / id
            place.mkdir(parents=True)
            image.save(place / "image.png")
        items.append(item)
    (folder / "problems.json").write_text(json.dumps(problems))
    (folder / "pid_splits.json").write_text(json.dumps({"test": [item["id"] for item in items]}))
    (folder / "llava_test_CQM-A.json").write_text(json.dumps(items))
