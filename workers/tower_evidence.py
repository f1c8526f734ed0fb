"""What is had of the vision tower, and of the question by CLIP's text tower: rows of the table of evidence.

Names and shapes: see ``strategies/evidence.py``. Of the tower (V, ...), and 0 where any-resolution marks the end of a
row of patches.
"""

from __future__ import annotations

from strategies.evidence import (
    CLASS_ATTENTION,
    CLASS_FEATURES,
    IMAGE_EMBEDDINGS,
    JOINED_CLASS_ATTENTION,
    LOADINGS,
    PLACES,
    PROMPT_EMBEDDING,
    QUESTION_EMBEDDINGS,
    RECEIVED_ATTENTION,
    TOWER_ATTENTION,
    TOWER_FEATURES,
    TOWER_KEYS,
    TOWER_STATES,
)
from workers.cost import class_attention_flop, image_embedding_flop, text_embedding_flop, tower_flop
from workers.provider import Provider, feature_scratch, nothing
from workers.sites import Site

TOWER_PROVIDERS = (
    Provider(
        name=CLASS_ATTENTION,
        site=Site.TOWER,
        give=lambda tower: tower.class_attention(-2),
        of_layer=lambda tower, layer: tower.class_attention(layer),
        words="the attention of the vision tower's class token",
        flop=lambda config, tokens, visual: class_attention_flop(config),
        class_token=True,
    ),
    Provider(
        name=JOINED_CLASS_ATTENTION,
        site=Site.TOWER,
        give=lambda tower: tower.joined_class_attention(-2),
        of_layer=lambda tower, layer: tower.joined_class_attention(layer),
        words="the attention of the vision tower's class token",
        flop=lambda config, tokens, visual: class_attention_flop(config),
        class_token=True,
    ),
    Provider(
        name=RECEIVED_ATTENTION,
        site=Site.TOWER,
        give=lambda tower: tower.received_attention(-2),
        of_layer=lambda tower, layer: tower.received_attention(layer),
        words="the attention inside the vision tower",
        flop=lambda config, tokens, visual: tower_flop(config, visual, projections=2, scores=True),
    ),
    Provider(
        name=TOWER_ATTENTION,
        site=Site.TOWER,
        give=lambda tower: tower.attention(-2, tower.given).transpose(1, 2),
        of_layer=lambda tower, layer: tower.attention(layer, tower.given).transpose(1, 2),
        words="the attention inside the vision tower",
        flop=lambda config, tokens, visual: tower_flop(config, visual, projections=2, scores=True),
    ),
    Provider(
        name=TOWER_KEYS,
        site=Site.TOWER,
        give=lambda tower: tower.keys(-2)[:, tower.given],
        of_layer=lambda tower, layer: tower.keys(layer)[:, tower.given],
        words="the vision tower's keys",
        flop=lambda config, tokens, visual: tower_flop(config, visual, projections=1),
    ),
    Provider(
        name=TOWER_STATES,
        site=Site.TOWER,
        give=lambda tower: tower.hidden(-2)[:, tower.given],
        of_layer=lambda tower, layer: tower.hidden(layer)[:, tower.given],
        words="the vision tower's features",
        flop=nothing,
    ),
    Provider(
        name=TOWER_FEATURES,
        site=Site.TOWER,
        give=lambda tower: tower.features(),
        words="the vision tower's features",
        flop=nothing,
        scratch=feature_scratch,
    ),
    Provider(
        name=CLASS_FEATURES,
        site=Site.TOWER,
        give=lambda tower: tower.class_features(),
        words="the vision tower's class token",
        flop=nothing,
        class_token=True,
    ),
    Provider(
        name=LOADINGS,
        site=Site.TOWER,
        give=lambda tower: tower.loadings(),
        words="the principal components of the vision tower's features",
        flop=lambda config, tokens, visual: tower_flop(config, visual, components=True),
    ),
    Provider(
        name=PLACES,
        site=Site.TOWER,
        give=lambda tower: tower.places(),
        words="where patches lie",
        flop=nothing,
    ),
    Provider(
        name=IMAGE_EMBEDDINGS,
        site=Site.TOWER,
        give=lambda tower: tower.image_embeddings(),
        words="CLIP's likeness of patches and question",
        flop=lambda config, tokens, visual: image_embedding_flop(config),
        text_tower=True,
    ),
    # Of the question.
    Provider(
        name=QUESTION_EMBEDDINGS,
        site=Site.QUESTION,
        give=lambda questions: questions.embeddings(),
        words="CLIP's likeness of patches and question",
        flop=lambda config, tokens, visual: text_embedding_flop(),
        text_tower=True,
    ),
    Provider(
        name=PROMPT_EMBEDDING,
        site=Site.QUESTION,
        give=lambda questions: questions.whole_embeddings(),
        words="CLIP's likeness of patches and question",
        flop=lambda config, tokens, visual: text_embedding_flop(),
        text_tower=True,
    ),
)
