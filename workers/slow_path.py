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

from workers.asking import ask
from workers.forks import packed_mask
from workers.images import load_image, to_pixels
from workers.llava import Llava
from workers.models import ModelError
from workers.patch import pruned
from workers.tasks.base import Sample
from workers.work import BASELINE, EngineSpec, GridPoint


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
    llava: Llava,
    spec: EngineSpec,
    sample: Sample,
    point: GridPoint,
    letter_tokens: Sequence[int],
    kept_K: Tensor | None = None,
) -> SlowAnswer:
    """Answer one question by one configuration.

    Args:
        llava: of ``spec.model``.
        spec: as the cells were computed with.
        sample: of ``spec.task``.
        point: of the grid; a question without an image is asked un-pruned, whatever it says.
        letter_tokens: first-token ids whose logits are wanted, as many as the sample has options.
        kept_K: tokens that stay, instead of what the strategy chooses; see ``pruned``.

    Raises:
        ModelError: the model cuts images into tiles, which ``workers.patch`` does not do.
        DataError: the image cannot be read.
    """
    if llava.facts.tiling is not None:
        raise ModelError("the slow path runs models that see one square; this one cuts images into tiles")
    prompt = ask(llava, sample, spec.task)
    visual = 0 if sample.image is None else llava.visual_tokens
    ids = prompt.expanded(llava.image_token, visual)
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=llava.device)}
    if sample.image is not None:
        pixels_PP = to_pixels(load_image(sample.image), spec.model.image_mode, llava.image_processor)
        inputs["pixel_values"] = pixels_PP[None].to(llava.device, llava.model.dtype)
    block: AbstractContextManager[Any] = nullcontext()
    if point.strategy != BASELINE and visual:
        kept = None if kept_K is None else [kept_K]
        block = pruned(
            llava.model,
            point.strategy,
            point.layer,
            point.rank,
            seed=spec.seed,
            sample_ids=[sample.id],
            kept=kept,
            **dict(point.params),
        )
    model: Any = llava.model
    with block as report, torch.inference_mode():
        made = model.generate(
            **inputs,
            attention_mask=torch.ones_like(inputs["input_ids"]),
            max_new_tokens=spec.max_new_tokens,
            do_sample=False,
            pad_token_id=min(llava.end_tokens),
            eos_token_id=sorted(llava.end_tokens),
            return_dict_in_generate=True,
            output_logits=True,
        )
    decoded = made.sequences[0, len(ids) :].tolist()
    highest_T2 = torch.stack([logits_BC[0].float().topk(2).values for logits_BC in made.logits])
    first_C = made.logits[0][0].float()
    stayed_K = report.kept[0].cpu() if report is not None and report.kept else torch.arange(visual)
    return SlowAnswer(
        text=str(llava.tokenizer.decode(decoded, skip_special_tokens=True)).strip(),
        ids=tuple(decoded),
        margins=tuple((highest_T2[:, 0] - highest_T2[:, 1]).tolist()),
        option_logits=tuple(first_C[list(letter_tokens)].tolist()),
        kept_mask=packed_mask(stayed_K, visual),
        prompt_tokens=len(ids),
        visual_tokens=visual,
    )
