"""How transformers calls the modules of a LLaVA: the one place that knows the names of what passes between them.

``pruned`` changes these calls under way. A name that is taken for "not given" because a release calls it otherwise
would give wrong tokens without an error (5.24 renamed ``past_key_values`` to ``cache``), so what is not recognised is
refused: by ``check_calls`` before anything runs, and by ``cache_argument`` in a call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from workers.families.config import ModelError

CACHE_NAMES = ("cache", "past_key_values")  # from 5.24 on, up to 5.23
CACHE = "the key-value cache"  # stands for either name below


class UnknownCallError(RuntimeError):
    """transformers calls a module in a way that this version of Saccade does not know."""


def check_calls(model: Any) -> None:
    """Refuse a model whose modules are not called as we take for granted.

    Args:
        model: a ``LlavaForConditionalGeneration``.

    Raises:
        ModelError: names the module, what it lacks, and the remedy.
    """
    inner = model.model
    decoder = inner.language_model
    layer = decoder.layers[0]
    for module, wanted in (
        (model, ("input_ids", "pixel_values", "attention_mask", CACHE, "logits_to_keep")),
        (inner, ("input_ids", "pixel_values")),
        (decoder, ("attention_mask", "position_ids", CACHE, "use_cache")),
        (layer, ("attention_mask", "position_ids", "position_embeddings", CACHE)),
        (layer.self_attn, ("position_embeddings", "attention_mask", CACHE)),
    ):
        taken = inspect.signature(module.forward).parameters
        for name in wanted:
            if name not in taken and not (name == CACHE and any(other in taken for other in CACHE_NAMES)):
                raise ModelError(
                    f"transformers {version('transformers')}: {type(module).__name__}.forward has no argument for "
                    f"{name}; this version of saccade does not know how it is called: `saccade doctor` says which "
                    "versions are tested"
                )


def cache_argument(module: Any, kwargs: Mapping[str, Any]) -> Any:
    """The cache that a module is called with; None: it is called with none, as for a prompt.

    Raises:
        UnknownCallError: no argument of the call is known to be the cache. Taken for a prompt, each decoded token would
            be pruned by itself.
    """
    given = [name for name in CACHE_NAMES if name in kwargs]
    if len(given) != 1:
        raise UnknownCallError(
            f"transformers {version('transformers')} called {type(module).__name__} with {', '.join(kwargs)}: "
            f"expected one of {' and '.join(CACHE_NAMES)}"
        )
    return kwargs[given[0]]


def cache_of(output: Any) -> Any:
    """The cache that a model's output holds, or None.

    Raises:
        UnknownCallError: the output has no field that is known to be the cache.
    """
    fields = [name for name in CACHE_NAMES if name in getattr(type(output), "__dataclass_fields__", ())]
    if not fields:
        raise UnknownCallError(
            f"transformers {version('transformers')}: {type(output).__name__} has no field for {CACHE}"
        )
    return getattr(output, fields[0])


def go_on(model: Any, output: Any) -> dict[str, Any]:
    """The argument with which a forward of ``model`` goes on from the cache in an output of it."""
    taken = inspect.signature(model.forward).parameters
    return {next(name for name in CACHE_NAMES if name in taken): cache_of(output)}


class Replaced:
    """A method of a module that gives way to another until it is removed, as a hook is."""

    def __init__(self, module: Any, name: str, method: Callable[..., Any]) -> None:
        """Put the other in its place.

        Raises:
            UnknownCallError: the module has none of that name, so that nobody would call the other.
        """
        if not hasattr(module, name):
            raise UnknownCallError(f"transformers {version('transformers')}: {type(module).__name__} has no {name}")
        self._module, self._name, self._before = module, name, vars(module).get(name)
        setattr(module, name, method)

    def remove(self) -> None:
        """What was replaced last is given back first."""
        if self._before is None:
            delattr(self._module, self._name)  # the class's own is seen again
        else:
            setattr(self._module, self._name, self._before)
