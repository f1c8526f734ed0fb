"""VQAv2, TextVQA and VizWiz: free answers, compared with those of ten people.

Source: Goyal et al., CVPR 2017 (visualqa.org); Singh et al., Towards VQA Models That Can Read, CVPR 2019
(textvqa.org, release 0.5.1); Gurari et al., VizWiz Grand Challenge, CVPR 2018 (vizwiz.org); prompts as in
haotian-liu/LLaVA, docs/Evaluation.md. A directory holds

    VQAv2     v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json, val2014/COCO_*.jpg; of
              test-dev v2_OpenEnded_mscoco_test-dev2015_questions.json, test2015/COCO_*.jpg
    TextVQA   TextVQA_0.5.1_val.json, train_images/*.jpg; to show OCR tokens as LLaVA does, name its
              llava_textvqa_val_v051_ocr.jsonl with task.questions
    VizWiz    val.json, val/VizWiz_val_*.jpg; test.json, test/
    each      parquet files of the Hugging Face hub, images inside

VQAv2's test-dev and test and VizWiz's test have no public answers: they are asked and score 0, and `saccade export
--format server` writes the files that their servers judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workers.tasks.base import SHORT_ANSWER, Benchmark, DataError, EmbeddedImage, Sample, Task
from workers.tasks.files import (
    checked,
    data_folder,
    field,
    inside,
    parquet_files,
    parquet_rows,
    question_file,
    read_json,
    read_json_lines,
    text,
)
from workers.tasks.metrics import by_category
from workers.work import TaskSpec

OCR = "Reference OCR token:"
UNJUDGED = ("test", "test-dev")  # splits whose answers only a server has
MAY_BE_UNANSWERABLE = f"When the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT_ANSWER}"


def load_vqav2(spec: TaskSpec) -> Benchmark:
    """Read questions and annotations of one split.

    Raises:
        DataError: a file or an image is missing or malformed; only splits with answers can be judged.
    """
    assert spec.split is not None
    folder = data_folder(spec)
    if files := parquet_files(folder, spec.questions, spec.split):
        return _benchmark(files[0].parent, _from_parquet(files), spec.split)
    year = f"{spec.split}{2015 if spec.split in UNJUDGED else 2014}"
    place = question_file(folder, spec.questions or f"v2_OpenEnded_mscoco_{year}_questions.json")
    questions = field(str(place), read_json(place, dict), "questions", list)
    if spec.split in UNJUDGED:
        samples = _from_vqav2(place, questions, None, folder / "test2015", place)
        return replace(_benchmark(place, samples, spec.split), notes=(_unjudged(spec),))
    judged = folder / f"v2_mscoco_{year}_annotations.json"
    if not judged.is_file():
        raise DataError(f"{judged}: no such file; a split without published answers is judged by the server only")
    annotations = {
        text(f"{judged}: annotation {number}", item, "question_id"): item
        for number, item in enumerate(field(str(judged), read_json(judged, dict), "annotations", list))
    }
    return _benchmark(place, _from_vqav2(place, questions, annotations, folder / year, judged), spec.split)


def load_vizwiz(spec: TaskSpec) -> Benchmark:
    """Read the questions of one split; an image has one.

    Raises:
        DataError: a file or an image is missing or malformed.
    """
    assert spec.split is not None
    folder = data_folder(spec)
    if files := parquet_files(folder, spec.questions, spec.split):
        samples = [replace(one, instruction=MAY_BE_UNANSWERABLE) for one in _from_parquet(files)]
        return Benchmark(samples=checked(files[0].parent, samples, f"question of split '{spec.split}'"))
    place = question_file(folder, spec.questions or f"{spec.split}.json")
    benchmark = _benchmark(place, _from_vizwiz(place, folder / spec.split, spec.split in UNJUDGED), spec.split)
    return replace(benchmark, notes=(_unjudged(spec),)) if spec.split in UNJUDGED else benchmark


def load_textvqa(spec: TaskSpec) -> Benchmark:
    """Read questions with their answers; with ``questions`` naming LLaVA's file, ask as that file does.

    Raises:
        DataError: a file or an image is missing or malformed.
    """
    assert spec.split is not None
    folder = data_folder(spec)
    lines = spec.questions if spec.questions and spec.questions.endswith(".jsonl") else None
    if not lines and (files := parquet_files(folder, spec.questions, spec.split)):
        return _benchmark(files[0].parent, _from_parquet(files), spec.split)
    usual = f"TextVQA_0.5.1_{spec.split}.json"
    place = question_file(folder, usual if lines else spec.questions or usual)
    items = [
        (f"{place}: item {number}", item)
        for number, item in enumerate(field(str(place), read_json(place, dict), "data", list))
    ]
    images = folder / ("test_images" if spec.split == "test" else "train_images")  # val's lie among train's
    asked = None if lines is None else _llava_texts(question_file(folder, lines))
    benchmark = _benchmark(place, _from_textvqa(items, images, asked), spec.split)
    if asked is None:
        return benchmark
    asks, known = len(benchmark.samples), {_key(item) for _, item in items}
    strangers = [question for image, question in asked if (image, question) not in known]
    notes = [f"{lines} asks {asks} of the {len(items)} questions in {place.name}"] if asks < len(items) else []
    if strangers:
        notes.append(f"{len(strangers)} questions of {lines} are not in {place.name} (first: {strangers[0][:60]!r})")
    return replace(benchmark, notes=tuple(notes))


VQAV2 = Task(
    name="vqav2",
    load=load_vqav2,
    split="val",
    scorers=("vqa_soft",),
    source="Goyal et al., CVPR 2017, arXiv:1612.00837",
    metrics=by_category,
    asks="free answers about photographs, compared with those of ten people",
    files="`v2_OpenEnded_mscoco_val2014_questions.json`, `v2_mscoco_val2014_annotations.json`, `val2014/` "
    "(visualqa.org), or parquet (lmms-lab/VQAv2, split `validation`)",
    splits="`val`; `test-dev` and `test` for the server",
    figures="by answer type",
)
TEXTVQA = Task(
    name="textvqa",
    load=load_textvqa,
    split="val",
    scorers=("vqa_soft",),
    source="Singh et al., CVPR 2019, arXiv:1904.08920",
    asks="free answers about text in photographs, compared with those of ten people",
    files="`TextVQA_0.5.1_val.json`, `train_images/` (textvqa.org), or parquet (lmms-lab/textvqa, split `validation`)",
    splits="`val`",
)
VIZWIZ = Task(
    name="vizwiz",
    load=load_vizwiz,
    split="val",
    scorers=("vqa_soft",),
    source="Gurari et al., CVPR 2018, arXiv:1802.08218",
    metrics=by_category,
    asks="what blind people ask about their photographs, some of it unanswerable",
    files="`val.json`, `val/` (vizwiz.org), or parquet (lmms-lab/VizWiz-VQA)",
    splits="`val`; `test` for the server",
    figures="by answer type",
)


def _benchmark(place: Path, samples: Iterator[Sample], split: str) -> Benchmark:
    return Benchmark(samples=checked(place, list(samples), f"question of split '{split}'"))


def _from_vqav2(
    place: Path, questions: Sequence[Any], annotations: Mapping[str, Any] | None, images: Path, judged: Path
) -> Iterator[Sample]:
    for number, item in enumerate(questions):
        where = f"{place}: question {number}"
        id, image = text(where, item, "question_id"), field(where, item, "image_id", int)
        if annotations is not None and id not in annotations:
            raise DataError(f"{where}: question_id {id} has no annotation in {judged}")
        judgement = {} if annotations is None else annotations[id]
        yield _sample(
            id,
            text(where, item, "question"),
            () if annotations is None else _answers(f"{judged}: question_id {id}", judgement),
            inside(images, f"COCO_{images.name}_{image:012d}.jpg", where),
            str(judgement.get("answer_type", "")),
        )


def _from_vizwiz(place: Path, images: Path, unjudged: bool) -> Iterator[Sample]:
    for number, item in enumerate(read_json(place, list)):
        where = f"{place}: item {number}"
        image = text(where, item, "image")
        answers = () if unjudged else _answers(where, item)
        kind = str(item.get("answer_type", ""))
        sample = _sample(image, text(where, item, "question"), answers, inside(images, image, where), kind)
        yield replace(sample, instruction=MAY_BE_UNANSWERABLE)


def _unjudged(spec: TaskSpec) -> str:
    return (
        f"{spec.name}: split '{spec.split}' has no public answers, so every score is 0; `saccade export EXPERIMENT "
        "--format server` writes the files for its server"
    )


def _from_textvqa(
    items: Sequence[tuple[str, Any]], images: Path, asked: Mapping[tuple[str, str], str] | None
) -> Iterator[Sample]:
    for where, item in items:
        image, question = text(where, item, "image_id"), text(where, item, "question")
        shown = question
        if asked is not None:
            if _key(item) not in asked:
                continue  # the file that was named asks a part of the split
            shown = asked[_key(item)]
        path = inside(images, f"{image}.jpg", where)
        yield _sample(text(where, item, "question_id"), shown, _answers(where, item), path)


def _key(item: Mapping[str, Any]) -> tuple[str, str]:
    """What LLaVA's eval_textvqa.py finds a question by."""
    return str(item["image_id"]), str(item["question"]).lower()


