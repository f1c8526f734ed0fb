"""What one configuration costs in time and memory: one at a time, with tokens really dropped, on the stock model.

The shared engine has no latency of a single configuration, so this is measured with ``pruned`` on transformers' own
layers, batch 1, key-value cache on. The device is synchronised before the prompt, after the first token and after the
last; what lies between is told apart by marks in the device's own stream. The first rounds are discarded, and the
configurations take turns (A, B, A, B, ...) with the un-pruned model, so that a drift of the machine hits all of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from strategies.errors import UsageError
from workers.encoding import encode_sample
from workers.families.catalog import parts_of
from workers.families.model import Encoded, Model
from workers.image_digests import sample_digest
from workers.laps import PREFILL, PROJECTOR, SELECTOR, TOWER, Laps, now
from workers.layer_calls import Replaced, go_on
from workers.patch import Pruning, pruned
from workers.shown import shows_smaller
from workers.tasks.base import Sample
from workers.work import UNPRUNED, GridPoint, TaskSpec, unpruned_point

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """Repeated measurements of one quantity."""

    mean: float
    median: float
    p90: float  # nearest rank: the smallest value that at least 90 % do not exceed
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Stat:
        ordered = sorted(values)
        place = -(-9 * len(ordered) // 10) - 1
        return cls(
            mean=statistics.fmean(ordered), median=statistics.median(ordered), p90=ordered[place], n=len(ordered)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One configuration. Speed-ups are the un-pruned median of the same run over this one's: above 1 is faster.

    Tower, projector, selector and prefill are the time to the first token, nothing left out and nothing counted twice.
    """

    point: GridPoint
    tower_ms: Stat  # vision tower
    projector_ms: Stat  # from the tower's output to visual tokens, tiles put together
    selector_ms: Stat  # what pruning adds: evidence, choice, dropping; 0 of the un-pruned model
    prefill_ms: Stat  # all else to the first token: the decoder
    first_token_ms: Stat
    decode_ms: Stat  # per further token
    tokens_per_s: Stat  # decoded tokens over decode seconds
    total_ms: Stat  # to the last token
    peak_gib: Stat | None  # of device memory, weights included; None: the device does not count it
    decode_tokens: int  # decoded after the first one, whatever they are
    prefill_speedup: float  # the selector's time counts as this one's
    decode_speedup: float
    total_speedup: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "point": self.point.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Latency:
        stats = {name: Stat(**entry) for name, entry in value.items() if name != "point" and isinstance(entry, dict)}
        return cls(**{**value, **stats, "point": GridPoint.from_json(value["point"])})


@dataclass(frozen=True, slots=True, eq=False)
class TimedPrompt:
    """A prompt ready for the model, all work on the host done."""

    id: str
    image: str  # digest, by which strategies draw
    prompt: Encoded
    smaller: Mapping[str, Encoded]  # by key of those points that show the image with fewer pixels


def prepare_prompts(
    model: Model, samples: Sequence[Sample], task: TaskSpec, image_mode: str, points: Sequence[GridPoint] = ()
) -> list[TimedPrompt]:
    """Tokenise and pre-process the samples that have an image; the others have nothing to prune.

    Args:
        model: whose prompts they are.
        samples: of a benchmark.
        task: how they are asked.
        image_mode: one of the checkpoint's.
        points: to be measured, some of which may show a smaller image.

    Raises:
        DataError: an image cannot be read.
        UsageError: the model is one whose own forward is not pruned.
    """
    prompts = []
    parts_of(model.module)
    apart = [point for point in points if shows_smaller(model, point)]
    for sample in samples:
        if sample.image is not None:
            encode = partial(encode_sample, model, sample, task, image_mode)
            smaller = {point.key: encode(point=point) for point in apart}
            prompts.append(TimedPrompt(sample.id, sample_digest(sample), encode(), smaller))
    return prompts


def measure_latency(
    model: Model,
    prompts: Sequence[TimedPrompt],
    points: Sequence[GridPoint],
    *,
    repeats: int,
    warmup: int,
    decode_tokens: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Latency, ...]:
    """Measure configurations side by side.

    Args:
        model: the model.
        prompts: each with an image; every configuration runs every one in every round.
        points: the configurations; the un-pruned model is added in front.
        repeats: rounds that count, >= 1; each figure has ``repeats * len(prompts)`` measurements.
        warmup: rounds before them that do not.
        decode_tokens: tokens decoded after the first, >= 1; ends of sentence are ignored, so that all decode alike.
        seed: of strategies that draw.
        progress: told (measurements done, of all), warm-up included.

    Returns:
        The un-pruned model, then the points in their order, each once.

    Raises:
        UsageError: there is no prompt, one has no image, a number is out of range, or a point does not fit the model.
    """
    for name, value, least in (("repeats", repeats, 1), ("warmup", warmup, 0), ("decode_tokens", decode_tokens, 1)):
        if value < least:
            raise UsageError(f"{name} must be >= {least}, got {value}")
    if not prompts:
        raise UsageError("there is no prompt with an image to measure")
    bare = next((item.id for item in prompts if not item.prompt.images), None)
    if bare is not None:
        raise UsageError(f"sample {bare} has no image, so that nothing can be pruned")
    inputs = [model.inputs(item.prompt) for item in prompts]
    baseline = unpruned_point(model.config.layers, model.visual_tokens)
    others = [point for point in points if point.strategy != UNPRUNED]
    ordered = list({point.key: point for point in (baseline, *others)}.values())
    runs: dict[str, list[_Run]] = {point.key: [] for point in ordered}
    done, of = 0, (warmup + repeats) * len(prompts) * len(ordered)
    for turn in range(warmup + repeats):
        for item, asked in zip(prompts, inputs, strict=True):
            for point in ordered:
                run = _measure(model, point, item, asked, decode_tokens, seed)
                if turn >= warmup:
                    runs[point.key].append(run)
                done += 1
                if progress is not None:
                    progress(done, of)
    unpruned = runs[baseline.key]
    return tuple(_latency(point, runs[point.key], unpruned, decode_tokens) for point in ordered)


