"""ScienceQA in the file forms of LLaVA's evaluation bundle.

Source: Lu et al., Learn to Explain, NeurIPS 2022 (lupantech/ScienceQA); haotian-liu/LLaVA, docs/Evaluation.md and
scripts/convert_sqa_to_llava.py. A directory holds

    llava_test_CQM-A.json    the questions (or another file, by name)
    problems.json            per id: choices, answer index, subject, ...; optional, then labels come from the questions
    pid_splits.json          split -> ids; optional
    images/test/ID/image.png

Two incompatible files share the name llava_test_CQM-A.json: LLaVA's bundle (marker first, bare letter as answer) and
the converter's (marker last, "The answer is B."). The label comes from problems.json where there is one, else from the
answer in either form; the image marker is taken out of the text wherever it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workers.tasks.base import LETTERS, DataError, Sample
from workers.tasks.prompts import IMAGE_MARKER
from workers.work import TaskSpec

OPTION_LINE = re.compile(r"^([A-J])\. ?(.*)$", re.MULTILINE)  # "A. copper"
OPTION_INLINE = re.compile(r"\(([A-J])\) (.*?)(?= \([A-J]\) |$)", re.MULTILINE)  # "Options: (A) copper (B) tin"
THE_ANSWER_IS = re.compile(r"The answer is ([A-J])\.")


def load_scienceqa(spec: TaskSpec) -> tuple[Sample, ...]:
    """Read the questions of one split, in the order of the question file.

    Raises:
        DataError: a file or an image is missing, is not JSON, or an item lacks a field. All missing images are
            counted; the first is named.
    """
    folder = Path(spec.data)
    if not folder.is_dir():
        raise DataError(f"data {folder}: no such directory")
    questions = folder / (spec.questions or f"llava_{spec.split}_CQM-A.json")
    items = _read_json(questions, list)
    problems = _read_json(folder / "problems.json", dict) if (folder / "problems.json").is_file() else {}
    wanted = _split_ids(folder, spec.split)
    images = folder / "images"
    everything = (
        _sample(questions, position, item, problems, images, spec.split) for position, item in enumerate(items)
    )
    samples = tuple(sample for sample in everything if wanted is None or sample.id in wanted)
    if not samples:
        raise DataError(f"{questions}: holds no question of split '{spec.split}'")
    _check_ids(questions, samples)
    _check_images(questions, samples)
    return samples


def _sample(place: Path, position: int, item: Any, problems: dict[str, Any], images: Path, split: str) -> Sample:
    where = f"{place}: item {position}"
    if not isinstance(item, dict):
        raise DataError(f"{where}: is not an object")
    try:
        id, turns = str(item["id"]), item["conversations"]
        question, answer = turns[0]["value"], turns[1]["value"]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{where}: lacks {error}; expected id and conversations with question and answer") from error
    image = item.get("image")
    if not isinstance(question, str) or not isinstance(answer, str) or not isinstance(image, str | None):
        raise DataError(f"{where}: id {id}: question, answer and image must be text")
    text = question.replace(IMAGE_MARKER, "").strip()
    problem = problems.get(id, {})
    if problems and not problem:
        raise DataError(f"{where}: id {id} is not in {place.parent / 'problems.json'}")
    if not isinstance(problem, dict):
        raise DataError(f"{place.parent / 'problems.json'}: id {id}: is not an object")
    choices = _choices(problem, place.parent / "problems.json", id) if problem else tuple(_options(text))
    if not choices:
        raise DataError(f"{where}: id {id}: no options found in its text, and there is no problems.json")
    if len(choices) > len(LETTERS):
        raise DataError(f"{where}: id {id}: has {len(choices)} options; {len(LETTERS)} are supported")
    images = images / str(problem.get("split") or split)
    return Sample(
        id=id,
        question=text,
        choices=choices,
        label=_label(f"{where}: id {id}", problem, answer, len(choices)),
        image=_inside(images, image, where) if image else None,
        subject=problem.get("subject", ""),
        topic=problem.get("topic", ""),
        category=problem.get("category", ""),
        skill=problem.get("skill", ""),
        patches=tuple(problem["patches"]) if problem.get("patches") is not None else None,
    )


def _choices(problem: dict[str, Any], place: Path, id: str) -> tuple[str, ...]:
    choices = problem.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise DataError(f"{place}: id {id}: choices: expected a list of texts, found {str(choices)[:40]!r}")
    return tuple(choices)


def _options(text: str) -> list[str]:
    """The options of a question: the last run of A, B, C, ... in its text, since a context may hold letters too."""
    found = OPTION_LINE.findall(text) or OPTION_INLINE.findall(text.rpartition("Options:")[2])
    starts = [place for place, (letter, _) in enumerate(found) if letter == LETTERS[0]]
    last = found[starts[-1] :] if starts else []
    in_order = [letter for letter, _ in last] == list(LETTERS[: len(last)])
    return [option for _, option in last] if in_order else []


def _label(where: str, problem: dict[str, Any], answer: str, options: int) -> str:
    if problem:
        index = problem.get("answer")
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < options:
            raise DataError(f"{where}: answer: {index!r} is not an index into its {options} choices")
        return LETTERS[index]
    found = THE_ANSWER_IS.findall(answer)
    letter = answer.strip() if len(answer.strip()) == 1 else (found[-1] if found else "")
    if not letter or letter not in LETTERS[:options]:
        raise DataError(f"{where}: answer {answer[:40]!r} names none of its {options} options; add problems.json")
    return letter


def _inside(images: Path, name: str, where: str) -> Path:
    """An image's path; a question file may not point outside its image folder."""
    path = images / name
    if not path.resolve().is_relative_to(images.resolve()):
        raise DataError(f"{where}: image {name!r} lies outside {images}")
    return path


def _split_ids(folder: Path, split: str) -> set[str] | None:
    place = folder / "pid_splits.json"
    if not place.is_file():
        return None
    splits = _read_json(place, dict)
    if split not in splits:
        raise DataError(f"{place}: has no split '{split}' (it has {', '.join(sorted(splits))})")
    return set(map(str, splits[split]))


def _check_ids(place: Path, samples: tuple[Sample, ...]) -> None:
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{place}: id {sample.id} stands there twice")
        seen.add(sample.id)


def _check_images(place: Path, samples: tuple[Sample, ...]) -> None:
    missing = list(_missing_images(samples))
    if missing:
        raise DataError(
            f"{place}: {len(missing)} of {len(samples)} samples have no image on disk; first: id {missing[0].id}, "
            f"{missing[0].image}. Copy the images there"
        )


def _missing_images(samples: tuple[Sample, ...]) -> Iterator[Sample]:
    return (sample for sample in samples if sample.image is not None and not sample.image.is_file())


def _read_json(place: Path, kind: type) -> Any:
    if not place.is_file():
        raise DataError(f"{place}: no such file")
    try:
        value = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{place}: is not valid JSON: {error}") from error
    if not isinstance(value, kind):
        raise DataError(f"{place}: holds a {type(value).__name__}, expected a {kind.__name__}")
    return value
