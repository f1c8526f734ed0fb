"""What an entry of a grid says by numbers: its layers, and how much is kept, as a number, a share or an average."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.sweep.document import Entry
from orchestrator.sweep.mistakes import Check, Mistake
from orchestrator.sweep.ranges import expand
from strategies.budget import average_tokens, rank_for_average, rank_of_share, share_for_average
from workers.families.config import ModelConfig
from workers.shares import is_share, share_of

MAX_POINTS = 100_000  # of a grid entry; 3,000 points make a large sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """An average number of visual tokens that was asked for, and the rank that comes nearest to it."""

    tokens: float
    layer: int
    rank: int
    average: float  # realised
    share: float | None = None  # of each image's own tokens, where these differ; the rest is of an image with the most
    asked: str = ""  # as the file has it, ``tokens=33.3%``


@dataclass(frozen=True, slots=True)
class Rank:
    """Visual tokens to keep: one number for all images, or a share of each image's own, and the number of most."""

    tokens: int
    share: float | None = None
    asked: str = field(default="", compare=False)  # as the file has it, where that is not the rank

    @classmethod
    def of_share(cls, share: float, visual: int, differ: bool) -> Rank:
        """Where all prompts have as many visual tokens a share is a number."""
        return cls(rank_of_share(share, visual), share if differ else None, f"rank={100 * share:.6g}%")


def counts_tokens(entry: Entry) -> bool:
    """Whether an entry asks for what depends on how many tokens a prompt has: a share, or an average."""
    ranks = entry.rank if isinstance(entry.rank, list) else [entry.rank]
    return entry.tokens is not None or any(map(is_share, ranks))


def ranks_of(
    value: int | str | list[int | str], place: str, config: ModelConfig | None, several: bool
) -> Check[tuple[Rank, ...]]:
    """What is kept: numbers, and behind them shares."""
    values = value if isinstance(value, list) else [value]
    shares = [str(one) for one in values if is_share(one)]
    numbers = [one for one in values if not is_share(one)]
    found: list[Rank] = []
    if numbers or not shares:
        found += map(Rank, (yield from numbers_of(numbers if shares else value, place, "rank", config)))
    for text in shares:
        try:
            share = share_of(text)
        except ValueError as error:
            yield Mistake(place, str(error))
        else:
            if config is not None:
                found.append(Rank.of_share(share, config.visual_tokens, config.varies or several))
    return tuple(dict.fromkeys(found))


def budgets_of(
    entry: Entry, place: str, layers: Sequence[int], config: ModelConfig | None, several: bool
) -> Check[list[Budget]]:
    """Average tokens -> ranks, for each layer."""
    if config is None:
        return []
    given = entry.tokens if isinstance(entry.tokens, list) else [entry.tokens]
    values = [value for value in given if value is not None]
    differ = config.varies or several
    if differ and not all(map(is_share, values)):
        who = "this model's images differ in theirs" if config.varies else "some questions have several images"
        what = f"is an average over a fixed number of visual tokens, and {who}"
        yield Mistake(place, f"{what}; give a share of each image's own, such as 33.3%, or rank")
        return []
    try:
        if not values:
            raise ValueError("is an empty list")
        wanted = [number for value in values for number in _averages(value, config)]
        if (yield from too_many(len(layers) * len(wanted), place)):
            return []
        return [_budget(*asked, layer, config, differ) for layer, asked in itertools.product(layers, wanted)]
    except ValueError as error:
        yield Mistake(place, str(error))
        return []


def numbers_of(
    value: int | str | list[int | str], place: str, kind: str, config: ModelConfig | None
) -> Check[tuple[int, ...]]:
    """The integers a value stands for; those out of bounds are mistakes and left out."""
    if config is None:
        return ()
    try:
        numbers = expand(value, {"L": config.layers, "N": config.visual_tokens})
    except ValueError as error:
        yield Mistake(place, str(error))
        return ()
    if kind == "layer":
        highest, limit = config.layers, f"the model's {config.layers} layers"
    else:
        highest, limit = config.visual_tokens, f"the model's {config.visual_tokens} visual tokens"
    if low := [number for number in numbers if number < 0]:
        yield Mistake(place, f"{low[0]} is below 0")
    if high := [number for number in numbers if number > highest]:
        yield Mistake(place, f"{max(high)} is above {limit}")
    return tuple(dict.fromkeys(number for number in numbers if 0 <= number <= highest))


def too_many(count: int, place: str) -> Check[bool]:
    """Whether a grid entry is larger than any sweep; then it is a mistake."""
    if count > MAX_POINTS:
        yield Mistake(place, f"stands for {count:,} grid points, more than {MAX_POINTS:,}")
    return count > MAX_POINTS


def _averages(value: int | float | str, config: ModelConfig) -> Sequence[tuple[str, float]]:
    """What was asked for, and average tokens; where images differ in theirs, of one with the most."""
    if is_share(value):
        share = share_of(str(value))
        return ((f"tokens={100 * share:.6g}%", share * config.visual_tokens),)
    numbers = (value,) if isinstance(value, float) else expand(value, {"L": config.layers, "N": config.visual_tokens})
    return [(f"tokens={number:g}", number) for number in numbers]


def _budget(asked: str, tokens: float, layer: int, config: ModelConfig, differ: bool) -> Budget:
    share = share_for_average(tokens / config.visual_tokens, layer, config.layers) if differ else None
    rank = rank_for_average(tokens, layer, config.layers, config.visual_tokens)
    average = average_tokens(layer, rank, config.layers, config.visual_tokens)
    return Budget(tokens=tokens, layer=layer, rank=rank, average=average, share=share, asked=asked)
