"""VQA's answer normalisation and soft accuracy.

Source: facebookresearch/mmf, pythia/tasks/processors.py (``EvalAIAnswerProcessor``) and its M4C evaluator, which LLaVA
(llava/eval/m4c_evaluator.py) and lmms-eval copy; VQA's own vqaEvaluation/vqaEval.py has the same tables. The
processor's slips are part of the metric and stay: a full stop is dropped wherever no digit follows, only the first 32
of them, and contractions spelled with a capital (``Id've``) are never met, because the text is lower-case by then.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
FULL_STOP = re.compile(r"\.(?!\d)")
FULL_STOPS = 32  # re.UNICODE, which stands where the count of replacements belongs
DIGITS_COMMA = re.compile(r"(?<=\d),+(?=\d)")

# Contractions that are met without their only apostrophe.
_SINGLE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's "
    "isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've "
    "shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd "
    "there're there's "
    "they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's "
    "where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"
)
# Contractions that are met without one of their two apostrophes.
_DOUBLE = (
    "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've "
    "there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've"
)


def _contractions() -> Iterable[tuple[str, str]]:
    for whole in _SINGLE.split():
        yield whole.replace("'", ""), whole
    for whole in _DOUBLE.split():
        places = [place for place, sign in enumerate(whole) if sign == "'"]
        for place in places:
            yield whole[:place] + whole[place + 1 :], whole
    for short in ("ow's'at", "'ows'at", "'ow'sat"):
        yield short, "'ow's'at"
    for short in ("yall'd've", "y'alld've", "y'all'dve"):
        yield short, "y'all'd've"
    yield "somebody'd", "somebodyd"


CONTRACTIONS = dict(_contractions())


@lru_cache(maxsize=1 << 16)  # most annotators, and most configurations, say the same
def normalised(answer: str) -> str:
    """An answer in the form in which answers are compared."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    plain = text
    for sign in PUNCTUATION:
        alone = f"{sign} " in text or f" {sign}" in text or DIGITS_COMMA.search(text) is not None
        plain = plain.replace(sign, "" if alone else " ")
    words = FULL_STOP.sub("", plain, count=FULL_STOPS).split()
    numbers = [NUMBERS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in numbers if word not in ARTICLES)


def soft_accuracy(answer: str, references: Iterable[str]) -> float:
    """VQA accuracy: the mean over all sets that leave one annotator out of min(1, same answers in the set / 3).

    Args:
        answer: the model's.
        references: the annotators', ten in VQAv2 and TextVQA.

    Returns:
        0 to 1; 0 without annotators.
    """
    counts = Counter(normalised(reference) for reference in references)
    total, same = counts.total(), counts[normalised(answer)]
    if not total or not same:
        return 0.0
    # Of the sets, `same` leave out one of those who agree, the others one who does not.
    return (same * min(1.0, (same - 1) / 3) + (total - same) * min(1.0, same / 3)) / total
