"""Tune callbacks that a user names in a sweep: imported, built, and tried before anything is computed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.sweep.document import CallbackSpec, SpecError
from orchestrator.tune.process import spawn

if TYPE_CHECKING:
    from ray.tune import Callback


def make_callback(spec: CallbackSpec) -> Callback:
    """Import and build a callback that the user names.

    Raises:
        SpecError: Says what is wrong with it, in one line.
    """
    from ray.tune import Callback

    place = f"tune callback {spec.name}"
    module, _, attribute = spec.name.replace(":", ".").rpartition(".")
    if not module:
        raise SpecError(f"{place}: write package.module.Class, for example ray.tune.logger.CSVLoggerCallback")
    here = str(Path.cwd())
    sys.path.append(here)  # for a class of the user's own; at the end, where it hides nothing
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise SpecError(
            f"{place}: cannot be imported ({error}); install it, correct the name or leave it out"
        ) from error
    except AttributeError as error:
        raise SpecError(f"{place}: {module} has no {attribute}; correct the name") from error
    finally:
        sys.path.remove(here)
    # Asked before anything is called: a sweep file from somebody else may name any class there is.
    if not (isinstance(kind, type) and issubclass(kind, Callback)):
        raise SpecError(f"{place}: is not a subclass of ray.tune.Callback")
    try:
        return kind(**dict(spec.arguments))
    except Exception as error:  # whatever it complains about: a missing package, an unknown argument
        raise SpecError(f"{place}: {error_line(error)}") from error


def without_tunes_own(callbacks: Sequence[Callback]) -> list[Callback]:
    """All but the three whose files are written anyhow, see `trial_files`."""
    from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback

    own = (CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback)
    return [callback for callback in callbacks if type(callback) not in own]


def check_callbacks(specs: Sequence[CallbackSpec]) -> None:
    """Find out whether callbacks can be built, before anything is computed.

    In a process of its own: Ray reads its settings when it is imported, and the pool is still to make them.

    Raises:
        SpecError: One of them cannot.
    """
    if not specs:
        return
    said, process = spawn(_try_callbacks, tuple(specs))
    try:
        complaint = said.recv()
    except EOFError:
        complaint = "tune callbacks: importing them ended the process"
    process.join()
    if complaint:
        raise SpecError(complaint)


def _try_callbacks(specs: Sequence[CallbackSpec], answer: Any) -> None:
    try:
        for spec in specs:
            make_callback(spec)
        answer.send("")
    except SpecError as error:
        answer.send(str(error))


def error_line(error: Exception) -> str:
    """Type and message of an exception that nobody foresaw."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
