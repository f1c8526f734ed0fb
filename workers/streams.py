"""Which packed rows belong to whom: the trunks of the samples and the forks that prune them.

A **stream** is a run of rows that belong to one sequence: the un-pruned **trunk** of a sample, or a **fork** that
dropped visual tokens at some layer. All streams of a micro-batch lie in one packed matrix of R rows. The system rows
before the image see neither image nor question (causality), so all samples with the same system prompt share them: they
are a stream of their own, the **root**, which the others only attend to.

    root                   [system]
    trunk of sample 0              [visual . . . . . . . | text]
    fork of 0 at layer 2               [visual kept | text]
    fork of 0 at layer 3                    [visual kept | text]
    trunk of sample 1              [visual . . . . . . . | text]

A **packing** says where each stream's rows lie; it changes only at layers where somebody forks. Streams and packings
live on the host; what a device needs of a packing goes there once, so that bookkeeping never makes it wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.flash import PREFILL_TILE, tiles


@dataclass(eq=False, slots=True, kw_only=True)
class Stream:
    """One sequence of a micro-batch. Identity matters, not content: two streams are the same only if they are one."""

    sample: int  # index within the micro-batch; -1 for a root
    root: Stream | None  # whose rows are its system rows; None: it has none, or is a root
    parent: Stream | None  # what it forked from; None for a trunk or root
    layer: int  # first layer in which it has rows of its own
    system: int  # tokens before the image
    text: int  # tokens after the image
    visual_K: Tensor  # (K,) int64 on the host, the kept visual tokens as indices into the sample's image tokens
    positions_PR: Tensor  # int64 on the host, position ids of its own rows; P is 1 or 3
    next_position: int  # position id of the first decoded token
    visual: int = field(init=False)  # visual tokens it keeps
    rows: int = field(init=False)  # rows of its own

    def __post_init__(self) -> None:
        self.visual = self.visual_K.shape[0]
        self.rows = self.positions_PR.shape[1]

    @property
    def length(self) -> int:
        """Tokens it stands for, those of its root included."""
        return self.rows + (self.root.rows if self.root else 0)

    def at(self, layer: int) -> Stream:
        """The ancestor, or itself, whose rows stand for it in ``layer``."""
        return self if self.layer <= layer or self.parent is None else self.parent.at(layer)


def new_root(positions_PR: Tensor) -> Stream:
    """The tokens before an image, at least one."""
    system = positions_PR.shape[1]
    return Stream(
        sample=-1,
        root=None,
        parent=None,
        layer=0,
        system=system,
        text=0,
        visual_K=torch.arange(0),
        positions_PR=positions_PR,
        next_position=system,
    )


def new_trunk(sample: int, root: Stream | None, visual: int, positions_PS: Tensor, next_position: int) -> Stream:
    """The un-pruned sequence of a sample; a text-only prompt has neither root nor visual tokens.

    Args:
        sample: index within the micro-batch.
        root: whose rows its first tokens are.
        visual: tokens of its image, which follow.
        positions_PS: of all its tokens, the root's included.
        next_position: of the first decoded token.
    """
    system = root.rows if root else 0
    return Stream(
        sample=sample,
        root=root,
        parent=None,
        layer=0,
        system=system,
        text=positions_PS.shape[1] - system - visual,
        visual_K=torch.arange(visual),
        positions_PR=positions_PS[:, system:],
        next_position=next_position,
    )


def fork(parent: Stream, layer: int, kept_K: Tensor, compact: bool) -> Stream:
    """A continuation of ``parent`` from ``layer`` on with some of its visual tokens.

    Args:
        parent: a trunk or a fork.
        layer: first layer that runs without the dropped tokens.
        kept_K: (K,) int64 on the host, ascending, indices into the parent's visual tokens.
        compact: renumber positions without gaps (methods that prune before the decoder), or keep the original ids.
    """
    positions_PR = parent.positions_PR[:, fork_rows(parent, kept_K)]
    next_position = parent.next_position
    if compact:
        next_position = parent.system + positions_PR.shape[1]
        positions_PR = torch.arange(parent.system, next_position).expand_as(positions_PR)
    return Stream(
        sample=parent.sample,
        root=parent.root,
        parent=parent,
        layer=layer,
        system=parent.system,
        text=parent.text,
        visual_K=parent.visual_K[kept_K],
        positions_PR=positions_PR,
        next_position=next_position,
    )


def fork_rows(parent: Stream, kept_K: Tensor) -> Tensor:
    """The parent's own rows that a fork takes over: kept visual tokens, then the text."""
    return torch.cat((kept_K, torch.arange(parent.visual, parent.rows)))


