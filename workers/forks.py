"""Where sequences fork: which tokens each grid point keeps, and which grid points share a fork.

Grid points that keep the same tokens of the same sequence at the same layer are one fork, answered for all of them.
Questions that share the rows of their image go on sharing those of the tokens that they keep alike, whether by a rule
that reads no question, which then chooses once for all of them, or by chance. A point that keeps every token, or prunes
after the last layer, stays with its sequence. A method of several stages (HiMAP) forks again from its own fork.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strategies import catalog, several
from strategies.catalog import Strategy
from strategies.evidence import EvidenceView
from strategies.positions import Positions
from strategies.quality import Concentration, concentration
from strategies.stages import Stage
from workers import evidence
from workers.made_rows import Maker, Shapes, makers_of, shapes_of, together
from workers.packed_layer import LayerAhead, LayerRead, PackedLayer
from workers.sequences import Packing, Rows, TokenSequence, fork, numbers
from workers.work import GridPoint


@dataclass(frozen=True, slots=True, eq=False)
class NewFork:
    """Sequences that begin now, one behind the other: a fork, or what is kept of an image and those that share it."""

    sequences: tuple[TokenSequence, ...]
    source_R: Tensor  # int64 on the host: which rows of the packing they continue
    maker: Maker | None  # makes other rows of the parent's visual ones, in place of the first of these
    visual: Rows  # the parent's visual rows, where there is something to make of them
    kept_K: Tensor  # int64 on the host: which of them are kept

    @property
    def sample(self) -> int:
        """The first that it is of."""
        return self.sequences[0].sample

    @property
    def layer(self) -> int:
        return self.sequences[0].layer

    @property
    def size(self) -> tuple[int, int, int]:
        """Rows, first layer and sequences: what it takes of a wave's room."""
        return len(self.source_R), self.layer, len(self.sequences)

    @property
    def image(self) -> TokenSequence:
        """What it forked from, or the run of its image that others fork from too."""
        parent = self.sequences[0].parent
        assert parent is not None
        return parent.image

    @property
    def given(self) -> tuple[TokenSequence, ...]:
        """The prefixes that its sequences attend to and that ran before, each before those that have it."""
        return self.sequences[0].prefixes


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """What one stage keeps of a sequence."""

    strategy: Strategy
    kept_K: Tensor  # on the host, once all have chosen
    scores: Concentration | None
    maker: Maker | None = None
    params: tuple = ()  # those that decide what goes on in place of the kept tokens


class Seeds(NamedTuple):
    """Texts from which the draws about a sample follow."""

    question: str  # names run and sample
    image: str  # names run and image, by its pixels

    def of(self, strategy: Strategy) -> str:
        """What a strategy draws by."""
        return self.image if strategy.draws_per == "image" else self.question


