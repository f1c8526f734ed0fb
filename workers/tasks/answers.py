"""How an answer's text becomes a score: one function a rule, each with its source."""

from __future__ import annotations

import re

from strategies.suggestion import near
from workers.tasks.base import LETTERS, DataError, Sample, Scorer, Verdict
from workers.tasks.vqa_answers import normalised, soft_accuracy

STOP = "</s>"
THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")  # the last dot is unescaped in LLaVA's code, and stays so
TO_SPACE = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def strict_letter(answer: str, sample: Sample) -> Verdict:
    """Right only if the stripped text is the label itself.

    Source: HiMAP, eval scripts of FastV Advanced and the layer cut-off. ``B.`` and ``b`` are wrong.
    """
    text = answer.strip().removesuffix(STOP).strip()
    return Verdict(text if text in _letters(sample) else None, text == sample.label)


def llava_official(answer: str, sample: Sample) -> Verdict:
    """LLaVA's parse: a bare letter A-E, ``B. text``, or exactly one ``The answer is B`` plus any further character.

    Source: haotian-liu/LLaVA, llava/eval/eval_science_qa.py, whose options are A..E whatever the question has; a
    letter beyond the question's own options counts as wrong. ``B.`` alone and ``The answer is B`` at the very end of
    the text are wrong there, and here.
    """
    letters = LETTERS[:5]
    if len(answer) == 1 and answer in letters:
        letter = answer
    elif len(answer) >= 3 and answer[0] in letters and answer[1:3] == ". ":
        letter = answer[0]
    else:
        found = THE_ANSWER_IS.findall(answer)
        letter = found[0] if len(found) == 1 else ""
    parsed = letter if letter in _letters(sample) else None
    return Verdict(parsed, parsed == sample.label)


def mmbench_exact(answer: str, sample: Sample) -> Verdict:
    """The one option letter among the words, if it is one of the last four; else the one option whose text occurs.

    Source: open-compass/VLMEvalKit, vlmeval/utils/matching_util.py (``can_infer``), in its exact mode: what neither
    rule reads is wrong, where the published evaluation may ask a language model. An answer more than twice as long as
    all options together is not searched for their texts.
    """
    words = answer.translate(TO_SPACE).split()
    letters = _letters(sample)
    named = [letter for letter in letters if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:
        return Verdict(named[0], named[0] == sample.label)
    told = answer.lower()
    if len(told) > 2 * sum(map(len, sample.choices)):
        return Verdict(None, False)
    found = [letter for letter, choice in zip(letters, sample.choices, strict=False) if choice.lower() in told]
    parsed = found[0] if len(found) == 1 else None
    return Verdict(parsed, parsed == sample.label)


def mme_yes_no(answer: str, sample: Sample) -> Verdict:
    """Yes or no within the first four characters of the lower-case answer; anything else is never right.

    Source: MME's official tool, calculation.py (``parse_pred_ans``).
    """
    start = answer.strip().lower()[:4]
    parsed = "yes" if "yes" in start else "no" if "no" in start else None
    return Verdict(parsed, parsed == sample.label)


def pope_yes_no(answer: str, sample: Sample) -> Verdict:
    """No if the first sentence has the word No, not or no; else yes.

    Source: haotian-liu/LLaVA, llava/eval/eval_pope.py, after POPE's own evaluate.py.
    """
    words = answer.partition(".")[0].replace(",", "").split(" ")
    parsed = "no" if {"No", "not", "no"} & set(words) else "yes"
    return Verdict(parsed, parsed == sample.label)


def vqa_soft(answer: str, sample: Sample) -> Verdict:
    """The share of annotators who say the same, 3 of the other 9 being enough.

    Source: VQA's official metric in the form of Pythia's M4C evaluator, as LLaVA uses it; see `vqa_answers`.
    """
    return Verdict(normalised(answer), soft_accuracy(answer, sample.answers))


def gqa_exact(answer: str, sample: Sample) -> Verdict:
    """Equal to the answer once dots at the end are dropped and letters lowered.

    Source: haotian-liu/LLaVA, scripts/convert_gqa_for_eval.py, then GQA's eval.py.
    """
    text = answer.rstrip(".").lower()
    return Verdict(text, text == sample.label)


SCORERS: dict[str, Scorer] = {
    scorer.__name__: scorer
    for scorer in (strict_letter, llava_official, mmbench_exact, mme_yes_no, pope_yes_no, vqa_soft, gqa_exact)
}
BY_ANNOTATORS = frozenset({"vqa_soft"})  # these compare with Sample.answers


def get(name: str) -> Scorer:
    """Look a scorer up.

    Raises:
        DataError: unknown name, with a suggestion.
    """
    if name not in SCORERS:
        raise DataError(f"unknown scorer '{name}'{near(name, SCORERS)} (known: {', '.join(SCORERS)})")
    return SCORERS[name]


def _letters(sample: Sample) -> tuple[str, ...]:
    return tuple(LETTERS[: len(sample.choices)])
