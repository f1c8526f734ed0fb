"""What the benchmark is asked to measure, and how a command line says so."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from strategies.errors import UsageError
from workers.families.model import DTYPES
from workers.speed_test.baselines import NEW_TOKENS
from workers.speed_test.random_models import SHAPES

WORKLOADS = ("cutoffs", "ranks", "spectra", "strategies", "one")
QUESTION_WORKLOADS = ("unpruned", "blind", "fastv", "cutoffs")
LARGE = ("grid", "grid3000", "towers")  # timed where they are asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSpec:
    """What is measured."""

    shape: str = "llava-1.5-7b"  # a name of random_models.SHAPES; unused where there is a checkpoint
    model: str | None = None  # a checkpoint directory instead of random weights
    data: str | None = None  # a ScienceQA directory with images; needs ``model``, else prompts are drawn anyway
    questions: str | None = None  # a JSON list of question lengths in characters, or LLaVA's question file
    samples: int = 16
    workloads: tuple[str, ...] = WORKLOADS
    offload: int | str = "auto"  # decoder layers in host memory, as ``model.offload`` says
    baselines: bool = True  # whether Hugging Face is timed too
    batches: tuple[int, ...] = (8, 32)  # of stock Hugging Face, besides 1
    micro_batches: tuple[int | None, ...] = (None,)  # of the engine; None: as the engine plans
    gpu_memory: tuple[int, ...] = ()  # GiB: the engine's rows once more as on cards of these sizes
    images: str = "memory"  # memory: pixels prepared before the clock starts; disk: PNG files, decoded within it
    questions_per_image: tuple[int, ...] = ()  # the engine with and without sharing the rows of an image
    question_workloads: tuple[str, ...] = QUESTION_WORKLOADS  # on these
    agreement: int = 16  # samples compared with Hugging Face; 0: none
    new_tokens: int = NEW_TOKENS  # decoded at most; random weights hardly ever end before
    seconds: float = 120.0  # for each timing (with and without decoding); one run is always finished
    dtype: str | None = None  # None: bfloat16 on CUDA, else float32
    device: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.workloads) - {*WORKLOADS, *LARGE})
        if unknown:
            raise UsageError(f"unknown workload '{unknown[0]}' (known: {', '.join((*WORKLOADS, *LARGE))})")
        unknown = sorted(set(self.question_workloads) - {*QUESTION_WORKLOADS})
        if unknown:
            raise UsageError(f"unknown question workload '{unknown[0]}' (known: {', '.join(QUESTION_WORKLOADS)})")
        if self.images not in ("memory", "disk"):
            raise UsageError(f"images: '{self.images}' is neither memory nor disk")
        if self.samples < 1:
            raise UsageError(f"samples: {self.samples} is below 1")
        if self.new_tokens < 1:
            raise UsageError(f"new_tokens: {self.new_tokens} is below 1")
        if min(self.questions_per_image, default=1) < 1:
            raise UsageError(f"questions_per_image: {min(self.questions_per_image)} is below 1")


def build_parser() -> argparse.ArgumentParser:
    defaults = BenchSpec()
    parser = argparse.ArgumentParser(prog="python -m workers.speed_test", description="Engine against Hugging Face.")
    parser.add_argument("--shape", default=defaults.shape, choices=sorted(SHAPES))
    parser.add_argument("--model", help="checkpoint directory, instead of random weights of --shape")
    parser.add_argument("--data", help="ScienceQA directory with images")
    parser.add_argument("--questions", help="JSON list of question lengths in characters, or LLaVA's question file")
    parser.add_argument("--samples", type=int, default=defaults.samples)
    parser.add_argument(
        "--workloads", type=_names, default=defaults.workloads, help=f"{','.join(WORKLOADS)}; {','.join(LARGE)}"
    )
    parser.add_argument("--offload", type=_away, default=defaults.offload, help="layers in host memory: auto, never, N")
    parser.add_argument("--no-baselines", dest="baselines", action="store_false", help="time the engine alone")
    parser.add_argument("--batches", type=_sizes, default=defaults.batches, help="of stock Hugging Face, as 8,32")
    parser.add_argument("--micro-batch", type=_sizes, default=(), help="of the engine, as 4,8; default: planned")
    parser.add_argument(
        "--gpu-memory", type=_sizes, default=(), help="the engine again with so many GiB, as on smaller cards: 24,16"
    )
    parser.add_argument(
        "--questions-per-image", type=int, nargs="+", default=(), metavar="N", help="also with N short ones an image"
    )
    parser.add_argument(
        "--question-workloads", type=_names, default=defaults.question_workloads, help=",".join(QUESTION_WORKLOADS)
    )
    parser.add_argument("--images", choices=("memory", "disk"), default=defaults.images)
    parser.add_argument("--agreement", type=int, default=defaults.agreement, help="samples to compare, 0: none")
    parser.add_argument(
        "--seconds", type=float, default=defaults.seconds, help="for each timing; one run is always finished"
    )
    parser.add_argument("--new-tokens", type=int, default=defaults.new_tokens, help="decoded at most, by everybody")
    parser.add_argument("--dtype", choices=sorted(DTYPES))
    parser.add_argument("--device")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--calibrate", action="store_true", help="measure this device once, so that `saccade plan` can say how long"
    )
    parser.add_argument("--out", type=Path, help="JSON file, rewritten after every step")
    return parser


def _away(text: str) -> int | str:
    return text if text in ("auto", "never") else int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size)
