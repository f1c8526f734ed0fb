"""ScienceQA's file forms, LLaVA's prompt strings, and the two ways to judge an answer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from prompt_forms import prompt_form
from workers.tasks.answers import get as get_scorer
from workers.tasks.answers import llava_official, strict_letter
from workers.tasks.base import DataError, Sample
from workers.tasks.catalog import load_samples
from workers.tasks.prompts import build_prompt
from workers.work import TaskSpec

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)


def task(folder, **changes) -> TaskSpec:
    return TaskSpec(**{"name": "scienceqa", "data": str(folder), **changes})


@pytest.mark.parametrize(
    ("answer", "strict", "official"),
    [
        ("B", True, True),
        (" B\n", True, False),  # the official code strips before it calls the parse; a stored answer is stripped
        ("B</s>", True, False),
        ("B.", False, False),
        ("b", False, False),
        ("B. copper", False, True),
        ("B.copper", False, False),
        ("The answer is B.", False, True),
        ("The answer is B!", False, True),
        ("The answer is B", False, False),
        ("The answer is B. The answer is B.", False, False),
        ("The answer is A.", False, False),
        ("", False, False),
        ("It is copper, B", False, False),
    ],
)
def test_scorers(answer, strict, official):
    assert strict_letter(answer, options("B", 3)).correct is strict
    assert llava_official(answer, options("B", 3)).correct is official


def options(label: str, count: int) -> Sample:
    return Sample(id="1", question="?", choices=("x",) * count, label=label, image=None)


def test_a_letter_beyond_the_options_is_wrong():
    assert llava_official("D", options("D", 4)).correct
    assert llava_official("D", options("D", 3)).parsed is None
    assert strict_letter("D", options("B", 3)).parsed is None
    assert strict_letter("AB", options("B", 3)).parsed is None


def test_unknown_scorer_gets_a_suggestion():
    with pytest.raises(DataError, match="Did you mean 'strict_letter'"):
        get_scorer("strict_leter")


def make_sample(image) -> Sample:
    return Sample(id="5", question="What is it?\nA. tin\nB. copper", choices=("tin", "copper"), label="B", image=image)


def test_prompt_strings(tmp_path):
    with_image = make_sample(tmp_path / "x.png")
    assert build_prompt(with_image, prompt_form()) == (
        f"{SYSTEM} USER: <image>\nWhat is it?\nA. tin\nB. copper\n"
        "Answer with the option's letter from the given choices directly. ASSISTANT:"
    )
    assert build_prompt(with_image, prompt_form("vicuna_v1", False)) == (
        f"{SYSTEM} USER: <image>\nWhat is it?\nA. tin\nB. copper ASSISTANT:"
    )
    assert build_prompt(make_sample(None), prompt_form("vicuna_v1", False)) == (
        f"{SYSTEM} USER: What is it?\nA. tin\nB. copper ASSISTANT:"
    )
    assert build_prompt(with_image, prompt_form("llava_v1", False)) == (
        f"{SYSTEM.replace('user', 'human')} USER: <image>\nWhat is it?\nA. tin\nB. copper ASSISTANT:"
    )
    with pytest.raises(DataError, match="Did you mean 'vicuna_v1'"):
        build_prompt(with_image, prompt_form("vicuna_v2"))


def test_reads_llavas_form(small_scienceqa):
    samples = load_samples(task(small_scienceqa))
    assert [sample.id for sample in samples] == ["1", "2", "3", "4", "5", "6"]
    assert samples[0].image == small_scienceqa / "images" / "test" / "1" / "image.png"
    assert samples[0].choices == ("red", "green", "blue")
    assert samples[-1].image is None
    problems = json.loads((small_scienceqa / "problems.json").read_text())
    assert [sample.label for sample in samples] == ["ABC"[problems[sample.id]["answer"]] for sample in samples]


def write_items(folder, items) -> None:
    (folder / "llava_test_CQM-A.json").write_text(json.dumps(items))


def item(question, answer, **fields) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "7", "conversations": turns, **fields}


def test_reads_both_forms_that_share_the_name(tmp_path):
    """The bundle's form and the converter's, without problems.json: options and label come from the text."""
    write_items(tmp_path, [item("Context: x\nWhat?\nA. tin\nB. copper", "B")])
    (bundle,) = load_samples(task(tmp_path))
    assert (bundle.choices, bundle.label) == (("tin", "copper"), "B")
    write_items(
        tmp_path, [item("Context: N/A\nQuestion: What?\nOptions: (A) tin (B) copper\n<image>", "The answer is B.")]
    )
    (converted,) = load_samples(task(tmp_path))
    assert (converted.choices, converted.label) == (("tin", "copper"), "B")
    assert "<image>" not in converted.question
    assert converted.question.endswith("(B) copper")


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("Context: read this.\nC. elegans is a worm.\nWhat?\nA. x\nB. y", ("x", "y")),
        ("Context: by\nE. B. White wrote it.\nWho?\nA. he\nB. she", ("he", "she")),
        ("Context: go (A) left or (B) right\nQuestion: Where?\nOptions: (A) up (B) down\n<image>", ("up", "down")),
        ("What?\nA. one\nB. two\nWhich?\nA. three\nB. four\nC. five", ("three", "four", "five")),
    ],
)
def test_letters_in_the_context_are_no_options(tmp_path, text, choices):
    write_items(tmp_path, [item(text, "A")])
    assert load_samples(task(tmp_path))[0].choices == choices


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({"answer": 0}, "choices: expected a list of texts"),
        ({"choices": "tin", "answer": 0}, "choices: expected a list of texts"),
        ({"choices": ["tin", "copper"], "answer": True}, "answer: True is not an index"),
        ({"choices": ["tin", "copper"], "answer": 2}, "answer: 2 is not an index into its 2 choices"),
        ({"choices": [str(n) for n in range(27)], "answer": 10}, "has 27 options"),
        (["tin"], "is not an object"),
        ({"choices": ["tin", "copper"], "answer": 0, "subject": 5}, "subject: '5' is no text"),
        ({"choices": ["tin", "copper"], "answer": 0, "skill": ["a"]}, "skill: \"['a']\" is no text"),
        ({"choices": ["tin", "copper"], "answer": 0, "patches": 3}, "patches: '3' is not a list of visual tokens"),
        ({"choices": ["tin", "copper"], "answer": 0, "patches": ["a"]}, "is not a list of visual tokens"),
        ({"choices": ["tin", "copper"], "answer": 0, "patches": [2**40]}, "is not a list of visual tokens"),
    ],
)
def test_malformed_problems_get_one_clear_line(tmp_path, problem, message):
    write_items(tmp_path, [item("What?\nA. tin\nB. copper", "A")])
    (tmp_path / "problems.json").write_text(json.dumps({"7": problem}))
    with pytest.raises(DataError) as caught:
        load_samples(task(tmp_path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"id": "7"}], "item 0: lacks 'conversations'"),
        ([item("What?\nA. tin\nB. copper", "E")], "answer 'E' names none of its 2 options"),
        ([item("What?", "A")], "no options found"),
        ([item("What?\nA. tin", "A"), item("What?\nA. tin", "A")], "id 7 stands there twice"),
        ([item("What?\nA. tin", "A", image="7/image.png")], "1 of 1 samples have no image on disk"),
        ([item("What?\nA. tin", "A", image="../../../etc/passwd")], "lies outside"),
        ([item("What?\nA. tin", "A", image="/etc/passwd")], "'/etc/passwd' lies outside"),
        ([item("What?\nA. tin", "A", image="a\0b.png")], "is not a file name: embedded null"),
        ([item("What?\nA. tin", "A", image="\ud800.png")], "holds half of a surrogate pair"),
        ([item("What?\nA. tin \ud800", "A")], "holds half of a surrogate pair"),
        ([item("What?\nA. tin", None)], "must be text"),
        ([item(5, "A")], "must be text"),
        ([item("What?\nA. tin", "A", image=5)], "must be text"),
        ([item("What?\nB. tin\nC. copper", "B")], "no options found"),
        ([], "holds no question"),
        ({"7": {}}, "holds a dict, expected a list"),
    ],
)
def test_malformed_questions_get_one_clear_line(tmp_path, items, message):
    write_items(tmp_path, items)
    with pytest.raises(DataError) as caught:
        load_samples(task(tmp_path))
    assert message in str(caught.value)
    assert "llava_test_CQM-A.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_names(tmp_path, small_scienceqa):
    for spec, message in (
        (task(tmp_path / "nowhere"), "no such directory"),
        (task(tmp_path), "no such file"),
        (task(small_scienceqa, split="vall"), "has no split 'vall'"),
        (task(small_scienceqa, split="vall", questions="llava_test_CQM-A.json"), "has no split 'vall'"),
        (task(small_scienceqa, name="sciencqa"), "Did you mean 'scienceqa'"),
        (task(small_scienceqa, scorer="strict"), "unknown scorer 'strict'"),
    ):
        with pytest.raises(DataError) as caught:
            load_samples(spec)
        assert message in str(caught.value)


def test_a_question_file_stays_inside_its_folder(tmp_path, small_scienceqa):
    folder, secret = tmp_path / "data", tmp_path / "secret"
    shutil.copytree(small_scienceqa, folder)
    shutil.copytree(folder / "images" / "test", secret)
    shutil.copy(folder / "llava_test_CQM-A.json", secret)
    problems = json.loads((folder / "problems.json").read_text())

    def refused(split="test", **changes) -> str:
        (folder / "problems.json").write_text(json.dumps({**problems, "1": {**problems["1"], "split": split}}))
        with pytest.raises(DataError) as caught:
            load_samples(task(folder, **changes))
        return str(caught.value)

    assert "'../../secret' lies outside" in refused("../../secret")
    assert f"'{secret}' lies outside" in refused(str(secret))
    assert "task.questions: '../secret/llava_test_CQM-A.json' lies outside" in refused(
        questions="../secret/llava_test_CQM-A.json"
    )
    with pytest.raises(DataError, match=r"split '\.\./secret' is not the name of a split, such as test"):
        load_samples(task(folder, split="../secret"))
    items = json.loads((folder / "llava_test_CQM-A.json").read_text())
    write_items(folder, [{**items[0], "image": "x" * 300}])
    assert "is not a file name: File name too long" in refused()
    write_items(folder, items)
    image = folder / "images" / "test" / "1" / "image.png"
    image.unlink()
    image.symlink_to(secret / "1" / "image.png")
    assert "image '1/image.png' lies outside" in refused()
    image.unlink()
    image.symlink_to("image.png")
    assert "image '1/image.png': is not a file name: Too many levels of symbolic links" in refused()
    shutil.rmtree(folder / "images" / "test")
    (folder / "images" / "test").symlink_to(secret)  # a whole folder on another disk is its owner's will
    (folder / "problems.json").write_text(json.dumps(problems))
    assert len(load_samples(task(folder))) == 6


def test_letters_beyond_j_are_options(tmp_path):
    options = "\n".join(f"{letter}. {letter.lower()}" for letter in "ABCDEFGHIJKL")
    write_items(tmp_path, [item(f"What?\n{options}", "L")])
    (sample,) = load_samples(task(tmp_path))
    assert sample.choices == tuple("abcdefghijkl")
    assert strict_letter("L", sample).correct


def test_what_a_question_has_already_is_not_added(tmp_path):
    """LLaVA's own question files end with the instruction; a text may speak of the image marker."""
    asked = "Is it?\nAnswer the question using a single word or phrase."
    sample = Sample(id="1", question=asked, label="yes", image=None, instruction=asked.partition("\n")[2])
    assert build_prompt(sample, prompt_form()) == f"{SYSTEM} USER: {asked} ASSISTANT:"
    marked = replace(make_sample(None), question="What does <image> mean?")
    assert build_prompt(marked, prompt_form("vicuna_v1", False)) == f"{SYSTEM} USER: What does  mean? ASSISTANT:"
    assert build_prompt(replace(marked, image=tmp_path), prompt_form("vicuna_v1", False)).count("<image>") == 1


def test_half_written_json_names_the_file(tmp_path):
    (tmp_path / "llava_test_CQM-A.json").write_text('[{"id": "7", ')
    with pytest.raises(DataError, match=r"llava_test_CQM-A\.json: is not valid JSON"):
        load_samples(task(tmp_path))
