"""MME: two yes-no questions an image, in 14 categories.

Source: Fu et al., arXiv:2306.13394 (BradyFU/Awesome-Multimodal-Large-Language-Models, Evaluation branch, and its
calculation.py); prompt as in haotian-liu/LLaVA, docs/Evaluation.md. A directory holds the authors' release, whose zip
unpacks to the categories in RELEASE/ or RELEASE/MME_Benchmark/, one folder a category with IMAGE.png or .jpg and
IMAGE.txt (question, tab, Yes or No; two lines), in some categories apart in images/ and questions_answers_YN/; or
parquet files of the Hugging Face hub, images inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workers.tasks.base import SHORT_ANSWER, Benchmark, DataError, EmbeddedImage, Metric, Sample, Task
from workers.tasks.files import checked, data_folder, first_folder, parquet_files, parquet_rows, read_lines, text
from workers.work import TaskSpec

if TYPE_CHECKING:
    import pandas as pd

PERCEPTION = tuple("existence count position color posters celebrity scene landmark artwork OCR".split())
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
HOMES = ("", "MME_Benchmark_release_version", "MME_Benchmark_release_version/MME_Benchmark", "MME_Benchmark")
ASKS_YES_NO = "Please answer yes or no."
IMAGES = (".png", ".jpg", ".jpeg")
PAIR = 2  # questions an image


def load_mme(spec: TaskSpec) -> Benchmark:
    """Read all categories that are there; an image's two questions are one group.

    Raises:
        DataError: no category is there, a file or an image is missing or malformed.
    """
    assert spec.split is not None
    folder = data_folder(spec)
    if files := parquet_files(folder, spec.questions, spec.split):
        return Benchmark(samples=checked(files[0].parent, list(_from_parquet(files)), "question"))
    root = first_folder(folder, HOMES, lambda home: any((home / name).is_dir() for name in (*PERCEPTION, *COGNITION)))
    found = [name for name in (*PERCEPTION, *COGNITION) if (root / name).is_dir()]
    if not found:
        raise DataError(
            f"{root}: has neither parquet files of split '{spec.split}' nor folders {', '.join(PERCEPTION)}; nor have "
            + ", ".join(HOMES[1:])
        )
    missing = [name for name in (*PERCEPTION, *COGNITION) if name not in found]
    notes = (f"{root}: lacks the categories {', '.join(missing)}; the totals leave them out",) if missing else ()
    samples = [sample for name in found for sample in _from_folder(root / name)]
    return Benchmark(samples=checked(root, samples, "question"), notes=notes)


def mme_metrics(rows: pd.DataFrame) -> list[Metric]:
    """Per category acc, acc+ and their score in points, 200 at most; perception, cognition and total as sums of scores.

    acc+ is over images with both questions answered. A sum over part of its categories says of how many.
    """
    found: list[Metric] = []
    scores: dict[str, float] = {}
    for name, part in rows.groupby("category", sort=False):
        pairs = part.groupby("group").agg(right=("correct", "all"), asked=("correct", "size"))
        pairs = pairs[pairs["asked"] == PAIR]
        acc, both = float(part["score"].mean()), float(pairs["right"].mean())  # NaN without a pair
        scores[str(name)] = 100 * (acc + both)
        found += [
            Metric(f"{name} acc", acc, len(part)),
            Metric(f"{name} acc+", both, len(pairs)),
            Metric(f"{name} score", scores[str(name)], len(part), "points"),
        ]
    sums = [("perception", PERCEPTION), ("cognition", COGNITION), ("total", PERCEPTION + COGNITION)]
    totals = []
    for name, parts in sums:
        there = [part for part in parts if part in scores]
        if there:
            share = "" if len(there) == len(parts) else f" ({len(there)} of {len(parts)})"
            count = int(rows["category"].isin(there).sum())
            totals.append(Metric(f"{name}{share}", sum(scores[part] for part in there), count, "points"))
    return totals[::-1] + found


MME = Task(
    name="mme",
    load=load_mme,
    split="test",
    scorers=("mme_yes_no", "pope_yes_no"),
    source="Fu et al., arXiv:2306.13394",
    metrics=mme_metrics,
    headline="total",
    asks="two yes-or-no questions an image, in 14 categories",
    files="`MME_Benchmark_release_version/` (the authors, on request), or parquet (lmms-lab/MME)",
    splits="`test`",
    figures="total, perception, cognition; per category acc, acc+ and score",
)


def _from_folder(folder: Path) -> Iterator[Sample]:
    texts = folder / "questions_answers_YN"
    images = folder / "images"
    texts, images = texts if texts.is_dir() else folder, images if images.is_dir() else folder
    for place in sorted(texts.glob("*.txt")):
        lines = read_lines(place)
        if len(lines) != PAIR:
            raise DataError(f"{place}: has {len(lines)} questions, and MME has two an image")
        image = next(
            (images / f"{place.stem}{end}" for end in IMAGES if (images / f"{place.stem}{end}").is_file()),
            images / f"{place.stem}{IMAGES[0]}",
        )
        for number, line in enumerate(lines):
            question, tab, answer = line.partition("\t")
            where = f"{place}: line {number + 1}"
            if not tab:
                raise DataError(f"{where}: expected a question, a tab, and Yes or No")
            yield _sample(where, folder.name, f"{folder.name}/{image.name}", number, question, answer, image)


def _from_parquet(files: list[Path]) -> Iterator[Sample]:
    asked: Counter[str] = Counter()
    for where, row, picture in parquet_rows(files, ("question_id", "question", "answer", "category")):
        if picture is None:
            raise DataError(f"{where}: has no image")
        group = text(where, row, "question_id")
        question, answer = text(where, row, "question"), text(where, row, "answer")
        yield _sample(where, text(where, row, "category"), group, asked[group], question, answer, picture)
        asked[group] += 1


def _sample(
    where: str, category: str, group: str, number: int, question: str, answer: str, image: Path | EmbeddedImage
) -> Sample:
    label = answer.strip().lower()
    if label not in ("yes", "no"):
        raise DataError(f"{where}: answer: {answer[:40]!r} is neither Yes nor No")
    return Sample(
        id=f"{group}/{number}",
        question=question.replace(ASKS_YES_NO, "").strip(),
        label=label,
        image=image,
        group=group,
        instruction=SHORT_ANSWER,
        category=category,
    )
