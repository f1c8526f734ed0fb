"""The small LLaVA: sizes, tokenizer and processor, and an untrained checkpoint.

It has LLaVA-1.5's geometry (336 px, patches of 14, 576 visual tokens from the tower's last layer but one, class token
dropped, two-layer projector) and its prompt layout (35 tokens before the image, as with Vicuna's tokenizer), and about
five million parameters where LLaVA-1.5 has seven thousand million.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from embedded_training.drawn import OPTION_LETTERS
from embedded_training.scene import COLOURS, PATCH, SHAPES, SIDE
from workers.embedded.location import MODEL_DIR
from workers.tasks.prompts import CONVERSATIONS, SINGLE_PREDICTION

SPECIAL = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
UNK, BOS, EOS, IMAGE, PAD = range(5)

BEFORE_QUESTION, _, AFTER_QUESTION = CONVERSATIONS["vicuna_v1"].partition("{question}")
# LLaVA's instruction for short answers, which training uses beside the one for letters.
WORD_INSTRUCTION = "Answer the question using a single word or phrase."
# These stay in two pieces, as in Vicuna's tokenizer; that is what makes the part before the image 35 tokens long.
IN_TWO = {" USER": (" US", "ER"), " polite": (" pol", "ite"), " helpful": (" help", "ful")}

QUESTION_WORDS = (
    "What colour is the shape letter Which is in the picture? picture. In which part of the picture is? top bottom "
    "left right shape is furthest left? right? highest? lowest? How many are there? Which of these shapes is the "
    "largest? largest. Is left or right of above or below directly has the same colour as these is a number? number "
    "smallest? comes next after letter? Context: The The number of is Directly above left to furthest highest lowest "
    "A. The answer"
)


def prompt(text: str, *, image: bool, instruction: str = SINGLE_PREDICTION) -> str:
    """The vicuna_v1 prompt for one question; ``instruction`` may be empty. ``text`` carries no image marker."""
    marker = "<image>\n" if image else ""
    tail = f"\n{instruction}" if instruction else ""
    return f"{BEFORE_QUESTION}{marker}{text}{tail}{AFTER_QUESTION}"


def build_tokenizer() -> PreTrainedTokenizerFast:
    r"""Byte-level BPE whose merges were learned on the words of the prompts, so a common word is one token.

    Any text can be encoded, unknown words fall into bytes. The option letters are one token each, as an answer
    ("A") and in the list of options ("\nA." is newline, A, full stop).
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # never reached: merging ends when every word of the corpus is one token
        min_frequency=1,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<image>"},
    )
    assert fast.convert_tokens_to_ids("<image>") == IMAGE
    assert all(len(fast.encode(letter, add_special_tokens=False)) == 1 for letter in OPTION_LETTERS)
    return fast


def _corpus() -> Iterable[str]:
    system = BEFORE_QUESTION.rstrip()
    for word, pieces in IN_TWO.items():
        system = system.replace(word, "")
        yield from pieces
    yield system
    for instruction in (SINGLE_PREDICTION, WORD_INSTRUCTION):
        yield f"\n{instruction}{AFTER_QUESTION}"
    yield "\n" + "\n".join(f"{letter}. {letter}" for letter in OPTION_LETTERS)
    for word in QUESTION_WORDS.split():
        yield word if word[0].isupper() else f" {word}"
    for known in (COLOURS, SHAPES, "123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        yield from (f" {word}" for word in known)
    for kind in SHAPES:
        yield f" {kind}es" if kind == "cross" else f" {kind}s"


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """CLIP's pre-processing as LLaVA-1.5's checkpoints state it, through Pillow on every host."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        resample=3,  # bicubic
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_std=[0.26862954, 0.26130258, 0.27577711],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,  # the class token, which "default" drops again
    )


def build_config(vocabulary: int) -> LlavaConfig:
    """Sizes of the two towers. ``vocabulary`` counts tokens; rows of the embedding are rounded up to 64."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=-(-vocabulary // 64) * 64,
        hidden_size=160,
        intermediate_size=384,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=False,
    )
    ids: dict[str, Any] = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "image_token_id": IMAGE}
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
        **ids,
    )


def build_model(vocabulary: int, seed: int) -> LlavaForConditionalGeneration:
    """A model with fresh float32 weights. Layers that write to the residual stream start smaller, as in GPT-2."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config(vocabulary))
    text: Any = model.model.language_model
    with torch.no_grad():
        for layer in text.layers:
            for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
                writer.weight.mul_((2 * len(text.layers)) ** -0.5)
    generation: Any = model.generation_config
    generation.bos_token_id, generation.eos_token_id, generation.pad_token_id = BOS, EOS, PAD
    return model


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write weights in bfloat16 with tokenizer and processor, so that ``from_pretrained`` loads them unchanged."""
    half: Any = model
    half.to(torch.bfloat16).save_pretrained(folder)
    build_processor(build_tokenizer()).save_pretrained(folder)


def load(folder: Path, device: torch.device) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Read a checkpoint back, in float32 and in evaluation mode; pictures go through Pillow on every host."""
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.to(device).eval(), AutoProcessor.from_pretrained(folder, backend="pil")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m embedded_training.architecture", description="Write an untrained checkpoint."
    )
    parser.add_argument("folder", type=Path, nargs="?", default=MODEL_DIR)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    save(build_model(len(build_tokenizer()), args.seed), args.folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
