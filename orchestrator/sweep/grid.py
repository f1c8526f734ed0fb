"""The grid of a sweep: from its entries in the file to the grid points that they stand for, for one model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args, get_type_hints

from orchestrator.sweep.document import Entry
from orchestrator.sweep.kept import Budget, Rank, budgets_of, numbers_of, ranks_of, too_many
from orchestrator.sweep.mistakes import Check, Mistake
from orchestrator.sweep.ranges import expand, fractions
from strategies import catalog
from strategies.catalog import Strategy
from strategies.own import ENTRY_KEYS
from strategies.positions import Positions
from strategies.suggestion import near
from workers.families.config import ModelConfig
from workers.runnable import Facts, complaint
from workers.shares import FEW
from workers.work import UNPRUNED, GridPoint, Scalar

PAPER = "paper"  # in place of a rank: those that a method's authors publish


Setting = tuple[int, Rank]  # a layer, and what is kept from there on


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What the entries stand for, each once, in the order of the file; without the un-pruned model."""

    points: tuple[GridPoint, ...]
    budgets: tuple[Budget, ...]  # what `tokens:` was compiled to


def grid_of(entries: Iterable[tuple[str, Entry]], config: ModelConfig | None, several: bool = False) -> Check[Grid]:
    """All points of a grid.

    Args:
        entries: With their places.
        config: Of the model; without it the entries are checked as far as possible, and there are no points.
        several: Whether questions have several images; only what `counts_tokens` depends on it.
    """
    points: dict[str, GridPoint] = {}
    budgets: dict[Budget, None] = {}
    for place, entry in entries:
        more, asked = yield from _entry(entry, place, config, several)
        for point in more:
            points.setdefault(point.key, point)
        budgets |= dict.fromkeys(asked)
    return Grid(points=tuple(points.values()), budgets=tuple(budgets))


def _entry(
    entry: Entry, place: str, config: ModelConfig | None, several: bool
) -> Check[tuple[Sequence[GridPoint], Sequence[Budget]]]:
    if entry.rank is not None and entry.tokens is not None:
        yield Mistake(f"{place}.tokens", "is given, and so is `rank`: keep one of them")
        return (), ()
    layers = yield from numbers_of(entry.layer, f"{place}.layer", "layer", config)
    published = entry.rank == PAPER
    ranks = budgets = None
    if entry.rank is not None and not published:
        ranks = yield from ranks_of(entry.rank, f"{place}.rank", config, several)
    if entry.tokens is not None:
        budgets = yield from budgets_of(entry, f"{place}.tokens", layers, config, several)
    if not entry.strategies:
        yield Mistake(f"{place}.strategy", "is an empty list")
    points: list[GridPoint] = []
    for name in entry.strategies:
        strategy = yield from _strategy(name, f"{place}.strategy")
        if strategy is None:
            continue
        if published:
            groups = yield from _published(strategy, place, layers, config)
        else:
            settings = yield from _settings(strategy, place, layers, ranks, budgets)
            groups = [] if settings is None else [(settings, {})]
        for settings, theirs in groups:
            combinations = yield from _params({**theirs, **entry.params}, strategy, place, config, len(settings))
            if not combinations:
                break  # the others would say the same
            for params in combinations:
                points += yield from _points(strategy, params, settings, entry.all_positions, place, config)
    return points, budgets or ()


def _published(
    strategy: Strategy, place: str, layers: Sequence[int], config: ModelConfig | None
) -> Check[list[tuple[list[Setting], dict[str, Scalar]]]]:
    """The points that a method's authors give figures for, each with the parameters that go with it."""
    if not strategy.published:
        yield Mistake(f"{place}.rank", f"{PAPER}: of {strategy.name} no published ranks are known; give numbers")
        return []
    ranks = [rank for rank, _ in strategy.published]
    if config is not None and max(ranks) > config.visual_tokens:
        what = f"{PAPER}: {max(ranks)} is above the model's {config.visual_tokens} visual tokens; give numbers"
        yield Mistake(f"{place}.rank", what)
        return []
    return [([(layer, Rank(rank))], dict(theirs)) for layer in layers for rank, theirs in strategy.published]


def _settings(
    strategy: Strategy,
    place: str,
    layers: Sequence[int],
    ranks: Sequence[Rank] | None,
    budgets: Sequence[Budget] | None,
) -> Check[list[Setting] | None]:
    """Of an entry's points of one strategy; None where they cannot be said."""
    if (fixed := strategy.fixed_rank) is not None:
        if budgets is not None or (ranks is not None and set(ranks) != {Rank(fixed)}):
            key = "rank" if budgets is None else "tokens"
            yield Mistake(f"{place}.{key}", f"{strategy.name} always keeps {fixed} visual tokens; leave {key} out")
        return [(layer, Rank(fixed)) for layer in layers]
    if budgets is not None:
        if strategy.schedule is not None:
            what = f"{strategy.name} prunes in stages, which one budget does not fix; give rank"
            yield Mistake(f"{place}.tokens", what)
            return None
        return [(budget.layer, Rank(budget.rank, budget.share, budget.asked)) for budget in budgets]
    if ranks is None:
        yield Mistake(f"{place}.rank", f"is missing: say how many visual tokens {strategy.name} keeps")
        return None
    return list(itertools.product(layers, ranks))


