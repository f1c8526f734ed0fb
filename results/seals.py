"""A parquet file that holds the digest of its own bytes, so that no change of a single bit goes unnoticed.

Checksums of pages guard values alone; the headers between them and the footer, which says where each column lies, would
stay open. So the digest is taken of the whole file, with noughts in its place, and written there: among the footer's
key-value pairs, where every reader of parquet looks past it. A second file would be another thing to lose.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from strategies.errors import SaccadeError

KEY = b"saccade"
MARK = b"sha256 of this file with noughts here: "
NOUGHTS = b"0" * 64


class DamagedError(SaccadeError):
    """A file is not what was written. The message says why, without a remedy and without the file's name."""


def sealed(table: pa.Table, **options: Any) -> bytes:
    """A table as a parquet file that holds its digest.

    Args:
        table: To write; its schema may have metadata of its own.
        options: Of pyarrow's writer.
    """
    sink = pa.BufferOutputStream()
    options = {"compression": "zstd", "write_page_checksum": True, **options}
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: MARK + NOUGHTS})  # of the file, so that no copied schema carries it along
    content: bytes = sink.getvalue().to_pybytes()
    place = content.rfind(MARK) + len(MARK)  # the last one: a value may say the same
    return content[:place] + hashlib.sha256(content).hexdigest().encode() + content[place + len(NOUGHTS) :]


def check_seal(content: bytes) -> bool:
    """Whether a file holds a digest, which is then right.

    Returns:
        False for a file without one, such as versions before wrote.

    Raises:
        DamagedError: It has another one than its bytes.
    """
    place = content.rfind(MARK)
    if place < 0:
        return False
    place += len(MARK)
    end = place + len(NOUGHTS)
    digest = hashlib.sha256(content[:place] + NOUGHTS)
    digest.update(memoryview(content)[end:])
    if digest.hexdigest().encode() != content[place:end]:
        raise DamagedError("its bytes are not those that were written: its digest differs")
    return True
