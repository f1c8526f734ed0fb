"""What an experiment is, settled to the last detail: all that its cells' addresses are made of, and what it is for.

One record from the sweep to the disk and back: `Manifest` is what ``sweep.yaml`` says, field by field. `description`
reads and writes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Annotated, Any, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    create_model,
    model_validator,
)

from strategies.positions import Positions
from workers.families.config import ModelConfig, RecordedConfig, VisionConfig
from workers.rules import NUMERICS
from workers.work import EngineSpec, GridPoint, MeasureSpec, TaskSpec, content_key

FORMATS = (1, 2)  # that are read; only the last is written
# 1: the address names the scoring rule only, and neither prompt form nor engine; files have no digest.
FORMAT = 2

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
Size = Annotated[StrictInt, Field(ge=0)]

# The kinds of `ModelConfig`'s fields, as they stand in the file.
_KINDS: dict[Any, Any] = {
    int: Size,
    bool: StrictBool,
    tuple[int, int] | None: tuple[Size, Size] | None,
    VisionConfig | None: dict[StrictStr, Size] | None,
}


def _recorded_fields() -> dict[str, Any]:
    """Early versions recorded fewer sizes, and ``pinpoints``."""
    sizes = {name: (_KINDS[kind] | None, None) for name, kind in get_type_hints(ModelConfig).items()}
    needed = {name: (Size, ...) for name in ("layers", "visual_tokens")}
    return {**sizes, **needed, "pinpoints": (list[tuple[Size, Size]] | None, None)}


_ModelFacts = create_model("_ModelFacts", **_recorded_fields())


def _each_once(points: tuple[RecordedPoint, ...]) -> tuple[RecordedPoint, ...]:
    if len({one.point.key for one in points}) < len(points):
        raise ValueError("a grid point is there twice")
    return points


def _model_facts(value: dict[str, Any]) -> dict[str, Any]:
    _ModelFacts.model_validate(value)
    return value


def _later_options(task: TaskSpec) -> dict[str, bool | int | float | str | None]:
    """Options of a benchmark that came after these, where they are set, so that other sweeps keep their addresses."""
    named = ("name", "conversation", "single_prediction", "scorer")
    of_the_data = ("data", "questions", "split")  # their fingerprint says which samples they are
    options = {item.name: (getattr(task, item.name), item.default) for item in fields(task)}
    known = {*named, *of_the_data}
    return {name: value for name, (value, usual) in options.items() if name not in known and value != usual}


class _Engine(BaseModel):
    """In all its parts, because what nobody knows here may decide an answer."""

    model_config = ConfigDict(extra="forbid")

    engine: EngineSpec


class RecordedPoint(BaseModel):
    """A grid point as an experiment lists it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    key: StrictStr
    source: StrictStr  # hash of its strategy's source file, "none" for the baseline
    strategy: StrictStr
    layer: Size
    rank: Size
    params: dict[StrictStr, Scalar] = {}
    positions: Positions | None = None  # where they are not the method's own
    share: Annotated[StrictFloat, Field(ge=0, le=1)] | None = None
    name: StrictStr | None = None  # for people, where it is not the settings as they are
    chosen_by: StrictStr = ""  # what its choice of tokens goes by, for people

    @classmethod
    def of(cls, point: GridPoint, source: str, chosen_by: str = "") -> RecordedPoint:
        words = {"chosen_by": chosen_by} if chosen_by else {}
        return cls.model_validate({"key": point.key, "source": source, **point.to_json(), **words})

    @property
    def point(self) -> GridPoint:
        return GridPoint(
            strategy=self.strategy,
            layer=self.layer,
            rank=self.rank,
            params=tuple(self.params.items()),
            positions=self.positions,
            share=self.share,
            name=self.name,
        )


class Manifest(BaseModel):
    """The resolved sweep. What a later version adds to the file is kept, unread."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    format: int
    name: StrictStr
    context: StrictStr  # first part of every cell's address: equal contexts mean comparable cells
    context_parts: dict[StrictStr, Scalar | None]  # all that it is made of, by names that make sense in a message
    engine: EngineSpec
    model_facts: Annotated[dict[str, Any], AfterValidator(_model_facts)]  # as stated; `config` reads them
    sources_hash: StrictStr  # of strategies/ and workers/ together
    versions: dict[StrictStr, StrictStr]
    # The un-pruned one first.
    points: Annotated[tuple[RecordedPoint, ...], Field(min_length=1), AfterValidator(_each_once)]
    created: StrictStr = ""  # ISO 8601, UTC
    updated: StrictStr = ""
    samples: Size  # of the sweep
    notice: StrictStr = ""  # for whoever looks at the results
    merged_from: list[StrictStr] = []
    migrated_from: dict[StrictStr, Any] = {}

    @classmethod
    def of(
        cls,
        *,
        name: str,
        engine: EngineSpec,
        points: Sequence[GridPoint],
        sources: Sequence[str],
        chosen_by: Sequence[str] = (),
        model_fingerprint: str,
        data_fingerprint: str,
        prompt_fingerprint: str,
        scorer_fingerprint: str,
        task_source: str = "",
        numerics: int = NUMERICS,
        config: Mapping[str, Any],
        sources_hash: str = "",
        versions: Mapping[str, str] | None = None,
        samples: int = 0,
    ) -> Manifest:
        """Settle a sweep.

        Args:
            name, engine: Of the sweep.
            points: The un-pruned baseline first.
            sources, chosen_by: Of each point; see `RecordedPoint`.
            model_fingerprint, data_fingerprint, prompt_fingerprint, scorer_fingerprint, numerics: What decides an
                answer besides the settings.
            config: `ModelConfig` as a dict.
            task_source: Hash of a benchmark that is not of this project, "" of ours.
            sources_hash, versions: By what it is computed.
            samples: How many there are.
        """
        model, task, measure = engine.model, engine.task, engine.measure
        parts: dict[str, bool | int | float | str | None] = {
            "model": model_fingerprint,
            "data": data_fingerprint,
            "dtype": model.dtype,
            "image_mode": model.image_mode,
            "task": task.name,
            **({"task_source": task_source} if task_source else {}),
            "conversation": task.conversation,
            "single_prediction": task.single_prediction,
            **_later_options(task),
            "prompt": prompt_fingerprint,
            "scorer": task.scorer or "",
            "scoring": scorer_fingerprint,
            "numerics": numerics,
            "max_new_tokens": engine.max_new_tokens,
            "seed": engine.seed,
            # Only where something is measured, so that other sweeps keep their addresses.
            **({"measure": json.dumps(asdict(measure), sort_keys=True)} if measure != MeasureSpec() else {}),
        }
        words = chosen_by or [""] * len(points)
        return cls(
            format=FORMAT,
            name=name,
            context=content_key(parts),
            context_parts=parts,
            engine=engine,
            model_facts=dict(config),
            sources_hash=sources_hash,
            versions=dict(versions or {}),
            points=tuple(RecordedPoint.of(*each) for each in zip(points, sources, words, strict=True)),
            samples=samples,
        )

    @model_validator(mode="before")
    @classmethod
    def _known_engine(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {**value, "engine": _Engine.model_validate({"engine": value.get("engine")}).engine}

    @property
    def config(self) -> RecordedConfig:
        """What is known of the model's sizes."""
        return RecordedConfig.of(self.model_facts)

    def changed(self, **values: Any) -> Manifest:
        """The same but for some fields."""
        return self.model_copy(update=values)

    def to_json(self) -> dict[str, Any]:
        """As the file says it: what was never said is left out."""
        return self.model_dump(exclude_unset=True)
