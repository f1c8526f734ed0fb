"""The shared forward: every trunk and every fork of a micro-batch, layer by layer, in packed matrices.

The trunks go first, and each fork joins them at its own layer, in one packed matrix. Where that would take more memory
than there is, or more rows than keep a chip busy, the rest of the forks wait: what they start from is held, and they
run in later **waves**, forks of all samples and layers together, each entering at its own layer. Nothing of a trunk is
computed twice: of earlier waves a fork reads the keys of its prefixes and, when tokens are decoded, those of its trunk
in the layers before its own. What is kept of an image enters together with all that share it. A wave's caches go when
its answers are known.

A fork's numbers do not depend on the wave that it is in, but for the last bits of matrix products with other numbers
of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from workers.added import AddedRows
from workers.attention import attend, attend_groups, make_groups
from workers.caches import Cache, HostLink, LayerCache
from workers.decoder import Decoder, Given, Rotary
from workers.forks import NewFork, Placement
from workers.made_rows import Order, make_rows
from workers.memory import Budget, Room, RowBytes
from workers.packed_layer import LayerAhead, LayerRead
from workers.sequences import Packing, Rows, TokenSequence, gather, joined, numbers, on
from workers.trunks import pack_trunks
from workers.upload import to_device


@dataclass(frozen=True, slots=True, eq=False)
class LayerRun:
    """All that one layer computed, for those who measure it."""

    layer: int  # 0-based
    packing: Packing
    query_RHE: Tensor
    key_RGE: Tensor
    attended_RHE: Tensor  # before the output projection
    hidden_RD: Tensor  # residual stream after the layer


@dataclass(frozen=True, slots=True, eq=False)
class Prefill:
    """What a wave leaves for decoding."""

    sequences: tuple[TokenSequence, ...]  # those that answer at least one grid point
    logits_NC: Tensor  # float32, first token of each of them
    caches: list[tuple[Cache, ...]]  # for each layer; empty where one token is decoded


def prefill(
    decoder: Decoder,
    hidden_RD: Tensor,
    trunks: Sequence[TokenSequence],
    placement: Placement,
    row: RowBytes,
    budget: Budget = Budget(),  # noqa: B008 (frozen)
    observe: Callable[[LayerRun], None] | None = None,
    beside: Callable[[int], None] | None = None,
    added: AddedRows = AddedRows(),  # noqa: B008 (of no image)
) -> Iterator[Prefill]:
    """Run all decoder layers for the trunks and for every fork that the placement makes on the way.

    Args:
        decoder: the model's.
        hidden_RD: (R, D) embedded prompts, see ``embed_trunks``.
        trunks: the sequences of these rows.
        placement: decides the forks; in the end it says which sequence answers which point.
        row: bytes of rows in the model, and whether caches are kept for decoding.
        budget: of a wave; the trunks, and one fork a wave, run whether there is room or not.
        observe: called after every layer with what it computed.
        beside: called after every layer of a wave with its number, in order; what it asks of that layer's weights, and
            has come from the host, is there.
        added: what the images' rows get behind the first layers.

    Yields:
        For each wave first-token logits and the caches of all its sequences that answer a point. The caches are
        emptied when the next wave is asked for, but for those in host memory, which whoever decodes may hold on to.
    """
    below = max((trunk.next_position for trunk in trunks), default=0)
    waves = _Waves(decoder, placement, row, budget, observe, beside, added, hidden_RD, below)
    del hidden_RD
    done = waves.run(pack_trunks(trunks))
    if done is not None:
        yield done
    while waves.waiting:
        waves.hold(done)
        del done
        done = waves.next()
        if done is not None:
            yield done


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A fork that is chosen and has not run."""

    fork: NewFork  # of these rows, not of the packing's
    start_RD: Tensor  # what it starts from, and all that wait with it for the same image


