"""MMBench's TSV files, asked once or with every rotation of the options (circular evaluation).

Source: Liu et al., MMBench, ECCV 2024, arXiv:2307.06281 (open-compass/MMBench and VLMEvalKit); prompt and rotations as
in haotian-liu/LLaVA, llava/eval/model_vqa_mmbench.py. The displayed letters stay A, B, C, D while the texts rotate, so
the right letter changes with the round. A file that holds the rotations itself (index + k x 1,000,000, each row with
its own answer) is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from workers.tasks.base import LETTERS, Benchmark, DataError, EmbeddedImage, Metric, Sample, Task
from workers.tasks.files import checked, data_folder, find_file, tsv_rows
from workers.tasks.prompts import SINGLE_PREDICTION_CN
from workers.tasks.tsv import TsvRow, images_of, index_of, is_missing, of_split, options_of, said
from workers.work import TaskSpec

if TYPE_CHECKING:
    import pandas as pd

ROTATION = 1_000_000  # VLMEvalKit adds it to the index of each further rotation
FILES = ("MMBench_{upper}_EN.tsv", "MMBench_{upper}_EN_V11.tsv", "mmbench_{lower}_20230712.tsv",
         "mmbench_{lower}_en_20231003.tsv", "MMBench_{upper}_EN_legacy.tsv")  # fmt: skip
FILES_CN = ("MMBench_{upper}_CN.tsv", "MMBench_{upper}_CN_V11.tsv", "mmbench_{lower}_cn_20231003.tsv")


def load_mmbench(spec: TaskSpec, circular: bool, chinese: bool = False) -> Benchmark:
    """Read one split; rows of other splits in the same file are left out.

    Raises:
        DataError: the file is missing or damaged, lacks a column, or has no answers.
    """
    assert spec.split is not None
    folder = data_folder(spec)
    usual = [
        name.format(upper=spec.split.upper(), lower=spec.split.lower()) for name in (FILES_CN if chinese else FILES)
    ]
    file = find_file(folder, spec.questions, usual)
    needed = ("index", "question", "image", *LETTERS[:2])
    rows = [(where, row) for where, row in tsv_rows(file, needed) if of_split(row, spec.split)]
    if rows and "answer" not in rows[0][1]:
        raise DataError(f"{file}: has no column 'answer': this split is judged by the authors' server only; take dev")
    images = images_of(rows)
    samples = [
        s
        for where, row in rows
        for s in _samples(where, row, images, circular, SINGLE_PREDICTION_CN if chinese else "")
    ]
    return Benchmark(samples=checked(file, samples, f"question of split '{spec.split}'"))


def mmbench_metrics(rows: pd.DataFrame, circular: bool) -> list[Metric]:
    """Accuracy, or the share of questions that are right in every rotation; then by L2 category.

    A question some of whose rotations have no answer yet is left out.
    """
    questions = rows.groupby("group", sort=False).agg(
        right=("correct", "all"), asked=("correct", "size"), options=("options", "first"), kind=("subject", "first")
    )
    if circular:
        questions = questions[questions["asked"] == questions["options"]]
    found = [Metric("circular accuracy" if circular else "accuracy", _mean(questions), len(questions))]
    if circular:
        first = rows[rows["id"].str.endswith("/0")]
        found.append(Metric("first rotation", float(first["score"].mean()) if len(first) else float("nan"), len(first)))
    kinds = [kind for kind in questions["kind"].unique() if kind]
    return found + [Metric(str(kind), _mean(part), len(part))
                    for kind in kinds for part in [questions[questions["kind"] == kind]]]  # fmt: skip


MMBENCH = Task(
    name="mmbench",
    load=partial(load_mmbench, circular=False),
    split="dev",
    scorers=("mmbench_exact", "strict_letter", "llava_official"),
    source="Liu et al., ECCV 2024, arXiv:2307.06281",
    metrics=partial(mmbench_metrics, circular=False),
    headline="accuracy",
    asks="questions with options about an image, by kind of ability",
    files="`MMBench_DEV_EN.tsv` (OpenCompass) or LLaVA's `mmbench_dev_20230712.tsv`",
    splits="`dev`, or any with answers",
    figures="accuracy, by L2 category",
)
MMBENCH_CIRCULAR = replace(
    MMBENCH,
    name="mmbench_circular",
    load=partial(load_mmbench, circular=True),
    metrics=partial(mmbench_metrics, circular=True),
    headline="circular accuracy",
    asks="the same, with every rotation of the options",
    files="the same",
    figures="circular accuracy, first rotation, by L2 category",
)
MMBENCH_CN = replace(
    MMBENCH,
    name="mmbench_cn",
    load=partial(load_mmbench, circular=False, chinese=True),
    asks="MMBench in Chinese, and asked for the letter in Chinese",
    files="`MMBench_DEV_CN.tsv` (OpenCompass) or LLaVA's `mmbench_dev_cn_20231003.tsv`",
)
MMBENCH_CN_CIRCULAR = replace(
    MMBENCH_CIRCULAR,
    name="mmbench_cn_circular",
    load=partial(load_mmbench, circular=True, chinese=True),
)


def _mean(questions: pd.DataFrame) -> float:
    return float(questions["right"].mean()) if len(questions) else float("nan")


def _samples(
    where: str, row: TsvRow, images: Mapping[str, tuple[EmbeddedImage, ...]], circular: bool, instruction: str
) -> Iterator[Sample]:
    """The question once, or once for each rotation of its options."""
    index = index_of(row)
    if not index.isdecimal():
        raise DataError(f"{where}: index: {index[:40]!r} is no whole number")
    rotation, base = divmod(int(index), ROTATION)
    if rotation and not circular:
        return
    options = list(options_of(row))
    answer = row["answer"].strip()
    if not options or answer not in tuple(LETTERS[: len(options)]):
        raise DataError(f"{where}: answer: {answer[:40]!r} names none of its {len(options)} options")
    if len(images.get(index, ())) != 1:
        raise DataError(f"{where}: image: is neither base64 nor the index of a row that has an image")
    right = LETTERS.index(answer)
    own_rotations = str(base + ROTATION) in images
    rounds = len(options) if circular and not own_rotations else 1
    hint = row.get("hint", "")
    for turn in range(rounds):
        turned = options[turn:] + options[:turn]
        lines = [row["question"], *(f"{letter}. {option}" for letter, option in zip(LETTERS, turned, strict=False))]
        yield Sample(
            id=f"{base}/{turn or rotation}" if circular else str(base),
            question="\n".join(lines if is_missing(hint) else [hint, *lines]),
            choices=tuple(turned),
            label=LETTERS[(right - turn) % len(options)],
            image=images[index][0],
            group=str(base),
            instruction=instruction,
            category=said(row, "category"),
            subject=said(row, "l2-category"),
        )
