"""What is wrong with an experiment's files of cells, which belong together with what stands beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from results.seals import DamagedError
from results.tables import ADDRESS, SCHEMAS, check_file, mask_bits, read_whole

BESIDE = ("kept", "measures")  # what a file of cells has beside it, under the same name
UNREADABLE = (DamagedError, OSError)


def damage(experiment: Path, name: str, seals: bool) -> dict[Path, Exception]:
    """What is wrong with the cells of one name, and with what stands beside them.

    Args:
        experiment: Its folder.
        name: Of the file.
        seals: Whether each of its files has a digest.
    """
    found: dict[Path, Exception] = {}
    for folder in ("cells", *BESIDE):
        path = experiment / folder / name
        try:
            check_file(path, SCHEMAS[folder], seals)
        except FileNotFoundError:
            if folder == "kept":
                found[path] = DamagedError("is missing")
        except UNREADABLE as error:
            found[path] = error
    if not seals and not found:
        cells, kept = (read_whole(experiment / folder / name, SCHEMAS[folder], False) for folder in ("cells", "kept"))
        if not masks_fit(cells, kept):
            found[experiment / "kept" / name] = DamagedError("its masks keep other numbers of tokens than the cells")
    return found


def masks_fit(cells: pa.Table, kept: pa.Table) -> bool:
    """Whether each cell has a mask, which keeps as many tokens as the cell says."""
    names = [name for name, _ in ADDRESS]
    counted = kept.select(names).append_column("bits", mask_bits(kept["kept_mask"]))
    both = cells.select([*names, "tokens_kept"]).join(counted, names)
    return pc.all(pc.equal(both["bits"], both["tokens_kept"]), skip_nulls=False).as_py() is True


def set_aside(path: Path) -> None:
    """Give a file a name under which nothing reads it.

    The same bytes twice get the same name, as where a bucket brings them back.
    """
    if path.exists():
        path.replace(path.with_name(f"{path.name}.{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.damaged"))
