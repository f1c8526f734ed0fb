"""Whether a strategy can run on a model, before anything is computed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from strategies import catalog
from strategies.positions import Positions
from strategies.strategy import Strategy
from strategies.suggestion import near
from workers import evidence
from workers.families.config import ModelConfig

ONE_IMAGE = "makes one image smaller, and there are questions with several"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What of a model, and of what it is asked, decides; what depends on one that is not known is not checked."""

    layers: int | None = None
    heads: int | None = None
    class_token: bool | None = None  # whether the vision tower has one
    clip: bool | None = None  # whether it may be CLIP's
    side: int | None = None  # of the square that the tokens of each image form; 0: they form none
    position_parts: int = 1  # that a position id has
    several: bool = False  # whether some prompt has several images

    @classmethod
    def of(cls, config: ModelConfig, several: bool = False) -> Facts:
        return cls(
            layers=config.layers,
            heads=config.heads,
            class_token=config.class_token,
            clip=config.clip,
            side=config.side,
            position_parts=config.position_parts,
            several=several,
        )


NOTHING_KNOWN = Facts()


def complaint(
    strategy: Strategy,
    params: Mapping[str, Any],
    facts: Facts = NOTHING_KNOWN,
    *,
    layer: int,
    rank: int | None = None,
    positions: Positions | None = None,
) -> str | None:
    """Say in one line why a strategy cannot run so; None where it can.

    Args:
        strategy: of a grid point.
        params: values for its parameters.
        facts: of the model and the prompts.
        layer, rank, positions: of the point; a rank that is not given is not checked.
    """
    if facts.several and strategy.grids is not None:
        return f"{strategy.name} {ONE_IMAGE}; leave it out"
    if positions not in (None, *(ways := get_args(Positions))):
        return f"positions: {positions!r} is none of {', '.join(ways)}{near(str(positions), ways)}"
    if positions == "compact" and facts.position_parts > 1:
        parts = f"position ids of this model have {facts.position_parts} parts"
        return f"positions: {parts}, for a grid that has no numbers without gaps; leave `compact` out"
    own_size = strategy.smaller and facts.position_parts > 1  # it looks at each image in its own size
    known = {"layers": facts.layers, "heads": facts.heads, "side": None if own_size else facts.side}
    if said := strategy.check(params, layer=layer, rank=rank, **known):
        return said
    if positions == "keep" and not catalog.keeps_places(strategy, layer, sys.maxsize if rank is None else rank, params):
        feeds = "tokens of a smaller image" if strategy.smaller else "rows of its own making"
        return f"positions: {strategy.name} feeds {feeds}, which have no place to keep; leave `keep` out"
    for stage in strategy.stages(layer, sys.maxsize if rank is None else rank, params):
        needs = catalog.get(stage.strategy).needs
        if unknown := [name for name in sorted(needs) if evidence.provider_of(name) is None]:
            return f"strategy '{strategy.name}' reads '{unknown[0]}', which nothing provides (workers/evidence.py)"
        providers = evidence.providers_of(needs)
        lacks = {
            "has no class token": facts.class_token is False and any(one.class_token for one in providers),
            "is not CLIP's": facts.clip is False and any(one.text_tower for one in providers),
        }
        if lacking := [what for what, missing in lacks.items() if missing]:
            reads = f"{strategy.name} reads {evidence.words(needs)}"
            return f"{reads}, and this model's tower {lacking[0]}; take `divprune` or `hiprune`, which do without"
        if stage.layer == 0 and evidence.reads_layer_before(needs):
            # FastV's code draws at random there; a draw under a method's name would be taken for the method's.
            reads = f"{strategy.name} reads {evidence.words(needs)}"
            return f"layer: {reads}, which there is from layer 1 on; at layer 0 take `random`"
    return None
