"""Every benchmark as its authors publish it: samples, prompts, answer rules, figures, and bad files."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

import small_benchmarks as made
from conftest import write_scienceqa
from prompt_forms import prompt_form
from workers.tasks.answers import SCORERS
from workers.tasks.base import DataError, Sample, Verdict
from workers.tasks.catalog import CATALOG, load_benchmark, load_samples, resolved
from workers.tasks.prompts import build_prompt
from workers.tasks.vlmevalkit import NAMED, VLMEVALKIT
from workers.tasks.vqa_answers import normalised, soft_accuracy
from workers.work import TaskSpec

SHORT = "\nAnswer the question using a single word or phrase. ASSISTANT:"
LETTER = "\nAnswer with the option's letter from the given choices directly. ASSISTANT:"
WRITERS = {
    "scienceqa": made.write_scienceqa_parquet,
    "scienceqa_img": made.write_scienceqa_parquet,
    "mmbench": lambda folder: made.write_mmbench(folder, made.mmbench_rows()),
    "mmbench_circular": lambda folder: made.write_mmbench(folder, made.mmbench_rows()),
    "vqav2": made.write_vqav2,
    "textvqa": made.write_textvqa,
    "gqa": made.write_gqa,
    "mme": made.write_mme,
    "pope": made.write_pope,
    "vizwiz": made.write_vizwiz,
    "refcoco": made.write_refcoco,
    "refcoco_plus": partial(made.write_refcoco, name="REC_refcoco+_unc_testA.jsonl"),
    "refcocog": partial(made.write_refcoco, name="REC_refcocog_umd_test.jsonl"),
    "mmbench_cn": lambda folder: made.write_mmbench(folder, made.mmbench_rows(), "MMBench_DEV_CN.tsv"),
    "mmbench_cn_circular": lambda folder: made.write_mmbench(folder, made.mmbench_rows(), "MMBench_DEV_CN.tsv"),
} | {task.name: partial(made.write_tsv, name=task.name) for task in (*NAMED, VLMEVALKIT)}


def read(folder, name, **changes) -> tuple[Sample, ...]:
    return load_samples(TaskSpec(name=name, data=str(folder), **changes))


def asked(sample: Sample) -> str:
    """The user's part of the prompt."""
    return build_prompt(sample, prompt_form()).partition("USER: ")[2]


def rows(samples, parsed) -> pd.DataFrame:
    """What `Task.metrics` is given: these parsed answers, right where they are the label."""
    fields = ("id", "group", "category", "subject", "label")
    table = pd.DataFrame([{name: getattr(sample, name) for name in fields} for sample in samples])
    table["options"] = [len(sample.choices) for sample in samples]
    table["image"] = [sample.image is not None for sample in samples]
    table["parsed"] = parsed
    table["correct"] = table["parsed"] == table["label"]
    return table.assign(score=table["correct"].astype(float))


def figures(name, samples, parsed) -> dict[str, tuple[float, int]]:
    return {metric.name: (metric.value, metric.n) for metric in CATALOG[name].metrics(rows(samples, parsed))}


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_benchmark_can_be_asked_and_judged(tmp_path, name):
    """Ids are unique, prompts hold one image marker where there is an image, and the right answer scores."""
    WRITERS[name](tmp_path)
    samples = read(tmp_path, name)
    assert len({sample.id for sample in samples}) == len(samples) > 1
    for sample in samples:
        assert asked(sample).count("<image>") == len(sample.images)
        for scorer in CATALOG[name].scorers[: 1 if name == "vlmevalkit" else None]:  # its others are of some files each
            assert SCORERS[scorer](sample.label, sample).correct
            assert not SCORERS[scorer]("?", sample).correct or sample.label == "yes"


def test_split_and_scorer_default_to_the_tasks(tmp_path):
    spec = resolved(TaskSpec(name="pope", data="x"))
    assert (spec.split, spec.scorer) == ("all", "pope_yes_no")
    assert resolved(TaskSpec(name="scienceqa", data="x")) == TaskSpec(
        name="scienceqa", data="x", split="test", scorer="strict_letter"
    )
    with pytest.raises(DataError, match=r"'strict_letter' cannot judge pope \(it takes pope_yes_no, mme_yes_no\)"):
        resolved(TaskSpec(name="pope", data="x", scorer="strict_letter"))


