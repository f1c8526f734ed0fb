"""A checkpoint's tokenizer and chat template: whether they belong to the model, and what they make of a question."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workers.checkpoints.files import MAX_JSON_BYTES
from workers.checkpoints.settings import read_json
from workers.checkpoints.template import render
from workers.families.config import ModelError
from workers.foreign import readable
from workers.json_file import read_text
from workers.tasks.prompts import IMAGE_MARKER, SINGLE_PREDICTION, before

TEMPLATES = ("chat_template.json", "processor_config.json", "tokenizer_config.json")  # those of today first
# Word boundaries, digits, line ends, runs of spaces, bytes that no vocabulary holds: where tokenizers come apart.
PROBE = (
    "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: ",
    f"\nWhat is 1,024 m²  in words?\nA. zwölf\nB. 東京\t\U0001f441\n{SINGLE_PREDICTION} ASSISTANT:",
)


def check_tokenizer(
    tokenizer: Any, folder: Path, vocabulary: int, image_token: int | None, marker: str = IMAGE_MARKER
) -> None:
    """Refuse a tokenizer that would ask the model something else than it was trained on.

    Args:
        tokenizer: as transformers made it.
        folder: where its files are.
        vocabulary: tokens that config.json states.
        image_token: id of the image marker in the model; None where the tokenizer need not know it.
        marker: what stands for an image in a text.

    Raises:
        ModelError: its image token is not the model's, its vocabulary is larger, or its ids are not those of the
            SentencePiece model (the "slow" tokenizer) that lies beside it.
    """
    if tokenizer.vocab_size > vocabulary:
        raise ModelError(
            f"model {folder}: the tokenizer has {tokenizer.vocab_size} tokens, config.json vocab_size {vocabulary}; "
            "the tokenizer does not belong to the model"
        )
    given = None if image_token is None else tokenizer.convert_tokens_to_ids(marker)
    if given != image_token:
        raise ModelError(
            f"model {folder}: the tokenizer's {marker} is token {given}, config.json has image_token_index "
            f"{image_token}; the tokenizer does not belong to the model"
        )
    if (folder / "tokenizer.model").is_file():
        _check_sentencepiece(tokenizer, folder)


def _check_sentencepiece(tokenizer: Any, folder: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    place = folder / "tokenizer.model"
    try:
        slow = SentencePieceProcessor(model_file=str(place))
    except (RuntimeError, OSError) as error:
        raise ModelError(f"{place}: is not a SentencePiece model: {str(error).splitlines()[0]}") from error
    for text in PROBE:
        fast_ids, slow_ids = tokenizer(text, add_special_tokens=False)["input_ids"], slow.encode(text)
        if fast_ids != slow_ids:
            at = next((i for i, pair in enumerate(zip(fast_ids, slow_ids, strict=False)) if pair[0] != pair[1]), 0)
            where = f"first {fast_ids[at : at + 1]} and {slow_ids[at : at + 1]} in {text[:30]!r}..."
            if (folder / "tokenizer.json").is_file():
                raise ModelError(
                    f"model {folder}: tokenizer.json and tokenizer.model give different ids, {where}; keep the one "
                    "that the model was trained with"
                )
            raise ModelError(
                f"{place}: {type(tokenizer).__name__} of transformers {version('transformers')} and sentencepiece "
                f"{version('sentencepiece')} give different ids, {where}; name the right tokenizer_class in "
                "tokenizer_config.json, or put a tokenizer.json beside it"
            )


@readable(ModelError)
def chat_template(*folders: Path) -> str | None:
    """A checkpoint's chat template, from whichever file of its folders holds it.

    Raises:
        ModelError: the file cannot be read.
    """
    for folder in dict.fromkeys(folders):
        if (folder / "chat_template.jinja").is_file():
            return read_text(folder / "chat_template.jinja", MAX_JSON_BYTES)
        for name in TEMPLATES:
            if (folder / name).is_file():
                template = read_json(folder / name, "model").get("chat_template")
                if isinstance(template, str):
                    return template
    return None


def rendered(tokenizer: Any, template: str | None, question: str, images: int, marker: str = IMAGE_MARKER) -> str:
    """One question in a chat template, which puts ``marker`` where an image belongs.

    Templates of processors take a list of parts, those of tokenizers a text. Where the question says by image markers
    where its images go, a template that puts all images before the words is given a text as well.

    Raises:
        ModelError: there is no template, or it is broken, or loses the question or its images in both ways.
    """
    if template is None:
        raise ModelError("the checkpoint has no chat template; set task.conversation to vicuna_v1 or llava_v1")
    words, text = question.split(IMAGE_MARKER), question.replace(IMAGE_MARKER, marker)
    parts: list[dict[str, str]] = [] if len(words) > 1 else [{"type": "image"}] * images
    for number, part in enumerate(words):
        parts += [*([{"type": "image"}] if number else []), *([{"type": "text", "text": part}] if part else [])]
    contents = (
        [parts, [{"type": "text", "text": text}], text] if len(words) > 1 else [parts, before(text, images, marker)]
    )
    reason = "it loses the question or its image"
    for content in contents:
        try:
            prompt = render(template, [{"role": "user", "content": content}], tokenizer.special_tokens_map)
        except Exception as error:  # a template is a program: it may raise anything
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            continue
        if _in_order(prompt, words, marker) and prompt.count(marker) == images and "{'type'" not in prompt:
            # The tokenizer puts the first token itself.
            return prompt.removeprefix(tokenizer.bos_token or "")
    place = f"model {tokenizer.name_or_path}"
    raise ModelError(f"{place}: its chat template cannot be used: {reason}; set task.conversation to vicuna_v1")


def _in_order(prompt: str, words: Sequence[str], marker: str) -> bool:
    """Whether a prompt has these texts with a marker between each and the next, whatever else it has."""
    place = prompt.find(words[0])
    for part in words[1:]:
        mark = prompt.find(marker, place) if place >= 0 else -1
        place = prompt.find(part, mark + len(marker)) if mark >= 0 else -1
    return place >= 0
