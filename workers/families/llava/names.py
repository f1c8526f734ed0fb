"""What a stored tensor is called in the model that transformers builds.

Four layouts are in use; no name of one means something else in another, so one table reads them all:

    Hugging Face, today    model.language_model.layers...      model.vision_tower...   model.multi_modal_projector...
    Hugging Face, old      language_model.model.layers...      vision_tower.vision_model...   multi_modal_projector...
    LLaVA's own            model.layers...   model.vision_tower.vision_tower.vision_model...   model.mm_projector.0 / .2
    CLIP's own             vision_model...
"""

from __future__ import annotations

from workers.families.described import LAYERS

TOWER = "model.vision_tower."
NEWLINE = "model.image_newline"
_PREFIXES = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.layers.", LAYERS),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.norm.", "model.language_model.norm."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("model.vision_tower.vision_tower.", TOWER),
    ("vision_tower.", TOWER),
    ("vision_model.", TOWER),
    ("image_newline", NEWLINE),
)
_COMPUTED = ("rotary_emb.inv_freq", "embeddings.position_ids")  # that old versions of transformers stored
_TEXT_TOWER = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")  # of a whole CLIP


def model_name(stored: str) -> str | None:
    """The model's name of a stored tensor; None for what is computed, or belongs to CLIP's other half."""
    if stored.endswith(_COMPUTED) or stored.startswith(_TEXT_TOWER):
        return None
    for prefix, name in _PREFIXES:
        if stored.startswith(prefix):
            stored = name + stored.removeprefix(prefix)
            break
    # Releases of transformers differ in whether CLIP's inner module has a level of its own.
    return TOWER + stored.removeprefix(TOWER).removeprefix("vision_model.") if stored.startswith(TOWER) else stored
