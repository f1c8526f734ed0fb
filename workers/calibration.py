"""How many tokens FitPrune drops in which layer of a model: found on some samples, once, for each budget.

Source: Ye et al., arXiv:2409.10197; ywh187/FitPrune, LLaVA_1.5/llava/eval/statistical_analysis.py, and the same file of
Theia-4869/FitPrune.
In each layer a sample may lose a share of the attention that its visual tokens received there from one another, and the
same share of what they received from the text, un-pruned: those tokens go that are among the least in both. The share
is the same in all layers, and the smallest that meets the budget, by bisection. A list says the mean over the samples.
We differ: a budget is the average number of visual tokens in the decoder's layers, as everywhere in this project, where
the authors count the FLOPs of LLaVA-1.5-7B; what is left after a layer is rounded, where they round down what goes in
each, and so miss their budget; of the shares that were tried the smallest that meets it counts, where theirs is the
last; and the last number is such that the budget is met exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from strategies.budget import average_of_stages
from strategies.errors import UsageError
from workers.attention import attend
from workers.decoder import Decoder
from workers.families.model import Encoded, Model
from workers.packed_layer import LayerRead, PackedLayer
from workers.sequences import TokenSequence, fork, numbers
from workers.trunks import embed_trunks, make_trunks, pack_trunks
from workers.upload import to_device

TOGETHER = 8  # samples whose rows are one matrix
WIDTH = 0.01  # of the shares between which the smallest lies, when it is found


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A grid point of ``fitprune``: what is left of the visual tokens after which layer."""

    layer: int  # of the first stage
    rank: int  # that it leaves
    left: tuple[int, ...]  # after each of the layers that follow, one at least
    average: float  # of all layers
    share: float  # of the attention that a layer may lose


Looks = tuple[Tensor, Tensor]  # (V,) attention received from visual tokens and from text, mean over them


class _Walk:
    """Some samples on their way through the decoder, each with the visual tokens that it still has."""

    def __init__(self, decoder: Decoder, trunks: Sequence[TokenSequence], rows_RD: Tensor) -> None:
        """Begin before the first layer.

        Args:
            decoder: the model's.
            trunks: one a sample.
            rows_RD: of ``pack_trunks``; they are not written to.
        """
        self.alive = list(trunks)
        self._decoder, self._packing, self._hidden_RD = decoder, pack_trunks(trunks), rows_RD.clone()

    def run(self, layer: int) -> list[Looks]:
        """Run a layer; for each sample what its visual tokens received, of each pair of tokens in the largest head."""
        decoder, packing = self._decoder, self._packing
        rotary = decoder.rotary(packing.positions(decoder.device))
        query_RHE, key_RGE, value_RGE = decoder.attention_inputs(layer, self._hidden_RD, rotary)
        attended_RHE = attend(query_RHE, key_RGE, value_RGE, packing, decoder.scale)
        self._hidden_RD = decoder.finish_layer(layer, self._hidden_RD, attended_RHE)
        read, found = LayerRead(packing, query_RHE, key_RGE, decoder.scale), []
        for sequence in self.alive:
            place = PackedLayer(sequence, packing, self._hidden_RD, read)
            text_HTV = place.last_rows(place.text)[:, :, place.system : place.system + place.visual]
            image_V = place.visual_block().amax(dim=0).mean(dim=0)
            found.append((image_V.double(), text_HTV.amax(dim=0).mean(dim=0).double()))
        return found

    def keep(self, layer: int, kept: Sequence[Tensor]) -> None:
        """Go on before a layer with some of each sample's tokens, (K,) int64 on the host, ascending."""
        now = [fork(one, layer, kept_K, compact=False) for one, kept_K in zip(self.alive, kept, strict=True)]
        parents, rows, old = dict(zip(now, zip(self.alive, kept, strict=True), strict=True)), [], self._packing
        self._packing = pack_trunks(now)
        for run in self._packing.sequences:
            if run in parents:
                parent, kept_K = parents[run]
                rows += [kept_K + old.image(parent).start, numbers(old.text(parent))]
            else:
                rows.append(numbers(old.own(run)))
        self._hidden_RD = self._hidden_RD[to_device(torch.cat(rows), self._hidden_RD.device)]
        self.alive = now