# -- ScienceQA --------------------------------------------------------------------------------------------------


def test_scienceqa_parquet(tmp_path):
    made.write_scienceqa_parquet(tmp_path)
    samples = read(tmp_path, "scienceqa")
    assert [sample.id for sample in samples] == ["0", "1", "2"]
    assert [sample.label for sample in samples] == ["A", "B", "C"]
    assert samples[1].image is None
    assert samples[2].image.read() == made.picture(2)
    options = "A. red\nB. green\nC. blue"
    assert asked(samples[0]) == f"<image>\nwhat colour is it 0 ?\n{options}{LETTER}"
    assert asked(samples[1]) == f"Context: It is not white.\nwhat colour is it 1 ?\n{options}{LETTER}"
    assert [sample.id for sample in read(tmp_path, "scienceqa_img")] == ["0", "2"]


def test_scienceqa_figures_count_text_only_questions_apart(tmp_path):
    made.write_scienceqa_parquet(tmp_path)
    found = figures("scienceqa", read(tmp_path, "scienceqa"), ["A", "B", "A"])
    assert found["all questions"] == (pytest.approx(2 / 3), 3)
    assert found["text-only"] == (1.0, 1)
    assert (found["NAT"], found["LAN"], found["SOC"]) == ((1.0, 1), (1.0, 1), (0.0, 1))


def test_the_authors_own_files_are_asked_as_llavas(tmp_path):
    """problems.json and pid_splits.json alone give the samples that LLaVA's question file gives."""
    write_scienceqa(tmp_path, 6)
    with_questions = read(tmp_path, "scienceqa")
    (tmp_path / "llava_test_CQM-A.json").unlink()
    assert read(tmp_path, "scienceqa") == with_questions


def test_ids_without_a_question_are_said(tmp_path):
    write_scienceqa(tmp_path, 4)
    assert load_benchmark(TaskSpec(name="scienceqa", data=str(tmp_path))).notes == ()
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["7", "1", "2", "8", "3"]}))
    benchmark = load_benchmark(TaskSpec(name="scienceqa", data=str(tmp_path)))
    assert [sample.id for sample in benchmark.samples] == ["1", "2", "3"]
    (note,) = benchmark.notes
    assert note.startswith("2 of the 5 ids of split 'test'")
    assert "(first: 7); they are not asked" in note


# -- MMBench ----------------------------------------------------------------------------------------------------


def test_mmbench_prompts(tmp_path):
    made.write_mmbench(tmp_path, made.mmbench_rows())
    four, two, borrowed = read(tmp_path, "mmbench")
    assert asked(four) == f"<image>\nwhat colour ?\nA. red\nB. green\nC. blue\nD. white{LETTER}"
    assert asked(two) == f'<image>\na "hint"\twith\nlines\nwhich ?\nA. left\nB. right{LETTER}'
    assert (four.image.read(), two.image.read()) == (made.picture(0), made.picture(1))
    assert borrowed.image == two.image
    assert [sample.id for sample in (four, two, borrowed)] == ["241", "252", "263"]


def test_mmbench_circular_rotates_texts_under_fixed_letters(tmp_path):
    made.write_mmbench(tmp_path, made.mmbench_rows())
    samples = read(tmp_path, "mmbench_circular")
    assert [sample.id for sample in samples] == [f"241/{n}" for n in range(4)] + ["252/0", "252/1", "263/0", "263/1"]
    assert [sample.label for sample in samples] == ["B", "A", "D", "C", "A", "B", "B", "A"]
    assert samples[1].question == "what colour ?\nA. green\nB. blue\nC. white\nD. red"
    for sample in samples:
        right = sample.choices["ABCD".index(sample.label)]
        assert right == {"241": "green", "252": "left", "263": "right"}[sample.group]


