"""How an answer text becomes right or wrong: one function a rule, each with its source."""

from __future__ import annotations

import re

from strategies.suggestion import near
from workers.tasks.base import LETTERS, DataError, Scorer, Verdict

STOP = "</s>"
THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")  # the last dot is unescaped in LLaVA's code, and stays so


def strict_letter(answer: str, label: str, options: int) -> Verdict:
    """Right only if the stripped text is the label itself.

    Source: HiMAP, eval scripts of FastV Advanced and the layer cut-off. ``B.`` and ``b`` are wrong.
    """
    text = answer.strip().removesuffix(STOP).strip()
    return Verdict(text if text in set(LETTERS[:options]) else None, text == label)


def llava_official(answer: str, label: str, options: int) -> Verdict:
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
    parsed = letter if letter and letter in LETTERS[:options] else None
    return Verdict(parsed, parsed == label)


SCORERS: dict[str, Scorer] = {"strict_letter": strict_letter, "llava_official": llava_official}


def get(name: str) -> Scorer:
    """Look a scorer up.

    Raises:
        DataError: unknown name, with a suggestion.
    """
    if name not in SCORERS:
        raise DataError(f"unknown scorer '{name}'{near(name, SCORERS)} (known: {', '.join(SCORERS)})")
    return SCORERS[name]
