"""A benchmark's question as a model takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from workers.families.model import Encoded, Model, Pixels
from workers.images import load_image
from workers.shown import look_at
from workers.sites import Question
from workers.tasks.base import DataError, Sample
from workers.tasks.prompts import CHAT_TEMPLATE, IMAGE_MARKER, asked, build_prompt
from workers.work import GridPoint, TaskSpec


def encode_sample(
    model: Model,
    sample: Sample,
    task: TaskSpec,
    image_mode: str,
    once: Callable[[int, Callable[[], Pixels]], Pixels] | None = None,
    point: GridPoint | None = None,
) -> Encoded:
    """Read a sample's images and tokenise its prompt.

    Conversations are tokenised as their authors do it, the chat template as transformers does.

    Args:
        model: whose prompt it is.
        sample: of a benchmark.
        task: how it is asked.
        image_mode: one of the checkpoint's.
        once: is given the number of an image and what reads it, which it calls, or has what that gave for another
            sample; None: there is no other.
        point: that is to be answered; it may show the image with fewer pixels.

    Raises:
        DataError: unknown conversation mode, or an image is missing, damaged or too large, or more or fewer images
            than places for them.
        ModelError: the checkpoint has no usable chat template, or its tokenizer does not belong to it.
    """
    pixels, among, places = [], len(sample.images), sample.question.count(IMAGE_MARKER)
    if sample.more and places not in (0, among):
        raise DataError(f"the question has {places} places for images ({IMAGE_MARKER}), and there are {among} images")
    text = build_prompt(sample, task, model.chat)
    for place, source in enumerate(sample.images):
        look = lambda source=source: look_at(model, load_image(source), image_mode, point, among)  # noqa: E731
        pixels.append(look() if once is None else once(place, look))
    encoded = model.encode(text, pixels, image_mode, whole=task.conversation == CHAT_TEMPLATE)
    return replace(encoded, question=question_of(sample, task))


def question_of(sample: Sample, task: TaskSpec) -> Question:
    """A sample's words for those who read the question by itself, without the conversation around it."""
    return Question(plain=asked(sample, instructed=False), whole=asked(sample, instructed=task.single_prediction))