def test_mmbench_files_that_hold_their_rotations(tmp_path):
    first = made.mmbench_rows()[1]
    turned = {**first, "index": "1000252", "A": "right", "B": "left", "answer": "B", "image": "252"}
    made.write_mmbench(tmp_path, [first, turned])
    assert [sample.id for sample in read(tmp_path, "mmbench")] == ["252"]
    circular = read(tmp_path, "mmbench_circular")
    assert [(sample.id, sample.label) for sample in circular] == [("252/0", "A"), ("252/1", "B")]
    assert circular[1].image == circular[0].image


def test_mmbench_circular_accuracy_needs_every_rotation(tmp_path):
    made.write_mmbench(tmp_path, made.mmbench_rows())
    samples = read(tmp_path, "mmbench_circular")
    found = figures("mmbench_circular", samples, ["B", "A", "D", "C", "A", "A", "B", "A"])
    assert found["circular accuracy"] == (pytest.approx(2 / 3), 3)
    assert found["first rotation"] == (1.0, 3)
    assert (found["perception"], found["relation"]) == ((1.0, 1), (0.5, 2))
    unfinished = figures("mmbench_circular", samples[1:], ["A", "D", "C", "A", "A", "B", "A"])
    assert unfinished["circular accuracy"] == (0.5, 2)  # a rotation without an answer is not a wrong one


def test_mmbench_splits_and_missing_answers(tmp_path):
    made.write_mmbench(tmp_path, [*made.mmbench_rows(), {**made.mmbench_rows("test")[0], "index": "300"}])
    assert [sample.id for sample in read(tmp_path, "mmbench")] == ["241", "252", "263"]
    with pytest.raises(DataError, match=r"MMBench_TEST_EN.tsv: no such file"):
        read(tmp_path, "mmbench", split="test")
    assert [s.id for s in read(tmp_path, "mmbench", split="test", questions="MMBench_DEV_EN.tsv")] == ["300"]
    unanswered = [{name: row[name] for name in row if name != "answer"} for row in made.mmbench_rows("test")]
    made.write_mmbench(tmp_path, unanswered, "MMBench_TEST_EN.tsv")
    with pytest.raises(DataError, match="no column 'answer': this split is judged by the authors' server"):
        read(tmp_path, "mmbench", split="test")


def test_an_option_may_spell_none(tmp_path):
    """Once it is an answer; twice, or empty, it is how the file writes what is missing."""
    for texts, options in (
        (("Yes", "No", "None", ""), ("Yes", "No", "None")),
        (("NA", "SA", "nan", "nan"), ("NA", "SA")),
        (("Yes", "No", "None", "None"), ("Yes", "No")),
        (("None", "One", "Two", "NULL"), ("None", "One", "Two", "NULL")),
    ):
        row = {**made.mmbench_rows()[0], **dict(zip("ABCD", texts, strict=True)), "answer": "AB"[len(options) > 2]}
        made.write_mmbench(tmp_path, [row])
        assert read(tmp_path, "mmbench")[0].choices == options


@pytest.mark.parametrize(
    ("answer", "parsed"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B) green", "B"),
        ("The answer is B", "B"),
        ("it is green", "B"),
        ("A or B", None),
        ("B is what I would say here now", None),  # a letter before the last four words
        ("red and green", None),
        ("b", None),
        ("", None),
    ],
)
def test_mmbench_answers(answer, parsed):
    sample = Sample(id="1", question="?", choices=("red", "green", "blue"), label="B", image=None)
    assert SCORERS["mmbench_exact"](answer, sample) == Verdict(parsed, parsed == "B")


# -- free answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("The Red.", "red"),
        ("two dogs", "2 dogs"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("none", "0"),
        ("3,000", "3000"),
        ("1.5", "1.5"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("a man's hat", "man 's hat"),
        ("yes, it is!", "yes it is"),
        (" An\nanswer\t", "answer"),
    ],
)
def test_vqa_normalisation(answer, form):
    assert normalised(answer) == form


def test_soft_accuracy_leaves_each_annotator_out():
    """By the definition: the mean over the ten sets of nine."""
    for same in range(11):
        people = ["red"] * same + ["blue"] * (10 - same)
        sets = [people[:place] + people[place + 1 :] for place in range(10)]
        expected = sum(min(1.0, one.count("red") / 3) for one in sets) / 10 if same else 0.0
        assert soft_accuracy("A red.", people) == pytest.approx(expected)
    assert soft_accuracy("red", ["red"] * 3 + ["x"] * 7) == pytest.approx(0.9)
    assert soft_accuracy("red", []) == 0.0