class Placement:
    """Which sequence answers which grid point of which sample, as the layers go by."""

    def __init__(
        self,
        trunks: Sequence[TokenSequence],
        points: Sequence[GridPoint],
        seeds: Sequence[Seeds],
        images: Sequence[Mapping[str, Tensor]],
        quality: bool = False,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Start with every grid point of a sample on the sample's own sequence.

        Args:
            trunks: one per sample of the micro-batch.
            points: the grid, the same for all samples.
            seeds: per sample, for strategies that draw.
            images: per sample what was read of the vision tower and of the input, (V, ...) each, and of the question.
            quality: whether the concentration of the selection scores is recorded.
            project: the projector, for strategies that merge before it.
        """
        self.seeds = seeds
        self._images = images
        self._project = project
        self.sequence_of = {(trunk.sample, index): trunk for trunk in trunks for index in range(len(points))}
        self.concentration: dict[tuple[int, int], Concentration] = {}  # (sample, point index): of the last stage
        self._quality = quality
        shares = any(point.share is not None for point in points)
        stages_of = cache(
            lambda visual: [{stage.layer: stage for stage in evidence.stages_of(one, visual)} for one in points]
        )
        self._stages = {trunk.sample: stages_of(trunk.visual if shares else 0) for trunk in trunks}  # by point index
        self._positions = [point.positions for point in points]
        self._points_of = {trunk: dict.fromkeys(range(len(points))) for trunk in trunks}  # sequence -> what it answers
        # How many sequences that answer a point have each as a run of their chain; those of none are not there.
        self.needed = Counter(run for trunk in trunks for run in trunk.chain)

    def fork_layers(self, layers: int) -> frozenset[int]:
        """Layers before which somebody may fork."""
        of_points = (stages for of_sample in self._stages.values() for stages in of_sample)
        return frozenset(layer for stages in of_points for layer in stages if layer < layers)

    def entered_layers(self) -> frozenset[int]:
        """Layers before which somebody reads what entered the layer before."""
        of_points = (stages for of_sample in self._stages.values() for stages in of_sample)
        every = {stage for stages in of_points for stage in stages.values()}
        return frozenset(one.layer for one in every if evidence.reads_entered(catalog.get(one.strategy).needs))

    def forget_images(self) -> None:
        """All have chosen: let go of what was read of the tower, which is on the device."""
        self._images = ()

    def answered(self, packing: Packing) -> tuple[TokenSequence, ...]:
        """The sequences of a packing that answer at least one point, in the order of samples and points."""
        return tuple(dict.fromkeys(one for one in self.sequence_of.values() if one in packing.starts))

    def fork_at(
        self,
        layer: int,
        packing: Packing,
        hidden_RD: Tensor,
        read: LayerRead | None,
        ahead: LayerAhead,
    ) -> list[NewFork]:
        """Let every point of ``layer`` whose sequence is in the packing choose its tokens.

        Args:
            layer: the layer about to run.
            packing: of ``hidden_RD``.
            hidden_RD: residual stream entering the layer.
            read: queries and keys of the layer before; None at layer 0.
            ahead: the layer about to run.
        """
        alike: dict[tuple[object, ...], tuple[_Choice, Positions, dict[TokenSequence, list[int]]]] = {}
        for sequence, index, choice in self._chosen(layer, packing, hidden_RD, read, ahead):
            self.concentration.pop((sequence.sample, index), None)
            if choice.scores is not None:
                self.concentration[sequence.sample, index] = choice.scores
            if len(choice.kept_K) == sequence.visual:
                continue  # nothing is dropped
            strategy = choice.strategy
            # Rows that are made with a look at the question are this question's own, whichever tokens are kept.
            owner = (
                sequence if strategy.rows and evidence.reads_question(strategy, dict(choice.params)) else sequence.image
            )
            positions = self._positions[index] or strategy.positions
            goes_on = (positions, strategy.merge, strategy.rows, choice.params)
            identity = (owner, choice.kept_K.numpy().tobytes(), *goes_on)
            alike.setdefault(identity, (choice, positions, {}))[-1].setdefault(sequence, []).append(index)
        forks = []
        for choice, positions, indices in alike.values():
            # Those that keep nothing of their image have no rows in common.
            families = [tuple(indices)] if len(choice.kept_K) else [(parent,) for parent in indices]
            for parents in families:
                forks.append(_new_fork(parents, layer, packing, choice, positions))
                for parent, child in zip(parents, forks[-1].sequences[-len(parents) :], strict=True):
                    for index in indices[parent]:
                        self._assign(index, parent, child)
        return forks

    def _assign(self, index: int, old: TokenSequence, new: TokenSequence) -> None:
        """Let another sequence of the same sample answer a point."""
        self.sequence_of[old.sample, index] = new
        if new not in self._points_of:
            self._points_of[new] = {}
            self.needed.update(new.chain)
        self._points_of[new][index] = None
        del self._points_of[old][index]
        if not self._points_of[old]:
            del self._points_of[old]
            for run in old.chain:
                self.needed[run] -= 1
                if not self.needed[run]:
                    del self.needed[run]

    def _waiting(self, layer: int, packing: Packing) -> list[tuple[TokenSequence, dict[int, Stage]]]:
        """Sequences with visual tokens, and the stages that act on them now, by point index."""
        groups = []
        for sequence in packing.sequences:
            if sequence.visual > 0 and sequence in self._points_of:
                points = self._points_of[sequence]
                known = self._stages[sequence.sample]
                stages = {index: known[index][layer] for index in points if layer in known[index]}
                if stages:
                    groups.append((sequence, stages))
        return groups

    def _chosen(
        self, layer: int, packing: Packing, hidden_RD: Tensor, read: LayerRead | None, ahead: LayerAhead
    ) -> Iterator[tuple[TokenSequence, int, _Choice]]:
        """What every waiting point keeps of its sequence; where no question is read, chosen once for an image's all."""
        waiting = self._waiting(layer, packing)
        asked: dict[TokenSequence, dict[Stage, None]] = defaultdict(dict)
        for sequence, stages in waiting:
            for stage in stages.values():
                own = evidence.stage_reads_question(stage)
                asked[sequence if own else sequence.image][stage] = None
        choices = partial(self._choices, layer, packing=packing, hidden_RD=hidden_RD, read=read, ahead=ahead)
        views = self._prepared(asked, packing, hidden_RD, ahead) if layer == 0 else {}
        chosen = _on_host(
            {place: dict(choices(place, stages, views.pop(place, None))) for place, stages in asked.items()}
        )
        for sequence, stages in waiting:
            points: dict[Stage, list[int]] = defaultdict(list)
            for index, stage in stages.items():
                points[stage].append(index)
            for place in dict.fromkeys((sequence.image, sequence)):
                for stage, choice in chosen.get(place, {}).items():
                    for index in points.get(stage, ()):
                        yield sequence, index, choice

    def _choices(
        self,
        layer: int,
        sequence: TokenSequence,
        stages: Collection[Stage],
        view: EvidenceView | None,
        packing: Packing,
        hidden_RD: Tensor,
        read: LayerRead | None,
        ahead: LayerAhead,
    ) -> Iterator[tuple[Stage, _Choice]]:
        """One choice for every stage; a strategy scores once for all its ranks.

        Where nothing or everything is kept there is nothing to score.
        """
        for stage in stages:
            if not 0 < stage.rank < sequence.visual:
                kept_K = torch.arange(min(stage.rank, sequence.visual))
                yield stage, _Choice(catalog.get(stage.strategy), kept_K, None)
        if not (groups := _choosing(sequence, stages)):
            return
        if view is None:
            view = self._view(layer, sequence, groups, packing, hidden_RD, read, ahead)
        found = []
        for (strategy, params), members in groups.items():
            seeds, own = self.seeds[sequence.sample], view
            if strategy.draws_per == "image":
                own = replace(view, seed=draw_seed(seeds.of(strategy), layer))
            chosen = strategy.choose(own, [stage.rank for stage in members], dict(params))
            # Of scores that look at something: a random order has no concentration worth the name.
            looks = self._quality and strategy.needs
            scores_V = strategy.score(own, **dict(params)) if looks and strategy.score else None
            found.append((strategy, params, own, members, chosen, scores_V))
        makers = makers_of((strategy, params, own) for strategy, params, own, *_ in found)
        for maker, (strategy, params, _, members, chosen, scores_V) in zip(makers, found, strict=True):
            for stage, kept_K in zip(members, chosen, strict=True):
                scores = None if scores_V is None else concentration(scores_V, stage.rank)
                yield stage, _Choice(strategy, kept_K, scores, maker, params if strategy.rows else ())

    def _view(
        self,
        layer: int,
        sequence: TokenSequence,
        groups: Iterable[tuple[Strategy, tuple]],
        packing: Packing,
        hidden_RD: Tensor,
        read: LayerRead | None,
        ahead: LayerAhead,
    ) -> EvidenceView:
        """All that the strategies that choose of a sequence may look at."""
        needs = frozenset[str]().union(*(strategy.needs for strategy, _ in groups))
        seed = draw_seed(self.seeds[sequence.sample].question, layer)
        place = PackedLayer(sequence, packing, hidden_RD, read, ahead)
        return evidence.view(needs, place, self._images[sequence.sample], seed, hidden_RD.device, self._project)

    def _prepared(
        self,
        asked: Mapping[TokenSequence, Collection[Stage]],
        packing: Packing,
        hidden_RD: Tensor,
        ahead: LayerAhead,
    ) -> dict[TokenSequence, EvidenceView]:
        """Views of the input in which greedy strategies have left what they choose for several images at once."""
        views: dict[TokenSequence, EvidenceView] = {}
        asking: dict[tuple[Strategy, tuple, tuple[int, ...], Shapes], list[EvidenceView]] = defaultdict(list)
        for sequence, stages in asked.items():
            groups = _choosing(sequence, stages)
            if any(strategy.together for strategy, _ in groups):
                views[sequence] = self._view(0, sequence, groups, packing, hidden_RD, None, ahead)
                shapes = shapes_of(views[sequence])
            for (strategy, params), members in groups.items():
                if strategy.together:
                    ranks = tuple(stage.rank for stage in members)
                    asking[strategy, params, ranks, shapes].append(views[sequence])
        several.look_through(list(views.values()))
        for (strategy, params, ranks, _), some in asking.items():
            step = together(some[0].visual)
            for first in range(0, len(some), step):
                strategy.prepare(some[first : first + step], ranks, dict(params))
        return views


def _on_host(chosen: Mapping[TokenSequence, Mapping[Stage, _Choice]]) -> dict[TokenSequence, dict[Stage, _Choice]]:
    """The same choices; one copy for all that lie on a device, because the host waits for each.

    Where nothing is chosen, as of a cut-off, nothing lies there, and the host runs ahead of the device.
    """
    away = [one.kept_K for choices in chosen.values() for one in choices.values() if one.kept_K.device.type != "cpu"]
    copies = iter(torch.cat(away).cpu().split([len(kept_K) for kept_K in away]) if away else ())
    return {
        place: {
            stage: one if one.kept_K.device.type == "cpu" else replace(one, kept_K=next(copies))
            for stage, one in choices.items()
        }
        for place, choices in chosen.items()
    }


def _choosing(sequence: TokenSequence, stages: Iterable[Stage]) -> dict[tuple[Strategy, tuple], list[Stage]]:
    """The stages of each strategy that has something to choose: neither nothing nor everything is kept."""
    groups: dict[tuple[Strategy, tuple], list[Stage]] = defaultdict(list)
    for stage in stages:
        if 0 < stage.rank < sequence.visual:
            groups[catalog.get(stage.strategy), stage.params].append(stage)
    return groups


def _new_fork(
    parents: tuple[TokenSequence, ...], layer: int, packing: Packing, choice: _Choice, positions: Positions
) -> NewFork:
    """The fork of a sequence, or of several that share the rows of their image."""
    kept_K, compact = choice.kept_K, positions == "compact"
    if len(parents) == 1:
        sequences = [fork(parents[0], layer, kept_K, compact)]
    else:
        image = fork(parents[0].image, layer, kept_K, compact)
        sequences = [image, *(fork(parent, layer, kept_K, compact, image) for parent in parents)]
    stay_R, text_R = parents[0].staying(kept_K), numbers(*(packing.text(parent) for parent in parents))
    return NewFork(
        sequences=tuple(sequences),
        source_R=torch.cat((stay_R + packing.image(parents[0]).start, text_R)) if len(stay_R) else text_R,
        maker=choice.maker,
        visual=packing.visual(parents[0]) if choice.maker else slice(0, 0),
        kept_K=kept_K,
    )


def draw_seed(text: str, layer: int) -> int:
    """63 bits from run, sample or image, and layer: the same on every worker, in every batch."""
    return int.from_bytes(hashlib.sha256(f"{text}|{layer}".encode()).digest()[:8], "big") >> 1


def packed_mask(kept_K: Tensor, visual: int) -> bytes:
    """Kept tokens as bits, the first token in the highest bit of the first byte."""
    flags = np.zeros(visual, dtype=np.uint8)
    flags[kept_K.numpy()] = 1
    return np.packbits(flags).tobytes()
