"""What a checkpoint says of itself against what its files hold, looked at before anything is loaded.

A tensor that nobody reads or that has an unexpected number type or shape means that another model would be measured
than the one that was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from workers.checkpoints.files import read_header
from workers.checkpoints.settings import read_json
from workers.checkpoints.tensors import Outline, stored_tensors
from workers.families.config import ModelError
from workers.families.described import HEAD, Shape

# As safetensors and as torch name them. Others are quantised weights, whose scales lie beside them.
PLAIN = frozenset({"F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"})
PLAIN_REMEDY = "give the checkpoint in bfloat16, float16 or float32"


def check_held(
    held: Mapping[str, Outline],
    wanted: Mapping[str, Shape],
    where: str,
    place: Path,
    tied: bool,
    harmless: Callable[[str], bool],
) -> None:
    """Hold the tensors of a checkpoint against those of the model that it describes.

    Args:
        held: by the model's name, of all of its files.
        wanted: by the same names.
        where: the checkpoint, for messages.
        place: its config.json.
        tied: whether the head may be missing, because it is the embeddings.
        harmless: whether a tensor that the model has no place for cannot change its answers.

    Raises:
        ModelError: a tensor is missing, left over, of another shape, or no plain weight.
    """
    unused = []
    for name, outline in held.items():
        if (shape := wanted.get(name)) is None:
            if not harmless(name):
                unused.append(name)
        elif outline.kind not in PLAIN:
            raise ModelError(f"{outline.file}: {name}: holds {outline.kind}, which is no plain weight; {PLAIN_REMEDY}")
        elif shape != outline.shape:
            shapes = f"has shape {list(outline.shape)}, config.json asks for {list(shape)}"
            raise ModelError(f"{where}: {name}: {shapes}")
    if unused:
        raise ModelError(
            f"{where}: {len(unused)} tensors are left over: the model of {place} has no place for them; "
            f"first: {min(unused)} in {held[min(unused)].file.name}. Is it this checkpoint's config.json?"
        )
    missing = wanted.keys() - held.keys() - ({HEAD} if tied else set())
    if missing:
        raise ModelError(f"{where}: {len(missing)} tensors are missing from the weights; first: {min(missing)}")


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


def refuse_quantised(place: Path) -> None:
    """Look at a config.json for the settings of a quantisation.

    Raises:
        ModelError: there are some.
    """
    config = read_json(place, "model") if place.is_file() else {}
    for section in (config, config.get("text_config")):
        settings = section.get("quantization_config") if isinstance(section, dict) else None
        if settings:
            method = settings.get("quant_method") if isinstance(settings, dict) else settings
            raise ModelError(f"{place}: quantization_config: {method} is not supported; {PLAIN_REMEDY}")