def test_vqav2_and_textvqa(tmp_path):
    made.write_vqav2(tmp_path / "v")
    first, second = read(tmp_path / "v", "vqav2")
    assert asked(first) == f"<image>\nWhat color 0?{SHORT}"
    assert (first.id, first.label, first.category, second.category) == ("9", "red", "other", "yes/no")
    assert first.image.name == "COCO_val2014_000000000042.jpg"
    assert SCORERS["vqa_soft"]("Red", first).score == 1.0
    assert SCORERS["vqa_soft"]("dark red", first).score == pytest.approx(0.9)
    assert SCORERS["vqa_soft"]("blue", first).score == pytest.approx(0.3)
    made.write_textvqa(tmp_path / "t")
    assert asked(read(tmp_path / "t", "textvqa")[1]) == f"<image>\nWhat is it 1?{SHORT}"
    (with_ocr,) = read(tmp_path / "t", "textvqa", questions="llava_textvqa_val_v051_ocr.jsonl")
    assert asked(with_ocr) == f"<image>\nWhat is it 1?\nReference OCR token: EXIT, A{SHORT}"
    assert with_ocr.id == "34603"
    with (tmp_path / "t" / "llava_textvqa_val_v051_ocr.jsonl").open("a") as file:
        file.write(json.dumps({"question_id": "ab1", "text": f"Who?{SHORT.removesuffix(' ASSISTANT:')}"}) + "\n")
    spec = TaskSpec(name="textvqa", data=str(tmp_path / "t"), questions="llava_textvqa_val_v051_ocr.jsonl")
    asks, strangers = load_benchmark(spec).notes
    assert asks == "llava_textvqa_val_v051_ocr.jsonl asks 1 of the 2 questions in TextVQA_0.5.1_val.json"
    assert "1 questions of llava_textvqa_val_v051_ocr.jsonl are not in TextVQA" in strangers


def test_vizwiz_may_be_unanswerable(tmp_path):
    made.write_vizwiz(tmp_path)
    first, _ = read(tmp_path, "vizwiz")
    told = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    assert asked(first) == f"<image>\nWhat is it 0?{told}{SHORT}"
    assert SCORERS["vqa_soft"]("red", first).score == 1.0


def test_splits_that_a_server_judges_are_asked(tmp_path):
    made.put_json(tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json",
                  {"questions": [{"question_id": 7, "image_id": 3, "question": "What?"}]})  # fmt: skip
    made.put(tmp_path / "test2015" / "COCO_test2015_000000000003.jpg", made.picture(0))
    benchmark = load_benchmark(TaskSpec(name="vqav2", data=str(tmp_path), split="test-dev"))
    (sample,) = benchmark.samples
    assert (sample.id, sample.label, SCORERS["vqa_soft"]("red", sample).score) == ("7", "", 0.0)
    assert "--format server" in benchmark.notes[0]
    made.put_json(tmp_path / "test.json", [{"image": "a.jpg", "question": "What?"}])
    made.put(tmp_path / "test" / "a.jpg", made.picture(0))
    assert [sample.id for sample in read(tmp_path, "vizwiz", split="test")] == ["a.jpg"]