def _from_parquet(files: Sequence[Path]) -> Iterator[Sample]:
    for where, row, picture in parquet_rows(files, ("question_id", "question", "answers")):
        if picture is None:
            raise DataError(f"{where}: has no image")
        kind = str(row.get("answer_type") or row.get("category") or "")
        yield _sample(
            text(where, row, "question_id"), text(where, row, "question"), _answers(where, row), picture, kind
        )


def _sample(
    id: str, question: str, answers: tuple[str, ...], image: Path | EmbeddedImage, category: str = ""
) -> Sample:
    return Sample(
        id=id,
        question=question,
        label=Counter(answers).most_common(1)[0][0] if answers else "",
        answers=answers,
        image=image,
        instruction=SHORT_ANSWER,
        category=category,
    )


def _answers(where: str, item: Any) -> tuple[str, ...]:
    """Plain texts, or objects with an ``answer``."""
    found = [one.get("answer") if isinstance(one, dict) else one for one in field(where, item, "answers", list)]
    texts = tuple(one for one in found if isinstance(one, str))
    if not texts or len(texts) < len(found):
        raise DataError(f"{where}: answers: expected a list of texts; a split without answers cannot be judged")
    return texts


def _llava_texts(place: Path) -> dict[tuple[str, str], str]:
    """(image id, lower-case question) -> the text that is asked, without its instruction."""
    texts = {}
    for where, item in read_json_lines(place):
        lines = [line for line in text(where, item, "text").split("\n") if line != SHORT_ANSWER]
        question = next((line for line in lines if not line.startswith(OCR)), "")
        texts[text(where, item, "question_id"), question.lower()] = "\n".join(lines)
    return texts
