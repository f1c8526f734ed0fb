"""Prune visual tokens in any Hugging Face LLaVA while its own ``generate`` or forward runs.

    from workers.patch import pruned

    with pruned(model, strategy="fastv", layer=2, rank=128):
        model.generate(**inputs)

Dropped tokens are really gone: from layer K on, hidden states, attention and the key-value cache are shorter. The
tokens are chosen once, when a prompt is run without a past; a decoded token attends to the whole image in the layers
before K and to the kept tokens from K on (FastV's key-value cache variant). Only the strategies are shared with the
engine; the layers are the model's own, reached by hooks that are removed when the block ends.

Shape letters: see ``strategies/view.py``; here also W columns of a group of layers, E head width, G key-value heads.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from strategies import catalog
from strategies.stages import Stage
from strategies.view import ATTENTION, Evidence, TokenView
from workers.forks import LAST_QUERIES, draw_seed
from workers.models import TEXT_MODELS

OFFERED = ATTENTION | {Evidence.HIDDEN}
PIXEL_STRIDE = 8  # every eighth pixel of every eighth line names a picture well enough for a draw

LayerCall = tuple[tuple[Any, ...], dict[str, Any]]  # arguments by place and by name

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
    rank: int = 128,
    *,
    seed: int = 0,
    sample_ids: Sequence[str] | None = None,
    **params: Any,
) -> Iterator[Pruning]:
    """Let a LLaVA drop visual tokens until the block ends.

    Every forward without a past is a prompt, for which tokens are chosen; so ``generate(use_cache=False)`` chooses
    again for every token (semantics 1.7, behaviour 1). Batches may be padded on either side and may mix questions with
    and without an image; what a sample gets does not depend on the others. Logits and hidden states have the shape of
    the whole sequence: the rows of dropped tokens are zero.

    Args:
        model: a transformers ``LlavaForConditionalGeneration``, attention implementation sdpa or eager.
        strategy: a name of ``strategies.catalog``.
        layer: K, decoder layers that run on the whole sequence; 0 prunes the projector's output, L never prunes.
        rank: visual tokens kept, 0 <= rank <= V; without effect where the method itself fixes the number.
        seed: of strategies that draw.
        sample_ids: names of the batch's samples, from which with ``seed`` and ``layer`` a draw follows: with a
            benchmark's ids, the draws of the engine. None: a sample is named by its token ids and pixels.
        params: the strategy's own parameters.

    Yields:
        What was kept, after each prompt.

    Raises:
        ValueError: on entry, for what cannot work with this model; in a forward, for inputs that cannot be pruned
            (embeddings instead of token ids, several images in a sample, a cache from outside the block).
    """
    pruner = _Pruner(model, _checked(model, strategy, layer, rank, params), seed, sample_ids)
    with ExitStack() as stack:
        _patched.add(model)
        stack.callback(_patched.discard, model)
        for handle in pruner.attach():
            stack.callback(handle.remove)
        yield pruner.report


@dataclass(frozen=True, slots=True)
class Plan:
    """Where is pruned, by what and down to what; layers ascending."""

    stages: tuple[Stage, ...]
    compact: bool  # renumber positions without gaps


def _checked(model: Any, name: str, layer: int, rank: int, params: Mapping[str, Any]) -> Plan:
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) != "llava" or not hasattr(model, "lm_head"):
        raise ValueError(f"pruned needs a LlavaForConditionalGeneration, got {type(model).__name__}")
    if model in _patched:
        raise ValueError("the model is already pruned by an enclosing block; leave that one first")
    assert config is not None
    text, layers, visual = config.text_config, config.text_config.num_hidden_layers, _visual_tokens(config)
    if text.model_type not in TEXT_MODELS:
        raise ValueError(f"a LLaVA over '{text.model_type}' is not supported ({', '.join(TEXT_MODELS)})")
    strategy = catalog.get(name)
    complaint = strategy.check(params)
    if complaint:
        raise ValueError(complaint)
    unknown = catalog.at_layer(strategy, layer).needs - OFFERED
    if unknown:
        raise ValueError(f"strategy '{name}' reads {', '.join(sorted(unknown))}, which pruned cannot offer")
    if not 0 <= layer <= layers:
        raise ValueError(f"layer {layer} is outside 0..{layers}, the model's decoder layers")
    rank = rank if strategy.fixed_rank is None else strategy.fixed_rank
    if not 0 <= rank <= visual:
        raise ValueError(f"rank {rank} is outside 0..{visual}, the model's visual tokens")
    stages = (Stage(name, layer, rank, tuple(params.items())),)
    return Plan(tuple(stage for stage in stages if stage.layer < layers), strategy.positions == "compact")


def _visual_tokens(config: Any) -> int:
    vision = config.vision_config
    return (vision.image_size // vision.patch_size) ** 2 + (config.vision_feature_select_strategy == "full")


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The columns that a run of layers works on. After a drop samples are aligned right and filled up on the left."""

    first_layer: int
    rows_BW: Tensor  # int64, the row of the whole sequence in each column
    alive_BW: Tensor  # bool, False: padding
    full: bool  # no padding at all, so that no mask is needed
    visual_at: tuple[int, ...]  # per sample the column of its first visual token
    visual: tuple[Tensor, ...]  # per sample (K,) int64, its visual tokens as indices into the image


