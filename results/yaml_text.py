"""YAML of others: bounded in depth, in what its aliases stand for and in its numbers; every fault one line."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from strategies.errors import SaccadeError

MAX_BYTES = 64 * 2**20  # 3,000 grid points take 1 MB in an experiment's sweep.yaml
MAX_DEPTH = 64  # a sweep has 5; libyaml's composer overruns the stack at some 10,000
MAX_REPEATED = 100_000  # values that aliases add to what is written
MAX_DIGITS = 400  # of a number; float64 ends at 309
MERGE = "tag:yaml.org,2002:merge"
NUMBER = re.compile(r"[-+.:\w]+")  # in base 2, 8, 10, 16 or 60
NO_TEXT = frozenset(map(chr, (0, *range(0xD800, 0xE000))))  # no file name, no file of ours can hold these

_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where there is one: 3,000 points take a second


class YamlError(SaccadeError):
    """A text is not YAML that we take. The message is one line and says where, without the file's name."""


class _Loader(_FAST):
    """A safe loader that refuses a key given twice, which YAML would let win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:  # `<<: *alias`, whose keys these may overrule
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # said below
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        YamlError: It is no YAML; or it is too long, nested too deep, stands for far more than is written (an alias of
            an alias ...), holds a number of hundreds of digits, or half of a surrogate pair.
    """
    if len(text) > MAX_BYTES:
        raise YamlError(f"has {len(text):,} characters, more than {MAX_BYTES:,}")
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)  # safe: either is
    except yaml.MarkedYAMLError as error:
        context = f" {error.context}" if error.context else ""
        remedy = "; check the indentation" if isinstance(error, yaml.parser.ParserError) else ""
        raise YamlError(
            f"{_place(error.problem_mark or error.context_mark)}{error.problem}{context}{remedy}"
        ) from error
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from error
    except UnicodeEncodeError as error:
        raise YamlError("holds half of a surrogate pair, which is no text") from error
    except YamlError:
        raise
    except (ValueError, LookupError, AttributeError) as error:  # of PyYAML, about `!!int ""` or 2026-13-45
        raise YamlError(f"holds a value that is not of its kind ({' '.join(str(error).split())})") from error


def _check_size(text: str) -> None:
    """Follow the text without building anything of it.

    Raises:
        YamlError: It would come to too much.
    """
    sizes: dict[str, int | None] = {}  # values that an anchor stands for; None while it is being read
    inside: list[tuple[str | None, int]] = []  # the collections around: anchor, values before it
    total = repeated = 0
    for event in yaml.parse(text, Loader=_FAST):
        place = _place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(str(event.anchor), 0)  # unknown: the loader says so
            if size is None:
                raise YamlError(f"{place}the alias *{event.anchor} stands inside what it stands for")
            total, repeated = total + size, repeated + size
            if repeated > MAX_REPEATED:
                raise YamlError(f"{place}aliases repeat more than {MAX_REPEATED:,} values")
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            _check_scalar(event, place)
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            inside.append((event.anchor, total))
            total += 1
            if event.anchor:
                sizes[event.anchor] = None
            if len(inside) > MAX_DEPTH:
                raise YamlError(f"{place}is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            if anchor:
                sizes[anchor] = total - before


def _check_scalar(event: yaml.ScalarEvent, place: str) -> None:
    if not event.style and len(event.value) > MAX_DIGITS and NUMBER.fullmatch(event.value):
        raise YamlError(f"{place}is a number of {len(event.value):,} characters")
    if not NO_TEXT.isdisjoint(event.value):
        raise YamlError(f"{place}holds a character that no text and no file name may hold")


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
