"""POPE: does the model see objects that are not there? Yes-no questions on COCO images, objects drawn in three ways.

Source: Li et al., EMNLP 2023, arXiv:2305.10355 (AoiDolly/POPE, output/coco); prompt and figures as in
haotian-liu/LLaVA, docs/Evaluation.md and llava/eval/eval_pope.py. A directory holds
coco_pope_{random,popular,adversarial}.json (JSON lines with question_id, image, text, label), also in coco/ or
output/coco/, or the files that task.questions names, with {split} where the category stands; and the images in
val2014/; or parquet files of the Hugging Face hub, images inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workers.tasks.base import SHORT_ANSWER, Benchmark, DataError, EmbeddedImage, Metric, Sample, Task
from workers.tasks.files import (
    Row,
    checked,
    data_folder,
    find_file,
    first_folder,
    inside,
    parquet_files,
    parquet_rows,
    read_json_lines,
    text,
)
from workers.work import TaskSpec

if TYPE_CHECKING:
    import pandas as pd

CATEGORIES = ("random", "popular", "adversarial")
HOMES = ("", "coco/", "output/coco/")
SPLIT = "{split}"  # in task.questions, where the category stands in the files' names
FIGURES = ("F1", "accuracy", "precision", "recall", "yes ratio")


def load_pope(spec: TaskSpec) -> Benchmark:
    """Read one category, or ``all`` of them.

    Raises:
        DataError: unknown split, a file or an image is missing or malformed.
    """
    if spec.split not in ("all", *CATEGORIES):
        raise DataError(f"task.split: '{spec.split}' is no split of pope (all, {', '.join(CATEGORIES)})")
    folder = data_folder(spec)
    wanted = CATEGORIES if spec.split == "all" else (spec.split,)
    files = parquet_files(folder, spec.questions, "test") or [
        file for name in wanted for file in parquet_files(folder, spec.questions, name)
    ]
    if files:
        samples = [sample for sample in _from_parquet(files) if sample.category in wanted]
    else:
        if spec.questions and SPLIT not in spec.questions and len(wanted) > 1:
            raise DataError(
                f"task.questions: {spec.questions} is one file, and split 'all' needs {len(wanted)}: give split "
                f"{', '.join(CATEGORIES[:-1])} or {CATEGORIES[-1]}, or a pattern such as aokvqa_pope_{SPLIT}.json"
            )
        images = first_folder(folder, ("val2014", "images", "coco/val2014"))
        samples = []
        for name in wanted:
            named = spec.questions and spec.questions.replace(SPLIT, name)
            file = find_file(folder, named, [f"{home}coco_pope_{name}.json" for home in HOMES])
            samples += _from_lines(file, name, images)
    return Benchmark(samples=checked(folder, samples, f"question of split '{spec.split}'"))


def pope_metrics(rows: pd.DataFrame) -> list[Metric]:
    """F1, accuracy, precision, recall and yes-ratio: the mean over categories, as papers quote it, then each category.

    Yes is the positive class. A figure without its denominator is missing.
    """
    each = {str(name): _figures(part) for name, part in rows.groupby("category", sort=False)}
    means = [
        Metric(name, sum(figures[name] for figures in each.values()) / len(each), len(rows)) for name in FIGURES if each
    ]
    sizes = rows["category"].value_counts()
    return means + [
        Metric(f"{category} {name}", value, int(sizes[category]))
        for category, figures in each.items()
        for name, value in figures.items()
    ]


POPE = Task(
    name="pope",
    load=load_pope,
    split="all",
    scorers=("pope_yes_no", "mme_yes_no"),
    source="Li et al., EMNLP 2023, arXiv:2305.10355",
    metrics=pope_metrics,
    headline="F1",
    asks="is this object in the photograph? yes or no",
    files="`coco_pope_{random,popular,adversarial}.json` (AoiDolly/POPE, output/coco), `val2014/` (COCO), or parquet "
    "(lmms-lab/POPE)",
    splits="`all`, `random`, `popular`, `adversarial`",
    figures="F1, accuracy, precision, recall, yes ratio: mean of the categories, then each",
)


def _figures(rows: pd.DataFrame) -> dict[str, float]:
    said, is_so = rows["parsed"] == "yes", rows["label"] == "yes"
    right, said_yes, yes = int((said & is_so).sum()), int(said.sum()), int(is_so.sum())
    values = (
        _ratio(2 * right, said_yes + yes),
        float(rows["score"].mean()),
        _ratio(right, said_yes),
        _ratio(right, yes),
        _ratio(said_yes, len(rows)),
    )
    return dict(zip(FIGURES, values, strict=True))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _from_lines(place: Path, category: str, images: Path) -> Iterator[Sample]:
    for where, item in read_json_lines(place):
        yield _sample(where, category, item, ("text", "label"), inside(images, text(where, item, "image"), where))


def _from_parquet(files: list[Path]) -> Iterator[Sample]:
    for where, row, picture in parquet_rows(files, ("question_id", "question", "answer", "category")):
        if picture is None:
            raise DataError(f"{where}: has no image")
        yield _sample(where, text(where, row, "category"), row, ("question", "answer"), picture)


def _sample(where: str, category: str, item: Row, names: tuple[str, str], image: Path | EmbeddedImage) -> Sample:
    asked, answer = names
    label = text(where, item, answer).strip().lower()
    if label not in ("yes", "no"):
        raise DataError(f"{where}: {answer}: {label[:40]!r} is neither yes nor no")
    return Sample(
        id=f"{category}/{text(where, item, 'question_id')}",
        question=text(where, item, asked).strip(),
        label=label,
        image=image,
        instruction=SHORT_ANSWER,
        category=category,
    )
