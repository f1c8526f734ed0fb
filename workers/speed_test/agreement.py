"""Does the engine answer as Hugging Face does, one sample at a time? Every difference is listed with its margin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.families.model import Model
from workers.forks import packed_mask
from workers.patch import pruned
from workers.speed_test.baselines import NEW_TOKENS, Case, attention_of, generate
from workers.work import UNPRUNED, GridPoint, SampleOutcome


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
    """What one way of computing answers."""

    ids: tuple[int, ...]  # decoded tokens, or the first alone
    text: str
    margin: float
    kept_mask: bytes
    logits_C: Tensor | None = None  # float32, of the first token


def engine_against_huggingface(
    model: Model,
    cases: Sequence[Case],
    cells: Mapping[tuple[str, str], SampleOutcome],
    point: GridPoint,
    seed: int,
    new_tokens: int = NEW_TOKENS,
) -> Agreement:
    """Compare cells of the engine, by (sample, point key), with batch-1 Hugging Face on the same weights."""

    def engine_answer(case: Case) -> Answer:
        cell = cells[case.id, point.key]
        return Answer((cell.first_token,), cell.answer, cell.margin, cell.kept_mask)

    what = "engine against Hugging Face SDPA, batch 1"
    return _compare(
        what, cases, point, engine_answer, lambda case: huggingface_answer(model, case, point, seed, new_tokens)
    )


def eager_against_sdpa(
    model: Model, cases: Sequence[Case], point: GridPoint, seed: int, new_tokens: int = NEW_TOKENS
) -> Agreement:
    """The control: how often Hugging Face disagrees with itself when only the attention kernel changes."""

    def eager_answer(case: Case) -> Answer:
        with attention_of(model, "eager"):
            return huggingface_answer(model, case, point, seed, new_tokens)

    what = "control: Hugging Face eager against SDPA, batch 1"
    return _compare(
        what, cases, point, eager_answer, lambda case: huggingface_answer(model, case, point, seed, new_tokens)
    )


def huggingface_answer(model: Model, case: Case, point: GridPoint, seed: int, new_tokens: int = NEW_TOKENS) -> Answer:
    """Batch 1, with the attention the model is set to; pruned by ``workers.patch`` where the point prunes."""
    with _pruning(model, case, point, seed) as report:
        made = generate(model, case, new_tokens, output_logits=True)
    ids = made.sequences[0, len(case.ids_S) :].tolist()
    text = model.text(ids)
    logits_C = made.logits[0][0].float()
    first, second = logits_C.topk(2).values.tolist()
    kept = torch.arange(case.visual) if report is None else report.kept[0].cpu()
    return Answer(tuple(ids), text, first - second, packed_mask(kept, case.visual), logits_C)


def _compare(
    what: str,
    cases: Sequence[Case],
    point: GridPoint,
    answer: Callable[[Case], Answer],
    reference_answer: Callable[[Case], Answer],
) -> Agreement:
    pairs = [(case, answer(case), reference_answer(case)) for case in cases]
    prunes = point.strategy != UNPRUNED
    different = []
    for case, found, reference in pairs:
        if found.ids[0] == reference.ids[0] and found.text == reference.text:
            continue
        assert reference.logits_C is not None
        different.append(
            Disagreement(
                sample=case.id,
                point=point.label,
                tokens=found.ids,
                reference_tokens=reference.ids,
                answer=found.text,
                reference_answer=reference.text,
                margin=found.margin,
                reference_margin=reference.margin,
                reference_gap=float(reference.logits_C.max() - reference.logits_C[found.ids[0]]),
                same_kept=found.kept_mask == reference.kept_mask if prunes else None,
            )
        )
    return Agreement(
        what=what,
        point=point.label,
        samples=len(pairs),
        same_first_token=sum(found.ids[0] == reference.ids[0] for _, found, reference in pairs),
        same_answer=sum(found.text == reference.text for _, found, reference in pairs),
        same_kept=sum(found.kept_mask == reference.kept_mask for _, found, reference in pairs) if prunes else None,
        smallest_margin=min(reference.margin for _, _, reference in pairs),
        disagreements=tuple(different),
    )


@contextmanager
def _pruning(model: Model, case: Case, point: GridPoint, seed: int) -> Iterator[Any]:
    block: AbstractContextManager[Any] = nullcontext()
    if point.strategy != UNPRUNED:
        how: dict[str, Any] = dict(point.settings)
        block = pruned(model.module, point.strategy, point.layer, point.rank, seed=seed, sample_ids=[case.id], **how)
    with block as report, torch.inference_mode():
        yield report
