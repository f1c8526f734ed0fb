"""Greedy decoding of many sequences together, each with its own cache, until each has ended.

The tokens were chosen at prefill and stay chosen (FastV's key-value cache variant; FinePruner, SparseVLM): in the
layers before the fork a new token attends to the whole image, from the fork on to the kept tokens. In those first
layers all sequences of a sample attend to the same rows, which are read once for all of them; what a sequence has
decoded itself is attended to apart, and the two parts are joined. Where a fork renumbers positions, a new token has
another id in the layers before it than after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from workers.attention import Groups, attend_groups, make_groups
from workers.caches import Prompter, Prompts
from workers.decoder import Decoder, Rotary
from workers.families.config import ModelError
from workers.memory import FIRST_ROOM
from workers.prefill import Prefill
from workers.sequences import Packing, TokenSequence
from workers.upload import Download, to_device

LEAVE_TOGETHER = 0.25  # share of the batch that has ended before it is packed anew, which costs the host some time


class Greedy:
    """The answers of a wave's sequences, token by token, each the most likely."""

    def __init__(
        self,
        decoder: Decoder,
        start: Prefill,
        max_new_tokens: int,
        end_tokens: frozenset[int],
        rides: bool = False,
    ) -> None:
        """Take the first token of each.

        Args:
            decoder: the model's.
            start: first-token logits and caches.
            max_new_tokens: >= 1, the first token included.
            end_tokens: ids that end an answer.
            rides: whether the second token is taken beside the prefill of another wave. Then nobody waits for the
                first to be known: the host should be laying that wave out, and few answers end there.
        """
        self._answers: list[list[int]] = [[] for _ in start.sequences]
        self._running = list(range(len(self._answers)))  # sequences in the batch; some may have ended
        self._ended: set[int] = set()
        self._max_new_tokens = max_new_tokens
        self._end_tokens = end_tokens
        self._rides = rides
        self._taken = 0  # tokens of each that runs
        self._unread: list[tuple[list[int], Download]] = []  # whose they are, and tokens
        self._decoding = Decoding(decoder, start, max_new_tokens - 1) if max_new_tokens > 1 else None
        self._take(start.logits_NC)

    def reach(self, layer: int) -> None:
        """Take the next token through the layers as far as this one, which are on the device now."""
        if self._decoding is not None:
            self._decoding.reach(layer)

    def finish(self) -> None:
        """Go on to the end; the last tokens may still be on their way."""
        while self._decoding is not None:
            self._take(self._decoding.logits())

    def answers(self) -> list[list[int]]:
        """Per sequence the generated ids; the last is an end token unless ``max_new_tokens`` was reached."""
        assert self._decoding is None
        self._read()
        return self._answers

    def _take(self, logits_NC: Tensor) -> None:
        """One token of each, and the next step unless all have ended."""
        highest_N, tokens_N = logits_NC.max(dim=-1)
        self._unread.append((self._running, Download(highest_N.isfinite().all(), tokens_N)))
        self._taken += 1
        if self._decoding is None or self._taken == self._max_new_tokens:
            self._decoding = None
            return
        if not (self._rides and self._taken == 1):
            self._read()
            still = [place for place, n in enumerate(self._running) if n not in self._ended]
            if not still:
                self._decoding = None
                return
            if len(self._running) - len(still) >= LEAVE_TOGETHER * len(self._running):
                self._running = [self._running[place] for place in still]
                tokens_N = tokens_N[to_device(torch.tensor(still), tokens_N.device)]
                self._decoding.keep(still)
        self._decoding.begin(tokens_N)

    def _read(self) -> None:
        """Wait for tokens that were taken."""
        for running, download in self._unread:
            finite, tokens = download.read()
            if not finite:
                raise ModelError("the model's logits are not finite; try dtype bfloat16 or float32")
            for n, token in zip(running, tokens, strict=True):
                if n not in self._ended:
                    self._answers[n].append(token)
            self._ended |= {n for n, token in zip(running, tokens, strict=True) if token in self._end_tokens}
        self._unread.clear()


