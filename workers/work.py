"""What an engine is asked, and what it answers: the types that cross from the orchestrator to the workers.

Everything here is frozen, made of plain values, and written to and read from JSON, so that a unit of work can be
sent to another machine, done twice, and recognised again. Only the standard library is imported: a planner needs no
model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from strategies.budget import rank_of_share
from strategies.errors import UsageError
from strategies.positions import Positions

LONG_TEXT = 32  # letters of a parameter; the words that strategies choose among have fewer
UNPRUNED = "none"  # the strategy name of the un-pruned model


class DeviceLostError(RuntimeError):
    """The device of this process answers nothing any more: only a new process can go on."""


Scalar = bool | int | float | str


def content_key(value: Any) -> str:
    """Name a JSON-able value by its content: 16 hex digits, the same in every process and on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPoint:
    """One configuration of the sweep: which tokens survive, from which layer on, chosen how.

    ``layer`` is the number of decoder layers that run on the full sequence (FastV's K): 0 prunes the projector's
    output, L never prunes. ``rank`` is the number of visual tokens kept, not a matrix rank. Where images differ in
    theirs, it may be a share of each image's own: then it is the number on an image with the most.
    """

    strategy: str
    layer: int
    rank: int
    params: tuple[tuple[str, Scalar], ...] = ()  # sorted by name
    positions: Positions | None = None  # of what is kept, in every stage; None: as the method itself has it
    share: float | None = None  # of an image's tokens, in place of one number for all
    name: str | None = field(default=None, compare=False)  # for people, see `called`

    def __post_init__(self) -> None:
        if self.layer < 0 or self.rank < 0:
            raise UsageError(f"layer and rank must be >= 0, got layer={self.layer}, rank={self.rank}")
        if self.share is not None and not 0 <= self.share <= 1:
            raise UsageError(f"share must be in 0..1, got {self.share}")
        object.__setattr__(self, "params", tuple(sorted((str(name), value) for name, value in self.params)))

    @property
    def key(self) -> str:
        """Content address of the point; positions are part of it where they are not the method's own."""
        settings = {name: value for name, value in asdict(self).items() if value is not None and name != "name"}
        return content_key(settings)

    def of(self, visual: int) -> GridPoint:
        """The same on an image with so many tokens: a share is a number of them."""
        return self if self.share is None else _resolved(self, visual)

    @property
    def kept(self) -> str:
        """The rank for people: ``128``, or ``22.2%``."""
        return str(self.rank) if self.share is None else f"{100 * self.share:.6g}%"

    @property
    def settings(self) -> tuple[tuple[str, Scalar], ...]:
        """All that tells points of one strategy, layer and rank apart: parameters, and positions where they are set."""
        return self.params if self.positions is None else (*self.params, ("positions", self.positions))

    @property
    def said(self) -> str:
        """The settings for people, ``alpha=0.5``; of a long text its beginning and its digest."""
        return _said(self.settings)

    @property
    def alpha(self) -> float | None:
        """The parameter ``alpha``, where the strategy has one."""
        value = dict(self.params).get("alpha")
        return None if value is None else float(value)

    @property
    def label(self) -> str:
        """The one name that people see, in the words of a sweep file: ``fastv layer=2 tokens=192``."""
        return self.name or self.spelled

    @property
    def spelled(self) -> str:
        """The same with the rank and every setting, usual or not: ``fastv layer=2 rank=166 alpha=0.5``."""
        if self.strategy == UNPRUNED:
            return "un-pruned"
        parts = [self.strategy, f"layer={self.layer}", f"rank={self.kept}", self.said]
        return " ".join(part for part in parts if part)

    def called(self, asked: str, usual: Mapping[str, Any]) -> GridPoint:
        """The same under the name that its sweep gives it.

        Args:
            asked: The budget in the words of the sweep, ``tokens=192``; "" for the rank.
            usual: Defaults of the strategy's parameters; those that stand at them are left out.
        """
        told = _said([(name, value) for name, value in self.settings if name not in usual or usual[name] != value])
        parts = [self.strategy, f"layer={self.layer}", asked or f"rank={self.kept}", told]
        name = " ".join(part for part in parts if part)
        return self if name == self.label else replace(self, name=name)

    def to_json(self) -> dict[str, Any]:
        known = {"strategy": self.strategy, "layer": self.layer, "rank": self.rank, "params": dict(self.params)}
        more = {"positions": self.positions, "share": self.share, "name": self.name}
        return known | {name: value for name, value in more.items() if value is not None}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GridPoint:
        return cls(
            strategy=value["strategy"],
            layer=value["layer"],
            rank=value["rank"],
            params=tuple(value.get("params", {}).items()),
            positions=value.get("positions"),
            share=value.get("share"),
            name=value.get("name"),
        )


def _said(settings: Iterable[tuple[str, Scalar]]) -> str:
    return " ".join(f"{name}={_short(value)}" for name, value in settings)


def _short(value: Scalar) -> str:
    text = str(value)
    return text if len(text) <= LONG_TEXT else f"{text[: LONG_TEXT // 2]}...{content_key(text)[:6]}"


@lru_cache(maxsize=2**16)  # asked for each sample anew
def _resolved(point: GridPoint, visual: int) -> GridPoint:
    assert point.share is not None
    return replace(point, rank=rank_of_share(point.share, visual), share=None)


