"""Where streams fork: which tokens each grid point keeps, and which grid points share a fork.

Grid points that keep the same tokens of the same stream at the same layer are one fork, answered for all of them. A
point that keeps every token, or prunes after the last layer, stays with its stream.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies import catalog
from strategies.catalog import Strategy
from strategies.view import Evidence, TokenView
from workers.attention import probabilities
from workers.streams import Packing, RowMove, Stream, fork, fork_rows
from workers.work import BASELINE, GridPoint

LAST_QUERIES = 5  # the longest window of last queries that a strategy reads where the text itself is shorter


@dataclass(frozen=True, slots=True)
class LayerRead:
    """What the layer before a fork leaves for the strategies: its queries and keys, and the hidden states after it."""

    packing: Packing
    query_RHE: Tensor
    key_RGE: Tensor
    scale: float


class Placement:
    """Which stream answers which grid point of which sample, as the layers go by."""

    def __init__(self, trunks: Sequence[Stream], points: Sequence[GridPoint], seeds: Sequence[str]) -> None:
        """Args:
        trunks: one per sample of the micro-batch.
        points: the grid, the same for all samples.
        seeds: per sample a text that names run and sample, for strategies that draw.
        """
        self.points = points
        self.seeds = seeds
        self.stream_of = {(trunk.sample, index): trunk for trunk in trunks for index in range(len(points))}
        self.trunks = trunks

    def fork_layers(self, layers: int) -> tuple[int, ...]:
        """Layers before which somebody may fork, ascending."""
        return tuple(sorted({p.layer for p in self.points if p.strategy != BASELINE and p.layer < layers}))

    def answered(self) -> tuple[Stream, ...]:
        """The streams that answer at least one point now, in order of appearance."""
        return tuple(dict.fromkeys(self.stream_of.values()))

    def fork_at(
        self, layer: int, packing: Packing, hidden_RD: Tensor, read: LayerRead | None, more_forks: bool
    ) -> RowMove:
        """Let every point of ``layer`` choose its tokens; the new packing and where its rows come from.

        Args:
            layer: the layer about to run.
            packing: of ``hidden_RD``.
            hidden_RD: residual stream entering the layer.
            read: queries and keys of the layer before; None at layer 0.
            more_forks: whether points of later layers still wait for the un-pruned trunks.
        """
        children: dict[tuple[Stream, bytes, bool], Stream] = {}
        origins: dict[Stream, Tensor] = {}
        for stream, indices in self._waiting(layer):
            for index, kept_K in self._choices(layer, stream, indices, packing, hidden_RD, read):
                if len(kept_K) == stream.visual:
                    continue  # nothing is dropped
                compact = catalog.get(self.points[index].strategy).positions == "compact"
                identity = (stream, kept_K.cpu().numpy().tobytes(), compact)
                if identity not in children:
                    children[identity] = fork(stream, layer, kept_K, compact)
                    origins[children[identity]] = fork_rows(stream, kept_K)
                self.stream_of[stream.sample, index] = children[identity]
        alive = set(self.answered())
        retired = frozenset() if more_forks else frozenset(trunk for trunk in self.trunks if trunk not in alive)
        forks = [s for s in packing.streams if s.parent is not None and s in alive] + list(children.values())
        return packing.repack([*self.trunks, *forks], retired, origins)

    def _waiting(self, layer: int) -> list[tuple[Stream, list[int]]]:
        groups: dict[Stream, list[int]] = defaultdict(list)
        for (_, index), stream in self.stream_of.items():
            point = self.points[index]
            if point.layer == layer and point.strategy != BASELINE and stream.visual > 0:
                groups[stream].append(index)
        return list(groups.items())

    def _choices(
        self,
        layer: int,
        stream: Stream,
        indices: Sequence[int],
        packing: Packing,
        hidden_RD: Tensor,
        read: LayerRead | None,
    ) -> Iterable[tuple[int, Tensor]]:
        """(point index, kept tokens) for every waiting point; a strategy scores once for all its ranks."""
        groups: dict[tuple[Strategy, tuple], list[int]] = defaultdict(list)
        for index in indices:
            strategy = catalog.at_layer(catalog.get(self.points[index].strategy), layer)
            params = self.points[index].params if strategy.name == self.points[index].strategy else ()
            groups[strategy, params].append(index)
        needs = frozenset().union(*(strategy.needs for strategy, _ in groups))
        view = self._view(layer, stream, needs, packing, hidden_RD, read)
        for (strategy, params), members in groups.items():
            ranks = [min(self.points[index].rank, stream.visual) for index in members]
            yield from zip(members, strategy.choose(view, ranks, dict(params)), strict=True)

    def _view(
        self,
        layer: int,
        stream: Stream,
        needs: frozenset[Evidence],
        packing: Packing,
        hidden_RD: Tensor,
        read: LayerRead | None,
    ) -> TokenView:
        attention = text_attention = None
        if needs & {Evidence.LAST_ROW, Evidence.TEXT_ROWS, Evidence.TEXT_TO_TEXT}:
            assert read is not None, "attention was asked for before the first layer"
            whole_text = bool(needs & {Evidence.TEXT_ROWS, Evidence.TEXT_TO_TEXT})
            queries = max(stream.text, min(LAST_QUERIES, stream.rows)) if whole_text else 1
            rows_HQS = probabilities(read.query_RHE, read.key_RGE, read.packing, stream, queries, read.scale)
            attention = rows_HQS[:, :, stream.system : stream.system + stream.visual]
            if Evidence.TEXT_TO_TEXT in needs:
                text_attention = rows_HQS[:, queries - stream.text :, stream.system + stream.visual :]
        return TokenView(
            visual=stream.visual,
            system=stream.system,
            text=stream.text,
            seed=_seed(self.seeds[stream.sample], layer),
            device=hidden_RD.device,
            attention_HQV=attention,
            text_attention_HTT=text_attention,
            hidden_states_VD=hidden_RD[packing.visual(stream)] if Evidence.HIDDEN in needs else None,
        )


def _seed(text: str, layer: int) -> int:
    """63 bits from run, sample and layer: the same on every worker, in every batch."""
    return int.from_bytes(hashlib.sha256(f"{text}|{layer}".encode()).digest()[:8], "big") >> 1


def packed_mask(kept_K: Tensor, visual: int) -> bytes:
    """Kept tokens as bits, the first token in the highest bit of the first byte (``numpy.packbits``)."""
    flags = torch.zeros(visual, dtype=torch.uint8)
    flags[kept_K.cpu()] = 1
    padded = torch.nn.functional.pad(flags, (0, -visual % 8)).view(-1, 8)
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)
    return bytes((padded * weights).sum(dim=1, dtype=torch.int64).to(torch.uint8).tolist())
