"""The exact prompt strings of LLaVA's conversation modes, as its evaluation code builds them.

Source: haotian-liu/LLaVA, llava/conversation.py (conv_vicuna_v1, conv_llava_v1) and llava/eval/model_vqa_science.py.
The third mode, ``chat_template``, is the checkpoint's own, which a loaded model knows.
"""

from __future__ import annotations

from collections.abc import Callable

from strategies.suggestion import near
from workers.tasks.base import DataError, Sample
from workers.work import TaskSpec

IMAGE_MARKER = "<image>"
SINGLE_PREDICTION = "Answer with the option's letter from the given choices directly."
SINGLE_PREDICTION_CN = "请直接回答选项字母。"  # the same, llava/eval/model_vqa_mmbench.py

_SYSTEM = (
    "A chat between a curious {person} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {person}'s questions."
)
CONVERSATIONS = {
    "vicuna_v1": f"{_SYSTEM.format(person='user')} USER: {{question}} ASSISTANT:",
    "llava_v1": f"{_SYSTEM.format(person='human')} USER: {{question}} ASSISTANT:",
}


CHAT_TEMPLATE = "chat_template"
CONVERSATION_MODES = (*CONVERSATIONS, CHAT_TEMPLATE)
_LIKE_CHAT = "USER: {question} ASSISTANT:"  # llava-hf's template, for those who know no model
Chat = Callable[[str, int], str]  # question, how many images it has -> prompt


def build_prompt(sample: Sample, task: TaskSpec, chat: Chat | None = None) -> str:
    """The text given to the tokenizer, with an ``<image>`` marker for each of the sample's images.

    They stand where the question of several images has them, else before it.

    Args:
        sample: what is asked.
        task: how; ``conversation`` is one of ``CONVERSATION_MODES``, and ``single_prediction`` adds the sample's
            instruction, or the one that asks for the option's letter alone, unless the question ends with it, as those
            of LLaVA's question files do.
        chat: the checkpoint's chat template, for that mode; without it the prompt is an estimate.

    Raises:
        DataError: unknown conversation mode.
    """
    conversation = task.conversation
    if conversation not in CONVERSATION_MODES:
        hint = near(conversation, CONVERSATION_MODES)
        raise DataError(f"unknown conversation '{conversation}'{hint} (known: {', '.join(CONVERSATION_MODES)})")
    question = asked(sample, task.single_prediction)
    images = len(sample.images)
    if conversation == CHAT_TEMPLATE and chat is not None:
        return chat(question, images)
    marked = question if IMAGE_MARKER in question else before(question, images)
    return CONVERSATIONS.get(conversation, _LIKE_CHAT).format(question=marked)


def before(question: str, images: int, marker: str = IMAGE_MARKER) -> str:
    """A question with its images before it, as lmms-eval asks LLaVA."""
    return f"{' '.join([marker] * images)}\n{question}" if images else question


def asked(sample: Sample, instructed: bool) -> str:
    """A sample's question, with its instruction if that is wanted and the question does not end with it already."""
    question, instruction = sample.question, SINGLE_PREDICTION if sample.instruction == "" else sample.instruction
    if IMAGE_MARKER in question and not sample.more:  # it would be taken for a further image
        question = question.replace(IMAGE_MARKER, "").strip()
    return (
        f"{question}\n{instruction}" if instructed and instruction and not question.endswith(instruction) else question
    )
