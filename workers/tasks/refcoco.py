"""RefCOCO, RefCOCO+ and RefCOCOg: where in the photograph is what a phrase describes? A box, right at an IoU of 0.5.

Source: Kazemzadeh et al., EMNLP 2014; Yu et al., ECCV 2016, arXiv:1608.00272; Mao et al., CVPR 2016, arXiv:1511.02283.
Prompt and rule as in EvolvingLMMs-Lab/lmms-eval, tasks/refcoco/utils_rec.py: corners as shares of the image's width and
height, in square brackets. A directory holds Shikra's REC_refcoco_unc_testA.jsonl and the like (shikras/shikra:
img_path, expression, bbox of corners in pixels, width, height) and COCO's train2014/, or parquet files of the hub
(lmms-lab/RefCOCO: bbox as corner, width and height in pixels; answer with several phrases), images inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from workers.tasks.answers import box_text
from workers.tasks.base import Benchmark, DataError, EmbeddedImage, Sample, Task
from workers.tasks.files import (
    Row,
    checked,
    data_folder,
    field,
    first_folder,
    inside,
    parquet_files,
    parquet_rows,
    question_file,
    read_json_lines,
    text,
)
from workers.work import TaskSpec

ASKS = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of the "
    "region this sentence describes: {phrase}"
)


def load_refcoco(spec: TaskSpec, lines: str) -> Benchmark:
    """Read one split: a question for each phrase.

    Args:
        spec: with the split resolved.
        lines: usual name of Shikra's file, with {split}.

    Raises:
        DataError: a file or an image is missing or malformed, or a box has no area.
    """
    assert spec.split is not None
    folder = data_folder(spec)
    if files := parquet_files(folder, spec.questions, spec.split):
        place, samples = files[0].parent, list(_from_parquet(files))
    else:
        place = question_file(folder, spec.questions or lines.format(split=spec.split))
        samples = list(_from_lines(place, first_folder(folder, ("train2014", "images", "coco/train2014"))))
    return Benchmark(samples=checked(place, samples, f"question of split '{spec.split}'"))


REFCOCO = Task(
    name="refcoco",
    load=partial(load_refcoco, lines="REC_refcoco_unc_{split}.jsonl"),
    split="testA",
    scorers=("box_iou",),
    source="Yu et al., ECCV 2016, arXiv:1608.00272",
    asks="the box of what a phrase describes in a photograph",
    files="Shikra's `REC_refcoco_unc_testA.jsonl` and `train2014/` (COCO), or parquet (lmms-lab/RefCOCO)",
    splits="`testA`, `testB`, `val`",
)
REFCOCO_PLUS = replace(
    REFCOCO,
    name="refcoco_plus",
    load=partial(load_refcoco, lines="REC_refcoco+_unc_{split}.jsonl"),
    asks="the same, of phrases without places",
    files="`REC_refcoco+_unc_testA.jsonl` and `train2014/`, or parquet (lmms-lab/RefCOCOplus)",
)
REFCOCOG = replace(
    REFCOCO,
    name="refcocog",
    load=partial(load_refcoco, lines="REC_refcocog_umd_{split}.jsonl"),
    split="test",
    source="Mao et al., CVPR 2016, arXiv:1511.02283",
    asks="the same, of longer phrases",
    files="`REC_refcocog_umd_test.jsonl` and `train2014/`, or parquet (lmms-lab/RefCOCOg)",
    splits="`test`, `val`",
)


def _from_lines(place: Path, images: Path) -> Iterator[Sample]:
    for number, (where, item) in enumerate(read_json_lines(place)):
        image = inside(images, text(where, item, "img_path").rpartition("/")[2], where)
        size = field(where, item, "width", int), field(where, item, "height", int)
        yield _sample(where, str(number), text(where, item, "expression"), _numbers(where, item), size, image)


def _from_parquet(files: Sequence[Path]) -> Iterator[Sample]:
    for where, row, picture in parquet_rows(files, ("question_id", "answer", "bbox")):
        if picture is None:
            raise DataError(f"{where}: has no image")
        left, top, width, height = _numbers(where, row)
        size = _size(where, picture)
        for number, phrase in enumerate(field(where, row, "answer", list)):
            box = (left, top, left + width, top + height)
            yield _sample(where, f"{text(where, row, 'question_id')}/{number}", str(phrase), box, size, picture)


def _numbers(where: str, item: Row) -> tuple[float, ...]:
    found = field(where, item, "bbox", list)
    if len(found) != 4 or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in found):
        raise DataError(f"{where}: bbox: {str(found)[:40]} is not four numbers")
    return tuple(float(one) for one in found)


def _size(where: str, picture: EmbeddedImage) -> tuple[int, int]:
    """Width and height, of which only the head of the image is decoded."""
    try:
        with Image.open(BytesIO(picture.read())) as image:
            return image.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: image: cannot be read: {error}") from error


def _sample(
    where: str, id: str, phrase: str, box: Sequence[float], size: tuple[int, int], image: Path | EmbeddedImage
) -> Sample:
    width, height = size
    if not (width > 0 and height > 0 and box[0] < box[2] and box[1] < box[3]):
        raise DataError(f"{where}: bbox: {list(box)} in an image of {width} x {height} has no area")
    shares = [value / side for value, side in zip(box, (width, height, width, height), strict=True)]
    return Sample(
        id=id, question=ASKS.format(phrase=phrase.strip()), label=box_text(shares), image=image, instruction=None
    )
