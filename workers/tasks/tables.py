"""Tables that hold images in their cells: parquet files of the Hugging Face hub, and TSV files with base64 text.

Only the other columns are read when a benchmark is opened. An image becomes the place of its bytes, which are read when
the sample is prepared: the files of some benchmarks are larger than a worker's memory.
"""

from __future__ import annotations

import base64
import binascii
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Shown = tuple["Base64Image", ...]

# A field as Python's csv and pandas read it: quoted with doubled quotes inside, or all up to the next tab or line end.
FIELD = re.compile(rb'(?:"([^"]*(?:""[^"]*)*)"|((?:[^"\t\r\n][^\t\r\n]*)?))(\t|\r\n|\n|\r|\Z)')
BASE64 = re.compile(rb"[A-Za-z0-9+/=]{65,}")  # an image of a list of them

_reading = Lock()  # threads that prepare neighbouring samples want the same row group


@dataclass(frozen=True, slots=True)
class ParquetImage:
    """A cell of an image column: a struct with ``bytes``, as the datasets library writes it, or plain bytes."""

    file: Path
    row: int
    column: str = "image"

    def __str__(self) -> str:
        return f"{self.file}: row {self.row}"

    def read(self) -> bytes:
        """The image file's content.

        Raises:
            OSError: the cell is empty, or the file is damaged there.
        """
        try:
            with _reading:
                first, images = _row_group(str(self.file), self.file.stat().st_mtime_ns, self.row, self.column)
        except pa.ArrowException as error:
            raise OSError(f"the parquet file is damaged: {error}") from error
        content = images[self.row - first].as_py()
        if content is None:
            raise OSError("the cell holds no image bytes")
        return bytes(content)


@dataclass(frozen=True, slots=True)
class Base64Image:
    """A field of a text file that holds an image as base64."""

    file: Path
    start: int  # in bytes
    stop: int
    row: int  # of the table, its header not counted

    def __str__(self) -> str:
        return f"{self.file}: row {self.row}"

    def read(self) -> bytes:
        """The image file's content.

        Raises:
            OSError: the text is not base64.
        """
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            text = stream.read(self.stop - self.start)
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise OSError(f"is not base64: {error}") from error


def read_parquet(file: Path, image: str) -> Iterator[tuple[dict[str, Any], ParquetImage | None]]:
    """Rows without their image, and the image's place; None where the row has none.

    Raises:
        pa.ArrowException, OSError, ValueError: it is no whole parquet file, or two of its columns have one name.
    """
    with pq.ParquetFile(file) as parquet:
        names = parquet.schema_arrow.names
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        texts = [
            name for name in names if name != image and not pa.types.is_binary(parquet.schema_arrow.field(name).type)
        ]
        shown = _has_image(parquet, image) if image in names else [False] * parquet.metadata.num_rows
        rows = parquet.read(columns=texts).to_pylist() if texts else [{}] * len(shown)
    for place, (row, has) in enumerate(zip(rows, shown, strict=True)):
        yield row, ParquetImage(file, place, image) if has else None


def _has_image(parquet: pq.ParquetFile, image: str) -> list[bool]:
    """Per row, whether it has an image. Of a struct only the path is read, which is a few bytes a row."""
    kind = parquet.schema_arrow.field(image).type
    light = pa.types.is_struct(kind) and "path" in {kind.field(place).name for place in range(kind.num_fields)}
    column = f"{image}.path" if light else image
    return [
        bool(valid)
        for batch in parquet.iter_batches(batch_size=256, columns=[column])
        for valid in batch.column(0).is_valid().to_pylist()
    ]


@lru_cache(maxsize=2)  # samples are prepared in file order: one row group, and its neighbour at the seam
def _row_group_images(file: str, changed: int, group: int, column: str) -> pa.ChunkedArray:
    with pq.ParquetFile(file) as parquet:
        kind = parquet.schema_arrow.field(column).type
        images = parquet.read_row_group(group, columns=[column]).column(0)
    if not pa.types.is_struct(kind):
        return images
    return pa.chunked_array([chunk.field("bytes") for chunk in images.chunks], pa.binary())


@lru_cache(maxsize=64)
def _group_starts(file: str, changed: int) -> tuple[int, ...]:
    metadata = pq.read_metadata(file)
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return tuple(starts)


def _row_group(file: str, changed: int, row: int, column: str) -> tuple[int, pa.ChunkedArray]:
    """First row and image cells of the row group that holds a row."""
    starts = _group_starts(file, changed)
    group = next((g for g, start in enumerate(starts[1:]) if row < start), None)
    if group is None:
        raise OSError(f"the file has only {starts[-1]} rows")
    return starts[group], _row_group_images(file, changed, group, column)


def read_tsv(file: Path, image: str) -> Iterator[dict[str, str | Shown]]:
    """Rows of a TSV file with a header line; the image column's fields as places, of one image or of a list of them.

    A field of at most 64 characters in the image column is text: VLMEvalKit's files name there the row whose image is
    meant.

    Raises:
        ValueError: a row has another number of fields than the header, or a text is not UTF-8; the message says which.
        OSError: it cannot be read.
    """
    if not file.stat().st_size:
        raise ValueError("is empty")
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        records = _records(content)
        header = [_text(content, *field) for field in next(records)]
        header[0] = header[0].removeprefix("\ufeff")
        for number, fields in enumerate(records):
            if len(fields) == 1 and fields[0][0] == fields[0][1]:
                continue  # an empty line
            if len(fields) != len(header):
                raise ValueError(f"row {number}: has {len(fields)} fields, and the header has {len(header)}")
            row: dict[str, str | Shown] = {}
            for name, (start, stop, quoted) in zip(header, fields, strict=True):
                if name == image and stop - start > 64:
                    listed = BASE64.finditer(content, start, stop) if content[start] == ord("[") else ()
                    spans = [one.span() for one in listed] or [(start, stop)]
                    row[name] = tuple(Base64Image(file, *span, number) for span in spans)
                else:
                    row[name] = _text(content, start, stop, quoted)
            yield row


def _records(content: mmap.mmap) -> Iterator[list[tuple[int, int, bool]]]:
    """Start, stop and quotedness of every field, record after record."""
    place, record = 0, []
    while place < len(content):
        found = FIELD.match(content, place)
        if found is None:
            line = content[:place].count(b"\n") + 1
            raise ValueError(f"line {line}: a quoted field does not end, or goes on after its closing quote")
        quoted = found[1] is not None
        record.append((*found.span(1 if quoted else 2), quoted))
        place = found.end()
        if found[3] != b"\t":
            yield record
            record = []
    if record:  # the last line ends in a tab
        yield [*record, (place, place, False)]


def _text(content: mmap.mmap, start: int, stop: int, quoted: bool) -> str:
    text = content[start:stop].decode("utf-8")
    return text.replace('""', '"') if quoted else text
