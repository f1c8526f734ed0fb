"""What a benchmark is: samples, the text they are asked with, and the rules that judge answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from strategies.errors import SaccadeError
from workers.work import TaskSpec

if TYPE_CHECKING:
    import pandas as pd

LETTERS = ascii_uppercase
SHORT_ANSWER = "Answer the question using a single word or phrase."  # haotian-liu/LLaVA, docs/Evaluation.md


class DataError(SaccadeError):
    """A benchmark's files are missing or malformed. The message names the place and the remedy; exit code 2."""


class EmbeddedImage(Protocol):
    """An image inside a table's file; its text form names the place."""

    @property
    def file(self) -> Path: ...

    @property
    def row(self) -> int: ...

    def read(self) -> bytes:
        """The image file's content. OSError where it cannot be had."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question with its image, or several."""

    id: str
    # Text without the instruction: context, question and options; of several images with ``<image>`` where each goes,
    # or without, and then they stand before it.
    question: str
    choices: tuple[str, ...] = ()  # the options' texts; empty for a free answer
    label: str  # the right option's letter, or the right answer
    answers: tuple[str, ...] = ()  # of all annotators, where the scorer compares with each of them
    image: Path | EmbeddedImage | None  # None: a text-only question, answered un-pruned
    group: str = ""  # questions that count together, such as the two of an MME image; "": it counts alone
    instruction: str | None = ""  # how a short answer is asked for; "": the usual line, see prompts.py; None: no line
    subject: str = ""
    topic: str = ""
    category: str = ""
    skill: str = ""
    patches: tuple[int, ...] | None = None  # visual tokens that hold the answer, where the data knows them
    more: tuple[Path | EmbeddedImage, ...] = ()  # images after the first

    @property
    def images(self) -> tuple[Path | EmbeddedImage, ...]:
        """All of them, in the order in which they are shown."""
        return () if self.image is None else (self.image, *self.more)

    @property
    def shown(self) -> str:
        """The names of its images; equal where two questions show the same ones, and "" where there are none."""
        return " | ".join(map(str, self.images))


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a scorer read an answer."""

    parsed: str | None
    score: float  # 0 to 1: right or wrong for most benchmarks, a share of the annotators for some

    @property
    def correct(self) -> bool:
        """Whether it counts as right where only right and wrong are told apart: at least half of the score."""
        return self.score >= 0.5


class Scorer(Protocol):
    """A scoring rule: an answer's text and the sample it answers -> verdict."""

    __name__: str

    def __call__(self, answer: str, sample: Sample) -> Verdict: ...


class Metric(NamedTuple):
    """A figure of a benchmark that is not the mean of its scores, such as POPE's F1."""

    name: str
    value: float  # NaN where it is undefined
    n: int  # questions, or groups of them, that it is over
    unit: Literal["share", "points"] = "share"  # a share is 0 to 1 and shown in percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What is on disk: the samples in file order, and what a user should know of them."""

    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A benchmark by name. Reading opens no image, and checks that all are there."""

    name: str
    load: Callable[[TaskSpec], Benchmark]  # with ``split`` resolved
    split: str  # where the sweep names none
    scorers: tuple[str, ...]  # names of workers.tasks.answers; the first where the sweep names none
    source: str
    # Of one configuration's answered questions (columns id, group, category, subject, label, options, image, parsed,
    # score, correct; one row a question) the figures that are published; the headline is the one quoted alone.
    metrics: Callable[[pd.DataFrame], Sequence[Metric]] | None = None
    headline: str = ""
    judges: tuple[Scorer, ...] = ()  # scoring rules that no other benchmark has, by the names of their functions
    origin: str | None = None  # source text of a benchmark that is not of this project, see own.py
    # For people, in Markdown: what a question is, which files of whom ``data`` holds, splits, and published figures.
    asks: str = ""
    files: str = ""
    splits: str = ""
    figures: str = ""

    @property
    def source_hash(self) -> str:
        """Of a benchmark that is not of this project, part of its cells' address; "" of ours, whose data say it."""
        return "" if self.origin is None else hashlib.sha256(self.origin.encode()).hexdigest()[:16]
