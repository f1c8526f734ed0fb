"""Greedy decoding of many streams together, each with its own cache, until each has ended.

The tokens were chosen at prefill and stay chosen (FastV's key-value cache variant; FinePruner, SparseVLM): in the
layers before the fork a new token attends to the whole image, from the fork on to the kept tokens. In those first
layers all streams of a sample attend to the same rows, which are read once for all of them; what a stream has decoded
itself is attended to apart, and the two parts are joined.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.attention import Groups, attend_groups, attend_tails, join, make_groups
from workers.llava import Llava, Rotary
from workers.prefill import Prefill
from workers.streams import Packing


def greedy(llava: Llava, start: Prefill, max_new_tokens: int) -> list[list[int]]:
    """Decode every stream of a prefill.

    Args:
        llava: the model.
        start: first-token logits and caches.
        max_new_tokens: >= 1, the first token included.

    Returns:
        Per stream the generated ids; the last is an end token unless ``max_new_tokens`` was reached.
    """
    answers = [[token] for token in start.logits_NC.argmax(dim=-1).tolist()]
    running = [n for n, answer in enumerate(answers) if answer[-1] not in llava.end_tokens]
    decoding = Decoding(llava, start, running)
    for _ in range(max_new_tokens - 1):
        if not running:
            break
        tokens = [answers[n][-1] for n in running]
        for n, token in zip(running, decoding.step(tokens).argmax(dim=-1).tolist(), strict=True):
            answers[n].append(token)
        still = [place for place, n in enumerate(running) if answers[n][-1] not in llava.end_tokens]
        if len(still) < len(running):
            running = [running[place] for place in still]
            decoding.keep(still)
    return answers


class Decoding:
    """The streams that are still decoding, and the keys and values of what they have decoded."""

    def __init__(self, llava: Llava, start: Prefill, running: Sequence[int]) -> None:
        self._llava = llava
        self._caches = start.caches
        self._streams = [start.streams[n] for n in running]
        self._tails: list[tuple[Tensor, Tensor]] = []  # a layer: (N, T, G, E) keys and values
        self._steps = 0
        self._groups: dict[Packing, Groups] = {}

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Feed one token to each stream: (N, C) logits of the next."""
        llava = self._llava
        hidden_ND = llava.embed(torch.tensor(tokens, device=llava.device))
        positions: list[int] = []
        rotary: Rotary | None = None
        for layer, cache in enumerate(self._caches):
            wanted = [stream.at(layer).next_position + self._steps for stream in self._streams]
            if rotary is None or wanted != positions:  # positions differ between layers only for compact forks
                positions, rotary = wanted, llava.rotary(torch.tensor(wanted, device=llava.device))
            query_NHE, key_NGE, value_NGE = llava.attention_inputs(layer, hidden_ND, rotary)
            keys, values = self._append(layer, key_NGE, value_NGE)
            groups = self._group(layer, cache.packing)
            prompt = attend_groups(query_NHE, cache.key_RGE, cache.value_RGE, groups, cache.packing, llava.scale)
            own = attend_tails(query_NHE[:, None], keys, values, llava.scale)
            hidden_ND = llava.finish_layer(layer, hidden_ND, join(prompt, own))
        self._steps += 1
        return llava.logits(hidden_ND)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the streams."""
        self._streams = [self._streams[place] for place in places]
        chosen = torch.tensor(places, device=self._llava.device, dtype=torch.int64)
        self._tails = [(keys[chosen], values[chosen]) for keys, values in self._tails]
        self._groups.clear()

    def _append(self, layer: int, key_NGE: Tensor, value_NGE: Tensor) -> tuple[Tensor, Tensor]:
        if len(self._tails) == layer:
            self._tails.append((key_NGE[:, None], value_NGE[:, None]))
        else:
            keys, values = self._tails[layer]
            self._tails[layer] = (
                torch.cat((keys, key_NGE[:, None]), dim=1),
                torch.cat((values, value_NGE[:, None]), dim=1),
            )
        return self._tails[layer]

    def _group(self, layer: int, packing: Packing) -> Groups:
        """Groups change where somebody forked, so one packing has one grouping."""
        if packing not in self._groups:
            self._groups[packing] = make_groups(self._streams, layer, packing, self._llava.device)
        return self._groups[packing]
