"""What the rows and columns of an experiment's matrices are: its grid points and its samples, each in its order.

Whoever reads cells asks here which of them are of the sweep: of its context, its points as their strategies stand in
it, and its samples. What else lies in the directory has no place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from results.analysis.significance import Ints

NOWHERE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The grid points and samples of one sweep."""

    context: str
    sources: Mapping[str, str]  # GridPoint.key -> source of its strategy, in the order of the grid
    samples: Sequence[str]

    @property
    def shape(self) -> tuple[int, int]:
        """(P, S)."""
        return len(self.sources), len(self.samples)

    def places(self, cells: pa.Table) -> tuple[Ints, Ints]:
        """Row and column of each cell of a table with the columns ADDRESS.

        The row is `NOWHERE` for another context, grid or version of its strategy, the column for a sample not asked.
        """
        row = _places(cells["point"], list(self.sources))
        kinds = list(dict.fromkeys(self.sources.values()))
        source_P = np.array([kinds.index(source) for source in self.sources.values()], dtype=np.int64)
        ours = (row >= 0) & (_places(cells["source"], kinds) == source_P[row])
        ours &= _places(cells["context"], [self.context]) >= 0
        return np.where(ours, row, NOWHERE), _places(cells["sample"], self.samples)


def _places(column: pa.ChunkedArray, names: Sequence[str]) -> Ints:
    """Where each value of a column stands in ``names``."""
    known = pa.array(names, pa.string())
    if not pa.types.is_dictionary(column.type):
        return _index(column, known)
    parts = [_index(chunk.dictionary, known)[chunk.indices.to_numpy()] for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _index(column: pa.Array | pa.ChunkedArray, known: pa.Array) -> Ints:
    return np.asarray(pc.fill_null(pc.index_in(column, known), NOWHERE)).astype(np.int64)
