"""What a strategy may go by: one table of evidence, each with where it is had, how, at what cost, and in which words.

A new signal from anywhere in the model is one ``Provider`` here; a strategy names it in its ``needs`` and reads it with
``EvidenceView.read``. The engine and ``workers/patch.py`` give the same providers what a site offers (``sites.py``);
only what a grid point needs is computed. What a provider has ``of_layer`` is had of any tower layer that a name gives.

Those of the vision tower and of the question stand in ``tower_evidence.py``, those that methods inside the decoder need
beside its attention in ``decoder_evidence.py``.

Shape letters: see ``strategies/view.py`` and ``workers/sites.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from strategies import catalog
from strategies.catalog import Strategy
from strategies.evidence import EvidenceView
from strategies.pyramiddrop import ROW_AHEAD
from strategies.stages import Stage
from strategies.view import Evidence
from workers.cost import attention_flop, projection_flop
from workers.decoder_evidence import DECODER_PROVIDERS
from workers.families.config import ModelConfig
from workers.provider import Provider, feature_scratch, nothing
from workers.sites import DecoderLayer, InputRows, Question, Questions, Site, Tower
from workers.text_tower import TextTower
from workers.tower_evidence import TOWER_PROVIDERS
from workers.work import UNPRUNED, GridPoint

LAST_QUERIES = 5  # the longest window of last queries that a strategy reads where the text itself is shorter


def _text_rows(layer: DecoderLayer) -> Tensor:
    return layer.last_rows(max(layer.text, min(LAST_QUERIES, layer.system + layer.visual + layer.text)))


def _text_to_text(layer: DecoderLayer) -> Tensor:
    rows_HQS = _text_rows(layer)
    return rows_HQS[:, rows_HQS.shape[1] - layer.text :, layer.system + layer.visual :]


def _on_image(rows_HQS: Tensor, layer: DecoderLayer) -> Tensor:
    return rows_HQS[:, :, layer.system : layer.system + layer.visual]


def _attention_scratch(config: ModelConfig, queries: int, keys: int) -> int:
    """Scores and probabilities in float32; of queries and keys float32 copies, for all heads and in another order."""
    rows = config.heads * config.head_dim * 3 * (queries + keys)
    return 4 * (2 * config.heads * queries * keys + rows)


def _text_scratch(config: ModelConfig, tokens: int, visual: int) -> int:
    return _attention_scratch(config, max(tokens - visual, LAST_QUERIES), tokens)


def _ahead_scratch(config: ModelConfig, tokens: int, visual: int) -> int:
    """Of all tokens the normed states, twice in float32, and keys before and after rotation."""
    own = 4 * tokens * (2 * config.hidden + 2 * config.kv_heads * config.head_dim)
    return own + _attention_scratch(config, 1, tokens)


PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        # Of two for one field the first is the wider, and holds the other.
        Provider(
            name=Evidence.TEXT_ROWS,
            site=Site.DECODER,
            give=lambda layer: _on_image(_text_rows(layer), layer),
            words="the attention of the question's words",
            flop=nothing,
            text_flop=lambda config, tokens, visual, text: attention_flop(config, text, tokens),
            scratch=_text_scratch,
            field="attention_HQV",
            layer_before=True,
        ),
        Provider(
            name=Evidence.TEXT_TO_TEXT,
            site=Site.DECODER,
            give=_text_to_text,
            words="the attention of the question's words",
            flop=nothing,  # a part of the rows that are read with it
            scratch=_text_scratch,
            field="text_attention_HTT",
            layer_before=True,
        ),
        Provider(
            name=Evidence.LAST_ROW,
            site=Site.DECODER,
            give=lambda layer: _on_image(layer.last_rows(1), layer),
            words="the attention of the prompt's last token",
            flop=lambda config, tokens, visual: attention_flop(config, 1, tokens),
            scratch=lambda config, tokens, visual: _attention_scratch(config, 1, tokens),
            field="attention_HQV",
            layer_before=True,
        ),
        Provider(
            name=ROW_AHEAD,
            site=Site.DECODER,
            give=lambda layer: _on_image(layer.row_ahead(), layer)[:, 0],
            words="the attention of the prompt's last token in the layer that comes next",
            flop=lambda config, tokens, visual: (
                attention_flop(config, 1, tokens) + projection_flop(config, queries=1, keys=tokens)
            ),
            scratch=_ahead_scratch,
            layer_ahead=True,
        ),
        Provider(
            name=Evidence.VISUAL_ROWS,
            site=Site.DECODER,
            give=lambda layer: layer.visual_block(),
            words="the attention of the image's tokens",
            flop=lambda config, tokens, visual: attention_flop(config, visual, tokens),
            scratch=lambda config, tokens, visual: _attention_scratch(config, visual, tokens),
            field="visual_attention_HVV",
            layer_before=True,
            image_only=True,
        ),
        Provider(
            name=Evidence.HIDDEN,
            site=Site.DECODER,
            give=lambda layer: layer.visual_hidden(),
            words="the tokens' features",
            flop=nothing,
            scratch=feature_scratch,
            field="hidden_states_VD",
            image_only=True,
        ),
        *DECODER_PROVIDERS,
        *TOWER_PROVIDERS,
    )
}


def provider_of(name: str) -> Provider | None:
    """Who gives evidence of a name, ``NAME`` or ``NAME@LAYER``; None where nobody does."""
    base, _, layer = name.partition("@")
    provider = PROVIDERS.get(base)
    if provider is None or not layer:
        return provider
    if (of_layer := provider.of_layer) is None:
        return None
    return replace(provider, name=name, give=partial(_at, of_layer, layer))


def _at(of_layer: Callable[[Tower, int], Tensor], layer: str, tower: Tower) -> Tensor:
    return of_layer(tower, tower.layer(layer))


def needed(points: Iterable[GridPoint]) -> frozenset[str]:
    """All that the strategies of some grid points read, in any of their stages."""
    return frozenset[str]().union(*(strategy.needs for strategy in _choosing(points)))


def draws_per_image(points: Iterable[GridPoint]) -> bool:
    """Whether a strategy of some grid points draws for each image, whose pixels then have to be named."""
    return any(bool(strategy.draws) and strategy.draws_per == "image" for strategy in _choosing(points))


def stages_of(point: GridPoint, visual: int | None = None) -> tuple[Stage, ...]:
    """Where a grid point prunes, one after the other; nowhere if un-pruned, or if it is the image that is smaller.

    Args:
        point: of a grid.
        visual: tokens of an image, of which the point may keep a share; None: of one with the most.
    """
    if point.strategy == UNPRUNED or (catalog.get(point.strategy).smaller and point.rank):
        return ()
    rank = point.rank if visual is None else point.of(visual).rank
    return catalog.get(point.strategy).stages(point.layer, rank, dict(point.params))


def _choosing(points: Iterable[GridPoint]) -> list[Strategy]:
    """Who chooses in the stages of some grid points, each once."""
    return [catalog.get(name) for name in sorted({stage.strategy for point in points for stage in stages_of(point)})]


def tower_readers(needs: frozenset[str]) -> dict[str, Callable[[Tower], Tensor]]:
    """What is to be read of the vision tower while it has run."""
    return {name: provider.give for name, provider in _chosen(needs, Site.TOWER).items()}


def reads_text_tower(needs: frozenset[str]) -> bool:
    """Whether CLIP's text tower must be there."""
    return any(one.text_tower for one in providers_of(needs))


