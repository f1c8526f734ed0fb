"""A sample as the model is asked it: token ids of its prompt."""

from __future__ import annotations

from workers.llava import Llava, Prompt
from workers.tasks.base import Sample
from workers.tasks.prompts import CHAT_TEMPLATE, build_prompt
from workers.work import TaskSpec


def ask(llava: Llava, sample: Sample, task: TaskSpec) -> Prompt:
    """Tokenise a sample's prompt: LLaVA's conversations as LLaVA does, the chat template as transformers does.

    Raises:
        DataError: unknown conversation mode.
        ModelError: the checkpoint has no usable chat template, or its tokenizer does not belong to it.
    """
    text = build_prompt(sample, task.conversation, task.single_prediction, llava.chat)
    return llava.encode(text, whole=task.conversation == CHAT_TEMPLATE)
