"""YAML that would take all memory, overrun the stack, or end in a complaint of the library's own."""

from __future__ import annotations

import time

import pytest

from results.yaml_text import MAX_DEPTH, YamlError, parse_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "aliases repeat more than 100,000 values"),
        (BOMB.replace("]", "}").replace("[", "{k0: ").replace(", *", ", ? *"), "aliases repeat"),
        ("a: &a [1, *a]", "the alias *a stands inside what it stands for"),
        ("[" * 900, f"is nested deeper than {MAX_DEPTH} levels"),
        ("[" * 200_000, "nest"),
        ("- " * 200_000, f"is nested deeper than {MAX_DEPTH} levels"),
        ("a: " + 5_000 * "9", "is a number of 5,000 characters"),
        ("a: 1" + 5_000 * ":1", "is a number of 10,001 characters"),
        ('a: "\\ud800"', "line 1, column"),
        ('a: "x\\0"', "holds a character that no text"),
        ('a: !!int ""', "not of its kind"),
        ("a: !!bool x", "not of its kind"),
        ("a: !!timestamp x", "not of its kind"),
        ("a: 2026-13-45", "not of its kind"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("{a: 1, a: 2}", "the key 'a' is given twice"),
        ("[a]: 1", "unhashable key"),
        ("a: *b", "undefined alias"),
        ("a: b: c", "line 1, column 5"),
        ("a\x07: 1", "unacceptable character"),
        ("\ud800", "half of a surrogate pair"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_every_fault_is_one_line_within_seconds(text, why):
    began = time.process_time()
    with pytest.raises(YamlError) as found:
        parse_yaml(text)
    assert why in str(found.value)
    assert "\n" not in str(found.value)
    assert time.process_time() - began < 5


def test_aliases_anchors_and_merges_of_people_are_read():
    text = "base: &base {layer: 2}\ngrid:\n  - {<<: *base, rank: 1}\n  - {<<: *base, rank: 2}\nagain: [*base, *base]\n"
    assert parse_yaml(text)["grid"] == [{"layer": 2, "rank": 1}, {"layer": 2, "rank": 2}]
    assert parse_yaml("") is None
