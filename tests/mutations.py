"""What can happen to a valid file, as Hypothesis strategies: to its bytes, to the nodes of a JSON value, to a table.

Random bytes are refused at the first look. A valid file with one thing wrong gets as far as the code that reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

Path = tuple[str | int, ...]  # of a node: keys and indices


class Raw(str):
    """Text that stands in a JSON file as it is: what `json.dumps` would not write."""


ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 0.5, -0.5, 2**31, -(2**63), 10**30, 1e308, "", " ", "0", "-1", "1e9", "nan",
    "a\nb", "a\x00b", "a\x1b[31mb", "\u2028", "../../x", "/etc/passwd", "~nobody/x", "x" * 300, "é" * 200, "[bold]",
    "{0}", "%s", "test", [], {}, [[]], [None], [{}], {"": None}, {"a": {}}, [1, "a", None],
    Raw("NaN"), Raw("-Infinity"), Raw("1e999"), Raw("9" * 5000), Raw('"\\ud800"'), Raw('"\\u0000"'), Raw("01"),
    Raw("'"), Raw('{"a": 1, "a": 2}'), Raw("[" * 100_000), Raw("[" * 60 + "]" * 60), Raw('{"a":' * 70 + "1" + "}" * 70),
)  # fmt: skip


def written(value: Any) -> str:
    """JSON, with what is `Raw` in it as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {written(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


def nodes(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All nodes of a value with their paths, the value itself first."""
    yield path, value
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nodes(child, (*path, key))


def replaced(value: Any, path: Path, node: Any) -> Any:
    """The value with another node at a path."""
    if not path:
        return node
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], node)
    return copy


@st.composite
def altered(draw: st.DrawFn, value: Any, odd: tuple[Any, ...] = ODD) -> str:
    """JSON text of a value in which one to three nodes are missing, doubled, moved, or of another kind."""
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        places = list(nodes(value))
        path, node = draw(st.sampled_from(places))
        value = replaced(value, path, draw(_instead(node, places, odd)))
    return written(value)


def _instead(node: Any, places: list[tuple[Path, Any]], odd: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """What may stand where a node stood."""
    choices = [st.sampled_from(odd), st.sampled_from([other for _, other in places]), st.just([node])]
    if isinstance(node, dict) and node:
        keys = st.sampled_from(list(node))
        choices += [
            keys.map(lambda gone: {key: child for key, child in node.items() if key != gone}),
            keys.map(lambda old: {("_" + key if key == old else key): child for key, child in node.items()}),
            keys.map(lambda twice: Raw(f"{written(node)[:-1]}, {written({twice: 0})[1:]}")),
            st.sampled_from(odd).map(lambda stranger: {**node, "stranger": stranger}),
        ]
    elif isinstance(node, list) and node:
        choices += [
            st.integers(0, len(node) - 1).map(lambda at: node[:at] + node[at + 1 :]),
            st.sampled_from((2, 1000)).map(lambda times: node * times),
            st.sampled_from(odd).map(lambda stranger: [*node, stranger]),
        ]
    elif isinstance(node, int | float) and not isinstance(node, bool):
        choices.append(st.sampled_from([node + 1, node - 1, -node, node * 1000, node + 0.5, str(node), float(node)]))
    elif isinstance(node, str):
        choices.append(st.sampled_from([node + "\n", node * 50, node[:-1], node.upper(), f"../{node}", f"{node}\x00"]))
    return st.one_of(choices)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which some are flipped, lost, doubled, overwritten, or all of which are gone."""
    size = len(content)
    at = draw(st.integers(0, max(size - 1, 0)))
    end = min(at + draw(st.sampled_from((1, 4, 64, 4096))), size)
    match draw(st.sampled_from("flip flip flip cut lose double fill noise empty grow".split())):
        case "flip":
            flipped = content[at : at + 1] and bytes([content[at] ^ 1 << draw(st.integers(0, 7))])
            return content[:at] + flipped + content[at + 1 :]
        case "cut":
            return content[:at]
        case "lose":
            return content[:at] + content[end:]
        case "double":
            return content[:end] + content[at:]
        case "fill":
            return (
                content[:at] + draw(st.sampled_from((b"\0", b"\xff", b"\n", b'"', b"\t"))) * (end - at) + content[end:]
            )
        case "noise":
            return content[:at] + draw(st.binary(max_size=40)) + content[end:]
        case "empty":
            return b""
        case _:
            return content + content[at:end]


TYPES = (
    pa.string(), pa.large_string(), pa.binary(), pa.int64(), pa.int8(), pa.float32(), pa.bool_(), pa.null(),
    pa.decimal128(5, 2), pa.list_(pa.string()), pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.date32(),
    pa.timestamp("ns"),
)  # fmt: skip


@st.composite
def refitted(draw: st.DrawFn, table: pa.Table) -> pa.Table:
    """A table with a column that is missing, doubled, of another type, out of range or has holes; or its rows."""
    place = draw(st.integers(0, table.num_columns - 1))
    name, rows = table.column_names[place], len(table)
    field = table.schema.field(place)
    match draw(st.sampled_from("drop rename type type hole hole odd odd swap twice empty repeat metadata".split())):
        case "drop":
            return table.remove_column(place)
        case "rename":
            return table.rename_columns([f"_{one}" if one == name else one for one in table.column_names])
        case "type":
            return _with(table, place, [None] * rows, draw(st.sampled_from(TYPES)))
        case "hole":
            at = draw(st.integers(0, max(rows - 1, 0)))
            return _with(
                table, place, [None if row == at else value for row, value in enumerate(table[place].to_pylist())]
            )
        case "odd":
            values = [value for value in ODD if _fits(value, field.type)]
            return _with(table, place, [draw(st.sampled_from(values))] * rows) if values else table
        case "swap":
            other = draw(st.integers(0, table.num_columns - 1))
            return table.set_column(place, name, table[other])
        case "twice":
            return table.append_column(name, table[place])
        case "empty":
            return table.slice(0, 0)
        case "repeat":
            return pa.concat_tables([table] * draw(st.sampled_from((2, 50))))
        case _:
            odd = st.sampled_from((b"", b"\xff\xfe", b"a\nb", b"nan", b"-1", b"1e999"))
            keys = st.sampled_from((b"seconds", b"worker", b"\xff", b"torch"))
            return table.replace_schema_metadata({draw(keys): draw(odd)})


def _with(table: pa.Table, place: int, values: list[Any], kind: pa.DataType | None = None) -> pa.Table:
    kind = table.schema.field(place).type if kind is None else kind
    return table.set_column(place, table.column_names[place], pa.array(values, kind))


def _fits(value: Any, kind: pa.DataType) -> bool:
    if isinstance(value, Raw):
        return False
    try:
        pa.array([value], kind)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return False
    return True
