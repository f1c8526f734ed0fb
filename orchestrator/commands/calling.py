"""How a command is called, and how it ends: options from records, mistakes and signals as one line."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import typer

from orchestrator.ending import ended_by_signals
from orchestrator.standard_streams import USER_ERROR
from results.escaping import terminal_text
from results.import_path import ImportPathError, check_origin


def command(function: Callable[..., None], resume: bool = False) -> Callable[..., None]:
    """A command as typer takes it.

    Args:
        function: Each of its parameters is an option or argument, or a dataclass of them.
        resume: The same command again goes on where this one was ended.
    """
    hints = get_type_hints(function, include_extras=True)
    records: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if isinstance(kind, type) and is_dataclass(kind):
            records[parameter.name] = kind
            inner = get_type_hints(kind, include_extras=True)
            parameters += [
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=inner[field.name]
                )
                for field in fields(kind)
            ]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind))

    @functools.wraps(function)
    def called(**given: Any) -> None:
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            for name, kind in records.items()
        }
        with _user_errors(resume):
            function(**made, **given)

    del called.__wrapped__  # whose signature would be taken for this one's
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


resumable = functools.partial(command, resume=True)


@contextmanager
def _user_errors(resume: bool) -> Iterator[None]:
    """Turn what a user can mend into one line each on stderr and exit code 2. Only our own bugs show a traceback."""
    try:
        check_origin()  # before any of our packages is imported
    except ImportPathError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(USER_ERROR) from None
    with ended_by_signals() as ending:
        try:
            with _mendable():
                yield
            if not ending.terminated:
                return
        except (KeyboardInterrupt, ImportError) as error:  # a library that is being imported may say it so
            if isinstance(error, ImportError) and not ending.terminated:
                raise
        kept = "finished cells are kept: " if resume else ""
        typer.echo(f"{ending.text}; {kept}give the same command again{' to go on' if resume else ''}", err=True)
        raise typer.Exit(ending.exit_code)


@contextmanager
def _mendable() -> Iterator[None]:
    from strategies.errors import SaccadeError

    try:
        yield
    except SaccadeError as error:
        typer.echo(terminal_text(str(error)), err=True)
        raise typer.Exit(USER_ERROR) from None
