"""What a LLaVA's checkpoint says of itself against what its files hold, looked at before anything is loaded.

An adapter that changes nothing, too, means that another model would be measured than the one that was trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from workers.checkpoints.files import check_files, weight_files
from workers.checkpoints.tensors import Outline
from workers.families.contents import check_held, outlines, refuse_quantised
from workers.families.llava.adapter import adapter_config, check_pairs, sorted_out
from workers.families.llava.described import described
from workers.families.llava.layout import LlavaCheckpoint
from workers.families.llava.names import NEWLINE, TOWER, model_name


def check_checkpoint(checkpoint: LlavaCheckpoint) -> None:
    """Find out whether a checkpoint's files are whole and hold the model that its config.json describes.

    Raises:
        ModelError: a file is missing, truncated, or not what its name says; the weights are quantised; a tensor is
            missing, left over, or of another shape; an adapter changes nothing, or not this model.
    """
    check_files(checkpoint.files)
    for folder in filter(None, dict.fromkeys((checkpoint.base, checkpoint.tower))):
        refuse_quantised(folder / "config.json")
    check_held(
        _held(checkpoint),
        described(checkpoint.config, checkpoint.sizes),
        where=f"model {checkpoint.folder}",
        place=checkpoint.place,
        tied=bool((checkpoint.config.get("text_config") or {}).get("tie_word_embeddings")),
        harmless=partial(_harmless, checkpoint=checkpoint),
    )


def _held(checkpoint: LlavaCheckpoint) -> dict[str, Outline]:
    """Every tensor by the model's name, as the loader reads it; changes of an adapter are checked on the way."""
    held = {}
    if checkpoint.tower is not None:
        held = {name: one for name, one in _named(outlines(weight_files(checkpoint.tower))) if name.startswith(TOWER)}
    base = dict(_named(outlines(checkpoint.weights)))
    pairs, replaced = sorted_out((file, outlines((file,))) for file in checkpoint.extras)
    if pairs:
        adapter_config(checkpoint.folder)
        check_pairs(pairs, base, checkpoint.folder)
    return held | base | replaced


def _named(stored: Iterable[tuple[str, Outline]]) -> Iterator[tuple[str, Outline]]:
    for name, outline in stored:
        if (known := model_name(name)) is not None:
            yield known, outline


def _harmless(name: str, checkpoint: LlavaCheckpoint) -> bool:
    """Whether a tensor that the model has no place for cannot change its answers.

    Layers of the vision tower behind the chosen one, where that is counted from the front; the head of SigLIP's, which
    makes one vector of an image; the row end of any-resolution in LLaVA's own checkpoints that were trained with it and
    see squares.
    """
    if name == NEWLINE:
        return checkpoint.original
    if name.startswith(f"{TOWER}head."):
        return not checkpoint.sizes.class_token
    layer, chosen = name.removeprefix(f"{TOWER}encoder.layers.").partition(".")[0], _chosen(checkpoint.config)
    return layer.isdecimal() and all(isinstance(index, int) and 0 <= index <= int(layer) for index in chosen)


def _chosen(config: dict[str, Any]) -> list[Any]:
    stated = config.get("vision_feature_layer", -2)
    return stated if isinstance(stated, list) else [stated]
