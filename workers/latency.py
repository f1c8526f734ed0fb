"""What one configuration costs in time and memory: one at a time, with tokens really dropped, on the stock model.

The shared engine has no latency of a single configuration, so this is measured with ``pruned`` on transformers' own
layers, batch 1, key-value cache on. The device is synchronised before and after every phase, the first rounds are
discarded, and the configurations take turns (A, B, A, B, ...) with the un-pruned model, so that a drift of the machine
hits all of them. A configuration's time includes what its strategy takes to choose.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from strategies.errors import UsageError
from workers.encoding import encode_sample
from workers.families.catalog import parts_of
from workers.families.model import Encoded, Model
from workers.layer_calls import go_on
from workers.patch import pruned
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
    """One configuration. Speed-ups are the un-pruned median of the same run over this one's: above 1 is faster."""

    point: GridPoint
    vision_ms: Stat  # vision tower and projector
    prefill_ms: Stat  # from the projector's output to the first token
    first_token_ms: Stat  # vision and prefill: the time to the first token
    decode_ms: Stat  # per further token
    tokens_per_s: Stat  # decoded tokens over decode seconds
    total_ms: Stat  # to the last token
    peak_gib: Stat | None  # of device memory, weights included; None: the device does not count it
    decode_tokens: int  # decoded after the first one, whatever they are
    prefill_speedup: float
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
    prompt: Encoded


def prepare_prompts(model: Model, samples: Sequence[Sample], task: TaskSpec, image_mode: str) -> list[TimedPrompt]:
    """Tokenise and pre-process the samples that have an image; the others have nothing to prune.

    Raises:
        DataError: an image cannot be read.
        UsageError: the model is one whose own forward is not pruned.
    """
    prompts = []
    parts_of(model.module)
    for sample in samples:
        if sample.image is not None:
            prompts.append(TimedPrompt(sample.id, encode_sample(model, sample, task, image_mode)))
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

    vision: float
    prefill: float
    decode: float
    peak: int | None  # bytes


def _latency(point: GridPoint, runs: Sequence[_Run], unpruned: Sequence[_Run], decode_tokens: int) -> Latency:
    def stat(value: Callable[[_Run], float], of: Sequence[_Run] = runs) -> Stat:
        return Stat.of([value(run) for run in of])

    def speedup(value: Callable[[_Run], float]) -> float:
        return stat(value, unpruned).median / stat(value).median

    def total(run: _Run) -> float:
        return 1e3 * (run.vision + run.prefill + run.decode)

    peaks = [run.peak / GIB for run in runs if run.peak is not None]
    return Latency(
        point=point,
        vision_ms=stat(lambda run: 1e3 * run.vision),
        prefill_ms=stat(lambda run: 1e3 * run.prefill),
        first_token_ms=stat(lambda run: 1e3 * (run.vision + run.prefill)),
        decode_ms=stat(lambda run: 1e3 * run.decode / decode_tokens),
        tokens_per_s=stat(lambda run: decode_tokens / run.decode),
        total_ms=stat(total),
        peak_gib=Stat.of(peaks) if peaks else None,
        decode_tokens=decode_tokens,
        prefill_speedup=speedup(lambda run: run.prefill),
        decode_speedup=speedup(lambda run: run.decode),
        total_speedup=speedup(total),
    )


@torch.inference_mode()
def _measure(
    model: Model, point: GridPoint, item: TimedPrompt, inputs: Mapping[str, Tensor], decode_tokens: int, seed: int
) -> _Run:
    """One configuration on one prompt."""
    module: Any = model.module
    settings: dict[str, Any] = dict(point.settings)
    settings["asked"] = model.asked([item.prompt])
    own = point.of(item.prompt.visual)
    block = (
        nullcontext()
        if point.strategy == UNPRUNED
        else pruned(module, point.strategy, point.layer, own.rank, seed=seed, sample_ids=[item.id], **settings)
    )
    counted = model.device.type == "cuda"
    with block, _vision_clock(model) as vision:
        if counted:
            torch.cuda.reset_peak_memory_stats(model.device)
        began = _now(model.device)
        out = module(**inputs, use_cache=True, logits_to_keep=1)
        token_BT = out.logits[:, -1:].argmax(dim=-1)
        first = _now(model.device)
        for _ in range(decode_tokens):
            out = module(input_ids=token_BT, **go_on(module, out), use_cache=True, logits_to_keep=1)
            token_BT = out.logits[:, -1:].argmax(dim=-1)
        last = _now(model.device)
        peak = torch.cuda.max_memory_allocated(model.device) if counted else None
    seen = vision[1] - vision[0]
    return _Run(vision=seen, prefill=first - began - seen, decode=last - first, peak=peak)


@contextmanager
def _vision_clock(model: Model) -> Iterator[list[float]]:
    """When the vision tower began, and when the projector ended."""
    times: list[float] = []

    def note(*_: Any) -> None:
        times.append(_now(model.device))

    parts = parts_of(model.module)
    handles = (parts.tower.register_forward_pre_hook(note), parts.projector.register_forward_hook(note))
    try:
        yield times
    finally:
        for handle in handles:
            handle.remove()


def _now(device: torch.device) -> float:
    """The clock, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
