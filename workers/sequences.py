"""Which packed rows belong to whom: the trunks of the samples and the forks that prune them.

A **sequence** is the un-pruned **trunk** of a sample, or a **fork** that dropped visual tokens at some layer; its own
tokens are a run of rows. All sequences of a micro-batch lie in one packed matrix of R rows. The system rows
before the image see neither image nor question (causality), so all samples with the same system prompt share them: they
are a sequence of their own, the **shared prefix**, which the others only attend to.

    shared prefix          [system]
    trunk of sample 0              [visual . . . . . . . | text]
    fork of 0 at layer 2               [visual kept | text]
    fork of 0 at layer 3                    [visual kept | text]
    trunk of sample 1              [visual . . . . . . . | text]

A **packing** says where each sequence's rows lie; it changes only at layers where somebody forks. Sequences and
packings live on the host; what a device needs of a packing goes there once, so that bookkeeping never makes it wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.flash import PREFILL_TILE, tiles


@dataclass(eq=False, slots=True, kw_only=True)
class TokenSequence:
    """One sequence of a micro-batch, called so because ``Sequence`` is Python's.

    Identity matters, not content: two sequences are the same only if they are one.
    """

    sample: int  # index within the micro-batch; -1 for a prefix
    prefix: TokenSequence | None  # whose rows are its system rows; None: it has none, or is a prefix
    parent: TokenSequence | None  # what it forked from; None for a trunk or prefix
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
        """Tokens it stands for, those of its prefix included."""
        return self.rows + (self.prefix.rows if self.prefix else 0)

    def at(self, layer: int) -> TokenSequence:
        """The ancestor, or itself, whose rows stand for it in ``layer``."""
        return self if self.layer <= layer or self.parent is None else self.parent.at(layer)


def new_prefix(positions_PR: Tensor) -> TokenSequence:
    """The tokens before an image, at least one."""
    system = positions_PR.shape[1]
    return TokenSequence(
        sample=-1,
        prefix=None,
        parent=None,
        layer=0,
        system=system,
        text=0,
        visual_K=torch.arange(0),
        positions_PR=positions_PR,
        next_position=system,
    )


def new_trunk(
    sample: int, prefix: TokenSequence | None, visual: int, positions_PS: Tensor, next_position: int
) -> TokenSequence:
    """The un-pruned sequence of a sample; a text-only prompt has neither prefix nor visual tokens.

    Args:
        sample: index within the micro-batch.
        prefix: whose rows its first tokens are.
        visual: tokens of its image, which follow.
        positions_PS: of all its tokens, the prefix's included.
        next_position: of the first decoded token.
    """
    system = prefix.rows if prefix else 0
    return TokenSequence(
        sample=sample,
        prefix=prefix,
        parent=None,
        layer=0,
        system=system,
        text=positions_PS.shape[1] - system - visual,
        visual_K=torch.arange(visual),
        positions_PR=positions_PS[:, system:],
        next_position=next_position,
    )


def fork(parent: TokenSequence, layer: int, kept_K: Tensor, compact: bool) -> TokenSequence:
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
    return TokenSequence(
        sample=parent.sample,
        prefix=parent.prefix,
        parent=parent,
        layer=layer,
        system=parent.system,
        text=parent.text,
        visual_K=parent.visual_K[kept_K],
        positions_PR=positions_PR,
        next_position=next_position,
    )


def fork_rows(parent: TokenSequence, kept_K: Tensor) -> Tensor:
    """The parent's own rows that a fork takes over: kept visual tokens, then the text."""
    return torch.cat((kept_K, torch.arange(parent.visual, parent.rows)))


@dataclass(eq=False)
class Packing:
    """Where the rows of each sequence lie in the packed matrix. A prefix comes before the sequences that have it."""

    sequences: Sequence[TokenSequence]
    starts: dict[TokenSequence, int] = field(init=False)
    total: int = field(init=False)
    _positions: Tensor | None = field(init=False, default=None)
    _tiles: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.starts, place = {}, 0
        for sequence in self.sequences:
            self.starts[sequence] = place
            place += sequence.rows
        self.total = place

    def own(self, sequence: TokenSequence) -> slice:
        return slice(self.starts[sequence], self.starts[sequence] + sequence.rows)

    def last_row(self, sequence: TokenSequence) -> int:
        return self.starts[sequence] + sequence.rows - 1

    def visual(self, sequence: TokenSequence) -> slice:
        return slice(self.starts[sequence], self.starts[sequence] + sequence.visual)

    def keys(self, sequence: TokenSequence) -> tuple[slice, ...]:
        """The rows it attends to, in the order of its tokens: the prefix's, then its own; one run where they touch."""
        own = self.own(sequence)
        if sequence.prefix is None:
            return (own,)
        system = self.own(sequence.prefix)
        return (slice(system.start, own.stop),) if system.stop == own.start else (system, own)

    def blocks(self) -> list[tuple[slice, tuple[slice, ...]]]:
        """Query rows and their key rows, the queries last among them; a prefix and a trunk that touches it are one."""
        blocks: list[tuple[slice, tuple[slice, ...]]] = []
        for sequence in self.sequences:
            keys = self.keys(sequence)
            if sequence.prefix is not None and len(keys) == 1:
                blocks[-1] = (keys[0], keys)  # in the prefix's place, which lies right before it
            else:
                blocks.append((self.own(sequence), keys))
        return blocks

    def positions(self, device: torch.device) -> Tensor:
        """(P, R) int64 position ids on a device; made once."""
        if self._positions is None:
            self._positions = to_device(
                torch.cat([sequence.positions_PR for sequence in self.sequences], dim=1), device
            )
        return self._positions

    def tiles(self, device: torch.device) -> Tensor:
        """Who attends to what, for the kernel: see ``flash.tiles``; made once."""
        if self._tiles is None:
            self._tiles = to_device(tiles(self.blocks(), PREFILL_TILE), device)
        return self._tiles

    def repack(self, sequences: Sequence[TokenSequence], origins: Mapping[TokenSequence, Tensor]) -> RowMove:
        """The packing after a fork, and which old row each new row continues.

        Args:
            sequences: all sequences of the new packing; those not in this one are forks of sequences that are.
            origins: for each new sequence the rows it takes, within its parent's own rows.
        """
        source = []
        for sequence in sequences:
            if sequence in origins:
                assert sequence.parent is not None
                source.append(self.starts[sequence.parent] + origins[sequence])
            else:
                own = self.own(sequence)
                source.append(torch.arange(own.start, own.stop))
        return RowMove(Packing(sequences), torch.cat(source))


@dataclass(frozen=True, slots=True, eq=False)
class RowMove:
    """A new packing, and for each of its rows the row of the old one that it continues (int64, on the host)."""

    packing: Packing
    source_R: Tensor


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Copy bookkeeping to the device without making either side wait for the other."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def gather(rows: Tensor, slices: tuple[slice, ...]) -> Tensor:
    """The rows of a sequence's keys as one tensor; a view where they already lie together."""
    return rows[slices[0]] if len(slices) == 1 else torch.cat([rows[part] for part in slices])
