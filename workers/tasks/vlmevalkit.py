"""Any TSV file of VLMEvalKit: questions with options, of yes or no, or with a free answer, about one image or several.

Source: open-compass/VLMEvalKit, vlmeval/dataset/image_base.py, image_mcq.py, image_yorn.py and image_vqa.py; prompts as
vlmeval/vlm/llava asks LLaVA: hint, question, options and one line. A row has options where it has columns A, B, ...,
else one answer or a list of them; a file all of whose answers are yes or no asks for these. Its image is base64, the
index of another row that has it, or a path below the directory. As there, rows without an image are not asked; a note
says how many. Where a row has several images they stand before the text, or where it says ``<image 2>``, as there for
MMMU; of one image that is taken out, and the image stands before the text. MMMU's open questions are judged by whether
their answer occurs, as in the exact mode there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from workers.tasks.base import LETTERS, SHORT_ANSWER, Benchmark, DataError, EmbeddedImage, Metric, Sample, Task
from workers.tasks.files import checked, data_folder, find_file, inside, tsv_rows
from workers.tasks.metrics import by_category
from workers.tasks.prompts import IMAGE_MARKER, SINGLE_PREDICTION_CN
from workers.tasks.tsv import TsvRow, images_of, index_of, is_missing, of_split, options_of, said
from workers.work import TaskSpec

if TYPE_CHECKING:
    import pandas as pd

Image = Path | EmbeddedImage
ALL = "all"  # a split: every row of the file
CHINESE = re.compile("[\u4e00-\u9fff]")
MARKER = re.compile(r" ?<image \d+>")
NUMBER = re.compile(r"<image (\d{1,3})>")
OPEN = "Answer the question directly."
RECOGNITION = ("Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition",
               "Handwriting Recognition", "Digit String Recognition", "Non-Semantic Text Recognition")  # fmt: skip
MCQ_SCORERS = ("mmbench_exact", "strict_letter", "llava_official")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the file of a benchmark is called and asked."""

    files: tuple[str, ...] = ()  # usual names, with {upper} where the split stands; none: the only TSV file there
    short: str | None = SHORT_ANSWER  # the line below a question without options
    options: bool = False  # a row without options is an open question that is judged as one with


def load_tsv(spec: TaskSpec, form: Form) -> Benchmark:
    """Read the rows of one split: all rows where the file's name says it, or nothing does.

    Raises:
        DataError: the file is missing or damaged, lacks a column, or an answer; or an image is missing.
    """
    assert spec.split is not None
    folder = data_folder(spec)
    names = [name.format(upper=spec.split.upper()) for name in form.files] or sorted(
        file.name for file in folder.glob("*.tsv")
    )
    if not (spec.questions or form.files) and len(names) != 1:
        raise DataError(f"{folder}: has {len(names)} TSV files; name one with task.questions")
    file = find_file(folder, spec.questions, names)
    rows = list(tsv_rows(file, ("index", "question", "answer")))
    images = images_of(rows)
    if spec.split != ALL and not any("{upper}" in name for name in form.files):
        rows = [(where, row) for where, row in rows if of_split(row, spec.split)]
    shown = [(where, row, images.get(index_of(row)) or _paths(where, row, folder)) for where, row in rows]
    yes_no = {row["answer"].strip().lower() for _, row in rows} <= {"yes", "no"}
    samples = [_sample(where, row, images, form, yes_no) for where, row, images in shown if images]
    notes = []
    if left := sum(not images for *_, images in shown):
        notes = [f"{file.name}: {left} of {len(rows)} questions have no image; they are not asked"]
    what = f"question of split '{spec.split}' with an image"
    return Benchmark(samples=checked(file, samples, what), notes=tuple(notes))


def hallusion_metrics(rows: pd.DataFrame) -> list[Metric]:
    """The share of questions that are right, of figures and of question pairs all of whose questions are, and the mean.

    Source: open-compass/VLMEvalKit, vlmeval/dataset/utils/yorn.py (``Hallusion_rating``): set, figure and question are
    the fourth, fifth and sixth part of a row's index.
    """
    parts = rows["id"].str.split("_")
    sets = rows["subject"] + "_" + parts.str[3]
    right = rows["correct"].astype(bool)
    found = [Metric("aAcc", float(right.mean()), len(rows))]
    for name, place in (("fAcc", 4), ("qAcc", 5)):
        whole = right.groupby(sets + "_" + parts.str[place]).all()
        found.append(Metric(name, float(whole.mean()), len(whole)))
    return [Metric("mean of the three", sum(one.value for one in found) / len(found), len(rows)), *found]


