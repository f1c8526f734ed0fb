"""What a benchmark is: samples, the text they are asked with, and the rule that judges an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from workers.work import TaskSpec

LETTERS = "ABCDEFGHIJ"


class DataError(ValueError):
    """A benchmark's files are missing or malformed. The message names the place and the remedy; exit code 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question with its image."""

    id: str
    question: str  # text without the image marker: context, question and options as published
    choices: tuple[str, ...]
    label: str  # the right option's letter
    image: Path | None  # None: a text-only question, answered un-pruned
    subject: str = ""
    topic: str = ""
    category: str = ""
    skill: str = ""
    patches: tuple[int, ...] | None = None  # visual tokens that hold the answer, where the data knows them


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a scorer read an answer."""

    parsed: str | None
    correct: bool


class Scorer(Protocol):
    """A scoring rule: answer text, right letter and the number of options -> verdict."""

    def __call__(self, answer: str, label: str, options: int) -> Verdict: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A benchmark by name: how its samples are read from disk. Reading opens no image and checks that all are there."""

    name: str
    load: Callable[[TaskSpec], Sequence[Sample]]
    source: str
