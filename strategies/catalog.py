"""The table of strategies: name -> function, the evidence it needs, its parameters and its source.

A strategy is a function in the file of its method, and chooses in one of four ways:

    score(view) -> (V,)                 the ``rank`` highest are kept; one score serves every rank
    order(view, keep) -> (keep,)        greedy: the tokens in the order of choice; one order serves every rank
    select(view, keep) -> (keep,)       the choice for one rank says nothing about another's
    schedule(layer, rank) -> stages     prunes more than once, each time by another strategy of this table

Its parameters are the keyword-only part of its signature, each with its admissible values:

    def weighted(view: TokenView, *, alpha: Annotated[float, Range(0, 1)] = 0.5) -> Tensor: ...
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from strategies import (
    ablation,
    baselines,
    coarser,
    decoder_methods,
    diversity,
    downsample,
    fastv,
    fastv_advanced,
    himap,
    input_norm,
    merging,
    pyramiddrop,
    text_weighted,
    tower_methods,
)
from strategies.errors import UsageError
from strategies.evidence import EvidenceView
from strategies.limits import Range as Range  # known here since the first strategy
from strategies.positions import Positions
from strategies.scores import descending_order
from strategies.stages import Stage
from strategies.suggestion import near
from strategies.view import Evidence, TokenView

Layers = Literal["any", "input"]
REQUIRED = inspect.Parameter.empty
FOLDER = Path(__file__).parent


class UnknownStrategy(UsageError):
    """No strategy has this name. The message suggests a near one."""


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
        always = ("view.py", "scores.py", "baselines.py")  # the last is in the names of cells that there are
        files = {FOLDER / name for name in always}
        if self.origin is not None:
            files |= _imported(self.origin)
        for function in filter(None, (self.function, self.merge, self.rows)):
            file = Path(inspect.getsourcefile(function) or "")
            files |= _with_imports(file) if self.origin is None or file.parent == FOLDER else set()
        traits = f"{self.function.__name__}|{self.positions}|{self.fixed_rank}|{self.merge is not None}"
        traits += "" if self.rows is None else f"|{self.rows.__name__}"
        traits += "" if self.draws_per == "question" else f"|draws per {self.draws_per}"
        content = b"".join(file.read_bytes() for file in sorted(files)) + (self.origin or "").encode()
        return hashlib.sha256(content + traits.encode()).hexdigest()[:16]

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
        positions: Positions | None = None,
    ) -> str | None:
        """Say in one line what is wrong; None where nothing is. What is not given is not checked.

        Whether there is what it reads, at that layer, `workers.evidence.complaint` says.

        Args:
            params: values for the function's keyword-only parameters.
            layer, rank, positions: of the grid point.
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
            complaint = _complaint(hints[name], value, heads)
            if complaint:
                return f"{name}: {complaint}"
        missing = [name for name, default in self.params.items() if default is REQUIRED and name not in params]
        if missing:
            told = [limit.remedy for limit in get_args(hints[missing[0]]) if hasattr(limit, "remedy")]
            return "; ".join([f"strategy '{self.name}' needs the parameter '{missing[0]}'", *told])
        if layer is None:
            return None
        return (
            self._check_layers(params, layer, rank, layers)
            or self._check_side(rank, side)
            or self._check_positions(params, layer, rank, positions)
        )

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

    def _check_positions(
        self, params: Mapping[str, Any], layer: int, rank: int | None, positions: Positions | None
    ) -> str | None:
        if positions == "keep" and not self.keeps_places(layer, sys.maxsize if rank is None else rank, params):
            feeds = "tokens of a smaller image" if self.smaller else "rows of its own making"
            return f"positions: {self.name} feeds {feeds}, which have no place to keep; leave `keep` out"
        return None

    def keeps_places(self, layer: int, rank: int, params: Mapping[str, Any]) -> bool:
        """Whether each row that goes on is of one visual token, whose position id it may keep."""
        if self.schedule is None:
            return self.rows is None and not self.smaller
        return all(get(stage.strategy).rows is None for stage in self.stages(layer, rank, params))

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

    def own_positions(self, layer: int, rank: int, params: Mapping[str, Any]) -> tuple[Positions, ...]:
        """What becomes of position ids where nothing else is asked for: of all stages, each way once."""
        if self.schedule is None:
            return (self.positions,)
        return tuple(dict.fromkeys(get(stage.strategy).positions for stage in self.stages(layer, rank, params)))

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


