"""Questions for the benchmark: as long as ScienceQA's, short and long ones in its proportions, each with an image."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from workers.encoding import encode_sample
from workers.families.config import ModelConfig
from workers.families.model import Model, Pixels
from workers.images import load_image
from workers.speed_test.baselines import Case, make_case
from workers.tasks.base import LETTERS, DataError, Sample
from workers.tasks.catalog import load_samples
from workers.tasks.prompts import IMAGE_MARKER
from workers.work import EngineSpec, TaskSpec

# Characters of a question, its image marker counted: every 64th part of the 2017 image questions of ScienceQA's test
# split (YangXu-03/Himap-based, himap-inference-MCQ.json), at the middle of the part. Mean 289 (of all: 290.5).
QUESTION_LENGTHS = (
    *(67, 79, 81, 83, 85, 86, 87, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 102, 105, 107, 111, 117, 118, 120),
    *(123, 127, 130, 150, 171, 184, 191, 193, 201, 210, 220, 230, 243, 250, 252, 270, 294, 311, 341, 362, 382, 383),
    *(390, 404, 429, 433, 457, 466, 504, 515, 696, 740, 758, 795, 898, 980, 1116, 1216),
)
FILLER = "which of these objects in the picture is the largest one beside the others "


def read_samples(data: str, count: int) -> list[Sample]:
    """Questions with images of a ScienceQA directory; fewer than ``count`` where it holds fewer.

    Raises:
        DataError: there is none, or the directory cannot be read.
    """
    found = [sample for sample in load_samples(TaskSpec(name="scienceqa", data=data)) if sample.image is not None]
    if not found:
        raise DataError(f"data {data}: holds no question with an image")
    found.sort(key=lambda sample: len(sample.question))
    return [found[place] for place in _spread(len(found), min(count, len(found)))]


def drawn_samples(questions: str | None, count: int, side: int, seed: int, folder: Path) -> list[Sample]:
    """Questions of given lengths, or the texts of a question file, with images of random pixels.

    Args:
        questions: a JSON file, a list of lengths in characters or LLaVA's form; None: ScienceQA's lengths.
        count: samples wanted.
        side: of an image, in pixels.
        seed: of the images.
        folder: where they are written, as PNG.

    Raises:
        DataError: the file cannot be used.
    """
    texts = sorted(_question_texts(questions), key=len)
    images = drawn_images(count, side, seed, folder)
    return [
        Sample(id=f"bench-{index}", question=texts[place], choices=tuple(LETTERS[:4]), label="A", image=images[index])
        for index, place in enumerate(_spread(len(texts), count))
    ]


def drawn_images(count: int, side: int, seed: int, folder: Path) -> list[Path]:
    """PNG files of random pixels in a folder."""
    draw = torch.Generator().manual_seed(seed)
    images = [folder / f"{index}.png" for index in range(count)]
    for image in images:
        pixels = torch.randint(256, (side, side, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(image)
    return images


def make_cases(model: Model, spec: EngineSpec, samples: Sequence[Sample]) -> list[Case]:
    """The samples as transformers takes them, prompts and pixels on the device."""
    return [
        make_case(model, sample.id, encode_sample(model, sample, spec.task, spec.model.image_mode))
        for sample in samples
    ]


def hand_out_pixels(model: Model, spec: EngineSpec, samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """Prepare all pixels now, and let the model hand them out: the engine decodes and pre-processes no image then.

    An image is a token then: one pixel, whose red and green say which is meant.
    """
    images = [sample.image for sample in samples if sample.image is not None]
    assert len(images) == len(samples), "a question without an image has none to hand out"
    looks = {
        image: type(model).look(model, load_image(image), spec.model.image_mode) for image in dict.fromkeys(images)
    }
    prepared = list(looks.values())

    def handed_out(image: Image.Image, mode: str, among: int = 1) -> Pixels:
        red, green, _ = image.getpixel((0, 0))  # type: ignore[misc]
        return prepared[red * 256 + green]

    model.look = handed_out  # type: ignore[method-assign]
    tokens = {image: folder / f"{index}.bmp" for index, image in enumerate(looks)}
    for index, token in enumerate(tokens.values()):
        Image.new("RGB", (1, 1), (index // 256, index % 256, 0)).save(token)
    return [replace(sample, image=tokens[image]) for sample, image in zip(samples, images, strict=True)]


def side_of(config: ModelConfig) -> int:
    """Pixels, one side, of an image with as many tokens as the model's can have."""
    merge = config.vision.merge if config.vision else 1
    return config.image_size or math.isqrt(config.visual_tokens) * merge * config.patch_size


def _spread(total: int, count: int) -> list[int]:
    """``count`` places of a sorted list, each in the middle of its share; some come again where there are too few."""
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def _question_texts(questions: str | None) -> list[str]:
    if questions is None:
        return [filler(length) for length in QUESTION_LENGTHS]
    try:
        found = json.loads(Path(questions).read_text(encoding="utf-8"))
        if all(isinstance(item, int) for item in found):
            texts = [filler(item) for item in found]
        else:
            shown = [item["conversations"][0]["value"] for item in found]
            texts = [text.replace(IMAGE_MARKER, "").strip() for text in shown if IMAGE_MARKER in text]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"questions {questions}: neither a JSON list of lengths nor LLaVA's form: {error!r}") from error
    if not texts:
        raise DataError(f"questions {questions}: holds no question with an image")
    return texts


def filler(length: int) -> str:
    """A text that makes a question of so many characters once the image marker and a newline stand before it."""
    wanted = max(1, length - len(f"{IMAGE_MARKER}\n"))
    return (FILLER * (wanted // len(FILLER) + 1))[:wanted].strip().ljust(wanted, ".")
