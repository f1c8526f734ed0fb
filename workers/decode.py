"""Greedy decoding of many streams together, each with its own cache, until each has ended.

The tokens were chosen at prefill and stay chosen (FastV's key-value cache variant; FinePruner, SparseVLM): in the
layers before the fork a new token attends to the whole image, from the fork on to the kept tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.attention import attend_one
from workers.llava import Llava, Rotary
from workers.prefill import LayerCache, Prefill
from workers.streams import Stream, gather


def greedy(llava: Llava, start: Prefill, max_new_tokens: int) -> list[list[int]]:
    """Decode every stream of a prefill.

    Args:
        llava: the model.
        start: first-token logits and caches.
        max_new_tokens: >= 1, the first token included.

    Returns:
        Per stream the generated ids; the last is an end token unless ``max_new_tokens`` was reached.
    """
    answers = [[int(token)] for token in start.logits_NC.argmax(dim=-1)]
    running = [i for i, answer in enumerate(answers) if answer[-1] not in llava.end_tokens]
    tails: list[dict[int, list[tuple[Tensor, Tensor]]]] = [{i: [] for i in running} for _ in start.caches]
    for step in range(max_new_tokens - 1):
        if not running:
            break
        tokens_N = torch.tensor([answers[i][-1] for i in running], device=llava.device)
        logits_NC = _step(llava, start, running, tails, tokens_N, step)
        for i, token in zip(running, logits_NC.argmax(dim=-1).tolist(), strict=True):
            answers[i].append(token)
        running = [i for i in running if answers[i][-1] not in llava.end_tokens]
    return answers


def _step(
    llava: Llava,
    start: Prefill,
    running: Sequence[int],
    tails: Sequence[dict[int, list[tuple[Tensor, Tensor]]]],
    tokens_N: Tensor,
    step: int,
) -> Tensor:
    """One token for each running stream; appends its keys and values to the tails. Returns (N, C) logits."""
    streams = [start.streams[i] for i in running]
    hidden_ND = llava.embed(tokens_N)
    positions: list[int] = []
    rotary: Rotary | None = None
    for layer, cache in enumerate(start.caches):
        wanted = [stream.at(layer).next_position + step for stream in streams]
        if rotary is None or wanted != positions:  # positions differ between layers only for compact forks
            positions, rotary = wanted, llava.rotary(torch.tensor(wanted, device=llava.device))
        query_NHE, key_NGE, value_NGE = llava.attention_inputs(layer, hidden_ND, rotary)
        attended = []
        for n, (i, stream) in enumerate(zip(running, streams, strict=True)):
            tails[layer][i].append((key_NGE[n : n + 1], value_NGE[n : n + 1]))
            key_SGE, value_SGE = _keys_and_values(cache, stream.at(layer), tails[layer][i])
            attended.append(attend_one(query_NHE[n : n + 1], key_SGE, value_SGE, llava.scale))
        hidden_ND = llava.finish_layer(layer, hidden_ND, torch.cat(attended))
    return llava.logits(hidden_ND)


def _keys_and_values(cache: LayerCache, stream: Stream, tail: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    rows = cache.packing.keys(stream)
    keys, values = zip(*tail, strict=True)
    return (
        torch.cat((gather(cache.key_RGE, rows), *keys)),
        torch.cat((gather(cache.value_RGE, rows), *values)),
    )
