"""VLMEvalKit's TSV files: the three kinds of questions, images in each form, the rules of the named ones, bad files."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

import small_benchmarks as made
from test_workers_benchmarks import LETTER, SHORT, asked, figures, read
from workers.tasks.answers import SCORERS
from workers.tasks.base import DataError, Sample
from workers.tasks.catalog import load_benchmark
from workers.tasks.prompts import SINGLE_PREDICTION_CN
from workers.work import TaskSpec

B64 = base64.b64encode(made.picture(1, side=60)).decode()


def judged(scorer: str, answer: str, *answers: str, category: str = "") -> float:
    sample = Sample(id="1", question="?", label=answers[0], answers=answers, image=None, category=category)
    return float(SCORERS[scorer](answer, sample).score)


def test_any_file_is_asked_by_what_its_rows_hold(tmp_path):
    rows = [
        made.tsv_row("1", "B", A="red", B="green", hint="look"),
        made.tsv_row("2", "C", A="红", B="绿", C="蓝"),
        made.tsv_row("3", "['a cat', 'cat']"),
    ]
    made.put_tsv(tmp_path / "mixed.tsv", rows)
    letters, chinese, free = read(tmp_path, "vlmevalkit")
    assert asked(letters) == f"<image>\nlook\nwhat is 1 ?\nA. red\nB. green{LETTER}"
    assert asked(chinese).endswith(f"C. 蓝\n{SINGLE_PREDICTION_CN} ASSISTANT:")
    assert asked(free) == f"<image>\nwhat is 3 ?{SHORT}"
    judge = SCORERS["vlmevalkit_exact"]
    assert [judge(said, letters).correct for said in ("B", "it is green", "A")] == [True, True, False]
    assert [judge(said, free).correct for said in ("Cat ", "a cat", "a cat.")] == [True, True, False]
    made.put_tsv(tmp_path / "mixed.tsv", [made.tsv_row("1", "Yes"), made.tsv_row("2", "No")])
    yes, no = read(tmp_path, "vlmevalkit")
    assert [judge(said, no).parsed for said in ("No.", "no, there is none", "not", "yes or no")] == [
        "no",
        "no",
        None,
        None,
    ]
    assert (yes.label, no.label) == ("yes", "no")
    made.put_tsv(tmp_path / "other.tsv", rows)
    with pytest.raises(DataError, match="has 2 TSV files; name one with"):
        read(tmp_path, "vlmevalkit")
    assert len(read(tmp_path, "vlmevalkit", questions="other.tsv")) == 3


def test_images_are_base64_lists_indices_and_paths(tmp_path):
    made.put(tmp_path / "images" / "a.png", made.picture(2))
    without = {"index": "5", "question": "what ?", "answer": "A", "A": "x", "B": "y"}
    rows = [
        {**made.tsv_row("1", "A", A="x", B="y"), "image": f"['{B64}']"},
        {**without, "index": "2", "image": "1"},
        {**without, "index": "3", "image": f"['{B64}', '{B64}']"},
        {**without, "index": "4", "image_path": "a.png"},
        {**without, "index": "5"},
    ]
    made.put_tsv(tmp_path / "x.tsv", rows)
    benchmark = load_benchmark(TaskSpec(name="vlmevalkit", data=str(tmp_path)))
    one, borrowed, several, path = benchmark.samples
    assert several.question == "what ?\nA. x\nB. y"
    assert [image.read() for image in several.images] == [base64.b64decode(B64)] * 2
    assert one.image.read() == base64.b64decode(B64)
    assert borrowed.image == one.image
    assert path.image == tmp_path / "images" / "a.png"
    assert benchmark.notes == ("x.tsv: 1 of 5 questions have no image; they are not asked",)
    for name, complaint in (("../a.png", "lies outside"), ("b.png", "1 of 1 samples have no image on disk")):
        made.put_tsv(tmp_path / "x.tsv", [{**without, "image_path": name}])
        with pytest.raises(DataError, match=complaint):
            read(tmp_path, "vlmevalkit")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"A": "x", "B": "y", "answer": "C"}, "row 0: answer: 'C' names none of its 2 options"),
        ({"A": "x", "B": "y", "answer": "AB"}, "row 0: answer: 'AB' names none of its 2 options"),
        ({"answer": ""}, "row 0: answer: is missing"),
        ({"answer": "nan"}, "row 0: answer: is missing"),
    ],
)
def test_what_cannot_be_judged_is_one_line(tmp_path, row, complaint):
    made.put_tsv(tmp_path / "x.tsv", [{**made.tsv_row("1", "A"), **row}])
    with pytest.raises(DataError, match=complaint):
        read(tmp_path, "vlmevalkit")


def test_mmmu_asks_its_validation_questions_(tmp_path):
    split = {"split": "validation"}
    rows = [
        made.tsv_row("dev_1", "A", A="x", B="y", split="dev"),
        {**made.tsv_row("validation_1", "A", A="x", B="y", **split), "question": "See <image 1>. Why ?"},
        made.tsv_row("validation_2", "24.5", **split),
    ]
    made.put_tsv(tmp_path / "MMMU_DEV_VAL.tsv", rows)
    options, free = read(tmp_path, "mmmu")
    assert asked(options) == f"<image>\nSee. Why ?\nA. x\nB. y{LETTER}"
    assert asked(free) == "<image>\nwhat is validation_2 ?\nAnswer the question directly. ASSISTANT:"
    judge = SCORERS["mmbench_exact"]
    assert [judge(said, free).correct for said in ("It is 24.5", "24", "other answers")] == [True, False, False]
    assert [sample.id for sample in read(tmp_path, "mmmu", split="dev")] == ["dev_1"]


@pytest.mark.parametrize(
    ("question", "option", "shown", "prompt"),
    [
        ("<image 2> is <image 1> ?", "x", [1, 0], "<image> is <image> ?\nA. x\nB. y"),
        ("See <image 1>.", "<image 3>", [0, 2], "See <image>.\nA. <image>\nB. y"),
        ("Which ?", "x", [0, 1, 2], "<image> <image> <image>\nWhich ?\nA. x\nB. y"),
        ("See <image 3> now", "x", [2], "<image>\nSee now\nA. x\nB. y"),
    ],
)
def test_images_stand_where_the_question_says(tmp_path, question, option, shown, prompt):
    """As VLMEvalKit's ``split_MMMU``."""
    pictures = [base64.b64encode(made.picture(side)).decode() for side in (2, 3, 4)]
    row = {**made.tsv_row("v_1", "A", A=option, B="y"), "question": question, "image": str(pictures)}
    made.put_tsv(tmp_path / "x.tsv", [row])
    (sample,) = read(tmp_path, "vlmevalkit")
    assert [image.read() for image in sample.images] == [base64.b64decode(pictures[place]) for place in shown]
    assert asked(sample).removesuffix(LETTER) == prompt


