"""InternVL3 and InternVL3.5 as a family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from workers.families.base import Call, Checkpoint, OfImages, Parts
from workers.families.intern.config import MODEL_TYPES, merge_of
from workers.families.intern.layout import InternCheckpoint, open_intern
from workers.work import ModelSpec

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from workers.families.model import Model
    from workers.sites import Tower


class InternFamily:
    """Images in tiles of one size, over Qwen2 or Qwen3."""

    model_types = MODEL_TYPES
    hooked = ("InternVLForConditionalGeneration",)

    def open(self, spec: ModelSpec) -> Checkpoint:
        return open_intern(spec)

    def load(self, spec: ModelSpec, device: str) -> Model:
        from workers.families.intern.loading import load_intern

        return load_intern(spec, device)

    def picturer(self, checkpoint: Checkpoint, mode: str) -> Callable[[Image.Image], Image.Image]:
        from workers.families.intern.loading import load_image_processor
        from workers.families.intern.pixels import as_seen

        ours = cast(InternCheckpoint, checkpoint)
        processor = load_image_processor(ours)
        return lambda image: as_seen(image, ours.tiling, processor)

    def parts(self, module: Any) -> Parts | None:
        config = getattr(module, "config", None)
        if getattr(config, "model_type", None) not in MODEL_TYPES or not hasattr(module, "lm_head"):
            return None
        assert config is not None
        from workers.families.intern.tower import InternTower

        visual = module.model.vision_tower
        merge = merge_of(config.to_dict(), Path(type(module).__name__))
        tokens = visual.embeddings.patch_embeddings.num_patches // merge**2

        def tiles(call: Call, ids_BS: Tensor) -> Sequence[Tensor]:
            """Of each image, in order."""
            pixels: Tensor = call["pixel_values"]
            counts = [count // tokens for count in (ids_BS == config.image_token_id).sum(dim=1).tolist() if count]
            copies = max(1, sum(counts) // len(pixels))  # beams, before which ``generate`` calls the tower
            counts = counts[::copies]
            return pixels.split(counts) if sum(counts) == len(pixels) else [pixels]  # which transformers then refuses

        def towers(states: Sequence[Tensor], call: Call, ids_BS: Tensor) -> list[tuple[Tower, OfImages]]:
            counts = [len(pixels) for pixels in tiles(call, ids_BS)]
            own = zip(*(state.split(counts) for state in states), strict=True)
            return [(InternTower(visual, some, merge), lambda rows_NPX: [rows_NPX.flatten(0, 1)]) for some in own]

        return Parts(
            tower=visual,
            pictures=tiles,
            projectors=(module.model.multi_modal_projector,),
            project=module.model.multi_modal_projector,
            body=module.model,
            decoder=module.model.language_model,
            image_token=config.image_token_id,
            visual_tokens=None,
            position_parts=1,
            class_token=True,
            clip=False,
            tower_layers=visual.encoder.layer,
            read_tower=towers,
        )


INTERN = InternFamily()
