"""A drawn benchmark in ScienceQA's file form: multiple-choice questions about scenes, made from a seed.

Thirteen families of questions (`questions.py`) need the picture. As in the real set, some questions with a picture can
be answered from their context line, and some come without a picture: both are subject "text". Options number 2 to 5,
and the right letter is spread evenly over the options. Written with

    python -m embedded_training.drawn OUT --seed 0 --train 0 --val 100 --test 400

as ``problems.json``, ``pid_splits.json``, ``llava_test_CQM-A.json`` (LLaVA's evaluation form, marker first, answer a
bare letter), the same of each subject (``reading.json``, ...) and ``images/<split>/<id>/image.png``. One key goes
beyond the real set: ``patches``, the visual tokens (0..575, raster order) that show the things the question
is about; empty where no picture is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

from embedded_training.questions import FAMILIES, Question, words
from embedded_training.scene import Scene, Thing, patches, random_scene, render
from strategies.errors import UsageError

Value = TypeVar("Value")

OPTION_LETTERS = "ABCDE"
FIRST_ID = {"train": 100001, "val": 200001, "test": 300001}  # a sample's id does not move when another split grows
TEXT_SHARE = 0.2  # of the questions with a picture: those whose context line gives the answer
BARE_SHARE = 0.1  # of all questions: those without a picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One line of the benchmark, with what it takes to draw its picture."""

    id: str
    split: str
    family: str
    question: Question
    choices: tuple[str, ...]
    answer: int  # index into choices
    hint: str
    scene: Scene | None

    @property
    def needs_picture(self) -> bool:
        return self.scene is not None and not self.hint

    @property
    def about(self) -> tuple[Thing, ...]:
        """What must be seen to choose among the options that were laid out."""
        return self.question.about + self.question.rivals[: len(self.choices) - 1]


def lay_out(question: Question, options: int, place: int) -> tuple[str, ...]:
    """Put the answer at index ``place`` among ``options`` choices, the rest wrong ones in their given order."""
    wrong = question.others[: options - 1]
    return (*wrong[:place], question.answer, *wrong[place:])


def question_text(question: str, choices: Sequence[str], hint: str = "") -> str:
    """The text of LLaVA's ScienceQA file, without its image marker: context line, question, options."""
    lines = [f"Context: {hint}"] if hint else []
    lines.append(question)
    lines += [f"{letter}. {choice}" for letter, choice in zip(OPTION_LETTERS, choices, strict=False)]
    return "\n".join(lines)


def items(seed: int, split: str, count: int) -> list[Item]:
    """Make one split. The same seed gives the same items; a longer split does not begin with a shorter one.

    Families take turns, scenes are drawn until they allow the question, and letters, numbers of options and counts are
    dealt from shuffled decks, so that each is as even as the families allow.
    """
    rng = Random(f"saccade drawn {seed} {split}")
    bare = round(BARE_SHARE * count)
    told = round(TEXT_SHARE * (count - bare))
    forms = ["bare"] * bare + ["told"] * told + ["seen"] * (count - bare - told)
    rng.shuffle(forms)
    deck = _Deck(rng)
    made = []
    for index, form in enumerate(forms):
        scene, family = None, "words"
        if form == "bare":
            question = words(rng)
        else:
            family = deck.deal(f"family {form}", tuple(FAMILIES))
            wanted = deck.deal(f"number {form}", tuple("12345")) if family.startswith("count") else None
            scene, question = _scene_for(family, wanted, rng)
        most = 1 + min(4, len(question.others))
        options = deck.deal(f"options {form} {most}", tuple(range(2, most + 1)))
        place = deck.deal(f"letter {form} {options}", tuple(range(options)))
        made.append(
            Item(
                id=str(FIRST_ID[split] + index),
                split=split,
                family=family,
                question=question,
                choices=lay_out(question, options, place),
                answer=place,
                hint=question.fact if form == "told" else "",
                scene=scene,
            )
        )
    return made