def of_questions(
    needs: frozenset[str], asked: Sequence[Question | None], text_tower: TextTower | None
) -> list[dict[str, Tensor]]:
    """What is read of each question; nothing where none is given."""
    found: list[dict[str, Tensor]] = [{} for _ in asked]
    there = {index: question for index, question in enumerate(asked) if question is not None}
    if (chosen := _chosen(needs, Site.QUESTION)) and there:
        assert text_tower is not None, "a point was let through without its text tower"
        questions = Questions(list(there.values()), text_tower)
        for name, provider in chosen.items():
            for index, embedding in zip(there, provider.give(questions), strict=True):
                found[index][name] = embedding
    return found


def reads_input(needs: frozenset[str]) -> bool:
    return bool(_chosen(needs, Site.INPUT))


def of_input(needs: frozenset[str], rows: InputRows) -> dict[str, Tensor]:
    """What is read of a sample's input rows: (V, ...) each, or as a provider says."""
    return {name: provider.give(rows) for name, provider in _chosen(needs, Site.INPUT).items()}


def view(
    needs: frozenset[str],
    layer: DecoderLayer,
    image: Mapping[str, Tensor],
    seed: int,
    device: torch.device,
    project: Callable[[Tensor], Tensor] | None = None,
) -> EvidenceView:
    """All that strategies with these needs may look at, of one sequence at one layer.

    Args:
        needs: of all strategies that are to choose here.
        layer: where tokens are dropped.
        image: what was read of the tower and the input, for all visual tokens of the image, and of the question.
        seed: of strategies that draw.
        device: of the evidence.
        project: the projector, for strategies that merge before it.
    """
    fields: dict[str, Any] = {}
    whole = {one.name for one in providers_of(needs) if one.site is Site.QUESTION or one.of_text}
    evidence = {name: image[name] if name in whole else layer.alive(image[name]) for name in needs & image.keys()}
    for name, provider in _chosen(needs, Site.DECODER).items():
        if provider.field is None:
            evidence[name] = provider.give(layer)
        elif provider.field not in fields:
            fields[provider.field] = provider.give(layer)
    return EvidenceView(
        visual=layer.visual,
        system=layer.system,
        text=layer.text,
        seed=seed,
        device=device,
        evidence=evidence,
        project=project,
        **fields,
    )


