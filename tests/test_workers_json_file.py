"""JSON of others: what is refused, and in which words."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from workers.json_file import MAX_DEPTH, UnreadableError, parse_json, read_json


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_what_json_can_say_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "caf\u00e9 \u2028 \U0001f600"], "b": {}}
    for ascii in (True, False):
        (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=ascii).encode())
        assert read_json(tmp_path / "a.json") == value
    assert parse_json(nested(MAX_DEPTH))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (nested(MAX_DEPTH + 2), "nested deeper"),
        (b"[" * 200_000, "nested deeper"),
        (b'["\\ud800"]', "half of a surrogate pair"),
        (b'{"\\uDFFF": 1}', "half of a surrogate pair"),
    ],
)
def test_what_is_no_json_of_ours_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    place = tmp_path / "a.json"
    place.write_bytes(content)
    with pytest.raises(UnreadableError, match=reason) as refusal:
        read_json(place)
    assert str(refusal.value).startswith(f"{place}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.timeout(20)
def test_what_is_no_file_is_one_line_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"[]" + b" " * 100)
    for name, reason in [
        ("pipe", "is not a file"),
        (".", "is not a file"),
        ("loop", "cannot be read"),
        ("x" * 300, "cannot be read"),
        ("a\0b", "is not a file name"),
        ("\ud800", "is not a file name"),
        ("none", "no such file"),
        ("large", "more than 99"),
    ]:
        with pytest.raises(UnreadableError, match=reason):
            read_json(tmp_path / name, max_bytes=99)
