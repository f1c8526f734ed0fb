"""By which versions and on what devices the cells of an experiment were computed, file by file."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq

from results.damage import UNREADABLE
from results.experiment import Experiment
from results.tables import stated_of

# What a file states that says nothing about its numbers.
OF_A_FILE = frozenset({"worker", "seconds", "written", "peak_bytes", "device_bytes", "busy"})
Way = tuple[tuple[str, str], ...]  # of each file of cells what its writer stated: names and versions


def ways(experiment: Experiment) -> Counter[Way]:
    """How many cells were computed in which way; an empty one where their file says nothing."""
    found: Counter[Way] = Counter()
    for path in experiment.files("cells"):
        try:
            experiment.check(path)
            stated = stated_of(pq.read_schema(path))
            rows = pq.read_metadata(path).num_rows
        except (*UNREADABLE, pa.ArrowException):
            continue  # whoever reads its cells says so
        found[tuple(sorted((name, value) for name, value in stated.items() if name not in OF_A_FILE))] += rows
    return found


def ways_text(experiment: Experiment) -> str | None:
    """In what the cells of an experiment differ by how they were computed; None where they do not."""
    found = ways(experiment)
    if len(found) < 2:
        return None
    names = sorted({name for way in found for name, _ in way if len({dict(other).get(name) for other in found}) > 1})
    parts = [
        f"{cells} by " + ", ".join(f"{name} {dict(way).get(name, 'unknown')}" for name in names)
        for way, cells in found.most_common()
    ]
    return f"cells were computed in {len(found)} ways, whose last digits may differ: {'; '.join(parts)}"
