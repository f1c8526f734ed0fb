"""What the rows of VLMEvalKit's TSV files have in common: images, options, and how they write what is missing.

Source: open-compass/VLMEvalKit, vlmeval/dataset/image_base.py and image_mcq.py, which read them with pandas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workers.tasks.base import LETTERS, EmbeddedImage

TsvRow = Mapping[str, Any]
NULLS = frozenset({"", "#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "n/a", "null"})


def images_of(rows: Sequence[tuple[str, TsvRow]]) -> dict[str, tuple[EmbeddedImage, ...]]:
    """The images inside the file by the index of their row; a row may name another row's by its index."""
    own = {index_of(row): row.get("image", "") for _, row in rows}
    found = {}
    for index, image in own.items():
        target = own.get(image.strip()) if isinstance(image, str) else image
        if target and not isinstance(target, str):
            found[index] = target
    return found


def index_of(row: TsvRow) -> str:
    """What the file calls a row; ``241.0`` is how pandas writes a number beside one that is missing."""
    return str(row["index"]).strip().removesuffix(".0")


def options_of(row: TsvRow) -> Iterator[str]:
    """The texts in columns A, B, ... up to the first that is missing.

    A word that pandas reads as missing, such as None or NA, is an answer where it stands once; twice it is how the file
    writes what is missing.
    """
    texts = [row.get(letter, "") for letter in LETTERS]
    for text in texts:
        if text == "" or text.lower() == "nan" or (is_missing(text) and texts.count(text) > 1):
            return
        yield text


def is_missing(text: str) -> bool:
    """What pandas reads as missing, or LLaVA's ``is_none`` takes for it."""
    return text in NULLS or text.lower() in ("nan", "none")


def of_split(row: TsvRow, wanted: str) -> bool:
    """Whether a row is of a split; one that does not say is of all."""
    split = row.get("split")
    return split is None or is_missing(split) or split.strip().lower() == wanted.lower()


def said(row: TsvRow, *names: str) -> str:
    """The first of some columns that says something."""
    return next((row[name] for name in names if name in row and not is_missing(row[name])), "")