def unpruned_point(layers: int, visual_tokens: int) -> GridPoint:
    """The un-pruned model as a grid point: nothing is dropped, after the last layer."""
    return GridPoint(strategy=UNPRUNED, layer=layers, rank=visual_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A checkpoint and how it is run."""

    path: str  # directory, or a hub id with or without @REVISION, of a whole model or of an adapter
    dtype: str = "float32"  # float32, bfloat16 or float16
    image_mode: str = "pad"  # a mode of the checkpoint's; pad: to a square, as LLaVA-1.5 was trained
    base: str | None = None  # of an adapter: the model that it changes, named as ``path`` is
    vision_tower: str | None = None  # where LLaVA's own form finds its tower, if not where its config.json says
    text_tower: str | None = None  # a CLIP, for strategies that compare the question with the image by it
    min_pixels: int | None = None  # of an image, where the model looks at each in its own size; None: the checkpoint's
    max_pixels: int | None = None
    max_tiles: int | None = None  # that an image is cut into, where the model cuts images; None: the checkpoint's
    offload: int | str = "auto"  # decoder layers that stay in host memory; auto: if the card is too small; or never


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A benchmark on disk, and how its answers are asked for and judged.

    An option is declared here alone: the sweep file takes its name and type, and a cell's address names it where it is
    set. Who reads it is `Task.load`, ``workers/tasks/prompts.py`` or a scoring rule.
    """

    name: str  # a name of workers.tasks.catalog
    data: str  # directory
    questions: str | None = None  # question file inside ``data``; None: the task's usual name
    split: str | None = None  # None: the task's usual one
    conversation: str = "vicuna_v1"
    single_prediction: bool = True  # add the line that asks for a short answer: an option's letter, or a word
    scorer: str | None = None  # a name of workers.tasks.answers; None: the task's usual one


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumSpec:
    """One matrix of one decoder layer whose numerical and effective rank is measured; see ``workers/spectra.py``."""

    matrix: str  # attention_weights, attention_output, hidden_states or hidden_states_prenorm
    layer: int  # 0-based
    threshold: float  # numerical rank counts singular values above ``threshold`` times the largest
    power: int  # effective rank of s ** power: 2 as in HiMAP, 1 as defined by Roy and Vetterli


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSpec:
    """What is measured on the forward besides its answer."""

    spectra: tuple[SpectrumSpec, ...] = ()
    spectra_samples: int | None = None  # on the first so many image questions of the benchmark; None: on all
    quality: bool = False  # concentration of the selection scores, diversity of the kept features


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """All that decides a cell besides its grid point and its sample."""

    model: ModelSpec
    task: TaskSpec
    max_new_tokens: int = 1024
    seed: int = 0  # of strategies that draw at random; each draw also depends on sample and layer, never on the batch
    measure: MeasureSpec = field(default_factory=MeasureSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """A shard of samples times a set of grid points: what an actor is given, and may be given twice."""

    samples: tuple[str, ...]
    points: tuple[GridPoint, ...]
    images: tuple[str, ...] = ()  # digest of each sample's decoded pixels, '' where it has none; empty: not known

    def __post_init__(self) -> None:
        assert len(self.images) in (0, len(self.samples))

    @property
    def key(self) -> str:
        """Content address; names the files its cells are written to. What its images are follows from its samples."""
        return content_key({"samples": self.samples, "points": [point.key for point in self.points]})

    @property
    def cells(self) -> int:
        return len(self.samples) * len(self.points)

    def of(self, samples: Iterable[str]) -> WorkUnit:
        """Only some of its samples, in this order."""
        chosen = tuple(samples)
        image = dict(zip(self.samples, self.images, strict=True)) if self.images else {}
        return replace(self, samples=chosen, images=tuple(image[sample] for sample in chosen) if image else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleOutcome:
    """One cell: the answer of one grid point on one sample."""

    point: str  # GridPoint.key
    sample: str
    answer: str  # decoded text, special tokens skipped
    parsed: str | None  # option letter the scorer read, None where it could not
    correct: bool  # a score of at least half
    first_token: int  # id of the first decoded token
    option_logits: tuple[float, ...]  # first-token logits of the sample's option letters A, B, ...
    margin: float  # first-token logit of the answer minus the runner-up's over the whole vocabulary
    tokens_kept: int  # visual tokens that reached the last layer
    kept_mask: bytes  # numpy.packbits of the kept visual tokens, ceil(V / 8) bytes
    decoded_tokens: int  # generated tokens, the end token included
    prompt_tokens: int  # tokens of the un-pruned prompt, visual ones included
    visual_tokens: int  # visual tokens before pruning; 0 for a sample without an image
    text_tokens: int | None = None  # after the image; None: an earlier version did not say
    score: float | None = None  # 0 to 1; None: 0 or 1, as ``correct`` says
    squares: int | None = None  # that the tower saw of the image; None: one, or as many as its tokens say
    maps: str | None = None  # where visual tokens lie, as ``token_maps.written``; None: as the model's grid says
    measures: tuple[tuple[str, float], ...] = ()  # what MeasureSpec asks for, by name


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFailure:
    """A sample that could not be answered. A record, not a crash."""

    sample: str
    kind: str  # exception class
    message: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOutcome:
    """What an engine answers to a unit: every (sample, point) is in ``outcomes``, or its sample in ``failures``."""

    unit: str  # WorkUnit.key
    outcomes: tuple[SampleOutcome, ...]
    failures: tuple[SampleFailure, ...] = ()
    seconds: float = 0.0
    worker: str = ""  # host, device and process, for people
    made_by: tuple[tuple[str, str], ...] = ()  # versions, sources and device that decide a last digit, by name
    peak_bytes: int = 0  # device memory that the engine has had allocated at most, so far
    device_bytes: int = 0  # that the device has; 0: it has none of its own
    busy: float | None = None  # share of the time in which the device had something to do, as its driver says
    notes: tuple[str, ...] = field(default=())  # e.g. "micro-batch halved to 4 after out of memory"
