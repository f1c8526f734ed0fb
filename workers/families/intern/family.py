"""InternVL3 and InternVL3.5 as a family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
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

    def picturer(self, checkpoint: Checkpoint, mode: str) -> Callable[[Image.Image, int], Image.Image]:
        from workers.families.intern.loading import load_image_processor
        from workers.families.intern.pixels import as_seen

        ours = cast(InternCheckpoint, checkpoint)
        processor = load_image_processor(ours)
        return lambda image, among: as_seen(image, ours.tiling, processor)

    def parts(self, module: Any) -> Parts | None:
        config = getattr(module, "config", None)
        if getattr(config, "model_type", None) not in MODEL_TYPES or not hasattr(module, "lm_head"):
            return None
        assert config is not None
        from workers.families.intern.tower import InternTower

        visual = module.model.vision_tower
        merge = merge_of(config.to_dict(), Path(type(module).__name__))
        tokens = visual.embeddings.patch_embeddings.num_patches // merge**2

        def pictures(call: Call, ids_BS: Tensor) -> list[tuple[Tensor, int]]:
            """Of each image its tiles, and as many tokens as these have."""
            pixels: Tensor = call["pixel_values"]
            samples = [counts for row in (ids_BS == config.image_token_id).tolist() if (counts := _runs(row, tokens))]
            copies = max(1, sum(map(sum, samples)) // len(pixels))  # beams, before which ``generate`` calls the tower
            tiles = [count for counts in samples[::copies] for count in counts]
            if sum(tiles) != len(pixels):
                return [(pixels, len(pixels) * tokens)]  # which transformers then refuses
            return [(some, len(some) * tokens) for some in pixels.split(tiles)]

        def towers(states: Sequence[Tensor], call: Call, ids_BS: Tensor) -> list[tuple[Tower, OfImages]]:
            counts = [len(pixels) for pixels, _ in pictures(call, ids_BS)]
            own = zip(*(state.split(counts) for state in states), strict=True)
            return [(InternTower(visual, some, merge), lambda rows_NPX: [rows_NPX.flatten(0, 1)]) for some in own]

        return Parts(
            tower=visual,
            pictures=pictures,
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


def _runs(shown: Sequence[bool], tokens: int) -> list[int]:
    """Tiles of each image of a prompt, whose tokens stand in a row, so many a tile."""
    return [len(list(run)) // tokens for image, run in groupby(shown) if image]


INTERN = InternFamily()