def of_image(view: EvidenceView) -> EvidenceView:
    """A view without what a decoder layer gave: it may be held for long."""
    of_layer = _chosen(frozenset(view.evidence), Site.DECODER)
    fields: dict[str, Any] = {provider.field: None for provider in PROVIDERS.values() if provider.field}
    lean = replace(view, evidence={name: had for name, had in view.evidence.items() if name not in of_layer}, **fields)
    lean.made.update(view.made)
    return lean.holding(None)


def scratch(needs: frozenset[str], config: ModelConfig, tokens: int, visual: int) -> int:
    """Bytes that strategies with these needs take at most, beside the layers, to choose of one sequence.

    Args:
        needs: of all strategies of a grid.
        config: sizes of the model.
        tokens: of the sequence.
        visual: visual tokens among them.
    """
    if not visual:
        return 0
    return sum(one.scratch(config, tokens, visual) for one in providers_of(needs) if one.scratch is not None)


def words(needs: frozenset[str]) -> str:
    """What a choice goes by, for people; empty where it looks at nothing."""
    return " and ".join(dict.fromkeys(provider.words for provider in providers_of(needs)))


def reads_layer_before(needs: frozenset[str]) -> bool:
    """Whether the decoder layer before must have run."""
    return any(one.layer_before for one in providers_of(needs))


def reads_entered(needs: frozenset[str]) -> bool:
    """Whether what entered the decoder layer before must be kept."""
    return any(one.entered for one in providers_of(needs))


def reads_question(strategy: Strategy, params: Mapping[str, Any] = {}) -> bool:
    """Whether two questions about one image may have it keep other tokens; so does what draws for each question.

    Of a method of several stages each has to be asked.
    """
    drawn_anew = strategy.reads_seed(params) and strategy.draws_per == "question"
    return drawn_anew or any(one.site is not Site.TOWER and not one.image_only for one in providers_of(strategy.needs))


def point_reads_question(point: GridPoint) -> bool:
    """The same of a grid point, in any of its stages; of the un-pruned model never."""
    return any(map(stage_reads_question, stages_of(point)))


def stage_reads_question(stage: Stage) -> bool:
    return reads_question(catalog.get(stage.strategy), dict(stage.params))


def _chosen(needs: frozenset[str], site: Site) -> dict[str, Provider]:
    """In the order of the table."""
    return {provider.name: provider for provider in providers_of(needs) if provider.site is site}


@cache
def providers_of(needs: frozenset[str]) -> tuple[Provider, ...]:
    """In the order of the table, of each first that of the layer that is not named."""
    places = {name: place for place, name in enumerate(PROVIDERS)}
    known = [provider for name in sorted(needs) if (provider := provider_of(name)) is not None]
    return tuple(sorted(known, key=lambda provider: places[provider.name.partition("@")[0]]))
