"""The exact prompt strings of LLaVA's conversation modes, as its evaluation code builds them.

Source: haotian-liu/LLaVA, llava/conversation.py (conv_vicuna_v1, conv_llava_v1) and llava/eval/model_vqa_science.py.
"""

from __future__ import annotations

from strategies.suggestion import near
from workers.tasks.base import DataError, Sample

IMAGE_MARKER = "<image>"
SINGLE_PREDICTION = "Answer with the option's letter from the given choices directly."

_SYSTEM = (
    "A chat between a curious {person} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {person}'s questions."
)
CONVERSATIONS = {
    "vicuna_v1": f"{_SYSTEM.format(person='user')} USER: {{question}} ASSISTANT:",
    "llava_v1": f"{_SYSTEM.format(person='human')} USER: {{question}} ASSISTANT:",
}


def build_prompt(sample: Sample, conversation: str, single_prediction: bool) -> str:
    """The text given to the tokenizer, with one ``<image>`` marker where the sample has an image.

    Raises:
        DataError: unknown conversation mode.
    """
    if conversation not in CONVERSATIONS:
        hint = near(conversation, CONVERSATIONS)
        raise DataError(f"unknown conversation '{conversation}'{hint} (known: {', '.join(CONVERSATIONS)})")
    lines = [IMAGE_MARKER] if sample.image is not None else []
    lines.append(sample.question)
    if single_prediction:
        lines.append(sample.instruction or SINGLE_PREDICTION)
    return CONVERSATIONS[conversation].format(question="\n".join(lines))