def test_an_image_that_is_not_there_is_one_line(tmp_path):
    row = {**made.tsv_row("v_1", "A", A="x", B="y"), "question": "<image 4> ?", "image": f"['{B64}', '{B64}']"}
    made.put_tsv(tmp_path / "x.tsv", [row])
    with pytest.raises(DataError, match="row 0: question: names image 4, and the row has 2 images"):
        read(tmp_path, "vlmevalkit")


def test_hallusionbench_counts_figures_and_pairs(tmp_path):
    made.write_tsv(tmp_path, "hallusionbench")
    samples = read(tmp_path, "hallusionbench")  # two figures, two questions each
    assert asked(samples[0]) == f"<image>\nwhat is {samples[0].id} ? ASSISTANT:"
    found = figures("hallusionbench", samples, ["yes", "no", "yes", "yes"])
    assert (found["aAcc"], found["fAcc"], found["qAcc"]) == ((0.75, 4), (0.5, 2), (0.5, 2))
    assert found["mean of the three"][0] == pytest.approx(1.75 / 3)


def test_ocrbench_looks_for_answers(tmp_path):
    made.write_tsv(tmp_path, "ocrbench")
    first, second = read(tmp_path, "ocrbench")
    assert asked(first) == "<image>\nwhat is 1 ? ASSISTANT:"
    assert judged("ocrbench_contains", "It says\nTwelve.", *first.answers) == 1
    assert judged("ocrbench_contains", "It says\nX", "says x") == 1
    formula = replace(first, category="Handwritten Mathematical Expression Recognition", answers=("a + B",))
    assert [SCORERS["ocrbench_contains"](said, formula).correct for said in ("=a+B", "= a+b")] == [True, False]
    found = figures("ocrbench", (first, second), [first.label, None])
    assert found == {"accuracy": (0.5, 2), "Text Recognition": (0.5, 2)}


@pytest.mark.parametrize(
    ("answer", "target", "right"),
    [
        ("10.4", "10", True), ("10.6", "10", False), ("-9.6", "-10", True), ("50%", "0.5", True), ("50", "50%", False),
        ("0", "0", True), ("0.0", "0", False), ("Red", "red", True), ("reds", "red", False), ("nan", "10", False),
        ("1,000", "1000", False),
    ],
)  # fmt: skip
def test_relaxed_accuracy(answer, target, right):
    assert judged("relaxed_accuracy", f" {answer}\n", target) == right


@pytest.mark.parametrize(
    ("answer", "answers", "score"),
    [
        ("Paris", ("paris",), 1.0),
        ("pari", ("paris", "london"), 0.8),
        ("  the\n WHO ", ("the who",), 1.0),
        ("par", ("paris",), 0.6),
        ("abcd", ("abxy",), 0.5),
        ("abc", ("axyz",), 0.0),  # 0.25 is below a half
        ("", ("x",), 0.0),
        ("kitten", ("sitting",), 1 - 3 / 7),
    ],
)
def test_anls(answer, answers, score):
    assert judged("anls", answer, *answers) == pytest.approx(score)