class _Deck:
    """Shuffled decks of values, one per key, each gone through before it is shuffled again."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._left: dict[str, list] = {}

    def deal(self, key: str, values: tuple[Value, ...]) -> Value:
        if not self._left.get(key):
            self._left[key] = self._rng.sample(values, len(values))
        return self._left[key].pop()


def _scene_for(family: str, answer: str | None, rng: Random) -> tuple[Scene, Question]:
    while True:  # ends: every family and every count is possible in a good share of scenes
        scene = random_scene(rng)
        question = FAMILIES[family].ask(scene, rng)
        if question is not None and answer in (None, question.answer):
            return scene, question


# --- files ----------------------------------------------------------------------------------------------------------


def problem(item: Item) -> dict:
    """One entry of problems.json, in ScienceQA's keys plus ``patches``."""
    told = not item.needs_picture
    return {
        "question": item.question.text,
        "choices": list(item.choices),
        "answer": item.answer,
        "hint": item.hint,
        "image": "image.png" if item.scene else None,
        "task": "closed choice",
        "grade": "grade1",
        "subject": "text" if told else FAMILIES[item.family].subject,
        "topic": item.family,
        "category": "no look" if told else FAMILIES[item.family].steps,
        "skill": "read the text" if told else "look at the picture",
        "lecture": "",
        "solution": item.question.fact,
        "split": item.split,
        "patches": [] if told else list(patches(item.about)),
    }


def conversation(item: Item) -> dict:
    """One entry of llava_test_CQM-A.json, in the form of LLaVA's evaluation bundle; no ``image`` key without one."""
    text = question_text(item.question.text, item.choices, item.hint)
    turns = [
        {"from": "human", "value": f"<image>\n{text}" if item.scene else text},
        {"from": "gpt", "value": OPTION_LETTERS[item.answer]},
    ]
    picture = {"image": f"{item.id}/image.png"} if item.scene else {}
    return {"id": item.id, **picture, "conversations": turns}


def write(folder: Path, seed: int, sizes: dict[str, int]) -> None:
    """Write the benchmark's files.

    Args:
        folder: Made if missing. Files of the same name are replaced.
        seed: Decides everything.
        sizes: Questions per split; keys "train", "val", "test".

    Raises:
        UsageError: A size is negative.
    """
    if min(sizes.values()) < 0:
        raise UsageError(f"sizes must be >= 0, got {sizes}")
    made = {split: items(seed, split, sizes[split]) for split in ("train", "val", "test")}
    folder.mkdir(parents=True, exist_ok=True)
    for item in (item for split in made.values() for item in split):
        if item.scene:
            path = folder / "images" / item.split / item.id / "image.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            render(item.scene).save(path, optimize=True)

    ids = {split: [item.id for item in made[split]] for split in made}
    ids["trainval"] = ids["train"] + ids["val"]
    ids |= {f"mini{split}": ids[split][: len(ids[split]) // 10] for split in made}
    _write_json(folder / "pid_splits.json", ids)
    _write_json(folder / "problems.json", {item.id: problem(item) for split in made.values() for item in split})
    _write_json(folder / "llava_test_CQM-A.json", [conversation(item) for item in made["test"]])
    subjects: dict[str, list[dict]] = {}
    for item in made["test"]:
        if (subject := problem(item)["subject"]) != "text":
            subjects.setdefault(subject, []).append(conversation(item))
    for subject, asked in subjects.items():
        _write_json(folder / f"{subject}.json", asked)  # small benchmarks of their own


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m embedded_training.drawn", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    for split, size in (("train", 0), ("val", 100), ("test", 400)):
        parser.add_argument(f"--{split}", type=int, default=size, help=f"questions (default {size})")
    args = parser.parse_args(argv)
    try:
        write(args.folder, args.seed, {"train": args.train, "val": args.val, "test": args.test})
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
