"""A cell the slow way: one question, one configuration, transformers' own ``generate``, and ``workers.patch`` to prune.

Nothing of the engine's forward takes part: no packing, no shared trunk, no fork, no cache of ours. What both have in
common are the weights, the strategies, the prompt and the rule that judges an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers import evidence
from workers.encoding import encode_sample
from workers.families.catalog import parts_of
from workers.families.model import Model
from workers.image_digests import sample_digest
from workers.patch import pruned
from workers.shown import Shown
from workers.tasks.base import Sample
from workers.work import EngineSpec, GridPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowAnswer:
    """What one configuration answers to one question."""

    text: str
    ids: tuple[int, ...]  # decoded tokens, the end token included
    margins: tuple[float, ...]  # of each decoded token: its logit minus the runner-up's
    option_logits: tuple[float, ...]  # of the first decoded token
    kept_mask: bytes  # as in SampleOutcome
    prompt_tokens: int
    visual_tokens: int


def slow_answer(
    model: Model,
    spec: EngineSpec,
    sample: Sample,
    point: GridPoint,
    letter_tokens: Sequence[int],
    kept_K: Tensor | None = None,
) -> SlowAnswer:
    """Answer one question by one configuration.

    Args:
        model: of ``spec.model``.
        spec: as the cells were computed with.
        sample: of ``spec.task``.
        point: of the grid; a question without an image is asked un-pruned, whatever it says.
        letter_tokens: first-token ids whose logits are wanted, as many as the sample has options.
        kept_K: tokens that stay, instead of what the strategy chooses; see ``pruned``.

    Raises:
        UsageError: the model is one that ``workers.patch`` does not prune.
        DataError: the image cannot be read.
    """
    parts_of(model.module)
    prompt = encode_sample(model, sample, spec.task, spec.model.image_mode, point=point)
    inputs: dict[str, Any] = model.inputs(prompt)
    block: AbstractContextManager[Any] = nullcontext()
    if prompt.visual and evidence.stages_of(point, prompt.visual):
        kept = None if kept_K is None else [kept_K]
        settings: dict[str, Any] = dict(point.settings)
        if evidence.reads_text_tower(evidence.needed([point])):
            assert spec.model.text_tower is not None, "a point was let through without its text tower"
            model.load_text_tower(spec.model.text_tower)
        block = pruned(
            model.module,
            point.strategy,
            point.layer,
            point.of(prompt.visual).rank,
            seed=spec.seed,
            sample_ids=[sample.id],
            image_ids=[sample_digest(sample)] if evidence.draws_per_image([point]) else None,
            kept=kept,
            asked=model.asked([prompt]),
            **settings,
        )
    module: Any = model.module
    with block as report, torch.inference_mode():
        made = module.generate(
            **inputs,
            attention_mask=torch.ones(1, prompt.length, dtype=torch.int64, device=model.device),
            max_new_tokens=spec.max_new_tokens,
            do_sample=False,
            pad_token_id=min(model.end_tokens),
            eos_token_id=sorted(model.end_tokens),
            return_dict_in_generate=True,
            output_logits=True,
        )
    decoded = made.sequences[0, -len(made.logits) :].tolist()  # of embeddings there are no ids before them
    highest_T2 = torch.stack([logits_BC[0].float().topk(2).values for logits_BC in made.logits])
    first_C = made.logits[0][0].float()
    stayed_K = report.kept[0].cpu() if report is not None and report.kept else torch.arange(prompt.visual)
    shown = Shown.of(model, prompt)
    return SlowAnswer(
        text=model.text(decoded),
        ids=tuple(decoded),
        margins=tuple((highest_T2[:, 0] - highest_T2[:, 1]).tolist()),
        option_logits=tuple(first_C[list(letter_tokens)].tolist()),
        kept_mask=shown.mask(stayed_K),
        prompt_tokens=shown.tokens,
        visual_tokens=shown.visual,
    )
