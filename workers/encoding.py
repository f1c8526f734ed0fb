"""A benchmark's question as a model takes it."""

from __future__ import annotations

from dataclasses import replace

from workers.families.model import Encoded, Model
from workers.images import load_image
from workers.sites import Question
from workers.tasks.base import Sample
from workers.tasks.prompts import CHAT_TEMPLATE, asked, build_prompt
from workers.work import TaskSpec


def encode_sample(model: Model, sample: Sample, task: TaskSpec, image_mode: str) -> Encoded:
    """Read a sample's image and tokenise its prompt.

    Conversations are tokenised as their authors do it, the chat template as transformers does.

    Raises:
        DataError: unknown conversation mode, or the image is missing, damaged or too large.
        ModelError: the checkpoint has no usable chat template, or its tokenizer does not belong to it.
    """
    text = build_prompt(sample, task, model.chat)
    image = None if sample.image is None else load_image(sample.image)
    encoded = model.encode(text, image, image_mode, whole=task.conversation == CHAT_TEMPLATE)
    return replace(encoded, question=question_of(sample, task))


def question_of(sample: Sample, task: TaskSpec) -> Question:
    """A sample's words for those who read the question by itself, without the conversation around it."""
    return Question(plain=asked(sample, instructed=False), whole=asked(sample, instructed=task.single_prediction))
