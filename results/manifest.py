"""What a sweep computes, settled to the last detail: what the cells' addresses are made of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from workers.rules import NUMERICS
from workers.work import EngineSpec, GridPoint, MeasureSpec, content_key

FORMATS = (1, 2)  # that are read; only the last is written
# 1: the address names the scoring rule only, and neither prompt form nor engine; files have no digest.
FORMAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The resolved sweep: what ``sweep.yaml`` of an experiment says."""

    name: str
    engine: EngineSpec
    points: tuple[GridPoint, ...]  # the un-pruned baseline first
    sources: tuple[str, ...]  # of each point: hash of its strategy's source file, "none" for the baseline
    chosen_by: tuple[str, ...] = ()  # of each point: what its choice of tokens goes by, for people
    model_fingerprint: str
    data_fingerprint: str
    prompt_fingerprint: str
    scorer_fingerprint: str
    numerics: int = NUMERICS  # of the engine
    model_facts: tuple[tuple[str, int | float | str | None], ...] = ()  # layers, heads, visual_tokens ...
    sources_hash: str = ""  # of strategies/ and workers/ together
    versions: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        assert len(self.sources) == len(self.points), f"{len(self.points)} points but {len(self.sources)} sources"

    @property
    def parts(self) -> dict[str, str | int | bool]:
        """All that the context is made of, by names that make sense in a message."""
        model, task, measure = self.engine.model, self.engine.task, self.engine.measure
        return {
            "model": self.model_fingerprint,
            "data": self.data_fingerprint,
            "dtype": model.dtype,
            "image_mode": model.image_mode,
            "task": task.name,
            "conversation": task.conversation,
            "single_prediction": task.single_prediction,
            "prompt": self.prompt_fingerprint,
            "scorer": task.scorer or "",
            "scoring": self.scorer_fingerprint,
            "numerics": self.numerics,
            "max_new_tokens": self.engine.max_new_tokens,
            "seed": self.engine.seed,
            # Only where something is measured, so that other sweeps keep their addresses.
            **({"measure": json.dumps(asdict(measure), sort_keys=True)} if measure != MeasureSpec() else {}),
        }

    @property
    def context(self) -> str:
        """First part of every cell's address: equal contexts mean comparable cells."""
        return content_key(self.parts)

    def to_json(self) -> dict[str, Any]:
        points = [
            {"key": point.key, "source": source, **point.to_json(), **({"chosen_by": words} if words else {})}
            for point, source, words in zip(
                self.points, self.sources, self.chosen_by or [""] * len(self.points), strict=True
            )
        ]
        return {
            "format": FORMAT,
            "name": self.name,
            "context": self.context,
            "context_parts": self.parts,
            "engine": self.engine.to_json(),
            "model_facts": dict(self.model_facts),
            "sources_hash": self.sources_hash,
            "versions": dict(self.versions),
            "points": points,
        }