def test_refcoco_asks_for_boxes_in_both_forms(tmp_path):
    made.write_refcoco(tmp_path / "lines")
    first, second = read(tmp_path / "lines", "refcoco")
    assert asked(first).endswith("the region this sentence describes: the 0. dog ASSISTANT:")
    assert (first.label, second.label) == ("[0.1, 0.25, 0.5, 0.75]", "[0.097561, 0.25, 0.512195, 0.75]")
    rows = [{"question_id": "9", "answer": ["a dog", "the dog"], "bbox": [4.0, 10.0, 16.0, 20.0],
             "image": made.picture(0)}]  # fmt: skip
    made.put_parquet(tmp_path / "hub" / "testA-00000-of-00001.parquet", rows)
    samples = read(tmp_path / "hub", "refcoco")
    assert [(sample.id, sample.label) for sample in samples] == [("9/0", first.label), ("9/1", first.label)]
    rows[0]["bbox"] = [4.0, 10.0, 0.0, 20.0]
    made.put_parquet(tmp_path / "hub" / "testA-00000-of-00001.parquet", rows)
    with pytest.raises(DataError, match=r"row 0: bbox: .* has no area"):
        read(tmp_path / "hub", "refcoco")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("[0.1, 0.25, 0.5, 0.75]", True),
        ("It is at [0.10,0.25, 0.5,0.51 ].", True),
        ("[0.1, 0.25, 0.5, 0.49]", False),
        ("[0.5, 0.75, 0.9, 0.9]", False),
        ("[1, 0, 1, 1]", False),
        ("0.1, 0.25, 0.5, 0.75", False),
        ("[0.1, 0.25, 0.5]", False),
    ],
)
def test_a_box_is_right_at_half_of_the_union(answer, right):
    sample = Sample(id="1", question="?", label="[0.1, 0.25, 0.5, 0.75]", image=None)
    assert SCORERS["box_iou"](answer, sample).correct == right


def test_gqa(tmp_path):
    made.write_gqa(tmp_path)
    first, second = read(tmp_path, "gqa")
    assert asked(second) == f"<image>\nWho is it 1?{SHORT}"
    judge = SCORERS["gqa_exact"]
    assert [judge(text, second).correct for text in ("girl", "Girl.", "girls", "a girl")] == [True, True, False, False]
    assert figures("gqa", (first, second), ["yes", "boy"]) == {"verify": (1.0, 1), "query": (0.0, 1)}


# -- yes and no -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "mme", "pope"),
    [
        ("Yes", "yes", "yes"),
        ("No.", "no", "no"),
        ("No, there is none", "no", "no"),
        ("There is no dog", None, "no"),
        ("There is a dog. No cat", None, "yes"),
        ("NO", "no", "yes"),  # POPE's rule knows No and no
        ("Not really", "no", "yes"),
        ("", None, "yes"),
    ],
)
def test_yes_and_no(answer, mme, pope):
    sample = Sample(id="1", question="?", label="no", image=None)
    assert SCORERS["mme_yes_no"](answer, sample).parsed == mme
    assert SCORERS["pope_yes_no"](answer, sample).parsed == pope


def test_mme_in_folders(tmp_path):
    made.write_mme(tmp_path)
    benchmark = load_benchmark(TaskSpec(name="mme", data=str(tmp_path)))
    samples = benchmark.samples
    assert [sample.id for sample in samples][:2] == ["existence/000.jpg/0", "existence/000.jpg/1"]
    assert asked(samples[0]) == f"<image>\nIs it red?{SHORT}"
    assert samples[-1].group == "posters/tt1.png"
    assert "lacks the categories count, position" in benchmark.notes[0]


def test_mme_scores(tmp_path):
    made.write_mme(tmp_path)
    samples = read(tmp_path, "mme")
    found = figures("mme", samples, ["yes", "no", "yes", "yes", "yes", "no", "no", None])
    assert (found["existence acc"], found["existence acc+"]) == ((0.75, 4), (0.5, 2))
    assert found["existence score"] == (125.0, 4)
    assert (found["posters acc"], found["posters acc+"]) == ((0.5, 4), (0.5, 2))
    assert found["perception (2 of 10)"] == (225.0, 8)
    assert found["total (2 of 14)"] == (225.0, 8)
    half = figures("mme", samples[:3], ["yes", "no", "yes"])
    assert (half["existence acc"], half["existence acc+"]) == ((1.0, 3), (1.0, 1))


def test_mme_parquet(tmp_path):
    made.write_mme_parquet(tmp_path)
    samples = read(tmp_path, "mme")
    assert [sample.id for sample in samples][2:] == ["code_reasoning/001.png/0", "code_reasoning/001.png/1"]
    assert samples[3].image.read() == made.picture(1)
    assert set(figures("mme", samples, ["yes"] * 4)) >= {"cognition (1 of 4)", "code_reasoning acc+"}


