"""What a strategy is: a function that chooses, the evidence it needs, its parameters and its source.

It chooses in one of four ways:

    score(view) -> (V,)                 the ``rank`` highest are kept; one score serves every rank
    order(view, keep) -> (keep,)        greedy: the tokens in the order of choice; one order serves every rank
    select(view, keep) -> (keep,)       the choice for one rank says nothing about another's
    schedule(layer, rank) -> stages     prunes more than once, each time by another strategy of the catalog

Its parameters are the keyword-only part of its signature, each with its admissible values:

    def weighted(view: TokenView, *, alpha: Annotated[float, Range(0, 1)] = 0.5) -> Tensor: ...
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import Tensor

from strategies.evidence import EvidenceView
from strategies.parameters import misfit
from strategies.positions import Positions
from strategies.scores import descending_order
from strategies.source import hash_of
from strategies.stages import Stage
from strategies.suggestion import near
from strategies.view import Evidence, TokenView

Layers = Literal["any", "input"]
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One way of choosing visual tokens: exactly one of score, order, select and schedule."""

    name: str
    score: Callable[..., Tensor] | None = None  # view, *, params -> (V,) scores
    order: Callable[..., Tensor] | None = None  # view, keep, *, params -> (keep,) int64, first choice first
    select: Callable[..., Tensor] | None = None  # view, keep, *, params -> (keep,) int64 ascending
    schedule: Callable[..., tuple[Stage, ...]] | None = None  # layer, rank, *, params -> stages; needs nothing itself
    needs: frozenset[str] = frozenset()  # names of evidence: `Evidence`, and all that workers/evidence.py provides
    positions: Positions = "keep"  # of what is kept; of a schedule its stages say it
    layers: Layers = "any"  # input: only before the first decoder layer
    fixed_rank: int | None = None  # the method itself says how many tokens stay
    draws: bool | tuple[str, str] = False  # it reads the view's seed; of a parameter and its value: with that alone
    draws_per: Literal["question", "image"] = "question"  # what has a seed of its own: all about an image may share one
    merge: Callable[[Tensor, Tensor], Tensor] | None = None  # hidden_VD, kept_K -> (K, D), what goes on in their place
    rows: Callable[..., Tensor] | None = None  # of the evidence: views, kept_BK, *, params -> (B, K, D)
    fed: bool = False  # it chooses in the order in which its rows are fed, and not ascending
    # views, keep, *, params -> (B, keep), the order or choice of each; of a score its order
    together: Callable[..., Iterable[Tensor]] | None = None
    least: int = 1  # rows that the method keeps at least, where it keeps any
    smaller: bool = False  # it chooses nothing: the model is shown the image with fewer pixels, of ``rank`` tokens
    grids: Callable[[int], Sequence[int]] | None = None  # side of a square of tokens -> the ranks that it makes of it
    # Ranks that its authors give figures for, of LLaVA-1.5's 576, each with the parameters that they set for it.
    published: tuple[tuple[int, tuple[tuple[str, float | str], ...]], ...] = ()
    remark: Callable[..., str | None] | None = None  # heads, *, params -> what a planner should know
    origin: str | None = None  # source text of a rule that is not of this package, see own.py; None: read from its file
    source: str

    def __post_init__(self) -> None:
        ways = [way for way in (self.score, self.order, self.select, self.schedule) if way is not None]
        assert len(ways) == 1, f"{self.name}: give one of score, order, select, schedule"
        assert self.rows is None or self.positions == "compact", f"{self.name}: rows of its own have no place to keep"
        assert self.rows is None or self.merge is None, f"{self.name}: rows are made in one way"
        assert isinstance(self.draws, bool) or self.draws[0] in self.params, f"{self.name}: it has no {self.draws[0]}"
        assert self.merge is None or Evidence.HIDDEN in self.needs, f"{self.name}: merging reads the hidden states"

    @property
    def function(self) -> Callable[..., Any]:
        function = self.score or self.order or self.select or self.schedule
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
        traits = f"{self.function.__name__}|{self.positions}|{self.fixed_rank}|{self.merge is not None}"
        traits += "" if self.rows is None else f"|{self.rows.__name__}"
        traits += "" if self.draws_per == "question" else f"|draws per {self.draws_per}"
        return hash_of((self.function, self.merge, self.rows), self.origin, traits)

    def reads_seed(self, params: Mapping[str, Any]) -> bool:
        """Whether it draws with these parameters."""
        if isinstance(self.draws, bool):
            return self.draws
        name, value = self.draws
        return bool(params.get(name, self.params[name]) == value)

    def source_with(self, params: Mapping[str, Any]) -> str:
        """``source_hash``; another where a parameter has it draw: questions about an image once shared that draw."""
        by_parameter = not isinstance(self.draws, bool) and self.reads_seed(params)
        return f"{self.source_hash}+draws" if by_parameter else self.source_hash

    def check(
        self,
        params: Mapping[str, Any],
        *,
        layer: int | None = None,
        rank: int | None = None,
        layers: int | None = None,
        heads: int | None = None,
        side: int | None = None,
    ) -> str | None:
        """Say in one line what is wrong; None where nothing is. What is not given is not checked.

        Whether there is what it reads, at that layer, `workers.runnable.complaint` says.

        Args:
            params: values for the function's keyword-only parameters.
            layer, rank: of the grid point.
            layers, heads: of the model.
            side: of the square that the tokens of each of its images form; 0: they form none.
        """
        hints = get_type_hints(self.function, include_extras=True)
        for name, value in params.items():
            if name not in self.params:
                known = ", ".join(self.params) or "it has none"
                return (
                    f"strategy '{self.name}' has no parameter '{name}'{near(name, self.params)} (parameters: {known})"
                )
            complaint = misfit(hints[name], value, heads)
            if complaint:
                return f"{name}: {complaint}"
        missing = [name for name, default in self.params.items() if default is REQUIRED and name not in params]
        if missing:
            told = [limit.remedy for limit in get_args(hints[missing[0]]) if hasattr(limit, "remedy")]
            return "; ".join([f"strategy '{self.name}' needs the parameter '{missing[0]}'", *told])
        if layer is None:
            return None
        return self._check_layers(params, layer, rank, layers) or self._check_side(rank, side)

    def _check_layers(self, params: Mapping[str, Any], layer: int, rank: int | None, layers: int | None) -> str | None:
        if self.layers == "input" and layer != 0:
            return f"layer: {self.name} chooses before the first decoder layer, so that layer is 0, not {layer}"
        if layers is not None and layer > layers:
            return f"layer: {layer} is above the model's {layers} layers"
        if rank is not None and 0 < rank < self.least:
            return f"rank: {rank} is below the {self.least} rows that {self.name} keeps at least; give more, or 0"
        try:
            stages = self.stages(layer, sys.maxsize if rank is None else rank, params)
        except ValueError as error:
            return str(error)
        late = [stage for stage in stages if layers is not None and stage.layer > layers]
        if late:
            return f"strategy '{self.name}' has a stage at layer {late[0].layer}, above the model's {layers} layers"
        return None

    def _check_side(self, rank: int | None, side: int | None) -> str | None:
        if self.grids is None or side is None:
            return None
        if side == 0:
            what = "shows one square smaller" if self.smaller else "makes one square of tokens coarser"
            return f"{self.name} {what}, and this model's images are none; leave it out"
        known = [0, *self.grids(side)]
        if rank is None or rank in known or rank > side**2:
            return None
        below, above = max(one for one in known if one < rank), min(one for one in known if one > rank)
        return f"rank: {self.name} makes no {rank} tokens of {side} x {side}; take {below} or {above}"

    def note(self, params: Mapping[str, Any], heads: int) -> str | None:
        """One line that a planner should know about settings that are not wrong; None where there is nothing."""
        return None if self.remark is None else self.remark(heads, **params)

    def stages(self, layer: int, rank: int, params: Mapping[str, Any]) -> tuple[Stage, ...]:
        """What is to be pruned where; a single stage, its own, unless the strategy is a schedule.

        Raises:
            ValueError: the schedule's layers or ranks are not in order.
        """
        if self.schedule is not None:
            return self.schedule(layer, rank, **params)
        own_rank = rank if self.fixed_rank is None else self.fixed_rank
        return (Stage(self.name, layer, own_rank, tuple(sorted(params.items()))),)

    def choose(self, view: TokenView, ranks: Sequence[int], params: Mapping[str, Any]) -> list[Tensor]:
        """Choose tokens for several ranks; a score or an order is computed once for all of them.

        Args:
            view: what the strategy declared in ``needs``.
            ranks: tokens to keep, each 0 <= rank <= V.
            params: values for the function's keyword-only parameters.

        Returns:
            For each rank (rank,) int64 on the view's device, ascending, unique; fewer where a parameter of the strategy
            says that its own count holds, of which the rank is then the most.
        """
        assert self.schedule is None, f"{self.name} prunes in stages; each of them chooses"
        if self.select is not None:
            return [self._made(view, self.select, rank, params) for rank in ranks]
        order_K = self._made(view, self.order or self._order, max(ranks, default=0), params)
        return [order_K[:rank].sort().values for rank in ranks]

    def prepare(self, views: Sequence[EvidenceView], ranks: Sequence[int], params: Mapping[str, Any]) -> None:
        """Make what ``choose`` will be asked for, of several images with as many tokens at once."""
        if self.together is not None and len(views) > 1:
            for keep in {max(ranks)} if self.select is None else set(ranks):
                for view, made_K in zip(views, self.together(views, keep, **params), strict=True):
                    view.made[self._asked(keep, params)] = made_K

    def goes_on(self, views: Sequence[EvidenceView], kept_BK: Tensor, params: Mapping[str, Any]) -> Tensor:
        """(B, K, D) what goes on in place of the tokens kept of several images with as many tokens."""
        if self.rows is not None:
            return self.rows(views, kept_BK, **params)
        assert self.merge is not None, f"{self.name}: kept tokens go on themselves"
        return torch.stack([self.merge(view.hidden_VD, kept_K) for view, kept_K in zip(views, kept_BK, strict=True)])

    def _order(self, view: TokenView, keep: int, **params: Any) -> Tensor:
        assert self.score is not None
        return descending_order(self.score(view, **params))

    def _made(self, view: TokenView, make: Callable[..., Tensor], keep: int, params: Mapping[str, Any]) -> Tensor:
        """As ``prepare`` has left it, or made now."""
        made = view.made if isinstance(view, EvidenceView) else {}
        found = made.get(self._asked(keep, params))
        return make(view, keep, **params) if found is None else found

    def _asked(self, keep: int, params: Mapping[str, Any]) -> tuple[object, ...]:
        return ("prepared", self.name, keep, *sorted(params.items()))
