"""ScienceQA, in the forms in which it is published.

Source: Lu et al., Learn to Explain, NeurIPS 2022 (lupantech/ScienceQA); haotian-liu/LLaVA, docs/Evaluation.md and
scripts/convert_sqa_to_llava.py. A directory holds one of

    llava_test_CQM-A.json    LLaVA's questions, or another file of this form by name, such as HiMAP's
                             himap-inference-MCQ.json; labels from problems.json where that is there
    problems.json            the authors' own form; questions are put together as in LLaVA's file
    test-00000-of-...        parquet files of the Hugging Face hub, images inside

and, for the first two, pid_splits.json (split -> ids; optional for the first) and images/test/ID/image.png.

Two incompatible files share the name llava_test_CQM-A.json: LLaVA's bundle (marker first, bare letter as answer) and
the converter's (marker last, "The answer is B."). The label comes from problems.json where there is one, else from the
answer in either form; the image marker is taken out of the text wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.tasks.base import LETTERS, Benchmark, DataError, EmbeddedImage, Metric, Sample, Task
from workers.tasks.files import (
    checked,
    data_folder,
    find_file,
    inside,
    parquet_files,
    parquet_rows,
    question_file,
    read_json,
)
from workers.tasks.prompts import IMAGE_MARKER
from workers.work import TaskSpec

if TYPE_CHECKING:
    import pandas as pd

OPTION_LINE = re.compile(r"^([A-Z])\. ?(.*)$", re.MULTILINE)  # "A. copper"
OPTION_INLINE = re.compile(r"\(([A-Z])\) (.*?)(?= \([A-Z]\) |$)", re.MULTILINE)  # "Options: (A) copper (B) tin"
THE_ANSWER_IS = re.compile(r"The answer is ([A-Z])\.")
MOST_PATCHES = 1_000_000  # of an image; a number above is none of a visual token
SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}


def load_scienceqa(spec: TaskSpec, images_only: bool = False) -> Benchmark:
    """Read the questions of one split, in the order of the question file.

    Args:
        spec: split is test, val, train, minival, ...
        images_only: leave text-only questions out (the IMG split).

    Raises:
        DataError: a file or an image is missing, is not JSON, or an item lacks a field. All missing images are
            counted; the first is named.
    """
    assert spec.split is not None
    folder = data_folder(spec)
    named = question_file(folder, spec.questions or f"llava_{spec.split}_CQM-A.json")
    notes: tuple[str, ...] = ()
    if named.suffix == ".json" and named.is_file():
        place, (samples, notes) = named, _questions(named, spec.split)
        notes = () if spec.questions else notes  # a file that was named is meant to hold a part
    elif files := parquet_files(folder, spec.questions, spec.split):
        place, samples = files[0].parent, list(_from_parquet(files))
    elif (folder / "problems.json").is_file() and spec.questions is None:
        place, samples = folder / "problems.json", list(_from_problems(folder, spec.split))
    else:
        usual = (named.name, "problems.json", f"{spec.split}-*.parquet")
        place, samples = find_file(folder, spec.questions, usual), []
    if images_only:
        samples = [sample for sample in samples if sample.image is not None]
    what = f"question of split '{spec.split}'" + (" with an image" if images_only else "")
    return Benchmark(samples=checked(place, samples, what), notes=notes)


def scienceqa_metrics(rows: pd.DataFrame) -> list[Metric]:
    """Accuracy over all questions, with and without image, and by subject: the columns of the authors' table.

    Source: lupantech/ScienceQA, models/run_gpt3.py (NAT, SOC, LAN); haotian-liu/LLaVA, llava/eval/eval_science_qa.py.
    """
    if rows["image"].all():
        return []  # the same as the accuracy on image questions
    parts = {"all questions": rows["image"] | True, "text-only": ~rows["image"]}
    parts |= {short: rows["subject"] == name for name, short in SUBJECTS.items()}
    return [
        Metric(name, float(rows.loc[chosen, "score"].mean()), int(chosen.sum()))
        for name, chosen in parts.items()
        if chosen.any()
    ]


SCIENCEQA = Task(
    name="scienceqa",
    load=load_scienceqa,
    split="test",
    scorers=("strict_letter", "llava_official"),
    source="Lu et al., NeurIPS 2022, arXiv:2209.09513",
    metrics=scienceqa_metrics,
    headline="all questions",
    asks="school questions with options, about half of them with an image",
    files="one of: LLaVA's `llava_test_CQM-A.json` (its evaluation bundle) or another file of that form, such as "
    "HiMAP's `himap-inference-MCQ.json`, with `task.questions`; the authors' `problems.json` + `pid_splits.json` "
    "(lupantech/ScienceQA); parquet of the hub (derek-thomas/ScienceQA). Images: `images/SPLIT/ID/image.png`, or "
    "inside the parquet",
    splits="`test`, `val`, `train`, `minitest`, ...",
    figures="where there are text-only questions: all questions, text-only, NAT, SOC, LAN",
)
SCIENCEQA_IMG = replace(
    SCIENCEQA,
    name="scienceqa_img",
    load=partial(load_scienceqa, images_only=True),
    metrics=None,
    headline="",
    asks="those of them that have an image",
    files="the same",
    figures="",
)


def _questions(place: Path, split: str) -> tuple[list[Sample], tuple[str, ...]]:
    """Samples of LLaVA's form, and what to say of ids without a question."""
    folder = place.parent
    problems = read_json(folder / "problems.json", dict) if (folder / "problems.json").is_file() else {}
    ids = _split_ids(folder, split) if (folder / "pid_splits.json").is_file() else None
    wanted = None if ids is None else set(ids)
    everything = (
        _sample(place, position, item, problems, folder / "images", split)
        for position, item in enumerate(read_json(place, list))
    )
    samples = [sample for sample in everything if wanted is None or sample.id in wanted]
    if ids is None or not samples:
        return samples, ()
    asked = {sample.id for sample in samples}
    without = [id for id in ids if id not in asked]
    if not without:
        return samples, ()
    return samples, (
        f"{len(without)} of the {len(ids)} ids of split '{split}' in {folder / 'pid_splits.json'} have no question in "
        f"{place.name} (first: {without[0]}); they are not asked",
    )


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
    _must_be_object(problem, place.parent / "problems.json", id)
    choices = _choices(problem, f"{place.parent / 'problems.json'}: id {id}") if problem else tuple(_options(text))
    if not choices:
        raise DataError(f"{where}: id {id}: no options found in its text, and there is no problems.json")
    if len(choices) > len(LETTERS):
        raise DataError(f"{where}: id {id}: has {len(choices)} options; {len(LETTERS)} are supported")
    home = inside(images, str(problem.get("split") or split), where, links=True)
    path = inside(home, image, where) if image else None
    label = _label(f"{where}: id {id}", problem, answer, len(choices))
    return _described(where, problem, id, text, choices, label, path)


