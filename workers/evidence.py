"""What a strategy may go by: one table of evidence, each with where it is had, how, at what cost, and in which words.

A new signal from anywhere in the model is one ``Provider`` here; a strategy names it in its ``needs`` and reads it with
``EvidenceView.read``. The engine and ``workers/patch.py`` give the same providers what a site offers (``sites.py``);
only what a grid point needs is computed.

Shape letters: see ``strategies/view.py`` and ``workers/sites.py``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from strategies import catalog
from strategies.catalog import Strategy
from strategies.evidence import EvidenceView
from strategies.view import Evidence
from workers.cost import attention_flop, class_attention_flop
from workers.families.config import ModelConfig
from workers.sites import DecoderLayer, InputRows, Site, Tower
from workers.work import UNPRUNED, GridPoint

LAST_QUERIES = 5  # the longest window of last queries that a strategy reads where the text itself is shorter
CLASS_ATTENTION = "class_attention"
TOWER_FEATURES = "tower_features"

Flop = Callable[
    [ModelConfig, Any, int], Any
]  # of the model, from tokens and visual tokens of the sequence, per reading
Scratch = Callable[[ModelConfig, int, int], int]  # from the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """How one kind of evidence is had."""

    name: str
    site: Site
    # Tower -> (N, P, ...); InputRows -> (V, ...); DecoderLayer -> any shape. Of the first two each row is of a token.
    give: Callable[[Any], Tensor]
    words: str  # "chosen by ...", for people
    flop: Flop  # NaN where it depends on what an experiment does not record: tokens may be an array
    scratch: Scratch | None = None  # bytes at most while it is had and read of a decoder layer; None: next to nothing
    field: str | None = None  # of TokenView; None: it is read by its name
    layer_before: bool = False  # of a decoder layer: what layer K-1 computed, so that there is none at K = 0
    image_only: bool = False  # outside of the tower: no token after the image is read, so all questions have it alike


def _text_rows(layer: DecoderLayer) -> Tensor:
    return layer.last_rows(max(layer.text, min(LAST_QUERIES, layer.system + layer.visual + layer.text)))


def _text_to_text(layer: DecoderLayer) -> Tensor:
    rows_HQS = _text_rows(layer)
    return rows_HQS[:, rows_HQS.shape[1] - layer.text :, layer.system + layer.visual :]


def _on_image(rows_HQS: Tensor, layer: DecoderLayer) -> Tensor:
    return rows_HQS[:, :, layer.system : layer.system + layer.visual]


def _nothing(config: ModelConfig, tokens: Any, visual: int) -> int:
    return 0


def _attention_scratch(config: ModelConfig, queries: int, keys: int) -> int:
    """Scores and probabilities in float32; of queries and keys float32 copies, for all heads and in another order."""
    rows = config.heads * config.head_dim * 3 * (queries + keys)
    return 4 * (2 * config.heads * queries * keys + rows)


def _text_scratch(config: ModelConfig, tokens: int, visual: int) -> int:
    return _attention_scratch(config, max(tokens - visual, LAST_QUERIES), tokens)


def _feature_scratch(config: ModelConfig, tokens: int, visual: int) -> int:
    """Two float32 copies, one of them normalised, and twice the similarity of all to all."""
    return 4 * (2 * visual * config.hidden + 2 * visual**2)


def _unknown(config: ModelConfig, tokens: Any, visual: int) -> float:
    """Cells do not say how many of a prompt's tokens follow the image."""
    return math.nan


PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        # Of two for one field the first is the wider, and holds the other.
        Provider(
            name=Evidence.TEXT_ROWS,
            site=Site.DECODER,
            give=lambda layer: _on_image(_text_rows(layer), layer),
            words="the attention of the question's words",
            flop=_unknown,
            scratch=_text_scratch,
            field="attention_HQV",
            layer_before=True,
        ),
        Provider(
            name=Evidence.TEXT_TO_TEXT,
            site=Site.DECODER,
            give=_text_to_text,
            words="the attention of the question's words",
            flop=_unknown,
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
            flop=_nothing,
            scratch=_feature_scratch,
            field="hidden_states_VD",
            image_only=True,
        ),
        Provider(  # (V, H) float32; 0 where any-resolution marks the end of a row
            name=CLASS_ATTENTION,
            site=Site.TOWER,
            give=lambda tower: tower.class_attention(-2),
            words="the attention of the vision tower's class token",
            flop=lambda config, tokens, visual: class_attention_flop(config),
        ),
        Provider(  # (V, C) in the model's dtype; 0 where any-resolution marks the end of a row
            name=TOWER_FEATURES,
            site=Site.TOWER,
            give=lambda tower: tower.features(),
            words="the vision tower's features",
            flop=_nothing,
        ),
    )
}


