"""What every strategy promises, tried on real evidence of a few questions: one line a promise.

The suite is the same for ours (`tests/test_workers_contract.py`) and for a rule of a user's own (`saccade strategies
check`). It looks at a rule from outside: at what it chooses, and at the cells that come of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strategies import catalog
from strategies.catalog import Strategy
from strategies.errors import UsageError
from strategies.view import TokenView
from workers.engine import Engine
from workers.families.catalog import load_model, open_checkpoint
from workers.runnable import Facts, complaint
from workers.tasks.catalog import load_samples
from workers.work import EngineSpec, GridPoint, ModelSpec, SampleOutcome, TaskSpec, WorkUnit, unpruned_point

PROBE = "strategy under test"  # a name that no sweep file can give
LAYERS = (2, 1, 0)  # where it is tried: the first that it admits


class Promise(NamedTuple):
    """A promise, and what was seen of it."""

    text: str
    fault: str  # empty where it is kept


class _BrokenError(Exception):
    """A promise is not kept."""


def laboratory(model: Path, data: Path, text_tower: Path | None = None) -> Engine:
    """An engine on this machine's CPU with three questions, two of them about one image.

    Args:
        model: a checkpoint.
        data: ScienceQA's files, two questions with an image at least.
        text_tower: a CLIP, for strategies that compare the question with the image by it.
    """
    task = TaskSpec(name="scienceqa", data=str(data))
    named = ModelSpec(path=str(model), text_tower=None if text_tower is None else str(text_tower))
    checkpoint = open_checkpoint(named)
    spec = EngineSpec(
        model=replace(named, image_mode=checkpoint.image_mode),
        task=replace(task, conversation=checkpoint.conversation),
        max_new_tokens=2,
    )
    first, second = [sample for sample in load_samples(task) if sample.image is not None][:2]
    again = replace(second, id=f"{first.id} again", image=first.image, more=first.more)
    return Engine(spec, load_model(spec.model, "cpu"), (first, again, second), 1)


def promises(engine: Engine, strategy: Strategy, params: Mapping[str, Any] | None = None) -> Iterator[Promise]:
    """Try a strategy.

    Args:
        engine: of `laboratory`.
        strategy: of the catalog, or admitted to it.
        params: those that have no default, and others.

    Raises:
        UsageError: the strategy cannot be tried so: a parameter is missing, or the model lacks what it reads.
    """
    trial = _Trial.of(engine, strategy, dict(params or {}))
    looks: list[tuple[str, Callable[[_Trial], None]]] = []
    if strategy.schedule is None:
        trial = replace(trial, views=tuple(_views(trial)))
        looks += OF_CHOICES
    for text, look in looks + OF_CELLS:
        fault = _fault(look, trial)
        yield Promise(text, fault)
        if fault and look is _chooses:
            return  # nothing else can be looked at


@dataclass(frozen=True, kw_only=True)
class _Trial:
    engine: Engine
    strategy: Strategy
    params: dict[str, Any]
    layer: int
    ranks: tuple[int, ...]  # that it admits, ascending
    views: tuple[TokenView, ...] = ()

    @classmethod
    def of(cls, engine: Engine, strategy: Strategy, params: dict[str, Any]) -> _Trial:
        config, visual = engine.model.config, engine.model.visual_tokens
        facts = Facts(layers=config.layers, heads=config.heads, side=config.side)

        def wrong(layer: int, rank: int | None = None) -> str | None:
            return complaint(strategy, params, facts, layer=layer, rank=rank)

        told = {layer: wrong(layer) for layer in LAYERS if layer < config.layers}
        if said := strategy.check(params) or (None not in told.values() and told[0]):
            raise UsageError(f"{strategy.name}: {said}")
        layer = next(layer for layer, wrong_there in told.items() if wrong_there is None)
        wanted = (0, 1, visual // 8, visual // 2, visual) if strategy.fixed_rank is None else (strategy.fixed_rank,)
        ranks = tuple(rank for rank in dict.fromkeys(wanted) if wrong(layer, rank) is None)
        return cls(engine=engine, strategy=strategy, params=params, layer=layer, ranks=ranks)

    @cached_property
    def points(self) -> list[GridPoint]:
        """Few: each costs a forward of every question."""
        return [self.point(rank) for rank in self.ranks[:3]]

    @cached_property
    def together(self) -> list[SampleOutcome]:
        """The cells of one micro-batch."""
        return self.cells(self.points, len(self.engine.samples), shares=False)

    def point(self, rank: int) -> GridPoint:
        return GridPoint(strategy=self.strategy.name, layer=self.layer, rank=rank, params=tuple(self.params.items()))

    def choices(self, view: TokenView) -> list[Tensor]:
        return self.strategy.choose(view, self.ranks, self.params)

    def cells(self, points: Sequence[GridPoint], micro_batch: int = 1, shares: bool = True) -> list[SampleOutcome]:
        self.engine.micro_batch, self.engine.shares_images = micro_batch, shares
        outcome = self.engine.run(WorkUnit(samples=tuple(self.engine.samples), points=tuple(points)))
        if outcome.failures:
            raise _BrokenError(outcome.failures[0].message)
        return sorted(outcome.outcomes, key=lambda cell: (cell.sample, cell.point))


def _views(trial: _Trial) -> list[TokenView]:
    """What the engine lays before a strategy with these needs, of each image or question."""
    seen: list[TokenView] = []

    def look(view: TokenView, keep: int) -> Tensor:
        seen.append(view)
        return torch.arange(keep, device=view.device)

    strategy = trial.strategy
    kept = {name: getattr(strategy, name) for name in ("needs", "layers", "draws_per")}
    probe = Strategy(name=PROBE, select=look, source="", draws=strategy.reads_seed(trial.params), **kept)
    with _admitted(probe):
        trial.cells([GridPoint(strategy=PROBE, layer=trial.layer, rank=1)])
    assert len(seen) > 1, "no promise is kept where nothing was asked"
    return seen


@contextmanager
def _admitted(strategy: Strategy) -> Iterator[None]:
    catalog.admit(strategy)
    try:
        yield
    finally:
        del catalog.ADMITTED[strategy.name]


@torch.inference_mode()
def _fault(look: Callable[[_Trial], None], trial: _Trial) -> str:
    try:
        look(trial)
    except _BrokenError as broken:
        return str(broken)
    except UsageError:
        raise
    except Exception as error:  # whatever a rule of a user's own raises is what was asked for
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def _chooses(trial: _Trial) -> None:
    for view in trial.views:
        trial.choices(view)


def _keeps_as_many(trial: _Trial) -> None:
    for view in trial.views:
        for rank, kept_K in zip(trial.ranks, trial.choices(view), strict=True):
            if kept_K.shape != (rank,) or kept_K.dtype != torch.int64:
                raise _BrokenError(f"of {rank} asked it gives {tuple(kept_K.shape)} {kept_K.dtype}")


def _keeps_in_order(trial: _Trial) -> None:
    for view in trial.views:
        for rank, kept_K in zip(trial.ranks, trial.choices(view), strict=True):
            inside = not len(kept_K) or 0 <= int(kept_K.min()) <= int(kept_K.max()) < view.visual
            places_K = kept_K.sort().values if trial.strategy.fed else kept_K
            if not inside or not torch.equal(places_K, kept_K.unique()):  # which sorts
                raise _BrokenError(f"of {rank} asked it gives {kept_K.tolist()[:8]} ...")


def _writes_nothing(trial: _Trial) -> None:
    for view in trial.views:
        given = _tensors(view)
        before = {name: tensor.clone() for name, tensor in given.items()}
        trial.choices(view)
        if changed := [name for name, tensor in given.items() if not torch.equal(tensor, before[name])]:
            raise _BrokenError(f"{changed[0]} is another afterwards")


def _repeats(trial: _Trial) -> None:
    for view in trial.views:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            first = trial.choices(view)
            torch.manual_seed(2)
            _same(first, trial.choices(view), "the second time")


def _says_that_it_draws(trial: _Trial) -> None:
    if not trial.strategy.reads_seed(trial.params):
        for view in trial.views:
            other = replace(view, seed=view.seed + 1)
            _same(trial.choices(view), trial.choices(other), "under another seed, and does not say that it draws")


def _ranks_do_not_mix(trial: _Trial) -> None:
    for view in trial.views:
        alone = [trial.strategy.choose(view, [rank], trial.params)[0] for rank in trial.ranks]
        _same(alone, trial.choices(view), "beside other ranks")


def _keeping_all_is_unpruned(trial: _Trial) -> None:
    config, visual = trial.engine.model.config, trial.engine.model.visual_tokens
    if trial.ranks[-1] != visual:
        return
    whole, point = unpruned_point(config.layers, visual), trial.point(visual)
    for untouched, cell in zip(trial.cells([whole]), trial.cells([point]), strict=True):
        if replace(cell, point=whole.key) != untouched:
            raise _BrokenError(f"question {cell.sample}: {cell.answer!r} is not {untouched.answer!r} to the last bit")


def _batch_changes_nothing(trial: _Trial) -> None:
    _alike(trial.cells(trial.points), trial.together)


def _image_sharing_changes_nothing(trial: _Trial) -> None:
    _alike(trial.together, trial.cells(trial.points, len(trial.engine.samples), shares=True))


def _same(first: Sequence[Tensor], second: Sequence[Tensor], when: str) -> None:
    if any(not torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        raise _BrokenError(f"it chooses otherwise {when}")


def _alike(first: Sequence[SampleOutcome], second: Sequence[SampleOutcome]) -> None:
    for one, other in zip(first, second, strict=True):
        if (one.kept_mask, one.answer) != (other.kept_mask, other.answer):
            what = "keeps other tokens" if one.kept_mask != other.kept_mask else "answers otherwise"
            raise _BrokenError(f"question {one.sample} {what}")


def _tensors(view: TokenView) -> dict[str, Tensor]:
    """All evidence that a view holds, by name."""
    found = {item.name: getattr(view, item.name) for item in fields(view)}
    return {name: value for name, value in {**found, **found.get("evidence", {})}.items() if isinstance(value, Tensor)}


OF_CHOICES = [  # not of a schedule, which chooses nothing itself
    ("chooses by the evidence that it declares", _chooses),
    ("keeps exactly as many tokens as are asked", _keeps_as_many),
    ("keeps each once, in ascending order", _keeps_in_order),
    ("writes to nothing that it is given", _writes_nothing),
    ("chooses the same again, whatever else is drawn", _repeats),
    ("draws by the seed only where it says so", _says_that_it_draws),
    ("chooses for a rank the same beside other ranks", _ranks_do_not_mix),
    ("keeping all is the un-pruned model, to the last bit", _keeping_all_is_unpruned),
]
OF_CELLS = [
    ("a batch changes neither choice nor answer", _batch_changes_nothing),
    ("questions that share an image are answered as each alone", _image_sharing_changes_nothing),
]
