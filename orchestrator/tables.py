"""The parquet files of an experiment: their columns, written whole, and read as far as they are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.disk import write_whole
from workers.tasks.base import Sample

MAGIC = b"PAR1"  # the end of every parquet file
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
    ]
)
KEPT = pa.schema([*ADDRESS, ("visual_tokens", pa.int32()), ("kept_mask", pa.binary())])
MEASURES = pa.schema([*ADDRESS, ("name", pa.string()), ("value", pa.float64())])
FAILURES = pa.schema([(name, pa.string()) for name in ("context", "sample", "kind", "message", "traceback", "worker")])
SAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("options", pa.int32()),  # number of options
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("subject", pa.string()),
        ("topic", pa.string()),
        ("category", pa.string()),
        ("skill", pa.string()),
        ("group", pa.string()),  # questions that count together; empty or null: it counts alone
        ("image", pa.string()),  # path, or file and row, where the run saw it; null: a text-only question
        ("patches", pa.list_(pa.int32())),  # visual tokens that hold the answer; null: unknown
        ("position", pa.int32()),  # 0-based, in the order of the benchmark's file
    ]
)
ADDED = frozenset({"score", "group"})  # columns that files of earlier versions do not have


def samples_table(samples: Sequence[Sample]) -> pa.Table:
    rows = [
        {
            **{name: getattr(sample, name) for name in ("id", "label", "question", "subject", "topic")},
            "category": sample.category,
            "skill": sample.skill,
            "group": sample.group,
            "options": len(sample.choices),
            "choices": list(sample.choices),
            "image": None if sample.image is None else str(sample.image),
            "patches": None if sample.patches is None else list(sample.patches),
            "position": place,
        }
        for place, sample in enumerate(samples)
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a table whole; ``options`` are those of pyarrow's writer."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **{"compression": "zstd", **options})
    write_whole(path, sink.getvalue().to_pybytes())


def read_columns(path: Path, wanted: pa.Schema, rows: Sequence[tuple[str, str, list[str]]] = ()) -> pa.Table:
    """Some columns of a file, of all rows or of those that pass; columns that came later than the file are null."""
    there = columns_there(path, wanted.names)
    table = pq.read_table(path, columns=there, filters=list(rows) or None)
    for place, name in enumerate(wanted.names):
        if name not in there:
            table = table.add_column(place, wanted.field(name), pa.nulls(len(table), wanted.field(name).type))
    return table.select(wanted.names).cast(wanted)


def columns_there(path: Path, names: Sequence[str]) -> list[str]:
    """The wanted columns without those that came later (ADDED) than the file."""
    own = set(pq.read_schema(path).names) if ADDED & set(names) else set(names)
    return [name for name in names if name in own or name not in ADDED]


def ends_well(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-len(MAGIC), os.SEEK_END)
            return file.read() == MAGIC
    except OSError:  # missing, or shorter than that
        return False
