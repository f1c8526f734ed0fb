"""Shared fixtures: a small random LLaVA checkpoint, a small benchmark on disk."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from small_llava import make_checkpoint

torch.set_num_threads(1)  # the models are tiny, and idle threads spin against whatever else the machine does

COLOURS = ("red", "green", "blue")


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
