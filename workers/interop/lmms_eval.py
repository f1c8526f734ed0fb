r"""The model `saccade` of lmms-eval: any of its tasks, with visual tokens dropped.

    python -m lmms_eval --model saccade --tasks pope --batch_size 1 --log_samples --output_path logs \
        --model_args pretrained=./llava-1.5-7b-hf,strategy=fastv,layer=2,rank=128

lmms-eval (0.7) finds it by the entry point ``lmms_eval.models`` where both packages are installed. It is no dependency:
only lmms-eval imports this file. ``model_args`` are the arguments of `answering.PrunedModel`.
"""

from __future__ import annotations

import os
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from strategies.errors import UsageError
from workers.interop.answering import PrunedModel

MAX_NEW_TOKENS = 1024  # where a task does not say


def manifest() -> ModelManifest:
    """What the entry point gives to lmms-eval."""
    return ModelManifest(model_id="saccade", simple_class_path=f"{__name__}.Saccade")


class Saccade(lmms):
    """One question at a time, in one process."""

    is_simple = True

    def __init__(self, pretrained: str, batch_size: int | str = 1, max_batch_size: Any = None, **settings: Any) -> None:
        """Load the model.

        Args:
            pretrained: checkpoint directory, or a hub id in the local cache.
            batch_size: 1; lmms-eval always passes it.
            max_batch_size: passed by lmms-eval, and unused.
            settings: of `PrunedModel`.

        Raises:
            UsageError: a setting is unknown, or batches or several processes are asked for.
        """
        super().__init__()
        if int(batch_size) != 1:
            raise UsageError(f"batch_size {batch_size}: saccade answers one question at a time; give --batch_size 1")
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UsageError("saccade runs in one process inside lmms-eval; start it with python, not with accelerate")
        self._model = PrunedModel(pretrained, **settings)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests."""
        answers = []
        for request in requests:
            context, given, images_of, doc_id, task, split = request.args
            options = dict(given)
            until = options.pop("until", None) or ()
            answers.append(
                self._model.answer(
                    context,
                    images_of(self.task_dict[task][split][doc_id]) or [],
                    max_new_tokens=int(options.pop("max_new_tokens", MAX_NEW_TOKENS)),
                    until=[until] if isinstance(until, str) else list(until),
                    **options,
                )
            )
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Tasks that compare likelihoods are not supported."""
        raise NotImplementedError("saccade generates answers; choose a task of output_type generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Tasks of several rounds are not supported."""
        raise NotImplementedError("saccade answers one round; choose a task of output_type generate_until")