@dataclass(eq=False, slots=True)
class Run:
    """One batch of prompts, from its first forward to its last decoded token."""

    system: tuple[int, ...]  # per sample, padding not counted
    text: tuple[int, ...]
    names: tuple[str, ...]  # per sample the text that seeds its draws
    length: int  # S, columns of the prompt
    groups: list[Group]  # the first is the whole sequence
    prefill: bool = True
    attention_mask: Tensor | None = None  # of the forward in progress, as given
    inputs: dict[int, dict[str, Any]] = field(default_factory=dict)  # of the forward in progress, by first layer

    def group(self, layer: int) -> Group:
        return next(group for group in reversed(self.groups) if group.first_layer <= layer)


@dataclass(slots=True)
class Probe:
    """What the layer before a drop computed: projected queries and keys (B, W, H*E and G*E), and its positions."""

    query: Tensor | None = None
    key: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None


class _Pruner:
    """The hooks, and what they remember between the modules of one forward and between the forwards of one cache."""

    def __init__(self, model: Any, plan: Plan, seed: int, sample_ids: Sequence[str] | None) -> None:
        self.model = model
        self.decoder = model.model.language_model
        self.stages = {stage.layer: stage for stage in plan.stages}
        self.compact = plan.compact
        self.seed = seed
        self.sample_ids = sample_ids
        self.report = Pruning()
        self.ids_BS: Tensor | None = None
        self.pixels: Tensor | None = None
        self.run: Run | None = None
        self.runs: weakref.WeakKeyDictionary[Any, Run] = weakref.WeakKeyDictionary()
        self.probes: dict[int, Probe] = {}

    def attach(self) -> Iterator[Any]:
        """Register every hook; the handles remove them."""
        if not self.stages:
            return
        yield self.model.model.vision_tower.register_forward_pre_hook(self._see_pixels, with_kwargs=True)
        yield self.model.model.register_forward_pre_hook(self._see_tokens, with_kwargs=True)
        yield self.decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        yield self.decoder.register_forward_hook(self._end)
        first = min(self.stages)
        for index, layer in enumerate(self.decoder.layers):
            if index + 1 in self.stages and catalog.get(self.stages[index + 1].strategy).reads_attention:
                self.probes[index + 1] = probe = Probe()
                attention = layer.self_attn
                yield attention.register_forward_pre_hook(partial(self._see_positions, probe), with_kwargs=True)
                yield attention.q_proj.register_forward_hook(partial(self._see_rows, probe, "query"))
                yield attention.k_proj.register_forward_hook(partial(self._see_rows, probe, "key"))
            if index >= first:
                yield layer.register_forward_pre_hook(partial(self._enter, index), with_kwargs=True)

    # What passes by

    def _see_pixels(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        pixels = args[0] if args else kwargs["pixel_values"]
        self.pixels = pixels[..., ::PIXEL_STRIDE, ::PIXEL_STRIDE]

    def _see_tokens(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self.ids_BS = args[0] if args else kwargs.get("input_ids")
        if self.ids_BS is None:
            raise ValueError("pruned needs input_ids: in inputs_embeds it cannot see where the image is")

    def _see_positions(self, probe: Probe, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        probe.rotary = kwargs["position_embeddings"]

    def _see_rows(self, probe: Probe, name: str, module: Any, args: tuple, output: Tensor) -> None:
        if self.run is not None and self.run.prefill:
            setattr(probe, name, output)

    # The decoder as a whole

    def _begin(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self.run = None
        ids_BS, mask, cache = self.ids_BS, kwargs.get("attention_mask"), kwargs.get("past_key_values")
        if ids_BS is None:
            raise ValueError("pruned acts on the whole model; its language model was called alone")
        if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
            raise ValueError("pruned needs a two-dimensional attention_mask")
        if cache is not None and type(cache).__name__ != "DynamicCache":
            raise ValueError(
                f"pruned needs a DynamicCache, whose layers may differ in length, not {type(cache).__name__}"
            )
        seen = 0 if cache is None else cache.get_seq_length()
        _check_window(self.model.config.text_config, seen + ids_BS.shape[1])
        run = self._new_run(ids_BS, mask) if seen == 0 else self._known_run(cache, ids_BS)
        run.prefill, run.attention_mask, run.inputs = seen == 0, mask, {}
        self.run = run

    def _known_run(self, cache: Any, ids_BS: Tensor) -> Run:
        if cache not in self.runs:
            raise ValueError("the cache was filled outside this block; prune from the prompt on")
        if bool((ids_BS == self.model.config.image_token_id).any()):
            raise ValueError("an image after the first forward of a cache is not supported")
        return self.runs[cache]

    def _new_run(self, ids_BS: Tensor, mask_BS: Tensor | None) -> Run:
        batch, length = ids_BS.shape
        alive_BS = torch.ones_like(ids_BS, dtype=torch.bool) if mask_BS is None else mask_BS.to(ids_BS.device).bool()
        image_BS = ids_BS == self.model.config.image_token_id
        starts = image_BS.int().argmax(dim=1)
        column_S = torch.arange(length, device=ids_BS.device)
        before_BS = alive_BS & (column_S < starts[:, None])
        inside_BS = (column_S >= starts[:, None]) & (column_S < (starts + image_BS.sum(dim=1))[:, None])
        visual, start, real, system, straight = torch.stack(
            (image_BS.sum(1), starts, alive_BS.sum(1), before_BS.sum(1), (image_BS == inside_BS).all(1))
        ).tolist()
        wanted = _visual_tokens(self.model.config)
        for sample in range(batch):
            if visual[sample] not in (0, wanted) or not straight[sample]:
                raise ValueError(
                    f"sample {sample} has {visual[sample]} image tokens; pruned takes one image, {wanted} in a row"
                )
        whole = Group(
            first_layer=0,
            rows_BW=column_S.expand(batch, -1),
            alive_BW=alive_BS,
            full=sum(real) == batch * length,
            visual_at=tuple(start),
            visual=tuple(torch.arange(count, device=ids_BS.device) for count in visual),
        )
        return Run(
            system=tuple(system),
            text=tuple(r - v - s for r, v, s in zip(real, visual, system, strict=True)),
            names=self._names(ids_BS, alive_BS, visual),
            length=length,
            groups=[whole],
        )

    def _names(self, ids_BS: Tensor, alive_BS: Tensor, visual: Sequence[int]) -> tuple[str, ...]:
        """Per sample the text that seeds its draws; beams and further sequences of a sample share it."""
        batch = ids_BS.shape[0]
        if self.sample_ids is not None:
            if batch % len(self.sample_ids or "?"):
                raise ValueError(f"{len(self.sample_ids)} sample_ids were given for a batch of {batch}")
            copies = batch // len(self.sample_ids)
            return tuple(f"{self.seed}|{self.sample_ids[sample // copies]}" for sample in range(batch))
        pictures: Sequence[Tensor] | Tensor = [] if self.pixels is None else self.pixels.float().cpu()
        shown = [sample for sample in range(batch) if visual[sample]]
        copies = max(1, len(shown) // max(1, len(pictures)))
        names = []
        for sample in range(batch):
            content = hashlib.sha256(str(ids_BS[sample][alive_BS[sample]].tolist()).encode())
            if visual[sample] and shown.index(sample) // copies < len(pictures):
                content.update(pictures[shown.index(sample) // copies].numpy().tobytes())
            names.append(f"{self.seed}|{content.hexdigest()}")
        return tuple(names)

    def _end(self, module: Any, args: tuple, output: Any) -> Any:
        run, self.run, self.ids_BS = self.run, None, None
        assert run is not None
        for probe in self.probes.values():
            probe.query = probe.key = probe.rotary = None
        cache = output.past_key_values
        if not run.prefill:
            return output
        self.report.kept = run.groups[-1].visual
        if len(run.groups) > 1:
            output.last_hidden_state = _spread(output.last_hidden_state, run.groups[-1], run.length)
        if cache is not None:
            self.runs[cache] = run
            dropped = run.length - run.group(0).rows_BW.shape[1]
            if dropped:
                _count_dropped(cache.layers[0], dropped)
        run.inputs, run.attention_mask = {}, None
        return output

    # One layer

    def _enter(
        self, layer: int, module: Any, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        """Before a layer: drop what is to be dropped here, and give it the mask and positions of its group."""
        run = self.run
        assert run is not None
        hidden_BWD, rest = (args[0], args[1:]) if args else (kwargs["hidden_states"], ())
        if run.prefill and layer in self.stages:
            hidden_BWD = self._drop(self.stages[layer], run, hidden_BWD)
        group = run.group(layer)
        if group is run.groups[0]:
            return None  # nothing was dropped: the layer's inputs are the model's own
        if group.first_layer not in run.inputs:
            run.inputs[group.first_layer] = self._inputs(layer, run, group, hidden_BWD, kwargs)
        changed = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        return (hidden_BWD, *rest), changed | run.inputs[group.first_layer]

    def _inputs(self, layer: int, run: Run, group: Group, hidden_BWD: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Mask, and where they differ from the model's, position ids and rotary embedding of a group's layers."""
        batch, queries = hidden_BWD.shape[:2]
        past = 0 if run.prefill else kwargs["past_key_values"].layers[layer].keys.shape[-2]
        alive_BK, full = group.alive_BW, group.full
        if not run.prefill:
            tail = past + queries - alive_BK.shape[1]
            mask = run.attention_mask
            later = alive_BK.new_ones(batch, tail) if mask is None else mask[:, -tail:].to(alive_BK.device).bool()
            full = full and bool(later.all())
            alive_BK = torch.cat((alive_BK, later), dim=1)
        eager = self.decoder.config._attn_implementation == "eager"
        if not eager and self.decoder.config._attn_implementation != "sdpa":
            raise ValueError(f"pruned runs under sdpa or eager, not {self.decoder.config._attn_implementation}")
        inputs: dict[str, Any] = {"attention_mask": _mask(alive_BK, full, queries, eager, hidden_BWD.dtype)}
        if run.prefill or self.compact:
            positions = kwargs["position_ids"].expand(batch, -1)
            if self.compact:
                shift = _shift(group, run.groups[0])
                positions = (positions - (shift if run.prefill else shift[:, -1:])).clamp(min=0)
            if run.prefill:
                positions = positions.gather(1, group.rows_BW)
            inputs["position_ids"] = positions
            inputs["position_embeddings"] = self.decoder.rotary_emb(hidden_BWD, position_ids=positions)
        return inputs

    def _drop(self, stage: Stage, run: Run, hidden_BWD: Tensor) -> Tensor:
        """Choose tokens for every sample before the stage's layer runs; the hidden states of what is left."""
        before = run.groups[-1]
        ranks = [min(stage.rank, len(visual_V)) for visual_V in before.visual]
        if all(rank == len(visual_V) for rank, visual_V in zip(ranks, before.visual, strict=True)):
            return hidden_BWD
        alive_BW, visual = before.alive_BW.clone(), []
        for sample, rank in enumerate(ranks):
            at, visual_V = before.visual_at[sample], before.visual[sample]
            kept_K = self._choose(stage, run, sample, rank, hidden_BWD)
            gone_V = torch.ones_like(visual_V, dtype=torch.bool)
            gone_V[kept_K] = False
            alive_BW[sample, at : at + len(visual_V)] &= ~gone_V
            visual.append(visual_V[kept_K])
        counts = [s + k + t for s, k, t in zip(run.system, ranks, run.text, strict=True)]
        width = max(counts)
        columns_BW = alive_BW.byte().argsort(dim=1, stable=True)[:, -width:]  # the living last, in their order
        group = Group(
            first_layer=stage.layer,
            rows_BW=before.rows_BW.gather(1, columns_BW),
            alive_BW=alive_BW.gather(1, columns_BW),
            full=min(counts) == width,
            visual_at=tuple(width - t - k for k, t in zip(ranks, run.text, strict=True)),
            visual=tuple(visual),
        )
        run.groups.append(group)
        return hidden_BWD.gather(1, columns_BW[..., None].expand(-1, -1, hidden_BWD.shape[-1]))

    def _choose(self, stage: Stage, run: Run, sample: int, rank: int, hidden_BWD: Tensor) -> Tensor:
        """(rank,) int64: which of the sample's living visual tokens stay."""
        group = run.groups[-1]
        visual = len(group.visual[sample])
        if rank in (0, visual):
            return torch.arange(rank, device=hidden_BWD.device)
        strategy = catalog.at_layer(catalog.get(stage.strategy), stage.layer)
        params = dict(stage.params) if strategy.name == stage.strategy else {}
        system, text = run.system[sample], run.text[sample]
        at = group.visual_at[sample]
        view = TokenView(
            visual=visual,
            system=system,
            text=text,
            seed=draw_seed(run.names[sample], stage.layer),
            device=hidden_BWD.device,
            hidden_states_VD=hidden_BWD[sample, at : at + visual] if Evidence.HIDDEN in strategy.needs else None,
            **(self._attention(stage.layer, strategy.needs, run, sample) if strategy.reads_attention else {}),
        )
        return strategy.choose(view, [rank], params)[0]

    def _attention(self, layer: int, needs: frozenset[Evidence], run: Run, sample: int) -> dict[str, Tensor]:
        """The rows of attention, in the layer before, that the strategy reads."""
        group, system, text = run.groups[-1], run.system[sample], run.text[sample]
        probe = self.probes[layer]
        assert probe.query is not None
        assert probe.key is not None
        assert probe.rotary is not None
        module = self.decoder.layers[layer - 1].self_attn
        living = slice(None) if group.full else group.alive_BW[sample]
        cos_RE, sin_RE = (table[sample if len(table) > 1 else 0, living] for table in probe.rotary)
        query_RHE, key_RGE = (
            _turned(rows[sample, living].unflatten(-1, (-1, module.head_dim)), cos_RE, sin_RE)
            for rows in (probe.query, probe.key)
        )
        after = system + len(group.visual[sample])
        whole_text = bool(needs & {Evidence.TEXT_ROWS, Evidence.TEXT_TO_TEXT})
        queries = max(text, min(LAST_QUERIES, after + text)) if whole_text else 1
        rows_HQS = _probabilities(query_RHE[-queries:], key_RGE, module.scaling)
        evidence = {"attention_HQV": rows_HQS[:, :, system:after]}
        if Evidence.TEXT_TO_TEXT in needs:
            evidence["text_attention_HTT"] = rows_HQS[:, queries - text :, after:]
        if Evidence.VISUAL_ROWS in needs:
            block_HVS = _probabilities(query_RHE[system:after], key_RGE[:after], module.scaling)
            evidence["visual_attention_HVV"] = block_HVS[:, :, system:]
        return evidence


def _probabilities(query_QHE: Tensor, key_SGE: Tensor, scale: float) -> Tensor:
    """(H, Q, S) float32 attention of Q queries that are the last of S keys; half precision ties many tokens."""
    key_SHE = key_SGE.float().repeat_interleave(query_QHE.shape[1] // key_SGE.shape[1], dim=1)
    scores_HQS = torch.einsum("qhe,she->hqs", query_QHE.float(), key_SHE) * scale
    visible_QS = _causal(len(query_QHE), len(key_SGE), key_SGE.device)
    return scores_HQS.masked_fill(~visible_QS, -torch.inf).softmax(dim=-1)


def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """(Q, K) bool, True where a query may look: the queries are the last of the keys' rows."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def _check_window(text_config: Any, length: int) -> None:
    """Mistral's sliding window: attention here is full, which is the same as long as nothing lies outside it."""
    window = getattr(text_config, "sliding_window", None) if getattr(text_config, "use_sliding_window", True) else None
    if window is not None and length > window:
        raise ValueError(f"{length} tokens exceed the model's sliding window of {window}")


def _mask(alive_BK: Tensor, full: bool, queries: int, eager: bool, dtype: torch.dtype) -> Tensor | None:
    """(B or 1, 1, Q, K) for Q queries that are the last of K keys; None where sdpa needs none. Bool, or additive."""
    keys = alive_BK.shape[1]
    if full and (queries == 1 or (queries == keys and not eager)):
        return None
    mask_QK = _causal(queries, keys, alive_BK.device)
    mask_BQK = mask_QK[None] if full else mask_QK & alive_BK[:, None] | _diagonal(queries, keys, alive_BK.device)
    if eager:
        return torch.zeros(mask_BQK.shape, dtype=dtype, device=mask_BQK.device).masked_fill_(
            ~mask_BQK, torch.finfo(dtype).min
        )[:, None]
    return mask_BQK[:, None]


def _diagonal(queries: int, keys: int, device: torch.device) -> Tensor:
    """Every query sees itself, padding too: a row that sees nothing would be NaN."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries).triu(keys - queries)


def _shift(group: Group, whole: Group) -> Tensor:
    """(B, S) int64: how many tokens were dropped up to each row of the whole sequence."""
    left_BS = torch.zeros_like(whole.alive_BW).scatter_(1, group.rows_BW, group.alive_BW)
    return (whole.alive_BW & ~left_BS).cumsum(dim=1)


def _spread(hidden_BWD: Tensor, group: Group, length: int) -> Tensor:
    """The hidden states in the rows of the whole sequence, zero where a token was dropped."""
    batch, _, width = hidden_BWD.shape
    rows_BW = group.rows_BW.masked_fill(~group.alive_BW, length)  # padding goes to a row that is cut off
    target = rows_BW[..., None].expand(-1, -1, width)
    return hidden_BWD.new_zeros(batch, length + 1, width).scatter(1, target, hidden_BWD)[:, :length]


def _turned(rows_RHE: Tensor, cos_RE: Tensor, sin_RE: Tensor) -> Tensor:
    """Rotary positions applied to queries or keys."""
    first, second = rows_RHE.chunk(2, dim=-1)
    return rows_RHE * cos_RE[:, None] + torch.cat((-second, first), dim=-1) * sin_RE[:, None]


def _count_dropped(cache_layer: Any, dropped: int) -> None:
    """Let a cache whose first layer was pruned count the dropped tokens: transformers takes positions from there."""
    layer: Callable[[], Any] = weakref.ref(cache_layer)  # a cycle would keep the keys alive for long

    def length() -> int:
        held = layer()
        return type(held).get_seq_length(held) + dropped

    cache_layer.get_seq_length = length
