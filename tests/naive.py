"""The slow, obvious forward that the engine is compared with.

Batch 1, stock transformers decoder layers under eager attention, one grid point at a time, no cache, nothing shared:
every generated token runs the whole sequence again. With original positions dropped tokens are **masked**, as HiMAP
does it, not dropped; so the two agree only if dropping rows and reading shared keys are right.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from strategies import catalog
from strategies.decoder_evidence import LAYER_KEYS, NORMED_STATES, POSITION_PULL, STATES_BEFORE, TEXT_MASS
from strategies.evidence import EvidenceView
from strategies.pyramiddrop import ROW_AHEAD
from workers import evidence
from workers.families.model import Encoded, Model, SeenImage
from workers.forks import Seeds
from workers.image_digests import sample_digest
from workers.tasks.base import Sample
from workers.work import UNPRUNED, GridPoint


def seeds_of(sample: Sample, seed: int = 0) -> Seeds:
    """What its draws follow from."""
    return Seeds(f"{seed}|{sample.id}", f"{seed}|{sample_digest(sample)}")


@dataclass(frozen=True)
class NaiveAnswer:
    kept: list[int]
    first_logits: Tensor  # (C,)
    tokens: list[int]


def naive_answer(
    llava: Model, encoded: Encoded, point: GridPoint, seeds: Seeds, max_new_tokens: int, image: SeenImage | None = None
) -> NaiveAnswer:
    """Answer one grid point on one sample, whose visual tokens may be known from another."""
    embed = llava.module.get_input_embeddings()
    embedded = embed(torch.tensor(encoded.ids))
    visual, added = 0, None
    places = [place for span in encoded.images for place in range(span.start, span.start + span.tokens)]
    if encoded.images:
        if image is None:
            (image,) = llava.see([encoded], {})
        visual, added = len(places), image.added_JVD
        embedded[places] = image.features_VD
    run = _Sample(llava, seeds, encoded, embedded, visual, _tower(llava, encoded, point), added, places)
    tokens: list[int] = []
    first = None
    for _ in range(max_new_tokens):
        inputs = torch.cat((embedded, embed(torch.tensor(tokens, dtype=torch.int64)))) if tokens else embedded
        logits, kept = _forward(run, inputs, point)
        first = logits if first is None else first
        tokens.append(int(logits.argmax()))
        if tokens[-1] in llava.end_tokens:
            break
    return NaiveAnswer(sorted(kept), first, tokens)


@dataclass
class _Sample:
    llava: Model
    seeds: Seeds
    encoded: Encoded
    embedded: Tensor  # (S, D) of the prompt
    visual: int
    tower: dict[str, Tensor]  # evidence of the vision tower and of the question, for all visual tokens
    added: Tensor | None  # to the visual tokens' rows, after each of the first layers
    places: list[int]  # of its visual tokens
    chosen: dict[int, list[int]] = field(default_factory=dict)  # layer -> kept visual tokens, fixed at prefill
    views: dict[int, EvidenceView] = field(default_factory=dict)  # what they were chosen by


def _tower(llava: Model, encoded: Encoded, point: GridPoint) -> dict[str, Tensor]:
    if not encoded.images:
        return {}
    needs = evidence.needed([point])
    (words,) = evidence.of_questions(needs, [encoded.question], llava.text_tower)
    if not (readers := evidence.tower_readers(needs)):
        return words
    (image,) = llava.see([encoded], readers)
    return {**image.evidence, **words}


def _forward(run: _Sample, inputs: Tensor, point: GridPoint) -> tuple[Tensor, list[int]]:
    """Last row's logits of the whole sequence, and the visual tokens that reached the last layer."""
    decoder = run.llava.module.model.language_model
    stages = {}
    if point.strategy != UNPRUNED and run.visual:
        rank = point.of(run.visual).rank
        stages = {s.layer: s for s in catalog.get(point.strategy).stages(point.layer, rank, dict(point.params))}
    implementation = decoder.config._attn_implementation
    decoder.config._attn_implementation = "eager"
    hidden, length = inputs[None], inputs.shape[0]
    positions, alive = _positions(run.encoded, length), list(range(run.visual))
    where = dict(zip(alive, run.places, strict=True))  # row of each visual token
    image = set(run.places)  # rows of visual tokens
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    before = None
    try:
        for index, layer in enumerate(decoder.layers):
            if index in stages and alive:
                stage = stages[index]
                strategy = catalog.get(stage.strategy)
                if index not in run.chosen:
                    ahead = _attend(decoder, layer, hidden, positions, mask)[1]
                    run.chosen[index] = _choose(run, stage, index, before, ahead, hidden[0], alive, where)
                kept = run.chosen[index]
                if (strategy.merge or strategy.rows) and 0 < len(kept) < len(alive):
                    whole = hidden[0, [where[v] for v in alive]]
                    hidden = hidden.clone()
                    places = torch.tensor([alive.index(v) for v in kept], dtype=torch.int64)
                    if strategy.merge is not None:
                        rows = strategy.merge(whole, places)
                    else:
                        (rows,) = strategy.rows([run.views[index]], places[None], **dict(stage.params))
                    columns = sorted(where[v] for v in kept)  # rows that are fed in an order of their own
                    hidden[0, columns], own = rows, [where[v] for v in kept]
                    positions = positions.clone()
                    positions[:, columns] = positions[:, own]  # which stay with their tokens
                    where |= dict(zip(kept, columns, strict=True))
                gone = [where[v] for v in alive if v not in set(kept)]
                if (point.positions or strategy.positions) == "compact" and gone:
                    stays = {where[v] for v in kept}
                    rows = [row for row in range(hidden.shape[1]) if row in stays or row not in image]
                    hidden, positions = hidden[:, rows], positions[:, rows]
                    if len(positions) == 1:  # those of three parts stay with their tokens
                        positions = torch.arange(len(rows))[None]
                    mask = mask[rows][:, rows]
                    where = {v: rows.index(where[v]) for v in kept}
                    image = set(where.values())
                else:
                    mask = mask.clone()
                    mask[:, gone] = False
                alive = kept
            entered, rotary = hidden, _rotary(decoder, hidden, positions)
            attended, weights = _attend(decoder, layer, hidden, positions, mask)
            hidden = hidden + attended
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            if run.added is not None and index < len(run.added):
                for v in alive:
                    hidden[0, where[v]] += run.added[index][v]
            before = _Before(layer, entered, rotary, weights)
    finally:
        decoder.config._attn_implementation = implementation
    return run.llava.module.lm_head(decoder.norm(hidden[0, -1])), alive


