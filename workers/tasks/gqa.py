"""GQA: one-word answers about real images, right or wrong.

Source: Hudson and Manning, CVPR 2019, arXiv:1902.09506; prompt and comparison as in haotian-liu/LLaVA,
docs/Evaluation.md. A directory holds testdev_balanced_questions.json of the authors' questions archive and
images/ID.jpg of their images archive.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from workers.tasks.base import SHORT_ANSWER, Benchmark, Sample, Task
from workers.tasks.files import checked, data_folder, inside, question_file, read_json, text
from workers.tasks.metrics import by_category
from workers.work import TaskSpec


def load_gqa(spec: TaskSpec) -> Benchmark:
    """Read SPLIT_questions.json.

    Raises:
        DataError: the file or an image is missing, or a question lacks a field.
    """
    folder = data_folder(spec)
    place = question_file(folder, spec.questions or f"{spec.split}_questions.json")
    return Benchmark(samples=checked(place, list(_samples(place, folder / "images")), f"question of '{spec.split}'"))


GQA = Task(
    name="gqa",
    load=load_gqa,
    split="testdev_balanced",
    scorers=("gqa_exact",),
    source="Hudson and Manning, CVPR 2019, arXiv:1902.09506",
    metrics=by_category,
    asks="one-word answers about what stands where in photographs",
    files="`testdev_balanced_questions.json`, `images/` (Stanford)",
    splits="`testdev_balanced`, ...",
    figures="by structural type",
)


def _samples(place: Path, images: Path) -> Iterator[Sample]:
    for id, item in read_json(place, dict).items():
        where = f"{place}: question {id}"
        kinds = item.get("types") if isinstance(item, dict) else None
        yield Sample(
            id=str(id),
            question=text(where, item, "question"),
            label=text(where, item, "answer"),
            image=inside(images, f"{text(where, item, 'imageId')}.jpg", where),
            instruction=SHORT_ANSWER,
            category=str(kinds.get("structural", "")) if isinstance(kinds, dict) else "",
        )
