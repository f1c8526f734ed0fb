"""MMBench's TSV files, asked once or with every rotation of the options (circular evaluation).

Source: Liu et al., MMBench, ECCV 2024, arXiv:2307.06281 (open-compass/MMBench and VLMEvalKit); prompt and rotations as
in haotian-liu/LLaVA, llava/eval/model_vqa_mmbench.py. The displayed letters stay A, B, C, D while the texts rotate, so
the right letter changes with the round. A file that holds the rotations itself (index + k x 1,000,000, each row with
its own answer) is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from workers.tasks.base import LETTERS, Benchmark, DataError, EmbeddedImage, Metric, Sample, Task
from workers.tasks.files import checked, data_folder, find_file, tsv_rows
from workers.work import TaskSpec

if TYPE_CHECKING:
    import pandas as pd

ROTATION = 1_000_000  # VLMEvalKit adds it to the index of each further rotation
OPTIONS = "ABCD"
FILES = ("MMBench_{upper}_EN.tsv", "MMBench_{upper}_EN_V11.tsv", "mmbench_{lower}_20230712.tsv",
         "mmbench_{lower}_en_20231003.tsv", "MMBench_{upper}_EN_legacy.tsv")  # fmt: skip
NULLS = frozenset({"", "#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "n/a", "null"})


def load_mmbench(spec: TaskSpec, circular: bool) -> Benchmark:
    """Read one split; rows of other splits in the same file are left out.

    Raises:
        DataError: the file is missing or damaged, lacks a column, or has no answers.
    """
    assert spec.split is not None
    folder = data_folder(spec)
    usual = [name.format(upper=spec.split.upper(), lower=spec.split.lower()) for name in FILES]
    file = find_file(folder, spec.questions, usual)
    needed = ("index", "question", "image", *OPTIONS[:2])
    rows = [(where, row) for where, row in tsv_rows(file, needed) if _is(row.get("split"), spec.split)]
    if rows and "answer" not in rows[0][1]:
        raise DataError(f"{file}: has no column 'answer': this split is judged by the authors' server only; take dev")
    images = _images(rows)
    samples = [s for where, row in rows for s in _samples(where, row, images, circular)]
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


def _mean(questions: pd.DataFrame) -> float:
    return float(questions["right"].mean()) if len(questions) else float("nan")


def _samples(
    where: str, row: Mapping[str, Any], images: Mapping[str, EmbeddedImage], circular: bool
) -> Iterator[Sample]:
    """The question once, or once for each rotation of its options."""
    index = row["index"].strip().removesuffix(".0")
    if not index.isdecimal():
        raise DataError(f"{where}: index: {index[:40]!r} is no whole number")
    rotation, base = divmod(int(index), ROTATION)
    if rotation and not circular:
        return
    options = list(_options(row))
    answer = row["answer"].strip()
    if not options or answer not in tuple(OPTIONS[: len(options)]):
        raise DataError(f"{where}: answer: {answer[:40]!r} names none of its {len(options)} options")
    picture = row["image"] if not isinstance(row["image"], str) else images.get(row["image"].strip())
    if picture is None:
        raise DataError(f"{where}: image: is neither base64 nor the index of a row that has an image")
    right = OPTIONS.index(answer)
    own_rotations = str(base + ROTATION) in images
    rounds = len(options) if circular and not own_rotations else 1
    hint = row.get("hint", "")
    for turn in range(rounds):
        turned = options[turn:] + options[:turn]
        lines = [row["question"], *(f"{letter}. {option}" for letter, option in zip(LETTERS, turned, strict=False))]
        yield Sample(
            id=f"{base}/{turn or rotation}" if circular else str(base),
            question="\n".join(lines if _is_none(hint) else [hint, *lines]),
            choices=tuple(turned),
            label=LETTERS[(right - turn) % len(options)],
            image=picture,
            group=str(base),
            category=_text(row.get("category")),
            subject=_text(row.get("l2-category")),
        )


def _images(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, EmbeddedImage]:
    """By index; a row may name another row's image by its index."""
    own = {row["index"].strip().removesuffix(".0"): row["image"] for _, row in rows}
    found = {}
    for index, image in own.items():
        target = own.get(image.strip()) if isinstance(image, str) else image
        if target is not None and not isinstance(target, str):
            found[index] = target
    return found


def _options(row: Mapping[str, Any]) -> Iterator[str]:
    """Up to the first that is missing.

    A word that pandas reads as missing, such as None or NA, is an answer where it stands once; twice it is how the file
    writes what is missing.
    """
    texts = [row.get(letter, "") for letter in OPTIONS]
    for text in texts:
        if text == "" or text.lower() == "nan" or (_is_none(text) and texts.count(text) > 1):
            return
        yield text


def _is_none(text: str) -> bool:
    """What pandas reads as missing, or LLaVA's ``is_none`` takes for it."""
    return text in NULLS or text.lower() in ("nan", "none")


def _is(split: str | None, wanted: str) -> bool:
    return split is None or _is_none(split) or split.strip().lower() == wanted.lower()


def _text(value: str | None) -> str:
    return "" if value is None or _is_none(value) else value
