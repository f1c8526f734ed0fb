"""Does the engine answer as Hugging Face does, one sample at a time? Every difference is listed with its margin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.baseline_runs import Case, attention_of, generate
from workers.forks import packed_mask
from workers.llava import Llava
from workers.work import BASELINE, GridPoint, SampleOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A sample that two ways of computing answer differently."""

    sample: str
    point: str  # label
    tokens: tuple[int, ...]  # first, then what follows where it is known
    reference_tokens: tuple[int, ...]
    answer: str
    reference_answer: str
    margin: float  # first-token logit minus the runner-up's
    reference_margin: float
    reference_gap: float  # how much higher the reference puts its own first token than the other's
    same_kept: bool | None  # whether both kept the same visual tokens; None where nothing is pruned


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One way of computing against another, for one grid point."""

    what: str
    point: str
    samples: int
    same_first_token: int
    same_answer: int
    same_kept: int | None
    smallest_margin: float  # of the reference, over all samples
    disagreements: tuple[Disagreement, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What Hugging Face answers."""

    ids: tuple[int, ...]
    text: str
    logits_C: Tensor  # float32, of the first token
    kept_mask: bytes | None

    @property
    def margin(self) -> float:
        first, second = self.logits_C.topk(2).values.tolist()
        return first - second


def huggingface_answer(llava: Llava, case: Case, point: GridPoint, seed: int) -> Answer:
    """Batch 1, SDPA or whatever the model is set to; pruned by ``workers.patch`` where the point prunes."""
    with _pruning(llava, case, point, seed) as report:
        made = generate(llava, case, output_logits=True)
    ids = made.sequences[0, len(case.ids_S) :].tolist()
    text = llava.tokenizer.decode(ids, skip_special_tokens=True).strip()
    kept = None if report is None else packed_mask(report.kept[0].cpu(), case.visual)
    return Answer(tuple(ids), text, made.logits[0][0].float(), kept)


def patch_is_there() -> bool:
    try:
        import workers.patch  # noqa: F401
    except ImportError:
        return False
    return True


def engine_against_huggingface(
    llava: Llava, cases: Sequence[Case], cells: Mapping[tuple[str, str], SampleOutcome], point: GridPoint, seed: int
) -> Agreement:
    """Compare cells of the engine, by (sample, point key), with batch-1 Hugging Face on the same weights."""
    different, first, answers, kept, margins = [], 0, 0, 0, []
    for case in cases:
        cell, reference = cells[case.id, point.key], huggingface_answer(llava, case, point, seed)
        same_first, same_answer = cell.first_token == reference.ids[0], cell.answer == reference.text
        same_kept = None if reference.kept_mask is None else cell.kept_mask == reference.kept_mask
        first, answers, kept = first + same_first, answers + same_answer, kept + bool(same_kept)
        margins.append(reference.margin)
        if not (same_first and same_answer):
            different.append(
                Disagreement(
                    sample=case.id,
                    point=point.label,
                    tokens=(cell.first_token,),
                    reference_tokens=reference.ids,
                    answer=cell.answer,
                    reference_answer=reference.text,
                    margin=cell.margin,
                    reference_margin=reference.margin,
                    reference_gap=_gap(reference, cell.first_token),
                    same_kept=same_kept,
                )
            )
    return Agreement(
        what="engine against Hugging Face SDPA, batch 1",
        point=point.label,
        samples=len(cases),
        same_first_token=first,
        same_answer=answers,
        same_kept=None if point.strategy == BASELINE else kept,
        smallest_margin=min(margins),
        disagreements=tuple(different),
    )


def eager_against_sdpa(llava: Llava, cases: Sequence[Case], point: GridPoint) -> Agreement:
    """The control: how often Hugging Face disagrees with itself when only the attention kernel changes."""
    different, first, answers, margins = [], 0, 0, []
    for case in cases:
        reference = huggingface_answer(llava, case, point, seed=0)
        with attention_of(llava, "eager"):
            other = huggingface_answer(llava, case, point, seed=0)
        first, answers = first + (other.ids[0] == reference.ids[0]), answers + (other.ids == reference.ids)
        margins.append(reference.margin)
        if other.ids != reference.ids:
            different.append(
                Disagreement(
                    sample=case.id,
                    point=point.label,
                    tokens=other.ids,
                    reference_tokens=reference.ids,
                    answer=other.text,
                    reference_answer=reference.text,
                    margin=other.margin,
                    reference_margin=reference.margin,
                    reference_gap=_gap(reference, other.ids[0]),
                    same_kept=None,
                )
            )
    return Agreement(
        what="control: Hugging Face eager against SDPA, batch 1",
        point=point.label,
        samples=len(cases),
        same_first_token=first,
        same_answer=answers,
        same_kept=None,
        smallest_margin=min(margins),
        disagreements=tuple(different),
    )


def _gap(reference: Answer, token: int) -> float:
    return float(reference.logits_C.max() - reference.logits_C[token])


@contextmanager
def _pruning(llava: Llava, case: Case, point: GridPoint, seed: int) -> Iterator[Any]:
    block: AbstractContextManager[Any] = nullcontext()
    if point.strategy != BASELINE:
        from workers.patch import pruned

        block = pruned(
            llava.model,
            point.strategy,
            point.layer,
            point.rank,
            seed=seed,
            sample_ids=[case.id],
            **dict(point.params),
        )
    with block as report, torch.inference_mode():
        yield report
