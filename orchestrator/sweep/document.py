"""A sweep file as written: YAML text -> a checked document. What its numbers mean for a model is for `spec.py`.

What a section shares with a record that the engine is given is declared in that record alone.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from dataclasses import fields as dataclass_fields
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from orchestrator.sweep.mistakes import Check, Mistake, SpecError, checked
from results.analysis.racing import RacingRule
from results.yaml_text import YamlError, parse_yaml
from strategies.positions import Positions
from strategies.suggestion import near
from workers.work import ModelSpec, Scalar, TaskSpec


@dataclass(frozen=True, slots=True)
class CallbackSpec:
    """A Tune callback that the user names: ``package.module.Class``, and its keyword arguments."""

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()


Kind = TypeVar("Kind", bound=BaseModel)
SpectrumMatrix = Literal["attention_weights", "attention_output", "hidden_states", "hidden_states_prenorm"]


class Section(BaseModel):
    """A part of a sweep file: unknown keys and texts in place of numbers are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _of(record: type) -> Callable[[type[Kind]], type[Kind]]:
    """Give a section the fields of a record of ours, but for those that it declares itself."""

    def complete(section: type[Kind]) -> type[Kind]:
        kinds = get_type_hints(record, include_extras=True)
        fields: dict[str, Any] = {
            item.name: (kinds[item.name], ... if item.default is MISSING else item.default)
            for item in dataclass_fields(record)
        }
        own = {name: (field.annotation, field) for name, field in section.model_fields.items()}
        made = create_model(section.__name__, __base__=Section, __doc__=section.__doc__, **{**fields, **own})
        return cast(type[Kind], made)

    return complete


def _all_samples(value: Any) -> Any:
    return None if value == "all" else value


def _layers_away(value: int | str) -> int | str:
    if value not in ("auto", "never") and (isinstance(value, str) or value < 0):
        raise ValueError
    return value


@_of(ModelSpec)
class ModelSection(Section):
    """``model:`` - a name or directory alone stands for ``{path: ...}``."""

    path: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # bfloat16 where there is a GPU, else float32
    image_mode: Literal["auto", "pad", "crop", "anyres", "native", "tiles"] = "auto"  # as the checkpoint was made
    text_tower: str | None = None  # a CLIP, for strategies that compare the question with the image by it
    offload: Annotated[int | str, AfterValidator(_layers_away)] = "auto"  # decoder layers kept in host memory


@_of(TaskSpec)
class TaskSection(Section):
    """``task:`` - a name alone stands for ``{name: ...}``."""

    name: str = "scienceqa"
    conversation: str | None = None  # as the checkpoint was trained
    data: str | None = None  # where the document has none


class SpectraSection(Section):
    """``measure.spectra:`` - which matrices' ranks are measured on the forward."""

    matrix: SpectrumMatrix | list[SpectrumMatrix]
    layer: int | str | list[int | str] = ["first", "last"]  # 0-based, first or last
    threshold: Annotated[float, Field(gt=0, lt=1)]  # numerical rank: relative to the largest singular value
    power: Literal[1, 2] = 2  # effective rank of s ** power
    samples: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_all_samples)] = None

    @property
    def matrices(self) -> list[str]:
        return [self.matrix] if isinstance(self.matrix, str) else list(self.matrix)


class MeasureSection(Section):
    """``measure:`` - what is measured besides the answers."""

    spectra: SpectraSection | None = None
    quality: bool = False


NamedCallback = str | dict[str, dict[str, Any] | None]  # a class, or {class: {argument: value}}


class TuneSection(Section):
    """``tune:`` - callbacks of Ray Tune that hear of every grid point."""

    callbacks: list[NamedCallback] = []


def callback_specs(named: Sequence[NamedCallback]) -> tuple[CallbackSpec, ...]:
    """The callbacks of a sweep file or a command line."""
    items = [{item: None} if isinstance(item, str) else item for item in named]
    return tuple(CallbackSpec(name, tuple((given or {}).items())) for item in items for name, given in item.items())


def parse_callbacks(texts: Sequence[str]) -> tuple[CallbackSpec, ...]:
    """Callbacks as a command line names them, in the form of a sweep file's items.

    Raises:
        SpecError: One is neither a name nor a mapping.
    """
    try:
        section = TuneSection.model_validate({"callbacks": [parse_yaml(text) for text in texts]})
    except (YamlError, ValidationError) as error:
        raise SpecError(f"--callback {' '.join(texts)}: give CLASS, or 'CLASS: {{ARGUMENT: VALUE}}'") from error
    return callback_specs(section.callbacks)


@_of(RacingRule)
class RacingSection(Section):
    """``racing:`` - whether grid points that are decided stop early; see `racing.py`."""


class Entry(BaseModel):
    """One item of ``grid:``. Keys that are not fields are parameters of the strategy, found in ``model_extra``."""

    model_config = ConfigDict(extra="allow", strict=True)

    strategy: str | list[str]
    layer: int | str | list[int | str]
    rank: int | str | list[int | str] | None = None
    tokens: int | float | str | list[int | float | str] | None = None  # instead of rank: average over the layers
    positions: Positions | list[Positions] | None = None  # of what is kept; None: as each method has it

    @property
    def strategies(self) -> list[str]:
        return [self.strategy] if isinstance(self.strategy, str) else self.strategy

    @property
    def all_positions(self) -> list[Positions | None]:
        return list(self.positions) if isinstance(self.positions, list) else [self.positions]

    @property
    def params(self) -> dict[str, Scalar | list[Scalar]]:
        return dict(self.model_extra or {})


def _racing(value: Any) -> Any:
    return {} if value is True else None if value is False else value


