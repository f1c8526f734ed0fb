"""Benchmarks of a few made-up questions, in the forms in which the real ones are published."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOURS = ("red", "green", "blue", "white")
ANSWERS = ["red"] * 4 + ["The red."] * 2 + ["dark red"] * 3 + ["blue"]


def picture(number: int, side: int = 40) -> bytes:
    """A PNG of one colour and a size of its own."""
    stream = BytesIO()
    Image.new("RGB", (side + number, side), COLOURS[number % 4]).save(stream, "PNG")
    return stream.getvalue()


def put(place: Path, content: bytes | str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content if isinstance(content, bytes) else content.encode())


def put_json(place: Path, value: Any) -> None:
    put(place, json.dumps(value))


def put_lines(place: Path, values: Sequence[Any]) -> None:
    put(place, "".join(json.dumps(value) + "\n" for value in values))


def put_parquet(place: Path, rows: Sequence[dict[str, Any]], group: int = 2) -> None:
    """Images as the datasets library writes them: a struct of bytes and path; None is no image."""
    place.parent.mkdir(parents=True, exist_ok=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "image"}
    table = pa.table(columns)
    cells = [None if row["image"] is None else {"bytes": row["image"], "path": None} for row in rows]
    pq.write_table(table.append_column("image", pa.array(cells, image)), place, row_group_size=group)


def write_scienceqa_parquet(folder: Path) -> None:
    """Three questions, the second without an image, in two shards."""
    rows = [
        {
            "question": f"what colour is it {number} ?",
            "choices": ["red", "green", "blue"],
            "answer": number % 3,
            "hint": "It is not white." if number else "",
            "subject": ("natural science", "language science", "social science")[number],
            "topic": "t",
            "category": "c",
            "skill": "s",
            "image": None if number == 1 else picture(number),
        }
        for number in range(3)
    ]
    put_parquet(folder / "data" / "test-00000-of-00002-ab.parquet", rows[:2])
    put_parquet(folder / "data" / "test-00001-of-00002-cd.parquet", rows[2:])


MMBENCH_HEADER = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source",
                  "l2-category", "comment", "split")  # fmt: skip


def mmbench_rows(split: str = "dev") -> list[dict[str, str]]:
    """Four options, two options with a hint that has a tab and quotes, and one whose image is another row's."""
    shown = [base64.b64encode(picture(number)).decode() for number in range(2)]
    common = {"source": "x", "comment": "", "split": split, "hint": "nan"}
    return [
        {**common, "index": "241", "question": "what colour ?", "A": "red", "B": "green", "C": "blue", "D": "white",
         "answer": "B", "category": "attribute", "l2-category": "perception", "image": shown[0]},
        {**common, "index": "252", "question": "which ?", "hint": 'a "hint"\twith\nlines', "A": "left", "B": "right",
         "C": "", "D": "", "answer": "A", "category": "spatial", "l2-category": "relation", "image": shown[1]},
        {**common, "index": "263", "question": "which side ?", "A": "left", "B": "right", "C": "nan", "D": "nan",
         "answer": "B", "category": "spatial", "l2-category": "relation", "image": "252"},
    ]  # fmt: skip


def write_mmbench(folder: Path, rows: Sequence[dict[str, str]], name: str = "MMBench_DEV_EN.tsv") -> None:
    put_tsv(folder / name, rows, [column for column in MMBENCH_HEADER if column in rows[0]])


