"""Where a sweep is written: a file, or one of those that come with saccade; and what a command line changes in it."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator.sweep.mistakes import SpecError
from results.yaml_text import MAX_BYTES, parse_yaml
from strategies.suggestion import near
from workers.foreign import expanded
from workers.json_file import UnreadableError, read_text

SWEEPS, SUITES = "sweeps", "suites"  # folders of those that come with saccade


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepText:
    """A sweep as written, before anybody has looked at what it says."""

    place: str  # for messages
    source: str | Path
    raw: dict[str, Any]

    def changed(self, overrides: Mapping[str, Any]) -> SweepText:
        """The same with what the command line sets.

        Args:
            overrides: What to set: model, data, samples, or any place such as ``measure.spectra.samples`` or
                ``grid[0].layer``.

        Raises:
            SpecError: The file has nothing at such a place that something could be set in.
        """
        raw = copy.deepcopy(self.raw)
        try:
            for key, value in overrides.items():
                _set(raw, key, value)
        except ValueError as error:
            raise SpecError(f"{self.place}: {error}") from error
        return replace(self, raw=raw)


def find_sweep(source: str | Path) -> SweepText:
    """Read a file, or what comes with saccade.

    Args:
        source: Path of a YAML file, or the name of a shipped sweep or suite.

    Raises:
        SpecError: There is none, or it is no mapping in YAML.
    """
    place, text = _find(source)
    try:
        raw = parse_yaml(text)
    except ValueError as error:
        raise SpecError(f"{place}: {error}") from error
    if not isinstance(raw, dict):
        raise SpecError(f"{place}: is not a sweep: it must be a mapping with the keys model, data and grid")
    return SweepText(place=place, source=source, raw=raw)


def shipped_sweeps(kind: str = SWEEPS) -> list[str]:
    """Names of the sweeps, or of the suites, that come with saccade."""
    return sorted(Path(file.name).stem for file in _folder(kind).iterdir() if file.name.endswith(".yaml"))


def shipped_text(name: str) -> str:
    """What a shipped sweep or suite says, comments included.

    Raises:
        SpecError: There is none of this name.
    """
    for kind in (SWEEPS, SUITES):
        if name in shipped_sweeps(kind):
            return (_folder(kind) / f"{name}.yaml").read_text(encoding="utf-8")
    raise SpecError(f"{name}: {_none_of(name)}")


def _none_of(name: str) -> str:
    names = [*shipped_sweeps(), *shipped_sweeps(SUITES)]
    return f"no shipped sweep{near(name, names)} (shipped: {', '.join(names)})"


def headline(text: str) -> str:
    """What the comment at the head of a sweep says first: its first sentence."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    words = " ".join(line.lstrip("# ") for line in lines)
    return re.split(r"(?<=[.?:])\s", words, maxsplit=1)[0].rstrip(".:")


def _folder(kind: str) -> Any:
    return resources.files("orchestrator") / kind


def _find(source: str | Path) -> tuple[str, str]:
    """The file's name for messages, and its text."""
    path = expanded(Path(source))
    try:
        if path.is_file():
            return str(source), read_text(path, MAX_BYTES)
        shipped = (*shipped_sweeps(), *shipped_sweeps(SUITES))
        if path.name == str(source) and path.stem in shipped and path.suffix in ("", ".yaml"):
            return f"{path.stem}.yaml", shipped_text(path.stem)
    except UnreadableError as error:
        raise SpecError(str(error)) from error
    except OSError as error:  # its folder may not be looked into, or the name is too long
        raise SpecError(f"{source}: {error.strerror}") from error
    if path.exists():
        raise SpecError(f"{source}: is not a file; give a sweep file, or the name of a shipped sweep")
    raise SpecError(f"{source}: no such file, and {_none_of(path.stem)}")


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    if "." in key or "[" in key:
        _set_place(raw, key, value)
        return
    section = raw.get(key)
    if key == "model" and isinstance(section, dict):
        raw[key] = {**section, "path": value}  # dtype and image_mode of the file stay
    else:
        raw[key] = value
    if key == "data" and isinstance(raw.get("task"), dict):
        raw["task"].pop("data", None)


def _set_place(raw: dict[str, Any], place: str, value: Any) -> None:
    """Set ``a.b[2].c``; what is missing on the way is made.

    Raises:
        ValueError: The file has something else there than a mapping or a list that is long enough.
    """
    *way, last = [int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", place)]
    inside: Any = raw
    for part in way:
        if isinstance(inside, dict) and isinstance(part, str) and not isinstance(inside.get(part), dict | list):
            old = inside.get(part)
            bare = old is None or isinstance(old, bool)  # `racing: true`
            inside[part] = {} if bare else {"path" if part == "model" else "name": old}
        inside = _member(inside, part, place)
    if isinstance(last, int):
        _member(inside, last, place)
    elif not isinstance(inside, dict):
        raise ValueError(f"--set {place}: {last!r} is to be set inside what is not a mapping")
    inside[last] = value


def _member(inside: Any, part: int | str, place: str) -> Any:
    try:
        return inside[part]
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"--set {place}: the sweep file has no {part!r} there") from None
