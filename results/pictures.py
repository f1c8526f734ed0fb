"""Pictures of an experiment: the images as its model saw them, so that samples can be looked at anywhere.

    EXPERIMENT/pictures/*.parquet    one row per sample: WebP of the vision tower's size

They decide nothing and may be deleted: a finished experiment is explored on a machine that has neither the model nor
the data, and without them only the images are missing. Addressed by context and sample, as cells are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from results.damage import UNREADABLE
from results.experiment import Experiment
from results.tables import PICTURES, read_columns, write_table
from workers.work import content_key

FOLDER = "pictures"


def write_pictures(experiment: Experiment, pictures: Mapping[str, bytes]) -> None:
    """Store pictures (sample id -> WebP) in one file; the same samples again replace it."""
    if not pictures:
        return
    folder = experiment.path / FOLDER
    folder.mkdir(exist_ok=True)
    rows = [{"context": experiment.context, "sample": name, "webp": data} for name, data in pictures.items()]
    table = pa.Table.from_pylist(rows, schema=PICTURES)
    path = folder / f"{content_key([experiment.context, *pictures])}.parquet"
    write_table(path, table, compression="none", use_dictionary=["context"])


class Pictures:
    """The pictures of an experiment, found by sample id alone."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._files: dict[str, Path] = {}
        self._read: set[Path] = set()
        self.refresh()

    def refresh(self) -> None:
        """Look for files that were written since; one that is not whole is left out."""
        known = frozenset(self._experiment.samples["id"])
        for path in self._experiment.files(FOLDER):
            if path in self._read:
                continue
            try:
                names = self._columns(path, "context", "sample")
            except UNREADABLE as error:
                self._experiment.note(path, error)
                continue
            self._read.add(path)
            for row in names.to_pylist():
                if row["context"] == self._experiment.context and row["sample"] in known:
                    self._files.setdefault(row["sample"], path)

    @property
    def context(self) -> str:
        """Of the experiment."""
        return self._experiment.context

    @property
    def samples(self) -> frozenset[str]:
        """Ids of the samples that have a picture."""
        return frozenset(self._files)

    @property
    def size_bytes(self) -> int:
        """What the files take on disk."""
        return sum(path.stat().st_size for path in self._read if path.exists())

    def get(self, sample: str) -> bytes | None:
        """The picture of a sample as WebP; None where there is none."""
        if sample not in self._files:
            return None
        try:
            table = self._columns(self._files[sample], "sample", "webp")
        except UNREADABLE:  # deleted since
            return None
        return next((row["webp"] for row in table.to_pylist() if row["sample"] == sample), None)

    def _columns(self, path: Path, *names: str) -> pa.Table:
        wanted = pa.schema([PICTURES.field(name) for name in names])
        return read_columns(path, wanted, schema=PICTURES, seals=self._experiment.seals)
