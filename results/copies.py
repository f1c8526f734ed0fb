"""Of a cell that is there more than once, the copy that counts: the first by file name, and in a file the first row.

Two drivers, two attempts at a unit and merged directories leave copies. Equal settings on other hardware may round
differently, so that who reads must agree on one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.analysis.significance import Bools


def in_turn(files: Iterable[Path]) -> list[Path]:
    """Files in the order in which their cells count."""
    return sorted(files)


def first_copies(*address: Sequence[Any] | np.ndarray | pd.Series) -> Bools:
    """Which rows are the first of their address.

    Args:
        address: Its columns, rows of files in their turn.
    """
    columns = {str(place): np.asarray(column) for place, column in enumerate(address)}
    return ~pd.DataFrame(columns).duplicated().to_numpy()