@dataclass(eq=False)
class Packing:
    """Where the rows of each stream lie in the packed matrix. A root comes before the streams that have it."""

    streams: Sequence[Stream]
    starts: dict[Stream, int] = field(init=False)
    total: int = field(init=False)
    _positions: Tensor | None = field(init=False, default=None)
    _tiles: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.starts, place = {}, 0
        for stream in self.streams:
            self.starts[stream] = place
            place += stream.rows
        self.total = place

    def own(self, stream: Stream) -> slice:
        return slice(self.starts[stream], self.starts[stream] + stream.rows)

    def last_row(self, stream: Stream) -> int:
        return self.starts[stream] + stream.rows - 1

    def visual(self, stream: Stream) -> slice:
        return slice(self.starts[stream], self.starts[stream] + stream.visual)

    def keys(self, stream: Stream) -> tuple[slice, ...]:
        """The rows it attends to, in the order of its tokens: the root's, then its own; one run where they touch."""
        own = self.own(stream)
        if stream.root is None:
            return (own,)
        system = self.own(stream.root)
        return (slice(system.start, own.stop),) if system.stop == own.start else (system, own)

    def blocks(self) -> list[tuple[slice, tuple[slice, ...]]]:
        """Query rows and their key rows, the queries last among them; a root and a trunk that touches it are one."""
        blocks: list[tuple[slice, tuple[slice, ...]]] = []
        for stream in self.streams:
            keys = self.keys(stream)
            if stream.root is not None and len(keys) == 1:
                blocks[-1] = (keys[0], keys)  # in the root's place, which lies right before it
            else:
                blocks.append((self.own(stream), keys))
        return blocks

    def positions(self, device: torch.device) -> Tensor:
        """(P, R) int64 position ids on a device; made once."""
        if self._positions is None:
            self._positions = to_device(torch.cat([stream.positions_PR for stream in self.streams], dim=1), device)
        return self._positions

    def tiles(self, device: torch.device) -> Tensor:
        """Who attends to what, for the kernel: see ``flash.tiles``; made once."""
        if self._tiles is None:
            self._tiles = to_device(tiles(self.blocks(), PREFILL_TILE), device)
        return self._tiles

    def repack(self, streams: Sequence[Stream], origins: Mapping[Stream, Tensor]) -> RowMove:
        """The packing after a fork, and which old row each new row continues.

        Args:
            streams: all streams of the new packing; those not in this one are forks of streams that are.
            origins: for each new stream the rows it takes, within its parent's own rows.
        """
        source = []
        for stream in streams:
            if stream in origins:
                assert stream.parent is not None
                source.append(self.starts[stream.parent] + origins[stream])
            else:
                own = self.own(stream)
                source.append(torch.arange(own.start, own.stop))
        return RowMove(Packing(streams), torch.cat(source))


@dataclass(frozen=True, slots=True, eq=False)
class RowMove:
    """A new packing, and for each of its rows the row of the old one that it continues (int64, on the host)."""

    packing: Packing
    source_R: Tensor


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Copy bookkeeping to the device without making either side wait for the other."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def gather(rows: Tensor, slices: tuple[slice, ...]) -> Tensor:
    """The rows of a stream's keys as one tensor; a view where they already lie together."""
    return rows[slices[0]] if len(slices) == 1 else torch.cat([rows[part] for part in slices])