def test_pope_figures(tmp_path):
    made.write_pope(tmp_path)
    assert len(read(tmp_path, "pope")) == 12
    samples = read(tmp_path, "pope", split="random")
    assert asked(samples[0]) == f"<image>\nIs there a dog in the image?{SHORT}"
    found = {name: value for name, (value, _) in figures("pope", samples, ["yes", "yes", "no", "no"]).items()}
    assert found["random accuracy"] == found["random precision"] == found["random recall"] == 0.5
    assert found["F1"] == found["random F1"] == 0.5
    assert found["random yes ratio"] == 0.5
    silent = figures("pope", samples, ["no"] * 4)
    assert silent["F1"][0] == silent["recall"][0] == silent["yes ratio"][0] == 0.0
    assert pd.isna(silent["precision"][0])  # nothing was said to be there
    both = read(tmp_path, "pope", split="all")[:8]
    mean = figures("pope", both, ["yes", "no", "yes", "no"] + ["yes"] * 4)
    assert mean["F1"] == (pytest.approx((1 + 2 / 3) / 2), 8)


def test_pope_files_of_other_names(tmp_path):
    made.write_pope(tmp_path)
    for file in (tmp_path / "coco").iterdir():
        file.rename(tmp_path / file.name.replace("coco", "gqa"))
    with pytest.raises(DataError, match=r"random\.json is one file, and split 'all' needs 3: give split random"):
        read(tmp_path, "pope", questions="gqa_pope_random.json")
    assert len(read(tmp_path, "pope", questions="gqa_pope_random.json", split="random")) == 4
    everything = read(tmp_path, "pope", questions="gqa_pope_{split}.json")
    assert [sample.category for sample in everything] == ["random"] * 4 + ["popular"] * 4 + ["adversarial"] * 4


def test_lines_end_at_line_feeds_only(tmp_path):
    made.write_pope(tmp_path)
    line = {"question_id": 1, "image": "COCO_val2014_0.jpg", "text": "Is\u2028it\x85so?", "label": "yes"}
    made.put(tmp_path / "coco" / "coco_pope_random.json", json.dumps(line, ensure_ascii=False) + "\r\n")
    assert [sample.question for sample in read(tmp_path, "pope", split="random")] == ["Is\u2028it\x85so?"]


def test_mme_one_folder_deeper(tmp_path):
    made.write_mme(tmp_path)
    wanted = read(tmp_path, "mme")
    release = tmp_path / RELEASE
    release.rename(tmp_path / "MME_Benchmark")
    release.mkdir()
    (tmp_path / "MME_Benchmark").rename(release / "MME_Benchmark")
    (release / "eval_tool").mkdir()
    assert [sample.id for sample in read(tmp_path, "mme")] == [sample.id for sample in wanted]


# -- bad files --------------------------------------------------------------------------------------------------


def break_mmbench(folder):
    made.write_mmbench(folder, [{name: row[name] for name in row if name != "B"} for row in made.mmbench_rows()])


def write_row(**changes):
    return lambda folder: made.write_mmbench(folder, [{**made.mmbench_rows()[0], **changes}])


def break_parquet(folder):
    made.write_scienceqa_parquet(folder)
    shard = folder / "data" / "test-00000-of-00002-ab.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])


def after(writer, name, content):
    def write(folder):
        writer(folder)
        if content is None:
            (folder / name).unlink()
        else:
            made.put(folder / name, content)

    return write


