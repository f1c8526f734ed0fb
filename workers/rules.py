"""What decides an answer besides model, data and settings, named by content: scoring rules, prompt forms, the engine.

A scoring rule is named by its source, because a wrong one shows in no number: the syntax tree of its function and of
every function, class and constant of ours that it leads to. Comments, docstrings, annotations and the rest of the file
do not matter. Judging stored answers again costs no GPU (`saccade rescore`), so a name that changes too often is cheap.

A prompt form is named by the prompts that it makes of a few questions, and the engine by a number, because whoever
tidies them up must not make a year of answers worthless.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from workers.tasks.base import Sample, Scorer
from workers.tasks.prompts import build_prompt
from workers.work import TaskSpec

NUMERICS = 1  # raised on purpose whenever the engine answers otherwise: see tests/test_workers_numerics.py
OURS = ("workers", "strategies")
UNSAID = frozenset({"annotation", "returns", "ctx", "kind", "type_comment", "type_params"})  # change no behaviour
PROBES = tuple(
    Sample(id="", question="What is it?\nA. a cat\nB. a dog", label="A", image=image, instruction=instruction)
    for image in (None, Path("image.png"))
    for instruction in ("", "Answer in one word.")
)


def prompt_fingerprint(task: TaskSpec) -> str:
    """Hash of the prompts that a form makes; of ``chat_template`` the checkpoint's own fingerprint says the rest.

    Raises:
        DataError: unknown conversation mode.
    """
    prompts = [build_prompt(sample, task) for sample in PROBES]
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:16]


def scorer_fingerprint(scorer: Scorer) -> str:
    """Hash of all source of ours that decides a verdict; the same under every version of Python."""
    found: dict[str, Any] = {}
    module = inspect.getmodule(scorer)
    assert module is not None
    _follow(module, scorer.__name__, found)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def _follow(module: ModuleType, name: str, found: dict[str, Any]) -> None:
    """Put the definition of a name, and of all that it names, into ``found``."""
    node = _definitions(module.__name__).get(name)
    place = f"{module.__name__}.{name}"
    if node is None or place in found:
        return  # a local variable, a builtin, or known
    if isinstance(node, ast.ImportFrom):
        assert node.module
        if node.module.partition(".")[0] in OURS:
            own = next(alias.name for alias in node.names if name in (alias.asname, alias.name))
            _follow(importlib.import_module(node.module), own, found)
        return
    found[place] = _shape(node)
    for other in sorted(_names(node)):
        _follow(module, other, found)


@cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """What a module defines or imports at its top level, by name."""
    source = inspect.getsource(importlib.import_module(module))
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


def _children(node: ast.AST) -> Iterator[tuple[str, Any]]:
    for name, value in ast.iter_fields(node):
        if name in UNSAID or value in (None, []):
            continue
        if name == "body" and isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            value = value[1:]
        yield name, value


def _shape(value: Any) -> Any:
    """A syntax tree as plain lists, without what differs between versions of Python."""
    if isinstance(value, ast.AST):
        return [type(value).__name__, *([name, _shape(child)] for name, child in _children(value))]
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return repr(value)


def _names(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(_names, value))
    if not isinstance(value, ast.AST):
        return set()
    own = {value.id} if isinstance(value, ast.Name) else set()
    return own.union(*(_names(child) for _, child in _children(value)))
