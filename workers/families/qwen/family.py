"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL as a family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from workers.families.base import Call, Checkpoint, Parts
from workers.families.qwen.config import MODEL_TYPES, full_layers
from workers.families.qwen.layout import QwenCheckpoint, open_qwen
from workers.work import ModelSpec

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from workers.families.model import Model
    from workers.families.qwen.grid import TokenGrid


class QwenFamily:
    """Images of any shape, whose tokens differ in number."""

    model_types = MODEL_TYPES
    hooked = (
        "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
    )

    def open(self, spec: ModelSpec) -> Checkpoint:
        return open_qwen(spec)

    def load(self, spec: ModelSpec, device: str) -> Model:
        from workers.families.qwen.loading import load_qwen

        return load_qwen(spec, device)

    def picturer(self, checkpoint: Checkpoint, mode: str) -> Callable[[Image.Image, int], Image.Image]:
        from workers.families.qwen.loading import load_image_processor
        from workers.families.qwen.pixels import as_seen

        ours = cast(QwenCheckpoint, checkpoint)
        processor = load_image_processor(ours)
        return lambda image, among: as_seen(image, ours.resizing, processor)

    def parts(self, module: Any) -> Parts | None:
        config = getattr(module, "config", None)
        if getattr(config, "model_type", None) not in MODEL_TYPES or not hasattr(module, "lm_head"):
            return None
        assert config is not None
        from workers.families.qwen.model import joined
        from workers.families.qwen.tower import towers_of

        visual, full = module.model.visual, full_layers(config.to_dict(), Path(type(module).__name__))
        return Parts(
            tower=visual,
            pictures=lambda call, _: _pictures(call, visual.spatial_merge_size**2),
            projectors=(visual.merger, *getattr(visual, "deepstack_merger_list", ())),
            project=lambda features_PC: visual.merger(joined(features_PC, visual)),
            body=module.model,
            decoder=module.model.language_model,
            image_token=config.image_token_id,
            visual_tokens=None,
            position_parts=3,
            class_token=False,
            clip=False,
            tower_layers=visual.blocks,
            adding="_deepstack_process" if hasattr(visual, "deepstack_visual_indexes") else None,
            read_tower=lambda states, call, _: [
                (tower, list) for tower in towers_of(visual, states, _token_grids(visual, call), full)
            ],
        )


def _grids(call: Call) -> list[tuple[int, int]]:
    """Rows and columns of the patches of each image of a call of the model."""
    return [(rows, columns) for _, rows, columns in call["image_grid_thw"].tolist()]


def _pictures(call: Call, merged: int) -> list[tuple[Tensor, int]]:
    """Each image's patches, and its tokens of so many of these."""
    counts = [rows * columns for rows, columns in _grids(call)]
    patches = call["pixel_values"].split(counts)
    return list(zip(patches, (count // merged for count in counts), strict=True))


def _token_grids(visual: Any, call: Call) -> list[TokenGrid]:
    """Where the tokens of each image of a call lie."""
    from workers.families.qwen.grid import TokenGrid

    merge: int = visual.spatial_merge_size
    window = visual.window_size // visual.patch_size // merge if hasattr(visual, "window_size") else 0
    device = call["pixel_values"].device
    return [TokenGrid((rows // merge, columns // merge), merge, window, device) for rows, columns in _grids(call)]


QWEN = QwenFamily()
