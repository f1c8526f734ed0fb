"""The table of strategies: name -> function, the evidence it needs, its parameters and its source.

A strategy is one function in one file. It either scores the visual tokens (the ``rank`` highest are kept; one score
then serves every rank) or selects them (``select(view, keep)``, for methods whose choice is not a ranking). Its
parameters are the keyword-only part of its signature, each with its admissible values:

    def weighted(view: TokenView, *, alpha: Annotated[float, Range(0, 1)] = 0.5) -> Tensor: ...
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from strategies import baselines, fastv, scores, view
from strategies.scores import descending_order
from strategies.view import ATTENTION, Evidence, TokenView

Positions = Literal["keep", "compact"]
REQUIRED = inspect.Parameter.empty


class UnknownStrategy(ValueError):
    """No strategy has this name. The message suggests a near one."""


@dataclass(frozen=True, slots=True)
class Range:
    """Admissible values of a numeric parameter, both ends included; ``high`` may be open."""

    low: float
    high: float | None = None

    def complaint(self, value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{value!r} is not a number"
        if value < self.low or (self.high is not None and value > self.high):
            return f"{value} is outside {self.low}..{'' if self.high is None else self.high}"
        return None


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One way of choosing visual tokens."""

    name: str
    score: Callable[..., Tensor] | None = None  # view, *, params -> (V,) scores
    select: Callable[..., Tensor] | None = None  # view, keep, *, params -> (keep,) int64 ascending
    needs: frozenset[Evidence] = frozenset()
    positions: Positions = "keep"  # position ids of what is kept: the original ones, or renumbered without gaps
    fixed_rank: int | None = None  # the method itself says how many tokens stay
    source: str

    def __post_init__(self) -> None:
        assert (self.score is None) != (self.select is None), f"{self.name}: give score or select"

    @property
    def function(self) -> Callable[..., Tensor]:
        function = self.score or self.select
        assert function is not None
        return function

    @cached_property
    def params(self) -> dict[str, Any]:
        """Parameter name -> default, or ``REQUIRED``."""
        signature = inspect.signature(self.function)
        return {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}

    @cached_property
    def source_hash(self) -> str:
        """Hash of the code that chooses; part of a cell's address, so that a corrected strategy is run again."""
        files = {inspect.getsourcefile(self.function), scores.__file__, view.__file__}
        return hashlib.sha256(b"".join(Path(f).read_bytes() for f in sorted(filter(None, files)))).hexdigest()[:16]

    @property
    def reads_attention(self) -> bool:
        return bool(self.needs & ATTENTION)

    def check(self, params: Mapping[str, Any]) -> str | None:
        """Say in one line what is wrong with ``params``; None where nothing is."""
        hints = get_type_hints(self.function, include_extras=True)
        for name, value in params.items():
            if name not in self.params:
                known = ", ".join(self.params) or "it has none"
                return (
                    f"strategy '{self.name}' has no parameter '{name}'{_near(name, self.params)} (parameters: {known})"
                )
            complaint = _complaint(hints[name], value)
            if complaint:
                return f"{name}: {complaint}"
        missing = [name for name, default in self.params.items() if default is REQUIRED and name not in params]
        return f"strategy '{self.name}' needs the parameter '{missing[0]}'" if missing else None

    def choose(self, view: TokenView, ranks: Sequence[int], params: Mapping[str, Any]) -> list[Tensor]:
        """Choose tokens for several ranks; a score is computed once for all of them.

        Args:
            view: what the strategy declared in ``needs``.
            ranks: tokens to keep, each 0 <= rank <= V.
            params: values for the function's keyword-only parameters.

        Returns:
            For each rank (rank,) int64 on the view's device, ascending, unique.
        """
        if self.select is not None:
            return [self.select(view, rank, **params) for rank in ranks]
        assert self.score is not None
        order_V = descending_order(self.score(view, **params))
        return [order_V[:rank].sort().values for rank in ranks]


def get(name: str) -> Strategy:
    """Look a strategy up.

    Raises:
        UnknownStrategy: with a suggestion and the known names.
    """
    if name not in CATALOG:
        raise UnknownStrategy(f"unknown strategy '{name}'{_near(name, CATALOG)} (known: {', '.join(sorted(CATALOG))})")
    return CATALOG[name]


def at_layer(strategy: Strategy, layer: int) -> Strategy:
    """The strategy that really chooses at ``layer``.

    Before the first decoder layer there is no attention to read. As in FastV's code a method that reads attention then
    draws its tokens at random (here: from the sample's seed).
    """
    return CATALOG["random"] if layer == 0 and strategy.reads_attention else strategy


def _near(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f". Did you mean '{near[0]}'?" if near else ""


def _complaint(hint: Any, value: Any) -> str | None:
    if get_origin(hint) is Literal:
        return None if value in get_args(hint) else f"{value!r} is none of {', '.join(map(repr, get_args(hint)))}"
    if get_origin(hint) is Annotated:
        return next((c for limit in get_args(hint)[1:] if (c := limit.complaint(value))), None)
    return None if isinstance(value, hint) else f"{value!r} is not {hint.__name__}"


CATALOG: dict[str, Strategy] = {
    s.name: s
    for s in (
        Strategy(name="cutoff", score=baselines.cutoff, fixed_rank=0, source="HiMAP layer cut-off"),
        Strategy(
            name="fastv", score=fastv.fastv, needs=frozenset({Evidence.LAST_ROW}), source="FastV, arXiv:2403.06764"
        ),
        Strategy(name="random", score=baselines.random, source="control"),
    )
}