@dataclass(frozen=True)
class _Before:
    """What the layer before had and gave."""

    layer: torch.nn.Module
    entered: Tensor  # (1, S, D)
    rotary: tuple[Tensor, Tensor]
    weights: Tensor  # (1, H, S, S)

    def keys(self) -> Tensor:
        """(S, G, E), positions applied."""
        attention = self.layer.self_attn
        keys = attention.k_proj(self.layer.input_layernorm(self.entered)).unflatten(-1, (-1, attention.head_dim))
        keys = attention.k_norm(keys) if hasattr(attention, "k_norm") else keys
        return apply_rotary_pos_emb(keys.transpose(1, 2), keys.transpose(1, 2), *self.rotary)[1][0].transpose(0, 1)

    def pull(self) -> Tensor:
        """(S, S) scores of queries and keys of ones."""
        ones = torch.ones_like(self.rotary[0])[:, None]
        query, key = apply_rotary_pos_emb(ones, ones, *self.rotary)
        return query[0, 0] @ key[0, 0].T * self.layer.self_attn.scaling


def _positions(encoded: Encoded, length: int) -> Tensor:
    """(P, length) of a prompt and of what was decoded behind it."""
    decoded = torch.arange(length - encoded.length) + encoded.next_position
    return torch.cat((encoded.positions_PS, decoded.expand(len(encoded.positions_PS), -1)), dim=1)


def _rotary(decoder, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    return decoder.rotary_emb(hidden, positions if len(positions) == 1 else positions[:, None])


def _attend(decoder, layer, hidden: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What the layer's attention gives, and its weights."""
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[None, None]
    rotary = _rotary(decoder, hidden, positions)
    return layer.self_attn(layer.input_layernorm(hidden), position_embeddings=rotary, attention_mask=additive)


def _choose(run, stage, layer, before, ahead, hidden, alive, where) -> list[int]:
    if stage.rank == 0 or stage.rank >= len(alive):
        return alive[: stage.rank]
    strategy, params = catalog.get(stage.strategy), dict(stage.params)
    rows = [where[v] for v in alive]
    after = run.encoded.length - run.places[-1] - 1
    text = list(range(hidden.shape[0] - after, hidden.shape[0]))
    attention = text_attention = visual_attention = None
    of_decoder = {
        NORMED_STATES: run.llava.module.model.language_model.norm(hidden[rows + text]),
        ROW_AHEAD: ahead[0, :, -1][:, rows].float(),
    }
    if before is not None:
        probabilities = before.weights[0].float()
        of_decoder |= {LAYER_KEYS: before.keys()[rows + text], STATES_BEFORE: before.entered[0, rows]}
        of_decoder[POSITION_PULL] = before.pull()[text][:, rows]
        image, words = run.embedded[run.places], run.embedded[run.places[-1] + 1 :]
        of_decoder[TEXT_MASS] = torch.stack([(words @ token).softmax(dim=0) for token in image]).mean(dim=0)
        attention = probabilities[:, text][:, :, rows]
        text_attention = probabilities[:, text][:, :, text]
        visual_attention = probabilities[:, rows][:, :, rows]
    seed = run.seeds.image if strategy.draws_per == "image" else run.seeds.question
    digest = hashlib.sha256(f"{seed}|{layer}".encode()).digest()
    view = run.views[layer] = EvidenceView(
        visual=len(alive),
        system=run.places[-1] + 1 - run.visual,
        text=len(text),
        seed=int.from_bytes(digest[:8], "big") >> 1,
        device=hidden.device,
        attention_HQV=attention,
        text_attention_HTT=text_attention,
        visual_attention_HVV=visual_attention,
        hidden_states_VD=hidden[rows],
        evidence=of_decoder
        | {name: rows_VX if len(rows_VX) != run.visual else rows_VX[alive] for name, rows_VX in run.tower.items()},
        project=run.llava.project,
    )
    return [alive[k] for k in strategy.choose(view, [stage.rank], params)[0].tolist()]
