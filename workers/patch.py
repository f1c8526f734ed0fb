"""Prune visual tokens in a model of Hugging Face's while its own ``generate`` or forward runs.

    from workers.patch import pruned

    with pruned(model, strategy="fastv", layer=2, rank=128):
        model.generate(**inputs)

Dropped tokens are really gone: from layer K on, hidden states, attention and the key-value cache are shorter. The
tokens are chosen once, when a prompt is run without a past; a decoded token attends to the whole image in the layers
before K and to the kept tokens from K on (FastV's key-value cache variant). Only the strategies are shared with the
engine; the layers are the model's own, reached by hooks that are removed when the block ends.

Shape letters: see ``strategies/view.py``; here also W columns of a group of layers, E head width, G key-value heads,
P pixels.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from strategies import catalog
from strategies.catalog import Strategy
from strategies.errors import UsageError
from strategies.positions import Positions
from strategies.stages import Stage
from workers import evidence
from workers.families.base import Parts
from workers.families.catalog import parts_of
from workers.forks import Seeds, draw_seed
from workers.laps import PREFILL, SELECTOR
from workers.layer_calls import Replaced, cache_argument, cache_of, check_calls
from workers.made_rows import makers_of
from workers.padded import Batch, Group, add_rows, at_rows, drop, mask, new_batch, positions, spread
from workers.padded_layer import Ahead, PaddedLayer, Probe
from workers.prompt_images import PromptImages
from workers.runnable import ONE_IMAGE, Facts, complaint
from workers.shares import FEW, Kept
from workers.sites import Questions

IMPLEMENTATIONS = ("sdpa", "eager")
Given = tuple[tuple[Any, ...], dict[str, Any]]  # what a module is called with, by place and by name

_patched: weakref.WeakSet[Any] = weakref.WeakSet()


@dataclass(eq=False, slots=True)
class Pruning:
    """What the block did, for those who want to look."""

    kept: tuple[Tensor, ...] = ()  # of the last prompt, per sample: (K,) int64 indices into its image tokens


@contextmanager
def pruned(
    model: Any,
    strategy: str = "fastv",
    layer: int = 2,
    rank: int | str | None = None,
    *,
    tokens: float | str | None = None,
    seed: int = 0,
    sample_ids: Sequence[str] | None = None,
    image_ids: Sequence[str] | None = None,
    kept: Sequence[Tensor] | None = None,
    asked: Questions | None = None,
    positions: Positions | None = None,
    ended: Callable[[str], None] | None = None,
    **params: Any,
) -> Iterator[Pruning]:
    """Let a model drop visual tokens until the block ends.

    Every forward without a past is a prompt, for which tokens are chosen; so ``generate(use_cache=False)`` chooses
    again for every token (semantics 1.7, behaviour 1). Batches may be padded on either side and may mix questions with
    and without an image; what a sample gets does not depend on the others. Logits and hidden states have the shape of
    the whole sequence: the rows of dropped tokens are zero.

    Args:
        model: of a class that ``Family.hooked`` names, attention implementation sdpa or eager.
        strategy: a name of ``strategies.catalog``.
        layer: K, decoder layers that run on the whole sequence; 0 prunes the projector's output, L never prunes.
        rank: visual tokens kept, 0 <= rank <= V, or a share of each image's own, ``22.2%``; 128 where ``tokens`` says
            nothing either; without effect where the method itself fixes the number.
        tokens: in place of ``rank`` the average over the layers, a number where all images have as many, or a share.
        seed: of strategies that draw.
        sample_ids: names of the batch's samples, from which with ``seed`` and ``layer`` a draw follows: with a
            benchmark's ids, the draws of the engine. None: a sample is named by its token ids and pixels.
        image_ids: names of their images, for strategies that draw for each image: with
            ``workers.image_digests.sample_digest`` of each sample, the draws of the engine. None: by their pixels.
        kept: tokens that stay, chosen elsewhere, instead of what the strategy would choose: per sample of a prompt's
            batch (K,) int64 indices into its image tokens, ascending, K = min(rank, V). What the strategy does with
            them - merging, new positions - stays. Not for methods of several stages.
        asked: the questions of a prompt's batch, and CLIP's text tower, for strategies that read them by it: for each
            sample one, also where it has no image.
        positions: keep: what stays keeps its position ids; compact: they are renumbered without gaps wherever tokens
            go; None: as the method itself has it.
        ended: told of each prompt which part of its forward has just ended, see ``workers/laps.py``: the selector,
            which is all that pruning adds - evidence, choice, dropping -, or the prefill around it.
        params: the strategy's own parameters.

    Yields:
        What was kept, after each prompt.

    Raises:
        UsageError: on entry, for what cannot work with this model; in a forward, for inputs that cannot be pruned
            (embeddings instead of token ids, a cache from outside the block, several images where a rule takes one).
    """
    parts = parts_of(model)
    stays = Kept.asked(rank, tokens, layer, parts.decoder.config.num_hidden_layers, parts.visual_tokens)
    plan = _checked(model, parts, strategy, layer, stays, params, positions)
    if kept is not None and (stages := len(plan(sys.maxsize))) > 1:
        raise UsageError(f"kept: '{strategy}' chooses in {stages} stages, and one choice was given")
    pruner = _Pruner(parts, plan, seed, sample_ids, image_ids, kept, asked, positions, ended or (lambda part: None))
    if asked is None and evidence.reads_text_tower(pruner.needs):
        raise UsageError(f"asked: is missing, and {strategy} compares the question with the image by CLIP; give both")
    with ExitStack() as stack:
        _patched.add(model)
        stack.callback(_patched.discard, model)
        for handle in pruner.attach():
            stack.callback(handle.remove)
        yield pruner.report


def _checked(
    model: Any, parts: Parts, name: str, layer: int, kept: Kept, params: Mapping[str, Any], positions: Positions | None
) -> Callable[[int], dict[int, Stage]]:
    """The stages that prune an image of so many tokens, by layer; a stage after the last layer never does."""
    if model in _patched:
        raise UsageError("the model is already pruned by an enclosing block; leave that one first")
    check_calls(model)
    text, visual = parts.decoder.config, parts.visual_tokens
    layers = text.num_hidden_layers
    strategy, most = catalog.get(name), kept.of(sys.maxsize if visual is None else visual)
    if strategy.smaller and 0 < most != visual:
        shows = "shows the model a smaller image, and no token is chosen that could be dropped here"
        raise UsageError(f"{name} {shows}; leave it out (`--points`), or give the processor a smaller one")
    if not 0 <= layer <= layers:
        raise UsageError(f"layer {layer} is outside 0..{layers}, the model's decoder layers")
    if strategy.fixed_rank is None and not 0 <= most <= (most if visual is None else visual):
        raise UsageError(f"rank {most} is outside 0..{visual}, the model's visual tokens")
    facts = Facts(
        layers=layers,
        heads=text.num_attention_heads,
        class_token=parts.class_token,
        clip=parts.clip,
        side=0 if visual is None or math.isqrt(visual) ** 2 != visual else math.isqrt(visual),
        position_parts=parts.position_parts,
    )
    wrong = partial(complaint, strategy, params, facts, layer=layer, positions=positions)
    if said := wrong(rank=most):
        raise UsageError(said)
    if kept.share is not None and visual is None and (said := wrong(rank=min(most, FEW))):
        raise UsageError(f"rank: a share may be {FEW} tokens of a small image, and then {said}; give a number")
    stages_of = lambda visual: strategy.stages(layer, kept.of(visual), params)  # noqa: E731
    return lambda visual: {stage.layer: stage for stage in stages_of(visual) if stage.layer < layers}


class _Pruner:
    """The hooks, and what they remember between the modules of one forward and between the forwards of one cache."""

    def __init__(
        self,
        parts: Parts,
        plan: Callable[[int], dict[int, Stage]],
        seed: int,
        sample_ids: Sequence[str] | None,
        image_ids: Sequence[str] | None,
        kept: Sequence[Tensor] | None,
        asked: Questions | None,
        positions: Positions | None,
        ended: Callable[[str], None],
    ) -> None:
        self.parts = parts
        self.decoder = parts.decoder
        self.plan = plan  # of an image with so many tokens
        self.stages = plan(sys.maxsize)  # of any: but for their ranks they are those of each
        self.own: list[dict[int, Stage]] = []  # per sample
        self.kept = kept
        self.positions = positions
        self.ended = ended
        self.report = Pruning()
        self.ids_BS: Tensor | None = None
        self.seeds: list[Seeds] = []  # per sample
        self.batch: Batch | None = None  # of the forward in progress
        self.batches: weakref.WeakKeyDictionary[Any, Batch] = weakref.WeakKeyDictionary()  # by cache
        self.probes: dict[int, Probe] = {}
        self.needs = frozenset[str]().union(*(catalog.get(stage.strategy).needs for stage in self.stages.values()))
        self.shown = PromptImages(parts, self.needs, seed, sample_ids, image_ids, asked)
        self.images: list[dict[str, Tensor]] = []  # per sample what was read of tower and input, (V, ...)

    def attach(self) -> Iterator[Any]:
        """Register every hook; the handles remove them."""
        if not self.stages:
            return  # it never prunes
        yield from self.shown.attach()
        yield self.parts.body.register_forward_pre_hook(self._see_tokens, with_kwargs=True)
        yield self.decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        yield self.decoder.register_forward_hook(self._end)
        if self.parts.adding is not None:
            yield Replaced(self.decoder, self.parts.adding, self._add)
        first = min(self.stages)
        for index, layer in enumerate(self.decoder.layers):
            stage = self.stages.get(index + 1)
            if stage and evidence.reads_layer_before(catalog.get(stage.strategy).needs):
                attention = layer.self_attn
                self.probes[index + 1] = probe = Probe(attention)
                yield attention.register_forward_pre_hook(partial(self._see_positions, probe), with_kwargs=True)
                yield attention.q_proj.register_forward_hook(partial(self._see_rows, probe, "query"))
                yield attention.k_proj.register_forward_hook(partial(self._see_rows, probe, "key"))
            if index >= first:
                yield layer.register_forward_pre_hook(partial(self._enter, index), with_kwargs=True)
            if stage and evidence.reads_entered(catalog.get(stage.strategy).needs):  # after what is dropped here
                yield layer.register_forward_pre_hook(partial(self._see_input, self.probes[index + 1]))

    # What passes by

    def _see_tokens(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self.ids_BS = args[0] if args else kwargs.get("input_ids")
        if self.ids_BS is None:
            raise UsageError("pruned needs input_ids: in inputs_embeds it cannot see where the image is")
        if kwargs.get("pixel_values_videos") is not None or (kwargs.get("mm_encoder_outputs") or {}).get("video"):
            raise UsageError("pruned takes images; leave pixel_values_videos out")

    def _see_positions(self, probe: Probe, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.batch is not None and self.batch.prefill:
            probe.rotary = kwargs["position_embeddings"]

    def _see_input(self, probe: Probe, module: Any, args: tuple) -> None:
        if self.batch is not None and self.batch.prefill:
            probe.entered = args[0]

    def _see_rows(self, probe: Probe, name: str, module: Any, args: tuple, output: Tensor) -> None:
        if self.batch is not None and self.batch.prefill:
            setattr(probe, name, output)

    def _running(self) -> Batch:
        assert self.batch is not None, "a layer ran outside its decoder's forward"
        return self.batch

    # The decoder as a whole

    def _begin(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self.batch = None
        ids_BS, given, cache = self.ids_BS, kwargs.get("attention_mask"), cache_argument(module, kwargs)
        if ids_BS is None:
            raise UsageError("pruned acts on the whole model; its language model was called alone")
        if given is not None and (not isinstance(given, Tensor) or given.dim() != 2):
            raise UsageError("pruned needs a two-dimensional attention_mask")
        if cache is not None and type(cache).__name__ != "DynamicCache":
            raise UsageError(
                f"pruned needs a DynamicCache, whose layers may differ in length, not {type(cache).__name__}"
            )
        seen = 0 if cache is None else cache.get_seq_length()
        _check_window(self.decoder.config, seen + ids_BS.shape[1])
        if seen == 0:
            self.ended(PREFILL)
            batch = new_batch(ids_BS, given, self.parts.image_token, self.parts.visual_tokens)
            self.seeds, self.images = self.shown.read(ids_BS, kwargs["inputs_embeds"], batch)
            one = next((name for stage in self.stages.values() if catalog.get(name := stage.strategy).grids), None)
            if one is not None and self.shown.several:
                raise UsageError(f"{one} {ONE_IMAGE}; leave it out")
            self.own = [self.plan(len(seen_V)) if len(seen_V) else self.stages for seen_V in batch.groups[0].visual]
            self.ended(SELECTOR)
        else:
            batch = self._known_batch(cache, ids_BS)
        batch.prefill, batch.attention_mask, batch.inputs = seen == 0, given, {}
        self.batch = batch

    def _known_batch(self, cache: Any, ids_BS: Tensor) -> Batch:
        if cache not in self.batches:
            raise UsageError("the cache was filled outside this block; prune from the prompt on")
        # One token is a decoded one, which may be the image's by chance, and then stands for no image.
        if ids_BS.shape[1] > 1 and bool((ids_BS == self.parts.image_token).any()):
            raise UsageError("an image after the first forward of a cache is not supported")
        return self.batches[cache]

    def _end(self, module: Any, args: tuple, output: Any) -> Any:
        batch, self.batch, self.ids_BS = self._running(), None, None
        batch.inputs, batch.attention_mask = {}, None
        for probe in self.probes.values():
            probe.query = probe.key = probe.rotary = probe.entered = None
        self.images = []
        if not batch.prefill:
            return output
        last, cache = batch.groups[-1], cache_of(output)
        self.report.kept = tuple(visual_K.sort().values for visual_K in last.visual)  # merged rows may stand behind
        if last is not batch.groups[0]:
            output.last_hidden_state = spread(output.last_hidden_state, last, batch.length)
        if cache is not None:
            self.batches[cache] = batch
            dropped = batch.length - batch.group(0).rows_BW.shape[1]
            if dropped:
                _count_dropped(cache.layers[0], dropped)
        return output

    # One layer

    def _add(self, hidden_BWD: Tensor, at_BS: Tensor, rows_ND: Tensor) -> Tensor:
        """What the decoder adds to visual rows behind a layer, to those that are left."""
        return add_rows(self._running().groups[-1], hidden_BWD, at_BS, rows_ND)

    def _enter(self, layer: int, module: Any, args: tuple, kwargs: dict[str, Any]) -> Given | None:
        """Before a layer: drop what is to be dropped here, and give it the mask and positions of its group."""
        batch = self._running()
        if not (batch.prefill and layer in self.stages):
            return self._given_group(layer, module, args[0], args, kwargs)
        self.ended(PREFILL)
        inputs = kwargs | batch.inputs.get(batch.groups[-1].first_layer, {})  # as they are before the drop
        ahead = Ahead(module, inputs["position_embeddings"], self.decoder.norm)
        left_BWD = self._drop(layer, batch, args[0], ahead)
        given = self._given_group(layer, module, left_BWD, args, kwargs)
        self.ended(SELECTOR)
        return given

    def _given_group(
        self, layer: int, module: Any, hidden_BWD: Tensor, args: tuple, kwargs: dict[str, Any]
    ) -> Given | None:
        """What a layer is called with in place of what the model calls it with; None: nothing else."""
        batch = self._running()
        group = batch.group(layer)
        if group is batch.groups[0]:
            return None  # nothing was dropped: the layer's inputs are the model's own
        if group.first_layer not in batch.inputs:
            batch.inputs[group.first_layer] = self._inputs(layer, module, group, hidden_BWD, kwargs)
        return (hidden_BWD, *args[1:]), kwargs | batch.inputs[group.first_layer]

    def _inputs(
        self, layer: int, module: Any, group: Group, hidden_BWD: Tensor, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Mask, and where they differ from the model's, position ids and rotary embedding of a group's layers."""
        batch = self._running()
        attention = self.decoder.config._attn_implementation
        if attention not in IMPLEMENTATIONS:
            raise UsageError(f"pruned runs under {' or '.join(IMPLEMENTATIONS)}, not {attention}")
        past = 0 if batch.prefill else cache_argument(module, kwargs).layers[layer].keys.shape[-2]
        eager, dtype = attention == "eager", hidden_BWD.dtype
        inputs: dict[str, Any] = {"attention_mask": mask(batch, group, hidden_BWD.shape[1], past, eager, dtype)}
        if group.shift_BS is not None:
            inputs["position_ids"] = positions(batch, group, kwargs["position_ids"])
            inputs["position_embeddings"] = self.decoder.rotary_emb(hidden_BWD, position_ids=inputs["position_ids"])
        elif batch.prefill:  # whatever they are made of, they stay with their tokens
            rotary = kwargs["position_embeddings"]
            inputs["position_embeddings"] = tuple(at_rows(group, turned_BSE) for turned_BSE in rotary)
            if (given := kwargs["position_ids"]) is not None:
                inputs["position_ids"] = positions(batch, group, given)
        return inputs

    def _drop(self, layer: int, batch: Batch, hidden_BWD: Tensor, ahead: Ahead) -> Tensor:
        """Choose tokens for every sample before the stage's layer runs; the residual stream of what is left."""
        before, stages = batch.groups[-1], [own[layer] for own in self.own]
        ranks = [min(stage.rank, len(visual_V)) for stage, visual_V in zip(stages, before.visual, strict=True)]
        if all(rank == len(visual_V) for rank, visual_V in zip(ranks, before.visual, strict=True)):
            return hidden_BWD
        strategy = catalog.get(self.stages[layer].strategy)
        choices = [
            self._choose(stages[sample], strategy, sample, rank, hidden_BWD, ahead) for sample, rank in enumerate(ranks)
        ]
        kept = [kept_K for kept_K, _ in choices]
        # Positions of three parts stay, as in the engine: see ``sequences.fork``.
        compact = (self.positions or strategy.positions) == "compact" and self.parts.position_parts == 1
        left_BWD = drop(batch, layer, kept, compact, hidden_BWD)
        after = batch.groups[-1]
        for sample, (kept_K, merge) in enumerate(choices):
            if merge is not None and len(kept_K) < len(before.visual[sample]):
                all_VD = hidden_BWD[sample, before.columns[sample]]
                left_BWD[sample, after.columns[sample]] = merge(all_VD, kept_K)
        return left_BWD

    def _choose(
        self, stage: Stage, strategy: Strategy, sample: int, rank: int, hidden_BWD: Tensor, ahead: Ahead
    ) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor] | None]:
        """(rank,) int64: which of the sample's living visual tokens stay, and what makes the rows in their place."""
        batch = self._running()
        group = batch.groups[-1]
        visual = len(group.visual[sample])
        if rank in (0, visual):
            return torch.arange(rank, device=hidden_BWD.device), None
        if self.kept is not None and strategy.rows is None:
            return self._given(stage, sample, rank, visual).to(hidden_BWD.device), strategy.merge
        place = PaddedLayer(batch, sample, hidden_BWD, self.probes.get(stage.layer), ahead)
        seed = draw_seed(self.seeds[sample].of(strategy), stage.layer)
        view = evidence.view(strategy.needs, place, self.images[sample], seed, hidden_BWD.device, self.parts.project)
        kept_K = strategy.choose(view, [rank], dict(stage.params))[0]
        if self.kept is not None:
            kept_K = self._given(stage, sample, rank, visual).to(hidden_BWD.device)
        return kept_K, makers_of([(strategy, stage.params, view)])[0]

    def _given(self, stage: Stage, sample: int, rank: int, visual: int) -> Tensor:
        """A sample's tokens from those that the caller chose; copies of a sample (beams) share them."""
        kept, batch = self.kept, len(self._running().groups[-1].visual)
        if not kept or batch % len(kept):
            raise UsageError(f"kept: {len(kept or ())} choices were given for a batch of {batch}")
        kept_K = kept[sample * len(kept) // batch]
        fewer = dict(stage.params).get("count") == "adaptive" and 0 < len(kept_K) < rank
        if not (
            (fewer or len(kept_K) == rank)
            and bool((kept_K.diff() > 0).all())
            and 0 <= int(kept_K[0]) <= int(kept_K[-1]) < visual
        ):
            raise UsageError(f"kept: give {rank} ascending indices below {visual}")
        return kept_K


def _check_window(text_config: Any, length: int) -> None:
    """Mistral's sliding window: attention here is full, which is the same as long as nothing lies outside it."""
    window = getattr(text_config, "sliding_window", None) if getattr(text_config, "use_sliding_window", True) else None
    if window is not None and length > window:
        raise UsageError(f"{length} tokens exceed the model's sliding window of {window}")


def _count_dropped(cache_layer: Any, dropped: int) -> None:
    """Let a cache whose first layer was pruned count the dropped tokens: transformers takes positions from there."""
    layer: Callable[[], Any] = weakref.ref(cache_layer)  # a cycle would keep the keys alive for long

    def length() -> int:
        held = layer()
        return type(held).get_seq_length(held) + dropped

    cache_layer.get_seq_length = length
