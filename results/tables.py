"""The parquet files of an experiment: their columns, written whole with a digest, and read only where that is right.

Who reads a column has checked the whole file before, once for each state of the file: its digest (`seals.py`), or, of
files that were written before there were digests, that every column can be read and none contradicts another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from results.disk import write_whole
from results.seals import DamagedError, check_seal, sealed
from workers.json_file import UnreadableError, read_bytes
from workers.tasks.base import Sample

MAX_BYTES = 2**32
ADDRESS = [("context", pa.string()), ("source", pa.string()), ("point", pa.string()), ("sample", pa.string())]
CELLS = pa.schema(
    [
        *ADDRESS,
        ("answer", pa.string()),
        ("parsed", pa.string()),
        ("correct", pa.bool_()),
        ("score", pa.float64()),  # 0 to 1; null: 0 or 1, as ``correct`` says
        ("first_token", pa.int64()),
        ("option_logits", pa.list_(pa.float32())),
        ("margin", pa.float32()),
        ("tokens_kept", pa.int32()),
        ("decoded_tokens", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("visual_tokens", pa.int32()),
        ("text_tokens", pa.int32()),  # after the image; null: an earlier version did not say
        ("squares", pa.int32()),  # that the tower saw; null: one, or as many as visual tokens say
    ]
)
KEPT = pa.schema(
    [
        *ADDRESS,
        ("visual_tokens", pa.int32()),
        ("kept_mask", pa.binary()),
        ("maps", pa.string()),  # where tokens lie (`workers/token_maps.py`); null: as the model's grid says
    ]
)
MEASURES = pa.schema([*ADDRESS, ("name", pa.string()), ("value", pa.float64())])
FAILURES = pa.schema([(name, pa.string()) for name in ("context", "sample", "kind", "message", "traceback", "worker")])
SAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("options", pa.int32()),  # number of options
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answers", pa.list_(pa.string())),  # of all annotators, where the scorer compares with each of them
        ("subject", pa.string()),
        ("topic", pa.string()),
        ("category", pa.string()),
        ("skill", pa.string()),
        ("group", pa.string()),  # questions that count together; empty or null: it counts alone
        ("image", pa.string()),  # path, or file and row, where the run saw it; null: a text-only question
        ("pixels", pa.string()),  # digest of the decoded image; empty: cannot be decoded; null: not looked at
        ("patches", pa.list_(pa.int32())),  # visual tokens that hold the answer; null: unknown
        ("position", pa.int32()),  # 0-based, in the order of the benchmark's file
    ]
)
PICTURES = pa.schema([("context", pa.string()), ("sample", pa.string()), ("webp", pa.binary())])
SCHEMAS = {"cells": CELLS, "kept": KEPT, "measures": MEASURES, "failures": FAILURES, "pictures": PICTURES}  # by folder
# Columns that files of earlier versions do not have.
ADDED = frozenset({"score", "text_tokens", "group", "answers", "pixels", "maps", "squares"})
HOLES = ADDED | {"parsed", "image", "patches"}  # columns in which a value may be missing


def samples_table(samples: Sequence[Sample], images: Sequence[str] = ()) -> pa.Table:
    """Samples as an experiment keeps them.

    Args:
        samples: In the order of the benchmark's file.
        images: Of each the digest of its decoded image, "" where it has none; empty: not known.
    """
    digests: Sequence[str | None] = images or [None] * len(samples)
    rows = [
        {
            **{name: getattr(sample, name) for name in ("id", "label", "question", "subject", "topic")},
            "category": sample.category,
            "skill": sample.skill,
            "group": sample.group,
            "options": len(sample.choices),
            "choices": list(sample.choices),
            "answers": list(sample.answers),
            "image": sample.shown or None,
            "pixels": None if sample.image is None else digest,
            "patches": None if sample.patches is None else list(sample.patches),
            "position": place,
        }
        for place, (sample, digest) in enumerate(zip(samples, digests, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def records_table(records: Sequence[object], schema: pa.Schema, given: Mapping[str, Sequence[object]]) -> pa.Table:
    """Records of ours as a table, a column at a time: this is what a driver does for every cell of many GPUs.

    Args:
        records: Whose fields have the columns' names.
        schema: Of the table.
        given: Columns that the records do not have.
    """
    columns = [
        pa.array(given.get(field.name) or [getattr(one, field.name) for one in records], type=field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a table whole and sealed; ``options`` are those of pyarrow's writer."""
    write_whole(path, sealed(table, **options))


def read_columns(
    path: Path,
    wanted: pa.Schema,
    rows: Sequence[tuple[str, str, list[str]]] = (),
    *,
    schema: pa.Schema,
    seals: bool,
    dictionaries: Sequence[str] = (),
) -> pa.Table:
    """Some columns of a file, of all rows or of those that pass; columns that came later than the file are null.

    Args:
        path: The file.
        wanted: The columns.
        rows: Filters, as pyarrow's reader takes them.
        schema, seals: As `check_file` takes them.
        dictionaries: Columns to read as dictionaries, because their values repeat; they keep that type.

    Returns:
        The columns, with what the file states as metadata.

    Raises:
        DamagedError, OSError: See `check_file`.
    """
    check_file(path, schema, seals)
    try:
        there = columns_there(pq.read_schema(path), wanted.names)
        table = pq.read_table(
            path, columns=there, filters=list(rows) or None, read_dictionary=list(dictionaries),
            page_checksum_verification=True,
        )  # fmt: skip
        return _completed(table, wanted, dictionaries)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise DamagedError(str(error)) from error


