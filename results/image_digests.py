"""The digests of images that an experiment keeps in its samples.parquet, so that a run that goes on decodes none again.

They hold as long as the data's fingerprint, which is part of the context, does.
"""

from __future__ import annotations

from pathlib import Path

from results.damage import UNREADABLE
from results.manifest import Manifest
from results.tables import SAMPLES, read_columns


def known_digests(folder: Path, old: Manifest | None) -> dict[str, str]:
    """Digests by sample; those that were not taken, or cannot be read, are not among them.

    Args:
        folder: Of the experiment.
        old: What it says of itself, if there is one of the same context.
    """
    path = folder / "samples.parquet"
    if old is None:
        return {}
    try:
        wanted = SAMPLES.empty_table().select(["id", "pixels"]).schema
        table = read_columns(path, wanted, schema=SAMPLES, seals=old.format >= 2)
    except UNREADABLE:
        return {}  # it is written again
    pairs = zip(table["id"].to_pylist(), table["pixels"].to_pylist(), strict=True)
    return {id: digest for id, digest in pairs if digest}