@dataclass(frozen=True, slots=True)
class _Run:
    """One measurement, in seconds."""

    tower: float
    projector: float
    selector: float
    first_token: float
    decode: float
    peak: int | None  # bytes

    @property
    def prefill(self) -> float:
        return self.first_token - self.tower - self.projector - self.selector


def _latency(point: GridPoint, runs: Sequence[_Run], unpruned: Sequence[_Run], decode_tokens: int) -> Latency:
    def stat(value: Callable[[_Run], float], of: Sequence[_Run] = runs) -> Stat:
        return Stat.of([value(run) for run in of])

    def speedup(value: Callable[[_Run], float]) -> float:
        return stat(value, unpruned).median / stat(value).median

    peaks = [run.peak / GIB for run in runs if run.peak is not None]
    return Latency(
        point=point,
        tower_ms=stat(lambda run: 1e3 * run.tower),
        projector_ms=stat(lambda run: 1e3 * run.projector),
        selector_ms=stat(lambda run: 1e3 * run.selector),
        prefill_ms=stat(lambda run: 1e3 * run.prefill),
        first_token_ms=stat(lambda run: 1e3 * run.first_token),
        decode_ms=stat(lambda run: 1e3 * run.decode / decode_tokens),
        tokens_per_s=stat(lambda run: decode_tokens / run.decode),
        total_ms=stat(lambda run: 1e3 * (run.first_token + run.decode)),
        peak_gib=Stat.of(peaks) if peaks else None,
        decode_tokens=decode_tokens,
        prefill_speedup=speedup(lambda run: run.prefill + run.selector),
        decode_speedup=speedup(lambda run: run.decode),
        total_speedup=speedup(lambda run: run.first_token + run.decode),
    )


@torch.inference_mode()
def _measure(
    model: Model, point: GridPoint, item: TimedPrompt, inputs: Mapping[str, Tensor], decode_tokens: int, seed: int
) -> _Run:
    """One configuration on one prompt."""
    module: Any = model.module
    smaller = item.smaller.get(point.key)
    counted = model.device.type == "cuda"
    with ExitStack() as stack:
        if counted:
            torch.cuda.reset_peak_memory_stats(model.device)
        laps = Laps(model.device)
        if point.strategy != UNPRUNED and smaller is None:
            stack.enter_context(_pruned(model, point, item, seed, laps))
        stack.enter_context(_watched(model, laps))
        began = now(model.device)
        # The tower of a smaller image may be asked for apart; its pixels go to the device meanwhile.
        asked = inputs if smaller is None else model.inputs(smaller)
        out = module(**asked, use_cache=True, logits_to_keep=1)
        token_BT = out.logits[:, -1:].argmax(dim=-1)
        first = now(model.device)
        for _ in range(decode_tokens):
            out = module(input_ids=token_BT, **go_on(module, out), use_cache=True, logits_to_keep=1)
            token_BT = out.logits[:, -1:].argmax(dim=-1)
        last = now(model.device)
        peak = torch.cuda.max_memory_allocated(model.device) if counted else None
    return _Run(
        tower=laps.seconds(TOWER),
        projector=laps.seconds(PROJECTOR),
        selector=laps.seconds(SELECTOR),
        first_token=first - began,
        decode=last - first,
        peak=peak,
    )


def _pruned(
    model: Model, point: GridPoint, item: TimedPrompt, seed: int, laps: Laps
) -> AbstractContextManager[Pruning]:
    settings: dict[str, Any] = dict(point.settings)
    settings |= {"asked": model.asked([item.prompt]), "sample_ids": [item.id], "image_ids": [item.image]}
    rank = point.of(item.prompt.visual).rank
    return pruned(model.module, point.strategy, point.layer, rank, seed=seed, ended=laps.end, **settings)


@contextmanager
def _watched(model: Model, laps: Laps) -> Iterator[None]:
    """End laps around tower and projector while features of images are made."""
    parts = parts_of(model.module)
    make_features = parts.body.get_image_features

    @wraps(make_features)
    def features(*args: Any, **kwargs: Any) -> Any:
        laps.end(PREFILL)
        made = make_features(*args, **kwargs)
        laps.end(PROJECTOR)
        return made

    handles: list[Any] = [Replaced(parts.body, "get_image_features", features)]
    for projector in parts.projectors:
        handles.append(projector.register_forward_pre_hook(lambda *_: laps.end(TOWER)))
        handles.append(projector.register_forward_hook(lambda *_: laps.end(PROJECTOR)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
