"""The slow, obvious forward that the engine is compared with.

Batch 1, stock transformers decoder layers under eager attention, one grid point at a time, no cache, nothing shared:
every generated token runs the whole sequence again. With original positions dropped tokens are **masked**, as HiMAP
does it, not dropped; so the two agree only if dropping rows and reading shared keys are right.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies import catalog
from strategies.view import TokenView
from workers.llava import Llava
from workers.work import BASELINE, GridPoint


@dataclass(frozen=True)
class NaiveAnswer:
    kept: list[int]
    first_logits: Tensor  # (C,)
    tokens: list[int]


def naive_answer(
    llava: Llava, prompt: str, pixels: Tensor | None, point: GridPoint, seed: str, max_new_tokens: int
) -> NaiveAnswer:
    """Answer one grid point on one sample."""
    encoded = llava.encode(prompt)
    embed = llava.model.get_input_embeddings()
    embedded = embed(torch.tensor(encoded.ids))
    start, visual = len(encoded.ids), 0
    if encoded.image_at is not None:
        image = llava.image_features(pixels[None])[0]
        start, visual = encoded.image_at, image.shape[0]
        embedded = torch.cat((embedded[:start], image, embedded[start + 1 :]))
    prompt_length = embedded.shape[0]
    tokens: list[int] = []
    kept: list[int] | None = None
    first = None
    for _ in range(max_new_tokens):
        inputs = torch.cat((embedded, embed(torch.tensor(tokens, dtype=torch.int64)))) if tokens else embedded
        logits, kept = _forward(llava, inputs, prompt_length, start, visual, point, seed, kept)
        first = logits if first is None else first
        tokens.append(int(logits.argmax()))
        if tokens[-1] in llava.end_tokens:
            break
    return NaiveAnswer(kept, first, tokens)


def _forward(llava, inputs, prompt_length, start, visual, point, seed, kept):
    decoder = llava.model.model.language_model
    previous_implementation = decoder.config._attn_implementation
    decoder.config._attn_implementation = "eager"
    hidden = inputs[None]
    length = inputs.shape[0]
    positions = torch.arange(length)
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    weights = None
    try:
        for index, layer in enumerate(decoder.layers):
            if index == point.layer and point.strategy != BASELINE and visual:
                if kept is None:
                    kept = _choose(llava, point, weights, hidden[0], prompt_length, start, visual, seed)
                if catalog.get(point.strategy).positions == "compact":
                    rows = [*range(start), *(start + k for k in kept), *range(start + visual, length)]
                    hidden, positions = hidden[:, rows], torch.arange(len(rows))
                    mask = torch.ones(len(rows), len(rows), dtype=torch.bool).tril()
                else:
                    dropped = [start + v for v in range(visual) if v not in set(kept)]
                    mask = mask.clone()
                    mask[:, dropped] = False
            additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[None, None]
            rotary = decoder.rotary_emb(hidden, positions[None])
            residual = hidden
            attended, weights = layer.self_attn(
                layer.input_layernorm(hidden), position_embeddings=rotary, attention_mask=additive
            )
            hidden = residual + attended
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    finally:
        decoder.config._attn_implementation = previous_implementation
    if kept is None:
        kept = list(range(visual))
    return llava.model.lm_head(decoder.norm(hidden[0, -1])), kept


def _choose(llava, point, weights, hidden, prompt_length, start, visual, seed) -> list[int]:
    rank = min(point.rank, visual)
    if rank in (0, visual):
        return list(range(rank))
    strategy = catalog.get(point.strategy)
    if point.layer == 0 and strategy.reads_attention:
        strategy, params = catalog.get("random"), {}
    else:
        params = dict(point.params)
    end = start + visual
    probabilities = None if weights is None else weights[0].float()
    digest = hashlib.sha256(f"{seed}|{point.layer}".encode()).digest()
    view = TokenView(
        visual=visual,
        system=start,
        text=prompt_length - end,
        seed=int.from_bytes(digest[:8], "big") >> 1,
        device=hidden.device,
        attention_HQV=None if probabilities is None else probabilities[:, end - prompt_length :, start:end],
        text_attention_HTT=None if probabilities is None else probabilities[:, end:, end:],
        hidden_states_VD=hidden[start:end],
    )
    return strategy.choose(view, [rank], params)[0].tolist()
