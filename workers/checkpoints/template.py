"""Rendering a checkpoint's chat template: a program of others, in a sandbox, bounded in steps and in size.

The environment is that of transformers (``utils/chat_template_utils.py``), and tests hold it against that. It differs
in two points: a template that runs too long or writes too much is an error; and there is no ``strftime_now``, because a
prompt must be the same tomorrow. Templates that ask first whether there is one, as Llama's do, take their own fixed
date. The size of what a filter makes is checked after it ran; whatever else takes long meets the workers' time limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

MAX_STEPS = 100_000  # turns of loops and calls; published templates take some hundreds for a question
MAX_TEXT = 2**20  # characters, of any text that is put together
COUNTED, JOINED = "_counted", "_joined"


class EndlessError(TemplateError):
    """A template takes more than a prompt can need."""


class _Generation(Extension):
    """``{% generation %}``, which marks what the assistant says and changes nothing here."""

    tags = {"generation"}  # noqa: RUF012 - so declared by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Without names that begin with an underscore, through which a program might come to Python's own."""

    def __init__(*args: Any, **values: Any) -> None:  # so that ``namespace(self=...)`` works, as in jinja2
        self, *rest = args
        values = dict(*rest, **values)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _Environment(ImmutableSandboxedEnvironment):
    """Counts the turns of every loop and every call, and looks at the size of every text."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.steps = 0
        self.filters |= {"tojson": _tojson, COUNTED: self._counted, JOINED: self._joined}
        self.globals |= {"raise_exception": _raise, "namespace": _Namespace, "dict": _dict}

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        for loop in list(source.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, COUNTED, [], [], None, None)
        for joined in list(source.find_all(nodes.Concat)):
            joined.nodes = [nodes.Filter(nodes.List(joined.nodes), JOINED, [], [], None, None)]
        return super()._generate(source, *args, **options)

    def call(self, context: Any, function: Any, *args: Any, **options: Any) -> Any:
        self._step()
        return _bounded(super().call(context, function, *args, **options))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "*" and _length(left) * _length(right) > MAX_TEXT):
            raise EndlessError(f"it computes with {operator} more than a prompt needs")
        return _bounded(super().call_binop(context, operator, left, right))

    def _step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise EndlessError(f"it takes more than {MAX_STEPS:,} steps")

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    def _joined(self, parts: Sequence[Any]) -> str:
        return str(_bounded("".join(map(str, parts))))


def render(template: str, messages: Sequence[Mapping[str, Any]], names: Mapping[str, Any]) -> str:
    """The text that a chat template makes of messages.

    Args:
        template: Its source.
        messages: ``role`` and ``content`` of each.
        names: What the template may ask for besides, such as ``bos_token``.

    Raises:
        Exception: Whatever a program may raise; `EndlessError` where it takes more than a prompt can need.
    """
    environment, compiled = _compiled(template)
    environment.steps = 0
    pieces, size = [], 0
    for piece in compiled.generate(messages=messages, tools=None, documents=None, add_generation_prompt=True, **names):
        size += len(piece)
        if size > MAX_TEXT:
            raise EndlessError(f"it writes more than {MAX_TEXT:,} characters")
        pieces.append(piece)
    return "".join(pieces)


@lru_cache(maxsize=8)
def _compiled(template: str) -> tuple[_Environment, Any]:
    environment = _Environment()
    return environment, environment.from_string(template)


def _bounded(value: Any) -> Any:
    if isinstance(value, str | list | tuple) and len(value) > MAX_TEXT:
        raise EndlessError(f"it makes a text of more than {MAX_TEXT:,} characters")
    return value


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else min(abs(value), MAX_TEXT + 1)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"it stores {name!r} in a namespace")


def _dict(*args: Any, **values: Any) -> dict[Any, Any]:
    return dict(*args, **values)


def _raise(message: str) -> None:
    raise TemplateError(message)