class _Waves:
    """The waves of a micro-batch, one after the other."""

    def __init__(
        self,
        decoder: Decoder,
        placement: Placement,
        row: RowBytes,
        budget: Budget,
        observe: Callable[[LayerRun], None] | None,
        beside: Callable[[int], None] | None,
        added: AddedRows,
        trunks_RD: Tensor,
        below: int,
    ) -> None:
        self.waiting: list[_Waiting] = []
        # What is let go while a wave runs lies in these two: an argument would be held by whoever gave it.
        self._first_RD = trunks_RD  # rows that the next wave begins with
        self._arrivals: dict[int, list[_Waiting]] = {}  # forks that enter it on the way, by layer
        self._decoder = decoder
        self._placement = placement
        self._row = row
        self._budget = budget
        self._observe = observe
        self._beside = beside or (lambda layer: None)
        self._added = added
        self._below = below  # that no position id reaches
        self._layers = len(decoder.layers)
        self._fork_layers = placement.fork_layers(self._layers)
        self._entered_layers = placement.entered_layers()
        self._link = HostLink(decoder.device) if row.away else None
        self._prefixes: list[LayerCache | None] = [None] * self._layers  # that waiting forks have
        self._held: list[list[Cache]] = [[] for _ in range(self._layers)]  # what they decode by, of earlier waves
        self._caches: list[list[Cache]] = []  # of this wave

    def next(self) -> Prefill | None:
        """Run as many of those that wait as there is room for, at least one."""
        room = self._enter()
        arriving = [one.fork for some in self._arrivals.values() for one in some]
        prefixes = dict.fromkeys(prefix for fork in arriving for prefix in fork.given)
        return self.run(Packing([], given=list(prefixes)), room)

    def _enter(self) -> Room:
        """Choose who enters the next wave: the room that is kept for them."""
        if self._row.away:  # by sample: a wave decodes by few of the trunks, which have to come from the host
            self.waiting.sort(key=lambda one: (one.fork.sample, one.fork.layer))
        else:  # those that fork first go first: rows stay as many in all layers of a wave
            self.waiting.sort(key=lambda one: one.fork.layer)
        room = self._room()
        left: list[_Waiting]
        entering, left = self.waiting[:1], []
        room.expect(*entering[0].fork.size)
        for one in self.waiting[1:]:
            (entering if room.reserve(*one.fork.size) else left).append(one)
        self.waiting = left
        entering.sort(key=lambda one: one.fork.layer)
        self._arrivals = {layer: list(some) for layer, some in groupby(entering, lambda one: one.fork.layer)}
        return room

    def hold(self, done: Prefill | None) -> None:
        """Keep of the caches what waiting forks decode by, and let the rest go."""
        if done is not None:
            done.caches.clear()
        parents = {(sequence.parent, one.fork.layer) for one in self.waiting for sequence in one.fork.sequences}
        shared = {prefix for one in self.waiting for prefix in one.fork.given} if self._link else set()
        for layer in range(self._layers):
            needed = shared | {parent.at(layer) for parent, first in parents if parent and first > layer}
            parts, self._caches[layer] = (*self._held[layer], *self._caches[layer]), []
            self._held[layer].clear()
            self._held[layer] += [kept for part in parts if (kept := part.only(needed))]

    def run(self, packing: Packing, room: Room | None = None) -> Prefill | None:
        """One wave.

        Args:
            packing: of what is there from the first layer on; the trunks, or nothing.
            room: that is kept for the forks that enter; None: none do.

        Returns:
            Nothing, if no sequence of it answers a point: all of them have forks that wait.
        """
        decoder, last_layer = self._decoder, self._layers - 1
        first = min(self._arrivals, default=0)
        room = self._room() if room is None else room
        hidden_RD, self._first_RD = self._first_RD, torch.empty_like(self._first_RD[:0])
        self._caches = [[] for _ in range(self._layers)]
        read: LayerRead | None = None
        rotary = self._rotary(packing) if packing.total else None
        for layer in range(first, self._layers):
            if layer in self._fork_layers:
                ahead = LayerAhead(decoder, layer, packing, hidden_RD, partial(self._given, layer, packing))
                forks = self._placement.fork_at(layer, packing, hidden_RD, read, ahead)
                del ahead  # holds the rows
                read = None
                arriving = self._arrivals.pop(layer, [])
                packing, hidden_RD, moved = self._repack(layer, packing, hidden_RD, forks, arriving, room)
                del arriving
                if packing.total == 0:
                    assert not self._arrivals
                    return None  # all that is left to do waits
                rotary = self._rotary(packing) if moved else rotary
            assert rotary is not None
            if layer == last_layer and self._observe is None:
                break
            given = self._given(layer, packing)
            query_RHE, key_RGE, value_RGE = decoder.attention_inputs(layer, hidden_RD, rotary, given)
            attended_RHE = attend(query_RHE, key_RGE, value_RGE, packing, decoder.scale)
            reads_attention = layer + 1 in self._fork_layers
            entered_RD = hidden_RD.clone() if layer + 1 in self._entered_layers else None  # it is overwritten
            read = LayerRead(packing, query_RHE, key_RGE, decoder.scale, entered_RD) if reads_attention else None
            self._keep(layer, LayerCache(packing, key_RGE, value_RGE))
            if self._observe is None:
                del query_RHE, key_RGE, value_RGE
            hidden_RD = decoder.finish_layer(layer, hidden_RD, attended_RHE, self._row.piece)
            self._added.add(layer, packing, hidden_RD)
            if self._observe is not None:
                self._observe(LayerRun(layer, packing, query_RHE, key_RGE, attended_RHE, hidden_RD))
                del query_RHE, key_RGE, value_RGE
            del attended_RHE
            room.ran(packing.total)
            self._beside(layer)
        sequences = self._placement.answered(packing)
        last_rows = [packing.last_row(one) for one in sequences]
        last_N = to_device(torch.tensor(last_rows, dtype=torch.int64), hidden_RD.device)
        if self._observe is None:
            assert rotary is not None
            hidden_ND = self._last_layer(hidden_RD, rotary, packing, sequences, last_N)
            self._beside(last_layer)
        else:
            hidden_ND = hidden_RD[last_N]
        if not sequences:
            return None
        return Prefill(sequences, decoder.logits(hidden_ND), self._for_decoding())

    def _rotary(self, packing: Packing) -> Rotary:
        return self._decoder.rotary(packing.positions(self._decoder.device), self._below)

    def _last_layer(
        self,
        hidden_RD: Tensor,
        rotary: Rotary,
        packing: Packing,
        sequences: Sequence[TokenSequence],
        last_N: Tensor,
    ) -> Tensor:
        """The last layer, whose output is needed for the sequences' last rows only: (N, D)."""
        decoder, layer = self._decoder, self._layers - 1
        normed_RD, (cos, sin) = decoder.attention_norm(layer, hidden_RD), rotary
        keys_values = decoder.keys_and_values(layer, normed_RD, rotary, self._given(layer, packing))
        self._keep(layer, cache := LayerCache(packing, *keys_values))
        if not sequences:
            return hidden_RD[:0]
        query_NHE = decoder.queries(layer, normed_RD[last_N], (cos[last_N], sin[last_N]))
        groups = make_groups(sequences, packing, hidden_RD.device)
        attended_NHE = attend_groups(query_NHE, [(cache.key_RGE, cache.value_RGE, groups)], decoder.scale)
        return decoder.finish_layer(layer, hidden_RD[last_N], attended_NHE)

    def _repack(
        self,
        layer: int,
        packing: Packing,
        hidden_RD: Tensor,
        forks: Sequence[NewFork],
        arriving: Sequence[_Waiting],
        room: Room,
    ) -> tuple[Packing, Tensor, bool]:
        """The packing and its rows with the new forks that have room, and with those that enter; whether it is new."""
        needed = self._placement.needed
        older = [one for one in packing.sequences if one in needed]
        if packing.sequences and not forks and not arriving and len(older) == len(packing.sequences):
            return packing, hidden_RD, False
        for one in arriving:
            room.enter(*one.fork.size)
        entering = [sequence for one in arriving for sequence in one.fork.sequences]
        here = [*older, *entering]
        room.now(layer, sum(one.rows for one in here), len(here))
        joining: list[NewFork] = []
        later: list[NewFork] = []
        for fork in forks:
            (joining if room.admit(*fork.size) else later).append(fork)
        self._postpone(later, hidden_RD, room)
        all_stay = len(older) == len(packing.sequences)
        parts = [hidden_RD] if all_stay and older else []
        rows = [] if all_stay else [numbers(run) for run in joined(packing.own(one) for one in older)]
        rows += [fork.source_R for fork in joining]
        if rows:
            parts.append(hidden_RD[to_device(torch.cat(rows), hidden_RD.device)])
        for _, some in groupby(arriving, lambda one: id(one.start_RD)):
            group = list(some)
            take = to_device(torch.cat([one.fork.source_R for one in group]), hidden_RD.device)
            parts.append(group[0].start_RD[take])
        more = [*(one for fork in joining for one in fork.sequences), *entering]
        new = packing.with_more(more) if all_stay else Packing([*older, *more], packing.given)
        new_RD = parts[0] if len(parts) == 1 else torch.cat(parts) if parts else hidden_RD[:0]
        begun = [*((fork, hidden_RD) for fork in joining), *((one.fork, one.start_RD) for one in arriving)]
        orders = [
            Order(fork.maker, source_RD[on(fork.visual, source_RD.device)], fork.kept_K, new.visual(fork.sequences[0]))
            for fork, source_RD in begun
            if fork.maker is not None
        ]
        make_rows(orders, new_RD)
        return new, new_RD, True

    def _postpone(self, forks: Sequence[NewFork], hidden_RD: Tensor, room: Room) -> None:
        """Hold what forks start from: of all that wait for the same image each row once.

        Rows that are merged are made of all of the parent's, and are made when the fork enters.
        """
        for _, some in groupby(forks, lambda fork: fork.image):
            group = list(some)
            place_R = torch.zeros(hidden_RD.shape[0], dtype=torch.int64)
            for fork in group:
                place_R[fork.source_R] = place_R[fork.visual] = 1
            start_RD = hidden_RD[to_device(place_R.nonzero()[:, 0], hidden_RD.device)]
            place_R = place_R.cumsum(0) - 1
            room.hold(start_RD.nbytes)
            for fork in group:
                moved = replace(fork, source_R=place_R[fork.source_R], visual=_moved(fork.visual, place_R))
                self.waiting.append(_Waiting(moved, start_RD))

    def _room(self) -> Room:
        """Of a wave beside what is held."""
        held = sum(part.nbytes for parts in self._held for part in parts)
        prefixes = sum(part.nbytes for part in self._prefixes if part)
        starts = {id(one.start_RD): one.start_RD.nbytes for one in self.waiting}
        room = Room(self._budget, self._row)
        room.hold(held + prefixes + sum(starts.values()) + self._added.nbytes)
        return room

    def _keep(self, layer: int, cache: LayerCache) -> None:
        """All of it for decoding, and the keys of their prefixes for the forks that wait."""
        if self._row.keeps:
            self._caches[layer] = self._link.send(cache) if self._link else [cache]
        if self.waiting and not cache.packing.given:
            self._prefixes[layer] = cache.only({prefix for one in self.waiting for prefix in one.fork.given})

    def _given(self, layer: int, packing: Packing) -> Given | None:
        """Keys and values of the prefixes that ran in an earlier wave."""
        if not packing.given:
            return None
        cache = self._prefixes[layer]
        assert cache is not None
        rows = tuple(cache.packing.own_keys(prefix) for prefix in packing.given)
        return gather(cache.key_RGE, rows), gather(cache.value_RGE, rows)

    def _for_decoding(self) -> list[tuple[Cache, ...]]:
        if not self._row.keeps:
            return []
        return [(*held, *own) for held, own in zip(self._held, self._caches, strict=True)]


def _moved(rows: Rows, place_R: Tensor) -> Rows:
    """Rows where they are held: those that lay side by side still do."""
    if not isinstance(rows, slice):
        return place_R[rows]
    first = int(place_R[rows.start])
    return slice(first, first + rows.stop - rows.start)