def needed(points: Iterable[GridPoint]) -> frozenset[str]:
    """All that the strategies of some grid points read, in any of their stages."""
    pruning = [point for point in points if point.strategy != UNPRUNED]
    stages = (
        stage
        for point in pruning
        for stage in catalog.get(point.strategy).stages(point.layer, point.rank, dict(point.params))
    )
    return frozenset[str]().union(*(catalog.get(name).needs for name in {stage.strategy for stage in stages}))


def tower_readers(needs: frozenset[str]) -> dict[str, Callable[[Tower], Tensor]]:
    """What is to be read of the vision tower while it has run."""
    return {name: provider.give for name, provider in _chosen(needs, Site.TOWER).items()}


def reads_input(needs: frozenset[str]) -> bool:
    return bool(_chosen(needs, Site.INPUT))


def of_input(needs: frozenset[str], rows: InputRows) -> dict[str, Tensor]:
    """What is read of a sample's input rows: (V, ...) each."""
    return {name: provider.give(rows) for name, provider in _chosen(needs, Site.INPUT).items()}


def view(
    needs: frozenset[str], layer: DecoderLayer, image: Mapping[str, Tensor], seed: int, device: torch.device
) -> EvidenceView:
    """All that strategies with these needs may look at, of one sequence at one layer.

    Args:
        needs: of all strategies that are to choose here.
        layer: where tokens are dropped.
        image: what was read of the tower and the input, for all visual tokens of the image.
        seed: of strategies that draw.
        device: of the evidence.
    """
    fields: dict[str, Any] = {}
    evidence = {name: layer.alive(image[name]) for name in needs & image.keys()}
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
        **fields,
    )


def scratch(needs: frozenset[str], config: ModelConfig, tokens: int, visual: int) -> int:
    """Bytes that strategies with these needs take at most, beside the layers, to choose of one sequence.

    Args:
        needs: of all strategies of a grid.
        config: sizes of the model.
        tokens: of the sequence.
        visual: visual tokens among them.
    """
    chosen = _chosen(needs, Site.DECODER).values()
    return sum(one.scratch(config, tokens, visual) for one in chosen if one.scratch is not None) if visual else 0


def words(needs: frozenset[str]) -> str:
    """What a choice goes by, for people; empty where it looks at nothing."""
    return " and ".join(dict.fromkeys(provider.words for name, provider in PROVIDERS.items() if name in needs))


def reads_layer_before(needs: frozenset[str]) -> bool:
    """Whether the decoder layer before must have run."""
    return any(PROVIDERS[name].layer_before for name in needs)


def reads_question(strategy: Strategy) -> bool:
    """Whether two questions about one image may have it keep other tokens; what draws does so for each sample.

    Of a method of several stages each has to be asked.
    """
    provided = (PROVIDERS[name] for name in strategy.needs)
    return strategy.draws or any(one.site is not Site.TOWER and not one.image_only for one in provided)


def point_reads_question(point: GridPoint) -> bool:
    """The same of a grid point, in any of its stages; of the un-pruned model never."""
    if point.strategy == UNPRUNED:
        return False
    stages = catalog.get(point.strategy).stages(point.layer, point.rank, dict(point.params))
    return any(reads_question(catalog.get(stage.strategy)) for stage in stages)


def complaint(
    strategy: Strategy,
    params: Mapping[str, Any],
    *,
    layer: int,
    rank: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
) -> str | None:
    """Say in one line why a strategy cannot run so; None where it can.

    Args:
        strategy: of a grid point.
        params: values for its parameters.
        layer, rank: of the point; a rank that is not given is not checked.
        layers, heads: of the model; what depends on one that is not given is not checked.
    """
    if said := strategy.check(params, layer=layer, rank=rank, layers=layers, heads=heads):
        return said
    for stage in strategy.stages(layer, sys.maxsize if rank is None else rank, params):
        needs = catalog.get(stage.strategy).needs
        if unknown := needs - PROVIDERS.keys():
            return f"strategy '{strategy.name}' reads '{min(unknown)}', which nothing provides (workers/evidence.py)"
        if stage.layer == 0 and reads_layer_before(needs):
            # FastV's code draws at random there; a draw under a method's name would be taken for the method's.
            reads = f"{strategy.name} reads {words(needs)}"
            return f"layer: {reads}, which there is from layer 1 on; at layer 0 take `random`"
    return None


def _chosen(needs: frozenset[str], site: Site) -> dict[str, Provider]:
    """In the order of the table."""
    return {name: provider for name, provider in PROVIDERS.items() if provider.site is site and name in needs}
