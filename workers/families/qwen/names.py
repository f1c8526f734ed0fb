"""What a stored tensor is called in the model that transformers builds.

Two layouts are in use; no name of one means something else in the other:

    as published    model.layers...   model.embed_tokens...   model.norm...   visual...
    transformers    model.language_model.layers...   model.visual...
"""

from __future__ import annotations

from workers.families.described import LAYERS

TOWER = "model.visual."
PREFIXES = (
    ("model.layers.", LAYERS),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.norm.", "model.language_model.norm."),
    ("visual.", TOWER),
)