class Decoding:
    """The sequences that are still decoding, and the keys and values of what they have decoded."""

    def __init__(self, decoder: Decoder, start: Prefill, room: int) -> None:
        """Begin with all sequences of a prefill. Bookkeeping is done here, while a GPU still works on the prefill.

        Args:
            decoder: the model's.
            start: what the prefill left.
            room: tokens that each may be fed.
        """
        self._room = room
        self._decoder = decoder
        self._caches = list(start.caches)  # the prefill's own are emptied when it goes on
        self._layers = len(self._caches)
        self._reached = self._layers  # of this step
        self._sequences = list(start.sequences)
        self._decoded_caches: list[tuple[Tensor, Tensor]] = []  # a layer: (N, room, G, E) keys and values
        self._steps = 0
        self._prompter = Prompter()
        self._prompts: dict[int, list[tuple[Prompts, Groups]]] = {}  # by layer
        self._groups: dict[Packing, Groups] = {}
        self._numbering = (0, *_renumbered(self._sequences))  # J layers, from each of which on ids are others
        next_ids = [[one.at(layer).next_position for one in self._sequences] for layer in self._numbering]
        self._next_JN = torch.tensor(next_ids)  # position id of each sequence's first decoded token
        self._rotaries: dict[int, Rotary] = {}  # of this step's tokens, by these layers
        for layer in range(self._layers):
            self._attended(layer)

    def begin(self, tokens_N: Tensor) -> None:
        """Feed one token to each sequence."""
        assert self._reached == self._layers
        self._hidden_ND = self._decoder.embed(tokens_N)
        positions_PR = self._positions()
        turned = self._decoder.rotary(to_device(positions_PR, self._decoder.device), int(positions_PR.max()) + 1)
        cos, sin = (table.split(len(self._sequences)) for table in turned)
        self._rotaries = dict(zip(self._numbering, zip(cos, sin, strict=True), strict=True))
        self._reached = 0
        for cache, _ in self._attended(0):
            cache.fetch()

    def reach(self, last: int) -> None:
        """Go through the layers up to and with this one, as far as that is still to do."""
        decoder = self._decoder
        while self._reached <= min(last, self._layers - 1):
            layer = self._reached
            prompts = [(*cache.here(), groups) for cache, groups in self._attended(layer)]
            for cache, _ in self._attended(layer + 1) if layer + 1 < self._layers else ():
                cache.fetch()
            rotary = self._rotaries[max(first for first in self._numbering if first <= layer)]
            query_NHE, key_NGE, value_NGE = decoder.attention_inputs(layer, self._hidden_ND, rotary)
            decoded_caches = self._append(layer, key_NGE, value_NGE)
            attended_NHE = attend_groups(query_NHE, prompts, decoder.scale, decoded_caches)
            self._hidden_ND = decoder.finish_layer(layer, self._hidden_ND, attended_NHE)
            self._reached += 1

    def logits(self) -> Tensor:
        """(N, C) of the next tokens, after all layers."""
        self.reach(self._layers - 1)
        self._steps += 1
        return self._decoder.logits(self._hidden_ND)

    def _positions(self) -> Tensor:
        """(P, J * N) position ids of this step's tokens; what is decoded is text, whose P rows are alike."""
        next_R = (self._next_JN + self._steps).flatten()
        return next_R.expand(len(self._sequences[0].positions_PR), -1)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the sequences."""
        self._sequences = [self._sequences[place] for place in places]
        self._next_JN = self._next_JN[:, list(places)]
        chosen = to_device(torch.tensor(places), self._decoder.device)
        self._decoded_caches = [(keys[chosen], values[chosen]) for keys, values in self._decoded_caches]
        self._groups.clear()
        self._prompts.clear()

    def _append(self, layer: int, key_NGE: Tensor, value_NGE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens decoded so far, (N, T, G, E) each, in buffers that double when full."""
        if len(self._decoded_caches) == layer:
            shape = (key_NGE.shape[0], min(FIRST_ROOM, self._room), *key_NGE.shape[1:])
            self._decoded_caches.append((key_NGE.new_empty(shape), value_NGE.new_empty(shape)))
        keys, values = self._decoded_caches[layer]
        if self._steps == keys.shape[1]:
            keys, values = (torch.cat((tail, torch.empty_like(tail)), dim=1) for tail in (keys, values))
            self._decoded_caches[layer] = (keys, values)
        keys[:, self._steps], values[:, self._steps] = key_NGE, value_NGE
        return keys[:, : self._steps + 1], values[:, : self._steps + 1]

    def _attended(self, layer: int) -> list[tuple[Prompts, Groups]]:
        """The prompts' keys and values of a layer, and who attends to which."""
        if layer not in self._prompts:
            owners = [sequence.at(layer) for sequence in self._sequences]
            attended = []
            for prompts in self._prompter.of(self._caches[layer], owners):
                packing = prompts.packing
                if packing not in self._groups:  # groups change where somebody forked, so one packing has one
                    self._groups[packing] = make_groups(owners, packing, self._decoder.device)
                if self._groups[packing].counts:
                    attended.append((prompts, self._groups[packing]))
            self._prompts[layer] = attended
        return self._prompts[layer]


def _renumbered(sequences: Iterable[TokenSequence]) -> tuple[int, ...]:
    """Layers after the first in which some sequence's tokens have other position ids than in the layer before."""
    layers = set()
    for sequence in sequences:
        run = sequence
        while run.parent is not None:
            if run.layer > 0 and run.next_position != run.parent.next_position:
                layers.add(run.layer)
            run = run.parent
    return tuple(sorted(layers))