def ocrbench_metrics(rows: pd.DataFrame) -> list[Metric]:
    """The share of answers found (of 1,000 questions it is the score / 10), and by the five kinds that papers print."""
    kinds = rows["category"].where(~rows["category"].isin(RECOGNITION), "Text Recognition")
    return [Metric("accuracy", float(rows["score"].mean()), len(rows)), *by_category(rows.assign(category=kinds))]


def _task(name: str, asks: str, form: Form, split: str, scorers: Sequence[str], source: str) -> Task:
    file = form.files[0].format(upper=split.upper()) if form.files else "NAME.tsv"
    return Task(
        name=name,
        load=partial(load_tsv, form=form),
        split=split,
        scorers=tuple(scorers),
        source=source,
        metrics=by_category,
        asks=asks,
        files=f"`{file}` (OpenCompass)" + ("" if form.files else "; of several the one that `task.questions` names"),
        splits=f"`{split}`, or any with answers" if split != ALL else "`all`, or one that the column `split` names",
        figures="by category",
    )


VLMEVALKIT = _task(
    "vlmevalkit",
    "any TSV file of VLMEvalKit whose questions have images and one of three kinds of answer",
    Form(),
    ALL,
    ("vlmevalkit_exact", *MCQ_SCORERS, "yes_no_words", "exact_match", "relaxed_accuracy", "anls", "vqa_soft"),
    "Duan et al., VLMEvalKit, arXiv:2407.11691",
)
SEEDBENCH = _task(
    "seedbench",
    "questions with options about photographs, by kind of understanding",
    Form(files=("SEEDBench_IMG.tsv",)),
    ALL,
    MCQ_SCORERS,
    "Li et al., SEED-Bench, CVPR 2024, arXiv:2307.16125",
)
AI2D = _task(
    "ai2d",
    "questions with options about school diagrams",
    Form(files=("AI2D_{upper}.tsv", "AI2D_{upper}_NO_MASK.tsv")),
    "test",
    MCQ_SCORERS,
    "Kembhavi et al., ECCV 2016, arXiv:1603.07396",
)
MMSTAR = _task(
    "mmstar",
    "questions with options that cannot be answered without the image",
    Form(files=("MMStar.tsv",)),
    ALL,
    MCQ_SCORERS,
    "Chen et al., NeurIPS 2024, arXiv:2403.20330",
)
REALWORLDQA = _task(
    "realworldqa",
    "questions with options about where things are, in photographs taken from cars and elsewhere",
    Form(files=("RealWorldQA.tsv",)),
    ALL,
    MCQ_SCORERS,
    "xAI, RealWorldQA, 2024",
)
MMMU = _task(
    "mmmu",
    "college questions with options or an open answer, of one image or several",
    Form(files=("MMMU_DEV_VAL.tsv",), short=OPEN, options=True),
    "validation",
    MCQ_SCORERS,
    "Yue et al., CVPR 2024, arXiv:2311.16502",
)
BLINK = _task(
    "blink",
    "questions with options about what eyes see at once, most of two to four images",
    Form(files=("BLINK.tsv",)),
    ALL,
    MCQ_SCORERS,
    "Fu et al., ECCV 2024, arXiv:2404.12390",
)
HALLUSIONBENCH = replace(
    _task(
        "hallusionbench",
        "yes-or-no questions about figures, some of them altered; those with an image",
        Form(files=("HallusionBench.tsv",), short=None),
        ALL,
        ("yes_no_words", "mme_yes_no", "pope_yes_no"),
        "Guan et al., CVPR 2024, arXiv:2310.14566",
    ),
    metrics=hallusion_metrics,
    headline="mean of the three",
    figures="aAcc, fAcc, qAcc and their mean",
)
OCRBENCH = replace(
    _task(
        "ocrbench",
        "what is written in scenes, documents, forms and formulas",
        Form(files=("OCRBench.tsv",), short=None),
        ALL,
        ("ocrbench_contains",),
        "Liu et al., OCRBench, arXiv:2305.07895",
    ),
    metrics=ocrbench_metrics,
    headline="accuracy",
    figures="score / 10, by the five kinds of questions",
)
CHARTQA = replace(
    _task(
        "chartqa",
        "what a chart shows, in a number or a few words",
        Form(files=("ChartQA_TEST.tsv",)),
        ALL,
        ("relaxed_accuracy", "exact_match"),
        "Masry et al., ACL 2022, arXiv:2203.10244",
    ),
    figures="by split: human, augmented",
)
DOCVQA = _task(
    "docvqa",
    "free answers about scanned documents",
    Form(files=("DocVQA_{upper}.tsv",)),
    "val",
    ("anls", "exact_match"),
    "Mathew et al., WACV 2021, arXiv:2007.00398",
)
INFOVQA = _task(
    "infovqa",
    "free answers about infographics",
    Form(files=("InfoVQA_{upper}.tsv",)),
    "val",
    ("anls", "exact_match"),
    "Mathew et al., WACV 2022, arXiv:2104.12756",
)
NAMED = (SEEDBENCH, AI2D, MMSTAR, REALWORLDQA, MMMU, BLINK, HALLUSIONBENCH, OCRBENCH, CHARTQA, DOCVQA, INFOVQA)