def _from_problems(folder: Path, split: str) -> Iterator[Sample]:
    """The authors' own files, asked as in LLaVA's question file (HiMAP's 2017 items have the same text)."""
    place = folder / "problems.json"
    problems = read_json(place, dict)
    for id in _split_ids(folder, split):
        where = f"{place}: id {id}"
        if id not in problems:
            raise DataError(f"{where}: stands in pid_splits.json and not here")
        _must_be_object(problems[id], place, id)
        image = problems[id].get("image")
        path = None if not image else inside(folder / "images" / split, f"{id}/{image}", where)
        yield _problem(id, where, problems[id], path)


def _from_parquet(files: Sequence[Path]) -> Iterator[Sample]:
    """Rows are named by their number, because the hub's files have no ids."""
    needed = ("question", "choices", "answer", "hint")
    for number, (where, row, picture) in enumerate(parquet_rows(files, needed)):
        yield _problem(str(number), where, row, picture)


def _problem(id: str, where: str, problem: Mapping[str, Any], image: Path | EmbeddedImage | None) -> Sample:
    choices, question, hint = _choices(problem, where), problem.get("question"), problem.get("hint") or ""
    if not isinstance(question, str) or not isinstance(hint, str):
        raise DataError(f"{where}: question and hint must be text")
    if not 0 < len(choices) <= len(LETTERS):
        raise DataError(f"{where}: has {len(choices)} options; 1 to {len(LETTERS)} are supported")
    context = [f"Context: {hint}"] if hint else []
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    label = _label(where, problem, "", len(choices))
    return _described(where, problem, id, "\n".join([*context, question, *options]), choices, label, image)


def _described(
    where: str,
    problem: Mapping[str, Any],
    id: str,
    question: str,
    choices: tuple[str, ...],
    label: str,
    image: Path | EmbeddedImage | None,
) -> Sample:
    """A sample, with what its problem says of it besides."""
    patches = problem.get("patches")
    if patches is not None and not (isinstance(patches, list) and all(map(_is_patch, patches))):
        raise DataError(f"{where}: patches: {str(patches)[:40]!r} is not a list of visual tokens")
    return Sample(
        id=id,
        question=question,
        choices=choices,
        label=label,
        image=image,
        subject=_said(where, problem, "subject"),
        topic=_said(where, problem, "topic"),
        category=_said(where, problem, "category"),
        skill=_said(where, problem, "skill"),
        patches=None if patches is None else tuple(patches),
    )


def _said(where: str, problem: Mapping[str, Any], name: str) -> str:
    value = problem.get(name) or ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {name}: {str(value)[:40]!r} is no text")
    return value


def _is_patch(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_PATCHES


def _must_be_object(problem: Any, place: Path, id: str) -> None:
    if not isinstance(problem, dict):
        raise DataError(f"{place}: id {id}: is not an object")


def _choices(problem: Mapping[str, Any], where: str) -> tuple[str, ...]:
    choices = problem.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise DataError(f"{where}: choices: expected a list of texts, found {str(choices)[:40]!r}")
    return tuple(choices)


def _options(text: str) -> list[str]:
    """The options of a question: the last run of A, B, C, ... in its text, since a context may hold letters too."""
    found = OPTION_LINE.findall(text) or OPTION_INLINE.findall(text.rpartition("Options:")[2])
    starts = [place for place, (letter, _) in enumerate(found) if letter == LETTERS[0]]
    last = found[starts[-1] :] if starts else []
    in_order = [letter for letter, _ in last] == list(LETTERS[: len(last)])
    return [option for _, option in last] if in_order else []


def _label(where: str, problem: Mapping[str, Any], answer: str, options: int) -> str:
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


def _split_ids(folder: Path, split: str) -> list[str]:
    place = folder / "pid_splits.json"
    splits = read_json(place, dict)
    if split not in splits:
        raise DataError(f"{place}: has no split '{split}' (it has {', '.join(sorted(splits))})")
    if not isinstance(splits[split], list):
        raise DataError(f"{place}: split '{split}': holds a {type(splits[split]).__name__}, expected a list of ids")
    return list(map(str, splits[split]))
