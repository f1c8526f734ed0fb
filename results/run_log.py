"""What the driver of a sweep wrote down while it ran, in the folder of the experiment."""

from __future__ import annotations

import os
from pathlib import Path

NAME = "run.log"
MAX_BYTES = 2**20  # of its end, which a page shows


def end_of_log(folder: Path) -> str | None:
    """The last lines of an experiment's log; None where it has none that can be read."""
    try:
        with (folder / NAME).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MAX_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return None