def _paths(where: str, row: TsvRow, folder: Path) -> Sequence[Path]:
    """Images that a row names by their paths, in the directory or its ``images``."""
    if is_missing(row.get("image_path", "")):
        return ()
    homes = [home for home in (folder, folder / "images") if home.is_dir()]
    paths = [[inside(home, name, where) for home in homes] for name in _texts(row["image_path"])]
    return [next((path for path in places if path.is_file()), places[0]) for places in paths]


def _texts(field: str) -> tuple[str, ...]:
    """A field that may hold a list, as Python writes it; anything else is one text."""
    if field.startswith("[") and field.endswith("]"):
        try:
            found = ast.literal_eval(field)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return (field,)
        return tuple(str(one) for one in found) if isinstance(found, list) and found else (field,)
    return (field,)


def _sample(where: str, row: TsvRow, images: Sequence[Image], form: Form, yes_no: bool) -> Sample:
    """A row's question, of several images with the model's marker in place of each number."""
    if len(images) == 1:
        return _of_one(where, {**row, "question": MARKER.sub("", row["question"])}, images[0], form, yes_no)
    made = _of_one(where, row, images[0], form, yes_no)
    numbers = [int(number) for number in NUMBER.findall(made.question)]
    if any(not 0 < number <= len(images) for number in numbers):
        raise DataError(f"{where}: question: names image {max(numbers)}, and the row has {len(images)} images")
    if len(numbers) == 1:  # the others are not shown: it is a question of one image
        return _sample(where, row, [images[numbers[0] - 1]], form, yes_no)
    first, *more = [images[number - 1] for number in numbers] or images
    return replace(made, question=NUMBER.sub(IMAGE_MARKER, made.question), image=first, more=tuple(more))


def _of_one(where: str, row: TsvRow, image: Image, form: Form, yes_no: bool) -> Sample:
    options, answer = tuple(options_of(row)), str(row.get("answers") or row["answer"]).strip()
    question = row["question"].strip()
    hint = row.get("hint", "")
    head = question if is_missing(hint) else f"{hint}\n{question}"
    common = Sample(
        id=index_of(row),
        question=head,
        label=answer,
        image=image,
        category=said(row, "category", "split"),
        subject=said(row, "l2-category", "l2_category"),
    )
    if is_missing(answer) and answer != "None":
        raise DataError(f"{where}: answer: is missing: this split is judged by the authors' server only")
    if options:
        if answer not in tuple(LETTERS[: len(options)]):
            raise DataError(f"{where}: answer: {answer[:40]!r} names none of its {len(options)} options")
        lines = (f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
        text = "\n".join((head, *lines))
        line = SINGLE_PREDICTION_CN if CHINESE.search(text) else ""
        return replace(common, question=text, choices=options, label=answer, instruction=line)
    if form.options:
        return replace(common, choices=(answer, "Other Answers"), label=LETTERS[0], instruction=form.short)
    if yes_no:
        return replace(common, label=answer.lower(), instruction=form.short)
    answers = _texts(answer)
    most = max(answers, key=answers.count)
    return replace(common, label=most, answers=answers, instruction=form.short)
