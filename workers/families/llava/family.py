"""LLaVA as a family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from strategies.errors import UsageError
from workers.families.base import Checkpoint, Parts
from workers.families.config import TEXT_MODELS
from workers.families.llava.config import CLASS_TOKEN_TOWERS, MODEL_TYPES, tiling_of
from workers.families.llava.layout import LlavaCheckpoint, open_llava
from workers.families.llava.onevision import ONEVISION, onevision_config
from workers.families.llava.original import DECODERS
from workers.work import ModelSpec

if TYPE_CHECKING:
    from PIL import Image

    from workers.families.model import Model


class LlavaFamily:
    """LLaVA-1.5 and LLaVA-NeXT over Llama, Mistral and Qwen2, in both of their forms on disk; LLaVA-OneVision."""

    model_types = tuple(dict.fromkeys((*MODEL_TYPES, *DECODERS)))

    hooked = (
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "LlavaOnevisionForConditionalGeneration",
    )

    def open(self, spec: ModelSpec) -> Checkpoint:
        return open_llava(spec)

    def load(self, spec: ModelSpec, device: str) -> Model:
        from workers.families.llava.loading import load_llava

        return load_llava(spec, device)

    def picturer(self, checkpoint: Checkpoint, mode: str) -> Callable[[Image.Image, int], Image.Image]:
        from workers.families.llava.loading import load_image_processor
        from workers.families.llava.pixels import as_seen

        ours = cast(LlavaCheckpoint, checkpoint)
        processor, square = load_image_processor(ours), ours.tiling is not None and ours.tiling.one_tile_among
        return lambda image, among: as_seen(image, "pad" if among > 1 and square else mode, processor)

    def parts(self, module: Any) -> Parts | None:
        config = getattr(module, "config", None)
        if getattr(config, "model_type", None) not in MODEL_TYPES or not hasattr(module, "lm_head"):
            return None
        assert config is not None
        text, vision = config.text_config, config.vision_config
        if text.model_type not in TEXT_MODELS:
            raise UsageError(f"a LLaVA over '{text.model_type}' is not supported ({', '.join(TEXT_MODELS)})")
        from workers.families.llava.tiles import of_call, pictures
        from workers.families.llava.tower import ClipTower, tower_layers

        stated, place = config.to_dict(), Path(type(module).__name__)
        tiling = tiling_of(onevision_config(stated, place) if config.model_type == ONEVISION else stated, place)
        side = vision.image_size // vision.patch_size
        visual = side**2 + (config.vision_feature_select_strategy == "full")
        return Parts(
            tower=module.model.vision_tower,
            pictures=(
                (lambda call, _: [(square, visual) for square in call["pixel_values"]])
                if tiling is None
                else partial(pictures, tiling)
            ),
            projectors=(module.model.multi_modal_projector,),
            project=module.model.multi_modal_projector,
            body=module.model,
            decoder=module.model.language_model,
            image_token=config.image_token_id,
            visual_tokens=None if tiling else visual,
            position_parts=1,
            class_token=vision.model_type in CLASS_TOKEN_TOWERS,
            clip=vision.model_type in CLASS_TOKEN_TOWERS,
            tower_layers=tower_layers(module),
            read_tower=lambda states, call, _: [
                (ClipTower(module, states), list if tiling is None else partial(of_call, tiling, call))
            ],
        )


LLAVA = LlavaFamily()