def get(name: str) -> Strategy:
    """Look a strategy up.

    Raises:
        UnknownStrategy: with a suggestion and the known names.
    """
    known = {**CATALOG, **ADMITTED}
    if name not in known:
        raise UnknownStrategy(f"unknown strategy '{name}'{near(name, known)} (known: {', '.join(sorted(known))})")
    return known[name]


def admit(strategy: Strategy) -> Strategy:
    """Know a rule that is not of this package, in this process; one of the same name from before is forgotten."""
    assert strategy.name not in CATALOG
    ADMITTED[strategy.name] = strategy
    return strategy


def _complaint(hint: Any, value: Any, heads: int | None) -> str | None:
    if get_origin(hint) is Literal:
        words = get_args(hint)
        if value in words:
            return None
        return f"{value!r} is none of {', '.join(map(repr, words))}{near(str(value), words)}"
    if get_origin(hint) is Annotated:
        kind, *limits = get_args(hint)
        limited = (complaint for limit in limits if (complaint := limit.complaint(value, heads)))
        return _complaint(kind, value, heads) or next(limited, None)
    if hint is bool:
        return None if isinstance(value, bool) else f"{value!r} is neither true nor false"
    if hint is int:
        return None if isinstance(value, int) and not isinstance(value, bool) else f"{value!r} is not a whole number"
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return None if number else f"{value!r} is not a number"
    if hint is str:
        return None if isinstance(value, str) else f"{value!r} is not a text; put it in quotes"
    return None if isinstance(value, hint) else f"{value!r} is not {hint.__name__}"


@cache
def _with_imports(file: Path) -> frozenset[Path]:
    """A file of this package and all that it imports from it, however indirectly."""
    return frozenset({file}) | _imported(file.read_text(encoding="utf-8"))


