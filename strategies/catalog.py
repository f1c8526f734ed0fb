"""The table of strategies, by name: what each is made of says ``strategy.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from strategies.limits import Range as Range  # known here since the first strategy, as what follows
from strategies.positions import Positions
from strategies.strategy import REQUIRED as REQUIRED
from strategies.strategy import Strategy
from strategies.suggestion import near
from strategies.view import Evidence


class UnknownStrategy(UsageError):
    """No strategy has this name. The message suggests a near one."""


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


def keeps_places(strategy: Strategy, layer: int, rank: int, params: Mapping[str, Any]) -> bool:
    """Whether each row that goes on is of one visual token, whose position id it may keep."""
    if strategy.schedule is None:
        return strategy.rows is None and not strategy.smaller
    return all(get(stage.strategy).rows is None for stage in strategy.stages(layer, rank, params))


def own_positions(strategy: Strategy, layer: int, rank: int, params: Mapping[str, Any]) -> tuple[Positions, ...]:
    """What becomes of position ids where nothing else is asked for: of all stages, each way once."""
    if strategy.schedule is None:
        return (strategy.positions,)
    stages = strategy.stages(layer, rank, params)
    return tuple(dict.fromkeys(get(stage.strategy).positions for stage in stages))


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
