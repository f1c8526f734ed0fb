"""Greedy decoding of many sequences together, each with its own cache, until each has ended.

The tokens were chosen at prefill and stay chosen (FastV's key-value cache variant; FinePruner, SparseVLM): in the
layers before the fork a new token attends to the whole image, from the fork on to the kept tokens. In those first
layers all sequences of a sample attend to the same rows, which are read once for all of them; what a sequence has
decoded itself is attended to apart, and the two parts are joined.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.attention import Groups, attend_groups, make_groups
from workers.decoder import Decoder
from workers.families.config import ModelError
from workers.prefill import Prefill
from workers.sequences import Packing, to_device

FIRST_ROOM = 4  # decoded tokens; most multiple-choice answers end at the second
LEAVE_TOGETHER = 0.25  # share of the batch that has ended before it is packed anew, which costs the host some time


def greedy(decoder: Decoder, start: Prefill, max_new_tokens: int, end_tokens: frozenset[int]) -> list[list[int]]:
    """Decode every sequence of a prefill.

    Args:
        decoder: the model's.
        start: first-token logits and caches.
        max_new_tokens: >= 1, the first token included.
        end_tokens: ids that end an answer.

    Returns:
        Per sequence the generated ids; the last is an end token unless ``max_new_tokens`` was reached.
    """
    answers: list[list[int]] = [[] for _ in start.sequences]
    running = list(range(len(answers)))  # sequences in the batch; some may have ended
    ended: set[int] = set()
    decoding = Decoding(decoder, start)
    logits_NC = start.logits_NC
    for step in range(1, max_new_tokens + 1):
        highest_N, tokens_N = logits_NC.max(dim=-1)
        if not highest_N.isfinite().all():
            raise ModelError("the model's logits are not finite; try dtype bfloat16 or float32")
        tokens = tokens_N.tolist()
        for n, token in zip(running, tokens, strict=True):
            if n not in ended:
                answers[n].append(token)
        ended |= {n for n, token in zip(running, tokens, strict=True) if token in end_tokens}
        still = [place for place, n in enumerate(running) if n not in ended]
        if not still or step == max_new_tokens:
            break
        if len(running) - len(still) >= LEAVE_TOGETHER * len(running):
            running, tokens = [running[place] for place in still], [tokens[place] for place in still]
            decoding.keep(still)
        logits_NC = decoding.step(tokens)
    return answers


class Decoding:
    """The sequences that are still decoding, and the keys and values of what they have decoded."""

    def __init__(self, decoder: Decoder, start: Prefill) -> None:
        """Begin with all sequences of a prefill. Bookkeeping is done here, while a GPU still works on the prefill."""
        self._decoder = decoder
        self._caches = start.caches
        self._sequences = list(start.sequences)
        self._decoded_caches: list[tuple[Tensor, Tensor]] = []  # a layer: (N, room, G, E) keys and values
        self._steps = 0
        self._groups: dict[Packing, Groups] = {}
        for layer, cache in enumerate(start.caches):
            self._group(layer, cache.packing)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Feed one token to each sequence: (N, C) logits of the next."""
        decoder = self._decoder
        hidden_ND = decoder.embed(to_device(torch.tensor(tokens), decoder.device))
        rotary = decoder.rotary(to_device(self._positions(), decoder.device))
        for layer, cache in enumerate(self._caches):
            groups = self._group(layer, cache.packing)
            query_NHE, key_NGE, value_NGE = decoder.attention_inputs(layer, hidden_ND, rotary)
            decoded_caches = self._append(layer, key_NGE, value_NGE)
            attended_NHE = attend_groups(
                query_NHE, cache.key_RGE, cache.value_RGE, groups, cache.packing, decoder.scale, decoded_caches
            )
            hidden_ND = decoder.finish_layer(layer, hidden_ND, attended_NHE)
        self._steps += 1
        return decoder.logits(hidden_ND)

    def _positions(self) -> Tensor:
        """(P, N) position ids of this step's tokens; what is decoded is text, whose P rows are alike."""
        next_N = torch.tensor([sequence.next_position for sequence in self._sequences]) + self._steps
        return next_N.expand(len(self._sequences[0].positions_PR), -1)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the sequences."""
        self._sequences = [self._sequences[place] for place in places]
        chosen = torch.tensor(places, device=self._decoder.device, dtype=torch.int64)
        self._decoded_caches = [(keys[chosen], values[chosen]) for keys, values in self._decoded_caches]
        self._groups.clear()

    def _append(self, layer: int, key_NGE: Tensor, value_NGE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens decoded so far, (N, T, G, E) each, in buffers that double when full."""
        if len(self._decoded_caches) == layer:
            shape = (key_NGE.shape[0], FIRST_ROOM, *key_NGE.shape[1:])
            self._decoded_caches.append((key_NGE.new_empty(shape), value_NGE.new_empty(shape)))
        keys, values = self._decoded_caches[layer]
        if self._steps == keys.shape[1]:
            keys, values = (torch.cat((tail, torch.empty_like(tail)), dim=1) for tail in (keys, values))
            self._decoded_caches[layer] = (keys, values)
        keys[:, self._steps], values[:, self._steps] = key_NGE, value_NGE
        return keys[:, : self._steps + 1], values[:, : self._steps + 1]

    def _group(self, layer: int, packing: Packing) -> Groups:
        """Groups change where somebody forked, so one packing has one grouping."""
        if packing not in self._groups:
            self._groups[packing] = make_groups(self._sequences, layer, packing, self._decoder.device)
        return self._groups[packing]