RELEASE = "MME_Benchmark_release_version"
BAD = [
    ("mmbench", break_mmbench, "MMBench_DEV_EN.tsv: lacks the column B"),
    ("mmbench", write_row(answer="E"), "row 0: answer: 'E' names none of its 4 options"),
    ("mmbench", write_row(answer=""), "row 0: answer: '' names none"),
    ("mmbench", write_row(image="7"), "row 0: image: is neither base64 nor the index of a row"),
    ("mmbench", write_row(index="x"), "row 0: index: 'x' is no whole number"),
    ("mmbench", lambda folder: made.put(folder / "MMBench_DEV_EN.tsv", ""), "is empty"),
    ("mmbench", lambda folder: made.put(folder / "MMBench_DEV_EN.tsv", "a\tb\n1\n"), "row 0: has 1 fields, and the"),
    ("mmbench", lambda folder: made.put(folder / "MMBench_DEV_EN.tsv", 'a\tb\t"x\n'), "line 1: a quoted field"),
    ("mmbench", lambda folder: made.put(folder / "MMBench_DEV_EN.tsv", b"a\tb\n1\t\xff\n"), "cannot be read as a tab"),
    ("mmbench", lambda folder: None, "MMBench_DEV_EN.tsv: no such file (nor "),
    ("scienceqa", break_parquet, "cannot be read as parquet"),
    ("scienceqa", after(made.write_scienceqa_parquet, "data/test-00001-of-00002-cd.parquet", None), "has 1 of 2"),
    ("scienceqa", after(made.write_scienceqa_parquet, "b/test.parquet", b""), "in b, data; name one directory"),
    ("vqav2", after(made.write_vqav2, "v2_mscoco_val2014_annotations.json", None), "judged by the server only"),
    ("vqav2", after(made.write_vqav2, "v2_mscoco_val2014_annotations.json", "[]"), "holds a list, expected a dict"),
    ("vqav2", after(made.write_vqav2, "v2_mscoco_val2014_annotations.json", '{"annotations": []}'), "no annotation"),
    ("vqav2", after(made.write_vqav2, "val2014/COCO_val2014_000000000043.jpg", None), "1 of 2 samples have no image"),
    ("textvqa", after(made.write_textvqa, "TextVQA_0.5.1_val.json", '{"data": [{"image_id": "a"}]}'), "lacks 'que"),
    ("textvqa", after(made.write_textvqa, "TextVQA_0.5.1_val.json",
     '{"data": [{"image_id": "a", "question": "?", "question_id": 1, "answers": []}]}'), "cannot be judged"),
    ("gqa", after(made.write_gqa, "testdev_balanced_questions.json", '{"1": {"question": 5.5}}'), "'5.5' is no"),
    ("gqa", after(made.write_gqa, "testdev_balanced_questions.json", '{"1": 5}'), "is not an object"),
    ("mme", after(made.write_mme, f"{RELEASE}/existence/000.txt", "Is it?\tYes\n"), "has 1 questions, and MME has two"),
    ("mme", after(made.write_mme, f"{RELEASE}/existence/000.txt", "a Yes\nb No\n"), "line 1: expected a question"),
    ("mme", after(made.write_mme, f"{RELEASE}/existence/000.txt", "a\tYes\nb\tMaybe\n"), "line 2: answer: 'Maybe'"),
    ("mme", after(made.write_mme, f"{RELEASE}/existence/000.jpg", None), "2 of 8 samples have no image"),
    ("mme", lambda folder: None, "has neither parquet files of split 'test' nor folders existence"),
    ("pope", after(made.write_pope, "coco/coco_pope_random.json", '{"question_id": 1}\n'), "line 1: lacks 'image'"),
    ("pope", after(made.write_pope, "coco/coco_pope_random.json", '{'), "line 1: is not valid JSON"),
    ("pope", after(made.write_pope, "coco/coco_pope_popular.json", None), "coco_pope_popular.json: no such file (nor"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write", "message"), BAD, ids=[f"{name}-{message[:24]}" for name, _, message in BAD])
def test_bad_files_get_one_clear_line(tmp_path, name, write, message):
    write(tmp_path)
    with pytest.raises(DataError) as caught:
        read(tmp_path, name)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_splits_are_named(tmp_path):
    made.write_pope(tmp_path)
    with pytest.raises(DataError, match=r"'test' is no split of pope \(all, random"):
        read(tmp_path, "pope", split="test")


def test_the_fingerprint_knows_what_is_judged(tmp_path):
    from workers.fingerprint import data_fingerprint

    made.write_vqav2(tmp_path)
    samples = read(tmp_path, "vqav2")
    others = [replace(samples[0], answers=("blue",) * 10), *samples[1:]]
    assert data_fingerprint(samples) != data_fingerprint(others)
