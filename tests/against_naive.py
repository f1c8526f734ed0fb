"""Every cell of an engine held against the slow, obvious forward of `naive.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from naive import naive_answer, seeds_of
from workers.encoding import encode_sample
from workers.engine import Engine
from workers.work import GridPoint, WorkUnit


def assert_every_cell_is_naive(
    engine: Engine, samples: Sequence[str], points: Sequence[GridPoint], **tolerance: Any
) -> None:
    """Kept tokens, decoded tokens and first token are equal, and the letters' logits within a tolerance."""
    outcome = engine.run(WorkUnit(samples=tuple(samples), points=tuple(points)))
    assert outcome.failures == ()
    prompts, most = {}, engine.spec.max_new_tokens
    for cell, point in zip(outcome.outcomes, [*points] * len(samples), strict=True):
        sample = engine.samples[cell.sample]
        with torch.inference_mode():
            if sample.id not in prompts:  # what the points have in common is made once
                prompt = encode_sample(engine.model, sample, engine.spec.task, engine.spec.model.image_mode)
                prompts[sample.id] = prompt, engine.model.see([prompt], {})[0]
            prompt, image = prompts[sample.id]
            slow = naive_answer(engine.model, prompt, point, seeds_of(sample), most, image)
        kept = np.flatnonzero(np.unpackbits(np.frombuffer(cell.kept_mask, np.uint8))[: cell.visual_tokens])
        assert kept.tolist() == slow.kept, point.label
        letters = slow.first_logits[engine.letter_tokens[: len(sample.choices)]]
        torch.testing.assert_close(torch.tensor(cell.option_logits), letters, **tolerance, msg=point.label)
        assert (cell.first_token, cell.decoded_tokens) == (slow.tokens[0], len(slow.tokens))
