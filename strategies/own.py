"""Rules that are not of this project: from a user's own file, or from an installed package.

A file is run only for who names it for this very purpose, as ``strategy: ./my_rule.py:my_rule`` in a sweep file. It
goes to other processes as text (`OwnRule`), and its rule is called ``my_rule.py:my_rule`` everywhere. A package
registers its rules under the entry point group ``saccade.strategies``. An experiment holds only names and hashes.

Both give a `Strategy` that chooses once, or a function that reads no evidence: of a view, scores; of a view and a
number to keep, a selection.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_type_hints

from strategies import catalog, own_code
from strategies.catalog import Strategy
from strategies.errors import UsageError
from strategies.own_names import in_file

GROUP = "saccade.strategies"
ENTRY_KEYS = ("strategy", "layer", "rank", "tokens", "positions")  # of a sweep file, so that no parameter is called so


class RuleError(UsageError):
    """A rule that is not of this project cannot be used. The message says where and why."""


OwnRule = own_code.OwnCode


def from_text(file: str, text: str, name: str) -> Strategy:
    """Run the text of a file, and take a rule from it into the catalog.

    Args:
        file: its name without folders, ``my_rule.py``.
        text: Python.
        name: of the rule in it.

    Raises:
        RuleError: the text does not run, or has no such rule.
    """
    found = own_code.of_file(file, text, name, RuleError, lambda value: isinstance(value, Strategy) or callable(value))
    made = _strategy(found, f"{file}:{name}", f"own rule, {file}")
    return catalog.admit(replace(made, origin=text))


def from_package(name: str) -> Strategy | None:
    """Take a rule of an installed package into the catalog; None where no package has one of that name.

    Raises:
        RuleError: it cannot be imported, is no rule, or two packages have one of that name.
    """
    found = None if name in catalog.CATALOG else own_code.of_package(GROUP, name, "strategy", RuleError)
    if found is None:
        return None
    rule, package = found
    made = _strategy(rule, name, package)
    file = inspect.getsourcefile(made.function)
    text = "" if file is None else Path(file).read_text(encoding="utf-8")
    return catalog.admit(replace(made, origin=f"{text}\n# {package}"))


def packaged() -> list[EntryPoint]:
    """What installed packages register, by name; nothing of it is imported."""
    return own_code.registered(GROUP)


def collisions() -> list[str]:
    """A line for each rule of a package that has the name of one of ours, which goes before it."""
    return own_code.collisions(GROUP, "strategy", catalog.CATALOG)


def travelling(names: Iterable[str]) -> tuple[OwnRule, ...]:
    """What another process needs to know the rules of these names, as far as they are not of this project."""
    others = [catalog.get(name) for name in sorted(set(names)) if name in catalog.ADMITTED]
    return tuple(
        OwnRule(name=one.name, source=one.source_hash, text=one.origin if in_file(one.name) else None) for one in others
    )


def admit(rules: Iterable[OwnRule]) -> None:
    """Know rules that another process has sent.

    Raises:
        RuleError: one does not run here, or is of another version.
    """
    own_code.admit(rules, "strategy", RuleError, from_package, from_text)


def _strategy(made: Any, name: str, source: str) -> Strategy:
    """What a file or a package gives, as a strategy of that name.

    Raises:
        RuleError: it is none, or one that prunes in stages.
    """
    if isinstance(made, Strategy):
        if made.schedule is not None:
            raise RuleError(
                f"{name}: prunes in stages, which is for strategies of the catalog; give a rule that chooses once"
            )
        if made.smaller:
            raise RuleError(
                f"{name}: shows the image with fewer pixels, which is `downsample`; give a rule that chooses"
            )
        return _typed(replace(made, name=name))
    if inspect.isfunction(made):
        kinds = inspect.signature(made).parameters.values()
        given = [one.name for one in kinds if one.kind is not one.KEYWORD_ONLY]
        # It may read the seed and does not say so.
        if len(given) == 1:
            return _typed(Strategy(name=name, score=made, draws=True, source=source))
        if len(given) == 2:
            return _typed(Strategy(name=name, select=made, draws=True, source=source))
    raise RuleError(
        f"{name}: is no strategy; give a strategies.catalog.Strategy, or a function of a view, or of a view and how "
        "many to keep"
    )


def _typed(strategy: Strategy) -> Strategy:
    """The strategy, once each of its parameters says what it may be."""
    if not inspect.isfunction(strategy.function):
        raise RuleError(f"{strategy.name}: its rule is no plain function, whose source could be named")
    hints = own_code.run(strategy.name, lambda: get_type_hints(strategy.function), RuleError)
    if taken := [name for name in strategy.params if name in ENTRY_KEYS]:
        raise RuleError(f"{strategy.name}: parameter '{taken[0]}' is called as a key of every grid entry; rename it")
    if untyped := [name for name in strategy.params if name not in hints]:
        raise RuleError(
            f"{strategy.name}: parameter '{untyped[0]}' has no type; write `{untyped[0]}: float = 0.5`, say"
        )
    return strategy
