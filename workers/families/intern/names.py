"""What a stored tensor is called in the model that transformers builds.

Two layouts are in use; no name of one means something else in the other:

    as published         language_model.model.layers...   vision_tower...   multi_modal_projector...
    transformers today   model.language_model.layers...   model.vision_tower...   model.multi_modal_projector...
"""

from __future__ import annotations

TOWER = "model.vision_tower."
PROJECTOR = "model.multi_modal_projector."
PREFIXES = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", TOWER),
    ("multi_modal_projector.", PROJECTOR),
)
