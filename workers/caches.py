"""Keys and values that outlive their layer, because tokens are decoded: on the device, or in host memory.

They are most of what a wave takes, 512 KiB a row in a 7B model. Where a card could hold too few such rows, each layer's
go to pinned host memory while the next layer is computed, and come back, a layer at a time and one ahead, to what
decodes: a copy takes half as long as computing the same rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.sequences import Packing, TokenSequence, gather, joined

KeysValues = tuple[Tensor, Tensor]  # (R, G, E) each
BLOCK_BYTES = 32 << 20  # of host memory; all alike, so that one that is free serves again: pinning takes a second a GiB


@dataclass(frozen=True, slots=True, eq=False)
class LayerCache:
    """Keys and values of one layer on the device, positions applied, and whose they are."""

    packing: Packing
    key_RGE: Tensor
    value_RGE: Tensor

    @property
    def nbytes(self) -> int:
        """Of the device."""
        return self.key_RGE.nbytes + self.value_RGE.nbytes

    def only(self, sequences: Collection[TokenSequence]) -> LayerCache | None:
        """Those of some sequences and their prefixes, so that the rest can go; a copy, unless these are all."""
        kept = _with_prefixes(self.packing, sequences)
        if not kept:
            return None
        if len(kept) == len(self.packing.given) + len(self.packing.sequences):
            return self
        rows = tuple(self.packing.own_keys(sequence) for sequence in kept)
        keys, values = (gather(part, rows) for part in (self.key_RGE, self.value_RGE))
        return LayerCache(Packing(kept), *((keys.clone(), values.clone()) if len(rows) == 1 else (keys, values)))

    def fetch(self) -> None:
        """Nothing comes from elsewhere."""

    def here(self) -> KeysValues:
        """Keys and values."""
        return self.key_RGE, self.value_RGE


class HostCache:
    """Keys and values of some sequences in one layer, in host memory."""

    nbytes = 0  # of the device

    def __init__(self, sequences: tuple[TokenSequence, ...], cache: LayerCache, link: HostLink) -> None:
        """Copy those of a cache, in the link's stream.

        Args:
            sequences: whose, in the order of the cache's packing.
            cache: on the device.
            link: to the host.
        """
        self.sequences = sequences
        self.link = link
        self.groups = cache.key_RGE.shape[1]
        self.blocks: list[Tensor] = []
        together_RJE = _together(cache.key_RGE, cache.value_RGE)
        for run in joined(map(cache.packing.own_keys, sequences)):
            parts = link.room(together_RJE[run])
            for target, part_RJE in zip(parts, together_RJE[run].split([len(part) for part in parts]), strict=True):
                target.copy_(part_RJE, non_blocking=True)
            self.blocks += parts
        self.device = together_RJE.device
        self.sent = link.sending.record_event() if link.sending else None

    def only(self, sequences: Collection[TokenSequence]) -> HostCache | None:
        """All of it where some sequence is wanted: host memory is not what is short."""
        return None if set(sequences).isdisjoint(self.sequences) else self


class Fetched:
    """Keys and values of one layer that come from host memory together. One thread asks for them, in its own stream."""

    nbytes = 0  # of the device, while nothing comes

    def __init__(self, packing: Packing, parts: Sequence[HostCache]) -> None:
        """Nothing comes yet.

        Args:
            packing: of the sequences of all parts, in their order.
            parts: of one layer.
        """
        self.packing = packing
        self._parts = parts
        self._coming: tuple[Tensor, torch.cuda.Event | None] | None = None

    def fetch(self) -> None:
        """Have them come to the device, beside what is computed there; `here` must follow."""
        if self._coming is not None:
            return
        first = self._parts[0]
        like = first.blocks[0]
        rows_RJE = torch.empty((self.packing.total, *like.shape[1:]), dtype=like.dtype, device=first.device)
        if (fetching := first.link.fetching) is None:
            self._copy(rows_RJE)
            self._coming = rows_RJE, None
            return
        fetching.wait_stream(torch.cuda.current_stream())  # whoever had this memory is done with it
        with torch.cuda.stream(fetching):
            for part in self._parts:
                assert part.sent is not None
                fetching.wait_event(part.sent)
            self._copy(rows_RJE)
            # Not recorded for this stream: `here` orders whoever has this memory next, where the allocator would keep
            # it back until the fetches behind this one are done as well, and ask the card for more meanwhile.
            self._coming = rows_RJE, fetching.record_event()

    def here(self) -> KeysValues:
        """On the device, and no longer held by this."""
        self.fetch()
        assert self._coming is not None
        (rows_RJE, arrived), self._coming = self._coming, None
        if arrived is not None:
            torch.cuda.current_stream().wait_event(arrived)
        groups = self._parts[0].groups
        return rows_RJE[:, :groups], rows_RJE[:, groups:]

    def _copy(self, rows_RJE: Tensor) -> None:
        blocks = [block for part in self._parts for block in part.blocks]
        for target, block in zip(rows_RJE.split([len(block) for block in blocks]), blocks, strict=True):
            target.copy_(block, non_blocking=True)


Cache = LayerCache | HostCache  # as a wave leaves it
Prompts = LayerCache | Fetched  # as decoding reads it


class Prompter:
    """Of what waves have left of a layer, that which some sequences decode by."""

    def __init__(self) -> None:
        self._packings: dict[tuple[int, ...], Packing] = {}  # of parts, by the identity of their sequences
        self._last = Packing(())

    def of(self, caches: Sequence[Cache], owners: Collection[TokenSequence]) -> list[Prompts]:
        """Caches on the device as they are; of those in host memory the parts that the owners have, as one.

        Args:
            caches: of one layer, all of them alive as long as this is.
            owners: the sequences whose rows are decoded by, without their prefixes.
        """
        here: list[Prompts] = [cache for cache in caches if isinstance(cache, LayerCache)]
        there = [cache for cache in caches if isinstance(cache, HostCache)]
        if not there:
            return here
        wanted = {run for owner in set(owners) for run in owner.chain}
        parts = [part for part in there if not wanted.isdisjoint(part.sequences)]
        key = tuple(id(part.sequences) for part in parts)
        if key not in self._packings:
            self._packings[key] = self._packing([sequence for part in parts for sequence in part.sequences])
        return [*here, Fetched(self._packings[key], parts)]

    def _packing(self, sequences: list[TokenSequence]) -> Packing:
        """Of so many sequences; mostly those of the layer before, and those that begin here."""
        before, count = self._last, len(self._last.sequences)
        extends = before.sequences == sequences[:count]
        self._last = before.with_more(sequences[count:]) if extends else Packing(sequences)
        return self._last


class HostLink:
    """The way of one micro-batch's caches to host memory and back: a stream each way, beside what is computed."""

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self.sending = torch.cuda.Stream(device) if on_gpu else None
        self.fetching = torch.cuda.Stream(device) if on_gpu else None
        self._flying: tuple[LayerCache, torch.cuda.Event] | None = None  # held until it has been sent
        self._parts: dict[Packing, list[tuple[TokenSequence, ...]]] = {}
        self._known: dict[tuple[TokenSequence, ...], tuple[TokenSequence, ...]] = {}  # the same sequences are one tuple
        self._block = torch.empty(0, dtype=torch.uint8)  # what is left of it

    def room(self, rows_RJE: Tensor) -> list[Tensor]:
        """Host memory for so many rows, in parts of blocks, which are free again when all parts are."""
        parts, wanted, size = [], len(rows_RJE), rows_RJE[:1].nbytes
        while wanted:
            if len(self._block) < size:
                pinned = self.sending is not None
                self._block = torch.empty(max(BLOCK_BYTES, size), dtype=torch.uint8, pin_memory=pinned)
            count = min(wanted, len(self._block) // size)
            part, self._block = self._block[: count * size], self._block[count * size :]
            parts.append(part.view(rows_RJE.dtype).view(count, *rows_RJE.shape[1:]))
            wanted -= count
        return parts

    def send(self, cache: LayerCache) -> list[Cache]:
        """What all share, the trunks of each image and all forks, apart: later waves read those of some trunks.

        No more than one layer is on its way: the next waits for it.
        """
        if self._flying is not None:
            torch.cuda.current_stream().wait_event(self._flying[1])
        self._flying = None
        parts = self._parts.get(cache.packing)
        if parts is None:
            parts = [self._known.setdefault(part, part) for part in _parts(cache.packing)]
            self._parts[cache.packing] = parts
        if self.sending is None:
            return [HostCache(part, cache, self) for part in parts]
        self.sending.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.sending):
            sent: list[Cache] = [HostCache(part, cache, self) for part in parts]
            self._flying = cache, self.sending.record_event()
        return sent