def _points(
    strategy: Strategy,
    params: tuple[tuple[str, Scalar], ...],
    settings: Sequence[Setting],
    wanted: Sequence[Positions | None],
    place: str,
    config: ModelConfig | None,
) -> Check[list[GridPoint]]:
    points = []
    for (layer, rank), positions in itertools.product(settings, wanted):
        assert config is not None  # else there are no layers
        if said := _complaint(strategy, dict(params), layer, rank, positions, config):
            yield _placed(said, place, {"layer", "rank", "positions", *strategy.params})
            break  # the other layers and ranks would say the same
        own = catalog.own_positions(strategy, layer, rank.tokens, dict(params))
        if own == (positions,) or (positions == "keep" and config.position_parts > 1):
            positions = None  # said or not, the cells are the same
        point = GridPoint(
            strategy=strategy.name,
            layer=layer,
            rank=rank.tokens,
            params=params,
            positions=positions,
            share=rank.share,
        )
        points.append(point.called(rank.asked, strategy.params))
    return points


def _complaint(
    strategy: Strategy,
    params: dict[str, Scalar],
    layer: int,
    rank: Rank,
    positions: Positions | None,
    config: ModelConfig,
) -> str | None:
    """Why a point cannot run; one with a share must be able to on small images too."""
    wrong = partial(complaint, strategy, params, Facts.of(config), layer=layer, positions=positions)
    said = wrong(rank=rank.tokens)
    if said or rank.share is None or not config.varies or not (said := wrong(rank=min(rank.tokens, FEW))):
        return said
    return f"rank: a share may be {FEW} tokens of a small image, and then {said}; give a number"


def _placed(complaint: str, place: str, keys: Collection[str]) -> Mistake:
    """A strategy's complaint, at the key that it names where it names one."""
    name, _, rest = complaint.partition(": ")
    return Mistake(f"{place}.{name}", rest) if name in keys else Mistake(place, complaint)


def _strategy(name: str, place: str) -> Check[Strategy | None]:
    if name == UNPRUNED:
        yield Mistake(place, f"{UNPRUNED!r} is the un-pruned model, which every sweep holds; leave it out")
        return None
    try:
        return catalog.get(name)
    except ValueError as error:
        yield Mistake(place, str(error))
        return None


def _params(
    asked: Mapping[str, Scalar | list[Scalar]],
    strategy: Strategy,
    place: str,
    config: ModelConfig | None,
    settings: int,
) -> Check[list[tuple[tuple[str, Scalar], ...]]]:
    """All combinations of the parameters that are asked of one strategy; defaults are written out.

    A default is part of the point, so that giving it explicitly names the same cells.
    """
    lists: dict[str, list[Any]] = {}
    for name, value in asked.items():
        values = yield from _values(name, value, strategy, f"{place}.{name}", config)
        if values is None:
            return []
        lists[name] = values
    if (yield from too_many(settings * math.prod(map(len, lists.values())), place)):
        return []
    whole = _whole_numbers(strategy)
    combinations = []
    for chosen in itertools.product(*lists.values()):
        given = dict(zip(lists, chosen, strict=True))
        if config is not None:
            complaint = strategy.check(given, heads=config.heads)
        elif any(whole[name] and isinstance(value, str) for name, value in given.items()):
            complaint = None  # expressions such as H/2 are not numbers yet
        else:
            complaint = strategy.check(given)
        if complaint:
            yield _placed(complaint, place, given)
            continue
        defaults = {name: value for name, value in strategy.params.items() if name not in given}
        complete = {name: _as_default(strategy.params[name], value) for name, value in {**defaults, **given}.items()}
        combinations.append(tuple(complete.items()))
    return combinations


def _values(
    name: str, value: Scalar | list[Scalar], strategy: Strategy, place: str, config: ModelConfig | None
) -> Check[list[Any] | None]:
    """All values of one parameter; None where it has none that is right."""
    if name not in strategy.params:
        known = [*ENTRY_KEYS, *strategy.params]
        yield Mistake(place, f"unknown key{near(name, known)} (known for {strategy.name}: {', '.join(known)})")
        return None
    values: list[Any] = value if isinstance(value, list) else [value]
    if config is not None and _whole_numbers(strategy)[name] and any(isinstance(one, str) for one in values):
        try:
            values = list(expand(values, {"L": config.layers, "N": config.visual_tokens, "H": config.heads}))
        except ValueError as error:
            yield Mistake(place, str(error))
            return None
    if isinstance(strategy.params[name], float):
        try:
            values = [number for one in values for number in (fractions(one) if _is_range(one) else (one,))]
        except ValueError as error:
            yield Mistake(place, str(error))
            return None
    if not values:
        yield Mistake(place, "is an empty list")
        return None
    if bad := [one for one in values if not isinstance(one, bool | int | float | str)]:
        yield Mistake(place, f"{bad[0]!r} is neither a number, a text, true nor false")
        return None
    return values


def _is_range(value: Any) -> bool:
    return isinstance(value, str) and ".." in value


def _whole_numbers(strategy: Strategy) -> dict[str, bool]:
    """Which parameters are whole numbers, so that H/2 may stand for one."""
    hints = get_type_hints(strategy.function)
    return {name: hints[name] is int or int in get_args(hints[name]) for name in strategy.params}


def _as_default(default: Any, value: Scalar) -> Scalar:
    """``1`` for a parameter whose default is ``0.5`` is the number 1.0: the two must not be two grid points."""
    return float(value) if isinstance(default, float) and isinstance(value, int) else value
