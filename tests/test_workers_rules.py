"""The names of scoring rules and prompt forms: they change with what decides, and with nothing else."""

from __future__ import annotations

import importlib
import linecache
import sys

import pytest

from prompt_forms import prompt_form
from workers import rules
from workers.rules import prompt_fingerprint, scorer_fingerprint
from workers.tasks import prompts
from workers.tasks.answers import SCORERS
from workers.tasks.prompts import CONVERSATION_MODES

# The same under every version of Python and on every machine. A rule that is changed on purpose gets a new name here,
# and what it judged before is judged again by `saccade rescore`.
NAMES = {
    "strict_letter": "379df3eee8829679",
    "llava_official": "2f25e6ae40323ad5",
    "mmbench_exact": "6828b173d5622458",
    "mme_yes_no": "a4692c29802dd360",
    "pope_yes_no": "ca879e5b7ca812c8",
    "vqa_soft": "66525a5a89125ef3",
    "gqa_exact": "e8bfe88412e9d62d",
    "vlmevalkit_exact": "85bfe285e1b8da4a",
    "yes_no_words": "c8b19e9486d59319",
    "exact_match": "51677a5134f407fb",
    "relaxed_accuracy": "d4d995fd02757e86",
    "anls": "f01e9aeadff07982",
    "ocrbench_contains": "9a7b8e922add2978",
    "box_iou": "bedc8c80dd183454",
}
FORMS = {
    ("vicuna_v1", True): "c8f8a14ccbc0f5fa",
    ("vicuna_v1", False): "e04ea12b3b7c8d90",
    ("llava_v1", True): "6508a2b0e603911b",
    ("llava_v1", False): "5eb03d79b6791e6f",
    ("chat_template", True): "403f83ed7638bf3f",
    ("chat_template", False): "b85b6371deffb578",
}

RULE = '''
from workers.tasks.base import LETTERS, Verdict
STOP = "</s>"
other = 1

def rule(answer, sample):
    """Right if it is the label."""
    return Verdict(None, _bare(answer) == sample.label)

def _bare(text):
    return text.removesuffix(STOP)
'''


def test_the_names_of_today():
    assert {name: scorer_fingerprint(scorer) for name, scorer in SCORERS.items()} == NAMES
    assert {form: prompt_fingerprint(prompt_form(*form)) for form in FORMS} == FORMS
    assert {form for form, _ in FORMS} == set(CONVERSATION_MODES)


@pytest.fixture
def named(tmp_path, monkeypatch):
    """A function that names the rule in a text."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # whose times are too coarse for a test

    def name(text: str) -> str:
        (tmp_path / "rule_of_a_test.py").write_text(text)
        for forget in (importlib.invalidate_caches, linecache.clearcache, rules._definitions.cache_clear):
            forget()
        monkeypatch.delitem(sys.modules, "rule_of_a_test", raising=False)
        return scorer_fingerprint(importlib.import_module("rule_of_a_test").rule)

    return name


def test_only_what_decides_changes_a_rule_s_name(named):
    before = named(RULE)
    for same in (
        RULE.replace("Right if it is the label.", "Other words."),
        RULE.replace("other = 1", "other = 2  # read by nobody"),
        RULE.replace("def rule(answer, sample):", "def rule(answer: str, sample: object) -> object:  # typed"),
        RULE.replace("    return text", "\n    # why\n    return text"),
        RULE + "\ndef another(answer, sample):\n    return None\n",
    ):
        assert named(same) == before
    for other in (
        RULE.replace("== sample.label", "!= sample.label"),
        RULE.replace('STOP = "</s>"', 'STOP = "<s>"'),
        RULE.replace("text.removesuffix(STOP)", "text.removesuffix(STOP).strip()"),
        RULE.replace("_bare(answer)", "LETTERS"),
    ):
        assert named(other) != before


def test_a_changed_prompt_form_has_another_name(monkeypatch):
    before = prompt_fingerprint(prompt_form())
    with monkeypatch.context() as patch:
        patch.setattr(prompts, "SINGLE_PREDICTION", "Answer with a letter.")
        assert prompt_fingerprint(prompt_form()) != before
        assert prompt_fingerprint(prompt_form("vicuna_v1", False)) == FORMS["vicuna_v1", False]
    monkeypatch.setitem(prompts.CONVERSATIONS, "vicuna_v1", "USER: {question} ASSISTANT: ")
    assert prompt_fingerprint(prompt_form()) != before
