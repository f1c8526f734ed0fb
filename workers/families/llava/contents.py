"""What a checkpoint says of itself against what its files hold, looked at before anything is loaded.

A tensor that nobody reads or that has an unexpected number type or shape, or an adapter that changes nothing, means
that another model would be measured than the one that was trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from workers.checkpoints.files import check_files, read_header, weight_files
from workers.checkpoints.settings import read_json
from workers.checkpoints.tensors import Outline, stored_tensors
from workers.families.config import ModelError
from workers.families.llava.adapter import adapter_config, check_pairs, sorted_out
from workers.families.llava.described import described
from workers.families.llava.layout import LlavaCheckpoint
from workers.families.llava.names import HEAD, NEWLINE, TOWER, model_name

# As safetensors and as torch name them. Others are quantised weights, whose scales lie beside them.
PLAIN = frozenset({"F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"})
PLAIN_REMEDY = "give the checkpoint in bfloat16, float16 or float32"


def check_checkpoint(checkpoint: LlavaCheckpoint) -> None:
    """Find out whether a checkpoint's files are whole and hold the model that its config.json describes.

    Raises:
        ModelError: a file is missing, truncated, or not what its name says; the weights are quantised; a tensor is
            missing, left over, or of another shape; an adapter changes nothing, or not this model.
    """
    check_files(checkpoint.files)
    for folder in filter(None, dict.fromkeys((checkpoint.base, checkpoint.tower))):
        _refuse_quantised(folder / "config.json")
    wanted = described(checkpoint.config, checkpoint.sizes)
    held = _held(checkpoint)
    where = f"model {checkpoint.folder}"
    unused = []
    for name, outline in held.items():
        if (shape := wanted.get(name)) is None:
            if not _harmless(name, checkpoint):
                unused.append(name)
        elif outline.kind not in PLAIN:
            raise ModelError(f"{outline.file}: {name}: holds {outline.kind}, which is no plain weight; {PLAIN_REMEDY}")
        elif shape != outline.shape:
            shapes = f"has shape {list(outline.shape)}, config.json asks for {list(shape)}"
            raise ModelError(f"{where}: {name}: {shapes}")
    if unused:
        raise ModelError(
            f"{where}: {len(unused)} tensors are left over: the model of {checkpoint.place} has no place for them; "
            f"first: {min(unused)} in {held[min(unused)].file.name}. Is it this checkpoint's config.json?"
        )
    missing = wanted.keys() - held.keys()
    if (checkpoint.config.get("text_config") or {}).get("tie_word_embeddings"):
        missing -= {HEAD}
    if missing:
        raise ModelError(f"{where}: {len(missing)} tensors are missing from the weights; first: {min(missing)}")


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


def outlines(files: Iterable[Path]) -> Iterator[tuple[str, Outline]]:
    """Name and outline of everything in some weight files. Only headers are read, of ``.bin`` files the pickle.

    Raises:
        ModelError: a file is damaged, or holds something else than tensors.
    """
    for file in files:
        if file.suffix == ".safetensors":
            for name, (kind, shape) in read_header(file).items():
                yield name, Outline(file, kind, shape)
        else:
            for name, tensor in stored_tensors((file,)):
                yield name, Outline(file, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def _named(stored: Iterable[tuple[str, Outline]]) -> Iterator[tuple[str, Outline]]:
    for name, outline in stored:
        if (known := model_name(name)) is not None:
            yield known, outline


def _harmless(name: str, checkpoint: LlavaCheckpoint) -> bool:
    """Whether a tensor that the model has no place for cannot change its answers.

    Layers of the vision tower behind the chosen one, where that is counted from the front; the row end of
    any-resolution in LLaVA's own checkpoints that were trained with it and see squares.
    """
    if name == NEWLINE:
        return checkpoint.original
    layer, chosen = name.removeprefix(f"{TOWER}encoder.layers.").partition(".")[0], _chosen(checkpoint.config)
    return layer.isdecimal() and all(isinstance(index, int) and 0 <= index <= int(layer) for index in chosen)


def _chosen(config: dict[str, Any]) -> list[Any]:
    stated = config.get("vision_feature_layer", -2)
    return stated if isinstance(stated, list) else [stated]


def _refuse_quantised(place: Path) -> None:
    config = read_json(place, "model") if place.is_file() else {}
    for section in (config, config.get("text_config")):
        settings = section.get("quantization_config") if isinstance(section, dict) else None
        if settings:
            method = settings.get("quant_method") if isinstance(settings, dict) else settings
            raise ModelError(f"{place}: quantization_config: {method} is not supported; {PLAIN_REMEDY}")
