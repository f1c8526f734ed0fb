"""Which packed rows belong to whom: runs of rows, each owned once, and the chains of them that sequences attend to.

A **sequence** is the un-pruned **trunk** of a sample, or a **fork** that dropped visual tokens at some layer. All rows
of a micro-batch lie in one packed matrix of R rows, and what several sequences have in common is a run of rows of its
own, which they only attend to. By causality the system rows before the image see neither image nor question, and the
image's rows do not see the question: so all samples with the same system prompt share the first, and all questions
about one image the second, as long as they keep the same of its tokens. Such a run is a **prefix**; a sequence attends
to a **chain**: its prefix's prefix, its prefix, itself.

    prefix of all               [system]
    trunk of sample 0                   [visual . . . . . . . | text]
    fork of 0 at layer 2                    [visual kept | text]
    prefix of samples 1 and 2           [visual . . . . . . .]
    trunk of sample 1                                         [text]
    trunk of sample 2                                         [text]
    prefix of 1 and 2 at layer 3            [visual kept]
    fork of 1 at layer 3                                 [text]
    fork of 2 at layer 3                                 [text]
    fork of 2 at layer 3 alone              [visual kept | text]

An image that only one question is asked about has no run of its own. Of several images in a prompt the run goes from
the first token of the first to the last of the last: the words between them lie in it, and no fork drops them.

A **packing** says where each sequence's rows lie; it changes only at layers where somebody forks. Sequences and
packings live on the host; what a device needs of a packing goes there once, so that bookkeeping never makes it wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from workers.flash import PREFILL_TILE, key_runs, tiles
from workers.upload import to_device

Rows = slice | Tensor  # that lie side by side, or int64 on the host


@dataclass(eq=False, slots=True, kw_only=True)
class TokenSequence:
    """One sequence or prefix of a micro-batch, called so because ``Sequence`` is Python's.

    Identity matters, not content: two sequences are the same only if they are one.
    """

    sample: int  # index within the micro-batch, the first of those that share it; -1 for system rows
    prefix: TokenSequence | None  # whose rows come right before its own; None: it has none
    parent: TokenSequence | None  # what it forked from; None for what begins with the first layer
    layer: int  # first layer in which it has rows of its own
    system: int  # tokens before the image
    text: int  # tokens after the image; 0 for a prefix
    visual_K: Tensor  # (K,) int64 on the host, the kept visual tokens as indices into the sample's image tokens
    places_K: Tensor | None = None  # (K,) int64 on the host, which rows of the image's run they are; None: all
    between: int = 0  # the other rows of that run: words between images
    positions_PR: Tensor  # int64 on the host, position ids of its own rows; P is 1 or 3
    next_position: int  # position id of the first decoded token in the layers in which it has rows
    visual: int = field(init=False)  # visual tokens it keeps, its prefix's included
    rows: int = field(init=False)  # rows of its own
    prefixes: tuple[TokenSequence, ...] = field(init=False)  # its prefix's, and its prefix

    def __post_init__(self) -> None:
        self.visual = self.visual_K.shape[0]
        self.rows = self.positions_PR.shape[1]
        self.prefixes = (*self.prefix.prefixes, self.prefix) if self.prefix else ()

    @property
    def chain(self) -> tuple[TokenSequence, ...]:
        """The runs of rows that it stands for, in the order of its tokens; it is the last."""
        return (*self.prefixes, self)

    @property
    def image(self) -> TokenSequence:
        """The run that its visual tokens are rows of: its prefix, where several questions share them, or itself."""
        return self.prefix if self.prefix and self.prefix.visual else self

    def staying(self, kept_K: Tensor) -> Tensor:
        """(R,) int64 on the host: the rows of its image's run that are left with some of the visual tokens.

        The tokens come in the order in which they are given, where the tokens that are kept are.
        """
        places_K = self.image.places_K
        if places_K is None:
            return kept_K
        left_I = torch.ones(self.visual + self.between, dtype=torch.bool)
        left_I[places_K] = False
        left_I[places_K[kept_K]] = True
        stay_R = left_I.nonzero()[:, 0]
        stay_R[_seats(stay_R, places_K[kept_K])] = places_K[kept_K]
        return stay_R

    @property
    def length(self) -> int:
        """Tokens it stands for, those of its prefixes included."""
        return sum(run.rows for run in self.chain)

    def at(self, layer: int) -> TokenSequence:
        """The ancestor, or itself, whose rows stand for it in ``layer``."""
        return self if self.layer <= layer or self.parent is None else self.parent.at(layer)


def new_prefix(
    positions_PR: Tensor,
    visual: int = 0,
    prefix: TokenSequence | None = None,
    sample: int = -1,
    places_V: Tensor | None = None,
) -> TokenSequence:
    """Rows that several samples have in common: tokens before an image, at least one, or those of an image.

    Args:
        positions_PR: of these rows.
        visual: how many visual tokens there are, if the rows are an image's; else 0.
        prefix: what comes before an image.
        sample: index within the micro-batch of the first that shows an image.
        places_V: int64 on the host, which of the rows the visual tokens are; None: all, or none.
    """
    between = 0 if places_V is None else positions_PR.shape[1] - visual
    system = prefix.rows if prefix else positions_PR.shape[1] - visual - between
    return TokenSequence(
        sample=sample,
        prefix=prefix,
        parent=None,
        layer=0,
        system=system,
        text=0,
        visual_K=torch.arange(visual),
        places_K=places_V,
        between=between,
        positions_PR=positions_PR,
        next_position=system + visual + between,
    )


def new_trunk(
    sample: int,
    prefix: TokenSequence | None,
    visual: int,
    positions_PS: Tensor,
    next_position: int,
    places_V: Tensor | None = None,
    between: int = 0,
) -> TokenSequence:
    """The un-pruned sequence of a sample; a text-only prompt has neither prefix nor visual tokens.

    Args:
        sample: index within the micro-batch.
        prefix: whose rows its first tokens are, those of its image among them or not.
        visual: tokens of its images.
        positions_PS: of all its tokens, the prefixes' included.
        next_position: of the first decoded token.
        places_V: int64 on the host, where its visual tokens are from the first on; None: side by side.
        between: words between its images.
    """
    shared = prefix.length if prefix else 0
    system = prefix.system if prefix else 0
    return TokenSequence(
        sample=sample,
        prefix=prefix,
        parent=None,
        layer=0,
        system=system,
        text=positions_PS.shape[1] - system - visual - between,
        visual_K=torch.arange(visual),
        places_K=places_V,
        between=between,
        positions_PR=positions_PS[:, shared:],
        next_position=next_position,
    )


def _seats(stay_R: Tensor, kept_K: Tensor) -> Tensor:
    """Where among ascending rows some are that are kept, ascending."""
    return torch.searchsorted(stay_R, kept_K.sort().values)


def fork(
    parent: TokenSequence, layer: int, kept_K: Tensor, compact: bool, image: TokenSequence | None = None
) -> TokenSequence:
    """A continuation of ``parent`` from ``layer`` on with some of its visual tokens.

    Args:
        parent: a trunk, a fork, or the prefix that an image is.
        layer: first layer that runs without the dropped tokens.
        kept_K: (K,) int64 on the host, ascending, indices into the parent's visual tokens.
        compact: renumber positions without gaps, also those of earlier forks, or keep the ids that there are.
            Positions of three parts are kept: what numbers without gaps would be of a grid, no paper says.
        image: the prefix that these tokens are rows of, which forked from the parent's; None: they are rows of its own.
    """
    positions_PR = after_PT = parent.positions_PR[:, parent.rows - parent.text :]
    places_K = parent.places_K
    if len(stay_R := parent.staying(kept_K)):
        positions_PR = torch.cat((parent.image.positions_PR[:, stay_R], after_PT), dim=1)
    if places_K is not None:
        places_K = _seats(stay_R.sort().values, places_K[kept_K])
    next_position = parent.next_position
    if compact and len(positions_PR) == 1:
        next_position = parent.system + positions_PR.shape[1]
        positions_PR = torch.arange(parent.system, next_position).expand_as(positions_PR)
    return TokenSequence(
        sample=parent.sample,
        prefix=image or parent.image.prefix,
        parent=parent,
        layer=layer,
        system=parent.system,
        text=parent.text,
        visual_K=parent.visual_K[kept_K],
        places_K=places_K,
        between=parent.between,
        positions_PR=positions_PR[:, image.rows :] if image else positions_PR,
        next_position=next_position,
    )


class Packing:
    """Where the rows of each sequence lie in the packed matrix. A prefix comes before the sequences that have it.

    Keys and values lie in the same order, behind those that are ``given``: of prefixes that ran earlier.
    """

    def __init__(self, sequences: Iterable[TokenSequence], given: Iterable[TokenSequence] = ()) -> None:
        """Lay sequences out one behind the other."""
        self.sequences: list[TokenSequence] = []
        self.given = list(given)
        self.places: dict[TokenSequence, int] = {}  # among ``sequences``
        self.starts: dict[TokenSequence, int] = {}  # first row of each
        self.total = 0  # rows
        self._key_starts: dict[TokenSequence, int] = {}
        self._keys: dict[TokenSequence, tuple[slice, ...]] = {}
        self._runs_N6 = np.empty((0, 6), dtype=np.int64)  # the keys of each sequence, see ``flash.key_runs``
        # Of each the first row of its block of queries, the row behind it, and 1 where the next goes on with it.
        self._queries_N3 = np.empty((0, 3), dtype=np.int64)
        self._positions: Tensor | None = None
        self._tiles: Tensor | None = None
        self._given_rows = 0
        for prefix in self.given:
            self._key_starts[prefix] = self._given_rows
            self._given_rows += prefix.rows
        self._append(sequences)

    def with_more(self, more: Sequence[TokenSequence]) -> Packing:
        """The same with others behind them; what is known of these is not worked out again."""
        new = copy(self)
        new.sequences, new.places, new.starts = self.sequences.copy(), self.places.copy(), self.starts.copy()
        new._key_starts, new._keys, new._tiles = self._key_starts.copy(), self._keys.copy(), None
        new._queries_N3 = self._queries_N3.copy()
        new._append(more)
        if self._positions is not None and more:
            more_PR = torch.cat([sequence.positions_PR for sequence in more], dim=1)
            new._positions = torch.cat((self._positions, to_device(more_PR, self._positions.device)), dim=1)
        return new

    def _append(self, more: Iterable[TokenSequence]) -> None:
        before = self.sequences[-1] if self.sequences else None
        queries: list[list[int]] = []
        for sequence in more:
            self.places[sequence], self.starts[sequence] = len(self.sequences), self.total
            self._key_starts[sequence] = self._given_rows + self.total
            self.sequences.append(sequence)
            first = self.total
            self.total += sequence.rows
            if before is not None and sequence.prefix is before:  # what lies right behind its prefix is one with it
                prefix = queries[-1] if queries else self._queries_N3[-1]
                first, prefix[2] = prefix[0], 1
            queries.append([first, self.total, 0])
            before = sequence
        runs = [key_runs(self.keys(sequence)) for sequence in self.sequences[len(self._runs_N6) :]]
        self._queries_N3 = np.concatenate((self._queries_N3, np.array(queries, dtype=np.int64).reshape(-1, 3)))
        self._runs_N6 = np.concatenate((self._runs_N6, np.array(runs, dtype=np.int64).reshape(-1, 6)))

    def own(self, sequence: TokenSequence) -> slice:
        return slice(self.starts[sequence], self.starts[sequence] + sequence.rows)

    def last_row(self, sequence: TokenSequence) -> int:
        return self.starts[sequence] + sequence.rows - 1

    def image(self, sequence: TokenSequence) -> slice:
        """The rows of its images, words between them included; they may be its prefix's."""
        return slice(start := self.starts[sequence.image], start + sequence.visual + sequence.between)

    def visual(self, sequence: TokenSequence) -> Rows:
        """The rows of its visual tokens."""
        image = self.image(sequence)
        return image if sequence.places_K is None else sequence.places_K + image.start

    def text(self, sequence: TokenSequence) -> slice:
        """The rows of its tokens after the image."""
        own = self.own(sequence)
        return slice(own.stop - sequence.text, own.stop)

    def own_keys(self, sequence: TokenSequence) -> slice:
        """Where the keys and values of its own rows lie."""
        return slice(start := self._key_starts[sequence], start + sequence.rows)

    def keys(self, sequence: TokenSequence) -> tuple[slice, ...]:
        """The keys it attends to, in the order of its tokens: those of its chain; runs that touch are one."""
        if sequence not in self._keys:
            self._keys[sequence] = tuple(joined(map(self.own_keys, sequence.chain)))
        return self._keys[sequence]

    def key_runs(self, places: ArrayLike) -> np.ndarray:
        """(N, 6) the keys that some of the sequences attend to, as ``flash.key_runs`` has them."""
        runs_N6: np.ndarray = self._runs_N6[np.asarray(places, dtype=np.int64)]
        return runs_N6

    def blocks(self) -> list[tuple[slice, tuple[slice, ...]]]:
        """Query rows and their keys, those of the queries last; what lies right behind its prefix is one with it."""
        return [
            (slice(first, stop), self.keys(sequence))
            for sequence, (first, stop, goes_on) in zip(self.sequences, self._queries_N3.tolist(), strict=True)
            if not goes_on
        ]

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
            ends = self._queries_N3[:, 2] == 0
            first_B, stop_B = self._queries_N3[ends, :2].T
            blocks_B8 = np.column_stack((first_B, stop_B - first_B, self._runs_N6[ends]))
            self._tiles = to_device(tiles(blocks_B8, PREFILL_TILE), device)
        return self._tiles


def numbers(*rows: Rows) -> Tensor:
    """int64 on the host, the same rows by their numbers."""
    parts = [torch.arange(part.start, part.stop) if isinstance(part, slice) else part for part in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def on(rows: Rows, device: torch.device) -> Rows:
    """The same rows as an index for what lies on a device."""
    return rows if isinstance(rows, slice) else to_device(rows, device)


def joined(slices: Iterable[slice]) -> list[slice]:
    """The same rows in the same order; slices that touch are one."""
    runs: list[slice] = []
    for run in slices:
        if runs and runs[-1].stop == run.start:
            runs[-1] = slice(runs[-1].start, run.stop)
        else:
            runs.append(run)
    return runs


def gather(rows: Tensor, slices: Sequence[slice]) -> Tensor:
    """The rows of a sequence's keys as one tensor; a view where they already lie together."""
    return rows[slices[0]] if len(slices) == 1 else torch.cat([rows[part] for part in slices])