def _imported(text: str) -> frozenset[Path]:
    """The files of this package that a text imports, however indirectly; not this one, which decides no choice."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == FOLDER.name:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{FOLDER.name}."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{FOLDER.name}.")}
    return frozenset[Path]().union(*(_with_imports(FOLDER / f"{name}.py") for name in names - {"catalog"}))


LAST_ROW = frozenset({Evidence.LAST_ROW})
TEXT = frozenset({Evidence.TEXT_ROWS})
TEXT_VOTES = frozenset({Evidence.TEXT_ROWS, Evidence.TEXT_TO_TEXT})
VISUAL = frozenset({Evidence.VISUAL_ROWS})
HIDDEN = frozenset({Evidence.HIDDEN})
DRAWN_START = ("start", "drawn")

FASTV = "FastV, arXiv:2403.06764"
FASTV_ADVANCED = "HiMAP's FastV Advanced, YangXu-03/Himap-based"
TEXT_WEIGHTED = "HiMAP's text-weighted experiment, YangXu-03/Himap-based"
FINEPRUNER = "FinePruner ablations A and B, EasonAI-5589/LLaVA-FinePruner-Head"
IN_NORM = "HiMAP's pruning experiment, YangXu-03/Himap-based"
DIVPRUNE = "DivPrune, arXiv:2503.02175"
HIMAP = "HiMAP, YangXu-03/Himap-based"
PYRAMIDDROP = "PyramidDrop, arXiv:2410.17247"
SELECTORS = "HiMAP's diversity selectors, YangXu-03/Himap-based"

CATALOG: dict[str, Strategy] = {
    s.name: s
    for s in (
        # Looking at nothing
        Strategy(name="cutoff", score=baselines.cutoff, fixed_rank=0, source="HiMAP layer cut-off"),
        Strategy(name="evenly_spaced", select=baselines.evenly_spaced, source="control"),
        Strategy(name="first_k", score=baselines.first_k, source="control"),
        Strategy(name="random", score=baselines.random, draws=True, source="control"),
        Strategy(name="random_per_image", score=baselines.random, draws=True, draws_per="image", source="control"),
        # Looking at nothing, and feeding means of neighbours
        Strategy(
            name="pool",
            select=coarser.middles,
            rows=coarser.pool_rows,
            grids=coarser.pooled_ranks,
            needs=HIDDEN,
            positions="compact",
            layers="input",
            source="control; LLaVA-OneVision, arXiv:2408.03326",
        ),
        Strategy(
            name="downsample_features",
            select=coarser.middles,
            rows=coarser.downsample_rows,
            grids=coarser.resampled_ranks,
            needs=HIDDEN,
            positions="compact",
            layers="input",
            source="control",
        ),
        # The image itself
        Strategy(
            name="downsample",
            select=downsample.downsample,
            smaller=True,
            grids=downsample.squares,
            positions="compact",
            layers="input",
            source="control; arXiv:2510.07143",
        ),
        # The last query's attention
        Strategy(
            name="fastv",
            score=fastv.fastv,
            needs=LAST_ROW,
            published=((288, ()), (144, ()), (58, ())),  # 50, 75 and 90 % dropped
            source=FASTV,
        ),
        Strategy(name="avg_all_heads", score=fastv.fastv, needs=LAST_ROW, source=FASTV_ADVANCED),
        Strategy(name="max_head", score=fastv_advanced.max_head, needs=LAST_ROW, source=FASTV_ADVANCED),
        Strategy(
            name="weighted_combination",
            score=fastv_advanced.weighted_combination,
            needs=LAST_ROW,
            source=FASTV_ADVANCED,
        ),
        # The text's attention
        Strategy(name="text_weighted", score=text_weighted.text_weighted, needs=TEXT_VOTES, source=TEXT_WEIGHTED),
        Strategy(
            name="text_weighted_max_head",
            score=text_weighted.text_weighted_max_head,
            needs=TEXT_VOTES,
            source=f"ours, after {TEXT_WEIGHTED}",
        ),
        Strategy(name="ablation", score=ablation.ablation, needs=TEXT, remark=ablation.remark, source=FINEPRUNER),
        Strategy(name="text_sum", score=himap.text_sum, needs=TEXT, source=HIMAP),
        # The image's attention
        Strategy(name="image_column_sum", score=himap.image_column_sum, needs=VISUAL, source=HIMAP),
        Strategy(name="himap", schedule=himap.himap, published=((288, ()),), source=HIMAP),
        # The next layer's attention
        Strategy(
            name=pyramiddrop.STAGE,
            score=pyramiddrop.pyramiddrop_stage,
            needs=frozenset({pyramiddrop.ROW_AHEAD}),
            positions="compact",
            source=PYRAMIDDROP,
        ),
        Strategy(
            name="pyramiddrop",
            schedule=pyramiddrop.pyramiddrop,
            published=((288, ()),),  # 270 on average over 32 layers
            source=PYRAMIDDROP,
        ),
        # Features
        Strategy(
            name="l2_norm",
            score=input_norm.l2_norm,
            needs=HIDDEN,
            positions="compact",
            layers="input",
            source=IN_NORM,
        ),
        Strategy(
            name="divprune",
            order=diversity.divprune,
            needs=HIDDEN,
            positions="compact",
            layers="input",
            published=((56, ()),),  # their ratio of 0.098
            source=DIVPRUNE,
        ),
        Strategy(name="fps", order=diversity.fps, needs=HIDDEN, draws=DRAWN_START, source=SELECTORS),
        Strategy(
            name="fps_merged",
            order=diversity.fps,
            needs=HIDDEN,
            draws=DRAWN_START,
            merge=merging.softmax_merge,
            source=SELECTORS,
        ),
        Strategy(name="tome_centres", select=diversity.tome_centres, needs=HIDDEN, source=SELECTORS),
        Strategy(
            name="tome_merged",
            select=diversity.tome_centres,
            needs=HIDDEN,
            merge=merging.softmax_merge,
            source=SELECTORS,
        ),
        # The decoder, by the names of the field's tables
        *(Strategy(**how) for how in decoder_methods.METHODS),
        # The vision tower, before the decoder
        *(Strategy(**how) for how in tower_methods.METHODS),
    )
}
ADMITTED: dict[str, Strategy] = {}  # what a user adds to it in this process, see own.py