def put_tsv(place: Path, rows: Sequence[dict[str, str]], header: Sequence[str] = ()) -> None:
    def field(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if set(text) & set('"\t\n') else text

    names = header or list(dict.fromkeys(name for row in rows for name in row))
    lines = ["\t".join(names), *("\t".join(field(row.get(name, "")) for name in names) for row in rows)]
    put(place, "\n".join(lines) + "\n")


def tsv_row(index: str, answer: str, **more: str) -> dict[str, str]:
    """A row of a VLMEvalKit file with an image of its own."""
    shown = base64.b64encode(picture(len(index))).decode()
    return {"index": index, "question": f"what is {index} ?", "image": shown, "answer": answer, **more}


def write_tsv(folder: Path, name: str) -> None:
    """The file of one of VLMEvalKit's benchmarks, with questions of its kinds."""
    options = {"A": "red", "B": "green", "category": "colour"}
    files = {
        "seedbench": "SEEDBench_IMG.tsv", "ai2d": "AI2D_TEST.tsv", "mmstar": "MMStar.tsv", "mmmu": "MMMU_DEV_VAL.tsv",
        "realworldqa": "RealWorldQA.tsv", "hallusionbench": "HallusionBench.tsv", "ocrbench": "OCRBench.tsv",
        "blink": "BLINK.tsv",
        "chartqa": "ChartQA_TEST.tsv", "docvqa": "DocVQA_VAL.tsv", "infovqa": "InfoVQA_VAL.tsv", "vlmevalkit": "A.tsv",
    }  # fmt: skip
    rows = [tsv_row("1", "A", **options), tsv_row("22", "B", **options)]
    if name == "mmmu":
        rows = [{**row, "split": "validation"} for row in (*rows, tsv_row("333", "24"))]
    elif name == "blink":
        both = [base64.b64encode(picture(number)).decode() for number in range(2)]
        rows = [{**row, "image": str(both)} for row in rows]
    elif name == "hallusionbench":
        kinds = {"category": "VD", "l2-category": "chart"}
        rows = [tsv_row(f"a_b_c_0_{figure}_{q}", ("Yes", "No")[q], **kinds)
                for figure in (0, 1) for q in (0, 1)]  # fmt: skip
    elif name in ("ocrbench", "chartqa", "docvqa", "infovqa"):
        kinds = {"split": "test_human"} if name == "chartqa" else {"category": "Digit String Recognition"}
        rows = [tsv_row("1", "['12', 'twelve']", **kinds), tsv_row("22", "a long answer", **kinds)]
    put_tsv(folder / files[name], rows)


def write_vqav2(folder: Path) -> None:
    questions = [{"question_id": 9 + n, "image_id": 42 + n, "question": f"What color {n}?"} for n in range(2)]
    put_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    kinds = ("other", "yes/no")
    annotations = [
        {"question_id": 9 + n, "answer_type": kinds[n], "answers": [{"answer": text} for text in ANSWERS]}
        for n in range(2)
    ]
    put_json(folder / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    for n in range(2):
        put(folder / "val2014" / f"COCO_val2014_{42 + n:012d}.jpg", picture(n))


def write_vizwiz(folder: Path) -> None:
    items = [
        {"image": f"VizWiz_val_{n}.jpg", "question": f"What is it {n}?", "answer_type": "other",
         "answers": [{"answer": text, "answer_confidence": "yes"} for text in ANSWERS]}
        for n in range(2)
    ]  # fmt: skip
    put_json(folder / "val.json", items)
    for n in range(2):
        put(folder / "val" / f"VizWiz_val_{n}.jpg", picture(n))


def write_refcoco(folder: Path, name: str = "REC_refcoco_unc_testA.jsonl") -> None:
    items = [
        {"img_path": f"COCO_train2014_{n}.jpg", "expression": f"the {n}. dog", "bbox": [4, 10, 20 + n, 30.0],
         "dataset_name": "x", "height": 40, "width": 40 + n}
        for n in range(2)
    ]  # fmt: skip
    put_lines(folder / name, items)
    for n in range(2):
        put(folder / "train2014" / f"COCO_train2014_{n}.jpg", picture(n))


def write_textvqa(folder: Path) -> None:
    items = [
        {"question_id": 34602 + n, "image_id": f"ab{n}", "question": f"What is it {n}?", "answers": ANSWERS}
        for n in range(2)
    ]
    put_json(folder / "TextVQA_0.5.1_val.json", {"data": items})
    for n in range(2):
        put(folder / "train_images" / f"ab{n}.jpg", picture(n))
    text = "What is it 1?\nReference OCR token: EXIT, A\nAnswer the question using a single word or phrase."
    put_lines(folder / "llava_textvqa_val_v051_ocr.jsonl", [{"question_id": "ab1", "image": "ab1.jpg", "text": text}])


def write_gqa(folder: Path) -> None:
    questions = {
        f"2010{n}": {"question": f"Who is it {n}?", "answer": ("yes", "girl")[n], "imageId": f"n{n}",
                     "types": {"structural": ("verify", "query")[n]}}
        for n in range(2)
    }  # fmt: skip
    put_json(folder / "testdev_balanced_questions.json", questions)
    for n in range(2):
        put(folder / "images" / f"n{n}.jpg", picture(n))


def write_mme(folder: Path) -> None:
    """Two categories: images beside their questions, and in folders of their own."""
    root = folder / "MME_Benchmark_release_version"
    lines = "Is it {}? Please answer yes or no.\tYes\nIs it {}? Please answer yes or no.\tNo\n"
    for n in range(2):
        put(root / "existence" / f"00{n}.txt", lines.format("red", "blue"))
        put(root / "existence" / f"00{n}.jpg", picture(n))
        put(root / "posters" / "questions_answers_YN" / f"tt{n}.txt", lines.format("old", "new"))
        put(root / "posters" / "images" / f"tt{n}.png", picture(n))


def write_mme_parquet(folder: Path) -> None:
    rows = [
        {"question_id": f"code_reasoning/00{n // 2}.png", "question": "Is it? Please answer yes or no.",
         "answer": ("Yes", "No")[n % 2], "category": "code_reasoning", "image": picture(n // 2)}
        for n in range(4)
    ]  # fmt: skip
    put_parquet(folder / "data" / "test-00000-of-00001-ab.parquet", rows)


def write_pope(folder: Path) -> None:
    for category in ("random", "popular", "adversarial"):
        items = [
            {"question_id": n + 1, "image": f"COCO_val2014_{n}.jpg", "text": "Is there a dog in the image?",
             "label": ("yes", "no")[n % 2]}
            for n in range(4)
        ]  # fmt: skip
        put_lines(folder / "coco" / f"coco_pope_{category}.json", items)
    for n in range(4):
        put(folder / "val2014" / f"COCO_val2014_{n}.jpg", picture(n))