def path_alone(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def name_alone(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Document(Section):
    """A whole sweep file, apart from its grid entries, which are checked one by one."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    model: Annotated[ModelSection, BeforeValidator(path_alone)]
    task: Annotated[TaskSection, BeforeValidator(name_alone)] = TaskSection()
    data: str | None = None
    samples: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_all_samples)] = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 1024
    seed: Annotated[int, Field(ge=0)] = 0
    measure: MeasureSection = MeasureSection()
    racing: Annotated[RacingSection | None, BeforeValidator(_racing)] = None
    tune: TuneSection = TuneSection()
    grid: Annotated[list[Any], Field(min_length=1)]


def parse(raw: Mapping[str, Any]) -> Check[tuple[Document | None, list[tuple[str, Entry]]]]:
    """Check what a sweep file says.

    Args:
        raw: The file's mapping.

    Returns:
        The document, without sections that are not usable, None where that leaves out which files are meant; and the
        grid entries that are usable, with their places.
    """
    document, mistakes = checked(valid(Document, raw, ""))
    yield from mistakes
    wrong = {re.split(r"[.\[]", mistake.place)[0] for mistake in mistakes}
    if document is None and wrong.isdisjoint(("model", "task", "data")):  # so that those are looked at all the same
        document, _ = checked(valid(Document, {key: value for key, value in raw.items() if key not in wrong}, ""))
    entries = []
    grid = raw.get("grid")
    for index, item in enumerate(grid if isinstance(grid, list) else ()):
        place = f"grid[{index}]"
        entry = yield from valid(Entry, item, place)
        if entry is not None:
            entries.append((place, entry))
    return document, entries


def valid(kind: type[Kind], value: Any, place: str) -> Check[Kind | None]:
    """A section, None where it is not usable; ``place`` is empty for the whole file."""
    if place and not isinstance(value, dict):
        below = "; write `- strategy: NAME` with `layer:` and `rank:` below it" if kind is Entry else ""
        yield Mistake(place, f"is not a mapping{below}")
        return None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        found = dict(_mistake(detail, kind, place) for detail in error.errors())
        yield from map(Mistake._make, found.items())  # one for each place: a union complains once for each member
        return None


def _mistake(detail: ErrorDetails, kind: type[BaseModel], root: str) -> tuple[str, str]:
    location, value = detail["loc"], detail["input"]
    if kind is Entry:
        location = location[:1]  # what follows is pydantic's name of the union member
    place = root
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif not part[:1].isupper() and "[" not in part and part not in ("str", "int", "function-before"):
            place += f".{part}" if place else str(part)
    match detail["type"]:
        case "extra_forbidden":
            fields = _fields(kind, location[:-1])
            return place, f"unknown key{near(str(location[-1]), fields)} (known: {', '.join(fields)})"
        case "missing":
            given = [str(key) for key in detail["input"]] if isinstance(detail["input"], dict) else []
            typo = difflib.get_close_matches(str(location[-1]), given, n=1)
            return place, f"is missing: should '{typo[0]}' be '{location[-1]}'?" if typo else "is missing"
        case "literal_error":
            expected = str(detail.get("ctx", {}).get("expected", "")).replace(" or ", ", ")
            options = [option.strip().strip("'") for option in expected.split(",")]
            return place, f"{_show(value)} is not known{near(str(value), options)} (known: {', '.join(options)})"
        case "greater_than" | "less_than" if location[-1] != "margin":
            return place, f"{_show(value)} is not above 0 and below 1"
        case "greater_than_equal":
            return place, f"{_show(value)} is below {detail.get('ctx', {}).get('ge')}"
        case "too_short":
            return (
                place,
                "is empty; list at least one grid entry" if kind is Document else "is empty; list at least one",
            )
        case "string_pattern_mismatch":
            return place, f"{_show(value)} names a directory: use letters, digits, '.', '_' and '-'"
        case "model_type" | "model_attributes_type" | "dict_type":
            return place, f"{_show(value)} is neither a name nor a mapping"
        case _:
            return place, f"{_show(value)} is not {_wanted(kind, place.rsplit('.', 1)[-1], detail['type'])}"


def _wanted(kind: type[BaseModel], field: str, fault: str) -> str:
    if kind is Entry:
        return {
            "strategy": "a strategy's name or a list of names",
            "layer": "a whole number, a list of them, or a range such as 2..L",
            "rank": "a whole number, a share such as 22.2%, a list of them, or a range such as 576..16 step -10",
            "tokens": "a number of tokens, a share such as 33.3%, or a list of them",
            "positions": "`keep`, `compact`, or a list of both",
        }.get(field, "valid")
    return {
        "samples": "`all` or a whole number",
        "offload": "auto, never, or a number of decoder layers",
        "grid": "a list of entries, each starting with `- strategy:`",
        "layer": "first, last, a 0-based number, or a list of them",
        "matrix": f"one of {', '.join(get_args(SpectrumMatrix))}, or a list of them",
        "callbacks": "a list of classes such as ray.tune.logger.CSVLoggerCallback, or of {CLASS: {ARGUMENT: VALUE}}",
        "alpha": "a number above 0 and below 1",
        "margin": "a number from 0 to below 1: a difference of accuracies",
        "racing": "true, false, or a mapping with against, alpha and margin",
        "threshold": "a number such as 1.0e-6 (YAML needs the dot)",
    }.get(field, {"bool_type": "true or false", "int_type": "a whole number"}.get(fault, "a text"))


def _fields(kind: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Keys of the section at a location."""
    for part in location:
        field = kind.model_fields.get(str(part))
        inside = None if field is None else field.annotation
        sections = [one for one in (inside, *get_args(inside)) if isinstance(one, type) and issubclass(one, BaseModel)]
        kind = sections[0] if sections else kind
    return list(kind.model_fields)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