@torch.inference_mode()
def calibrate(
    model: Model,
    prompts: Sequence[Encoded],
    budgets: Sequence[int],
    progress: Callable[[float], None] = lambda share: None,
) -> list[Fitted]:
    """What to keep after which layer, for each budget.

    Args:
        model: whose images all have as many tokens.
        prompts: of the samples, each with an image and text after it.
        budgets: average visual tokens of a layer, each below an image's.
        progress: told the share that is tried next.

    Raises:
        UsageError: a budget cannot be met.
    """
    assert {prompt.visual for prompt in prompts} == {model.visual_tokens}, "images that differ in their tokens, or none"
    layers, visual = model.config.layers, model.visual_tokens
    for budget in budgets:
        if not visual / layers < budget < visual:
            limits = f"it lies between {visual / layers:.4g}, as the first layer sees all of them, and {visual}"
            raise UsageError(f"an average of {budget} visual tokens cannot be calibrated for: {limits}")
    starts = []
    for first in range(0, len(prompts), TOGETHER):
        some = prompts[first : first + TOGETHER]
        trunks = make_trunks(some)
        starts.append((trunks, embed_trunks(model.decoder, trunks, some, model.image_features(some))))

    def begun() -> list[_Walk]:
        return [_Walk(model.decoder, *start) for start in starts]

    whole = _unpruned(begun(), layers)

    @cache
    def alive(share: float) -> tuple[float, ...]:
        progress(share)
        return _alive(begun(), whole, share)

    return [_fitted(alive, budget, layers, visual) for budget in budgets]


def _unpruned(walks: Sequence[_Walk], layers: int) -> list[list[tuple[float, float]]]:
    """Of each layer and sample all that its visual tokens receive from one another and from the text."""
    return [
        [(float(image_V.sum()), float(text_V.sum())) for walk in walks for image_V, text_V in walk.run(layer)]
        for layer in range(layers)
    ]


def _alive(walks: Sequence[_Walk], whole: Sequence[Sequence[tuple[float, float]]], share: float) -> tuple[float, ...]:
    """Mean number of visual tokens that enter each layer, where every layer may lose a share of the attention."""
    found = []
    for layer, of_samples in enumerate(whole):
        found.append(sum(one.visual for walk in walks for one in walk.alive) / len(of_samples))
        totals = iter(of_samples)
        for walk in walks:
            walk.keep(layer + 1, [_kept(looks, next(totals), share) for looks in walk.run(layer)])
    return tuple(found)


def _kept(looks: Looks, totals: tuple[float, float], share: float) -> Tensor:
    """(K,) int64 on the host, ascending: the tokens that are not among the least in both."""
    goes_V = torch.ones_like(looks[0], dtype=torch.bool)
    for received_V, total in zip(looks, totals, strict=True):
        order_V = received_V.argsort(stable=True)
        left_V = received_V.sum() - received_V[order_V].cumsum(dim=0)  # after so many of the least, and one
        count = int((left_V[:-1] >= (1 - share) * total).sum())  # the last always stays
        goes_V &= torch.zeros_like(goes_V).index_fill(0, order_V[:count], True)
    return (~goes_V).nonzero()[:, 0].cpu()


def _fitted(alive: Callable[[float], Sequence[float]], budget: int, layers: int, visual: int) -> Fitted:
    """By bisection over the share."""
    low, high, best = 0.0, 1.0, None
    while high - low > WIDTH:
        share = (low + high) / 2
        if (stop := _stop(alive(share), budget)) is None:
            low = share
        else:
            high, best = share, (alive(share)[1 : stop + 1], share)
    if best is None:
        raise UsageError(f"an average of {budget} visual tokens is not met whatever a layer may lose; ask for more")
    means, share = best
    *ranks, _ = (math.floor(mean + 0.5) for mean in means)
    met = (budget * layers - visual - sum(ranks)) / (layers - len(means))
    ranks.append(min(max(math.floor(met + 0.5), 0), ranks[-1] if ranks else visual))
    first = next(place for place, rank in enumerate(ranks) if rank < visual)
    stages = [(layer, rank) for layer, rank in enumerate(ranks, start=1)]
    return Fitted(
        layer=first + 1,
        rank=ranks[first],
        left=tuple(ranks[first + 1 :]) or (ranks[first],),
        average=average_of_stages(stages, layers, visual),
        share=share,
    )


def _stop(alive: Sequence[float], budget: int) -> int | None:
    """The first layer from which on nothing more has to go; None where the budget is not met."""
    layers, before = len(alive), 0.0
    for layer, tokens in enumerate(alive):
        if before + tokens * (layers - layer) <= budget * layers:
            return layer
        before += tokens
    return None