def _parts(packing: Packing) -> list[tuple[TokenSequence, ...]]:
    """What lies before images, each image with its trunks, and all forks."""
    systems: list[TokenSequence] = []
    images: dict[TokenSequence, list[TokenSequence]] = defaultdict(list)
    forks: list[TokenSequence] = []
    for one in packing.sequences:
        if one.parent is not None:
            forks.append(one)
        elif one.sample < 0:
            systems.append(one)
        else:
            images[one.image].append(one)
    return [tuple(part) for part in (systems, *images.values(), forks) if part]


def _with_prefixes(packing: Packing, sequences: Collection[TokenSequence]) -> list[TokenSequence]:
    """Which of a packing's sequences these are, and the prefixes that they attend to, in the packing's order."""
    wanted = {run for sequence in packing.sequences if sequence in sequences for run in sequence.chain}
    return [sequence for sequence in (*packing.given, *packing.sequences) if sequence in wanted]


def _together(key_RGE: Tensor, value_RGE: Tensor) -> Tensor:
    """(R, 2 G, E): a view where they are halves of one buffer, as the decoder makes them on a GPU."""
    rows, groups, width = key_RGE.shape
    halves = value_RGE.data_ptr() == key_RGE.data_ptr() + groups * width * key_RGE.element_size()
    if halves and key_RGE.stride() == value_RGE.stride() == (2 * groups * width, width, 1):
        return key_RGE.as_strided((rows, 2 * groups, width), key_RGE.stride())
    return torch.cat((key_RGE, value_RGE), dim=1)
