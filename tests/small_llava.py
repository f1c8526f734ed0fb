"""Small random LLaVA checkpoints for tests: built from a configuration and a seed, loaded like a real one."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

WORDS = (
    "A chat between a curious user human and an artificial intelligence assistant . The gives helpful , detailed "
    "polite answers to the 's questions USER : ASSISTANT what colour is shape red green blue square circle triangle "
    "which of these B C D E Answer with option letter from given choices directly Context ? left right"
).split()


def make_tokenizer() -> PreTrainedTokenizerFast:
    special = ["<unk>", "<s>", "</s>", "<image>"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(special + WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )


def make_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    hidden: int = 32,
    side: int = 4,
    end_bias: float = 0.0,
    text_model: str = "llama",
) -> Path:
    """Save a random checkpoint with ``side * side`` visual tokens.

    Weights are scaled up so that attention is far from uniform: then no choice between tokens is decided by rounding.
    """
    tokenizer = make_tokenizer()
    text = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 512,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "pad_token_id": 0,
        "model_type": text_model,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=14 * side,
            patch_size=14,
            projection_dim=16,
        ),
        text_config=LlamaConfig(**text) if text_model == "llama" else text,
        image_token_index=3,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    generator = torch.random.fork_rng()
    with generator:
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("proj.weight") or "linear" in name:
                    weight.mul_(8.0)
            model.lm_head.weight.mul_(4.0)
            model.model.language_model.embed_tokens.weight.mul_(8.0)
            model.lm_head.weight[2].mul_(1 + end_bias)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pixels = {"height": 14 * side, "width": 14 * side}
    CLIPImageProcessor(size={"shortest_edge": 14 * side}, crop_size=pixels).save_pretrained(folder)
    return folder
