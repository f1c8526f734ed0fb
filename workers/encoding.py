"""A benchmark's question as a model takes it."""

from __future__ import annotations

from workers.families.model import Encoded, Model
from workers.images import load_image
from workers.tasks.base import Sample
from workers.tasks.prompts import CHAT_TEMPLATE, build_prompt
from workers.work import TaskSpec


def encode_sample(model: Model, sample: Sample, task: TaskSpec, image_mode: str) -> Encoded:
    """Read a sample's image and tokenise its prompt.

    Conversations are tokenised as their authors do it, the chat template as transformers does.

    Raises:
        DataError: unknown conversation mode, or the image is missing, damaged or too large.
        ModelError: the checkpoint has no usable chat template, or its tokenizer does not belong to it.
    """
    text = build_prompt(sample, task.conversation, task.single_prediction, model.chat)
    image = None if sample.image is None else load_image(sample.image)
    return model.encode(text, image, image_mode, whole=task.conversation == CHAT_TEMPLATE)
