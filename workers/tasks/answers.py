"""How an answer's text becomes a score: one function a rule, each with its source."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from strategies.suggestion import near
from workers.tasks.base import LETTERS, DataError, Sample, Scorer, Verdict
from workers.tasks.vqa_answers import normalised, soft_accuracy

STOP = "</s>"
THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")  # the last dot is unescaped in LLaVA's code, and stays so
BOX = re.compile(r"\[\s*" + r",\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]")
FORMULA = "Handwritten Mathematical Expression Recognition"  # of OCRBench's categories
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


def yes_no_words(answer: str, sample: Sample) -> Verdict:
    """The one of yes and no that stands among the words.

    Source: open-compass/VLMEvalKit, vlmeval/dataset/utils/yorn.py (``YOrN_Extraction``), in its exact mode: what has
    both or neither is wrong, where the published evaluation may ask a language model.
    """
    words = set(normalised(answer.replace(",", " ")).split()) & {"yes", "no"}
    parsed = words.pop() if len(words) == 1 else None
    return Verdict(parsed, parsed == sample.label)


def exact_match(answer: str, sample: Sample) -> Verdict:
    """Equal to one of the answers, spaces around it and capitals apart.

    Source: open-compass/VLMEvalKit, vlmeval/dataset/utils/vqa_eval.py (``process_line``, accuracy).
    """
    text = answer.strip().lower()
    return Verdict(text, any(text == one.strip().lower() for one in _references(sample)))


def vlmevalkit_exact(answer: str, sample: Sample) -> Verdict:
    """VLMEvalKit's exact mode, by what is asked: `mmbench_exact`, `yes_no_words` or `exact_match`."""
    judge = mmbench_exact if sample.choices else exact_match if sample.answers else yes_no_words
    return judge(answer, sample)


def relaxed_accuracy(answer: str, sample: Sample) -> Verdict:
    """Within 5 % of one of the answers where both are numbers, a percentage being one; else equal but for capitals.

    Source: Masry et al., ChartQA, 2022, section 5.1; open-compass/VLMEvalKit, vlmeval/dataset/utils/vqa_eval.py
    (``relaxed_correctness``, of google-research/pix2struct).
    """
    text = answer.strip()
    return Verdict(text, any(_nearly(text, one) for one in _references(sample)))


def anls(answer: str, sample: Sample) -> Verdict:
    """1 minus the edit distance as a share of the longer text, of the nearest answer; 0 where that is below 0.5.

    Source: Biten et al., Scene Text Visual Question Answering, ICCV 2019; as in open-compass/VLMEvalKit,
    vlmeval/dataset/utils/vqa_eval.py (``anls_compute``).
    """
    text = " ".join(answer.lower().split())
    alike = max(_alike(text, " ".join(one.lower().split())) for one in _references(sample))
    return Verdict(text, alike if alike >= 0.5 else 0.0)


def ocrbench_contains(answer: str, sample: Sample) -> Verdict:
    """One of the answers occurs in the text; capitals do not count, in formulas spaces do not.

    Source: Liu et al., OCRBench, arXiv:2305.07895; open-compass/VLMEvalKit, vlmeval/dataset/image_vqa.py.
    """
    formula = sample.category == FORMULA

    def plain(text: str) -> str:
        flat = text.strip().replace("\n", " ")
        return flat.replace(" ", "") if formula else flat.lower()

    return Verdict(answer, any(plain(one) in plain(answer) for one in _references(sample)))


def box_iou(answer: str, sample: Sample) -> Verdict:
    """The first four numbers in square brackets are a box that shares at least half of the union with the label's.

    Source: EvolvingLMMs-Lab/lmms-eval, tasks/refcoco/utils_rec.py (ACC@0.5).
    """
    found = BOX.search(answer)
    if found is None:
        return Verdict(None, 0.0)
    box = [float(number) for number in found.groups()]
    return Verdict(box_text(box), float(_shared(box, json.loads(sample.label)) >= 0.5))


def box_text(box: Sequence[float]) -> str:
    """A box as it is asked for: ``[0.12, 0.3, 0.5, 0.875]``."""
    return json.dumps([round(number, 6) for number in box])


SCORERS: dict[str, Scorer] = {
    scorer.__name__: scorer
    for scorer in (
        strict_letter, llava_official, mmbench_exact, mme_yes_no, pope_yes_no, vqa_soft, gqa_exact, vlmevalkit_exact,
        yes_no_words, exact_match, relaxed_accuracy, anls, ocrbench_contains, box_iou,
    )
}  # fmt: skip
# These compare with Sample.answers.
BY_ANNOTATORS = frozenset(
    {"vqa_soft", "vlmevalkit_exact", "exact_match", "relaxed_accuracy", "anls", "ocrbench_contains"}
)


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


def _references(sample: Sample) -> tuple[str, ...]:
    return sample.answers or (sample.label,)


def _nearly(text: str, target: str) -> bool:
    said, right = _number(text), _number(target)
    if said is not None and right:
        return abs(said - right) / abs(right) <= 0.05
    return text.lower() == target.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _alike(first: str, second: str) -> float:
    """1 minus Levenshtein's distance over the longer length; 1 of two empty texts."""
    distances = list(range(len(first) + 1))
    for row, sign in enumerate(second, start=1):
        diagonal, distances[0] = distances[0], row
        for place, other in enumerate(first, start=1):
            least = min(diagonal + (sign != other), distances[place] + 1, distances[place - 1] + 1)
            diagonal, distances[place] = distances[place], least
    return 1 - distances[-1] / (max(len(first), len(second)) or 1)


def _shared(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes of corners; 0 where there is no union."""
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    union = sum(areas) - width * height
    return width * height / union if union > 0 else 0.0
