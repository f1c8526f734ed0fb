"""Small random CLIP checkpoints, whose image tower is as wide as that of a small LLaVA."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from small_llava import WORDS

LONGEST = 12  # tokens that its text tower reads


def make_clip(folder: Path, *, seed: int = 0, width: int = 16) -> Path:
    """Save a random CLIP; as in the original, begin and end mark have the two largest ids, the end mark the last."""
    words = ["<pad>", "<unk>", *dict.fromkeys(WORDS), "<begin>", "<end>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(mark, vocabulary[mark]) for mark in ("<begin>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<begin> $A <end>", special_tokens=marks)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<begin>", eos_token="<end>", pad_token="<pad>"
    )
    text = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": len(words),
        "max_position_embeddings": LONGEST,
        "bos_token_id": len(words) - 2,
        "eos_token_id": 2,  # as in openai's files: transformers then pools at the largest id
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=10))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():  # filled here: releases of transformers initialise otherwise
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(drawn * (4 / weight.shape[-1] ** 0.5))
            else:
                weight.copy_(0.3 * drawn + float("norm" in name and name.endswith("weight")))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