def read_whole(path: Path, schema: pa.Schema, seals: bool) -> pa.Table:
    """All columns of a file, with what it states as metadata.

    Raises:
        DamagedError, OSError: See `check_file`; also where columns contradict each other.
    """
    content = _content(path)
    _check_content(content, seals)
    return _parsed(content, schema)


def check_file(path: Path, schema: pa.Schema, seals: bool) -> None:
    """See that a file is as it was written; at once where this process has seen it in this state before.

    Args:
        path: The file.
        schema: All columns of such a file.
        seals: Whether it must have a digest, because all files of its experiment have one.

    Raises:
        DamagedError: It is not.
        OSError: It is not there, or may not be read.
    """
    status = path.stat()
    state = status.st_size, status.st_mtime_ns, seals
    seen = _SEEN.get(path)
    if seen is None or seen[0] != state:
        complaint = None
        try:
            content = _content(path)
            if not _check_content(content, seals):
                _parsed(content, schema)
        except DamagedError as error:
            complaint = str(error)
        seen = _SEEN[path] = state, complaint
    if seen[1] is not None:
        raise DamagedError(seen[1])


_SEEN: dict[Path, tuple[tuple[int, int, bool], str | None]] = {}  # of each file its state, and what is wrong with it


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_BYTES)
    except UnreadableError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error
        raise DamagedError(str(error).removeprefix(f"{path}: ")) from error


def _check_content(content: bytes, seals: bool) -> bool:
    """Whether a file has a digest."""
    if check_seal(content):
        return True
    if seals:
        raise DamagedError("has no digest: cut off, changed by hand, or written by an earlier version")
    return False


def _parsed(content: bytes, schema: pa.Schema) -> pa.Table:
    """All columns of a file's bytes, free of contradictions."""
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        table = _completed(table.select(columns_there(table.schema, schema.names)), schema)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DamagedError(" ".join(str(error).split())[:200]) from error
    if complaint := contradiction(table):
        raise DamagedError(complaint)
    return table


def _completed(table: pa.Table, wanted: pa.Schema, dictionaries: Sequence[str] = ()) -> pa.Table:
    for place, name in enumerate(wanted.names):
        if name not in table.column_names:
            table = table.add_column(place, wanted.field(name), pa.nulls(len(table), wanted.field(name).type))
    table = table.select(wanted.names)
    if holes := [name for name in wanted.names if name not in HOLES and table[name].null_count]:
        raise DamagedError(f"a value is missing in column {holes[0]}")
    types = [table.schema.field(field.name) if field.name in dictionaries else field for field in wanted]
    return table.cast(pa.schema(types, table.schema.metadata))


def stated_of(schema: pa.Schema) -> dict[str, str]:
    """What the writer of a file stated of it, whoever that was."""
    stated = schema.metadata or {}
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in stated.items()}


def columns_there(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """The wanted columns without those that came later (ADDED) than a file with this schema.

    Raises:
        KeyError: Another one is missing.
    """
    if missing := [name for name in names if name not in schema.names and name not in ADDED]:
        raise KeyError(f"has no column {missing[0]}")
    return [name for name in names if name in schema.names]


def contradiction(table: pa.Table) -> str | None:
    """What cannot be true of a table of cells or masks; None where nothing is wrong, and of other tables."""
    if "score" in table.column_names:
        score = table["score"]
        half = pc.equal(pc.greater_equal(score, 0.5), table["correct"])
        checks = {
            "a score lies outside 0 to 1": pc.and_(pc.greater_equal(score, 0.0), pc.less_equal(score, 1.0)),
            "a score and its verdict contradict each other": half,
            "a cell keeps more visual tokens than there are": _between(table["tokens_kept"], table["visual_tokens"]),
            "a cell has more visual tokens than tokens": _between(table["visual_tokens"], table["prompt_tokens"]),
        }
    elif "kept_mask" in table.column_names:
        visual, bits = table["visual_tokens"], mask_bits(table["kept_mask"])
        length = pc.cast(pc.binary_length(table["kept_mask"]), pa.int32())
        checks = {
            "a mask has another length than its visual tokens": pc.equal(length, pc.divide(pc.add(visual, 7), 8)),
            "a mask keeps more visual tokens than there are": _between(bits, visual),
        }
    else:
        checks = {}
    for complaint, fine in checks.items():
        if pc.all(fine).as_py() is False:  # null where a value is missing, which contradicts nothing
            return complaint
    return None


def _between(value: pa.ChunkedArray, most: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.and_(pc.greater_equal(value, 0), pc.less_equal(value, most))


_BITS = np.array([byte.bit_count() for byte in range(256)], dtype=np.int64)


def unpacked(mask: bytes, visual: int | None = None) -> np.ndarray:
    """(V,) bool, which visual tokens a cell keeps; without their number also the bits behind them, which are none."""
    bits: np.ndarray = np.unpackbits(np.frombuffer(mask, np.uint8), count=visual)
    return bits.astype(bool)


def mask_bits(masks: pa.ChunkedArray) -> pa.Array:
    """How many bits are set in each mask; null where there is none."""
    lengths = np.array(pc.fill_null(pc.binary_length(masks), 0), dtype=np.int64)
    packed = np.frombuffer(b"".join(mask for mask in masks.to_pylist() if mask), dtype=np.uint8)
    sums = np.concatenate([[0], np.cumsum(_BITS[packed])])
    ends = np.cumsum(lengths)
    return pa.array((sums[ends] - sums[ends - lengths]).astype(np.int32), mask=np.array(pc.is_null(masks)))
