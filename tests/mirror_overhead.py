"""What Ray Tune's mirror costs a sweep, without a model.

    PYTHONPATH=.:tests python tests/mirror_overhead.py POINTS [SECONDS] [SAMPLES]

Made-up answers come at the pace of a sweep. Measured: how long the driver is held up by counting and telling, CPU time
and memory of the mirror's process, and how long the end waits for it.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fake_experiment import fake_manifest, fake_samples
from orchestrator.followers.base import Answered, Begun
from orchestrator.tune.mirror import TuneMirror
from orchestrator.tune.rungs import Standing
from results.experiment import Experiment
from workers.work import GridPoint, SampleOutcome, UnitOutcome, WorkUnit, unpruned_point


def many_points(count: int) -> tuple[GridPoint, ...]:
    pruned = [GridPoint(strategy="fastv", layer=1 + place % 31, rank=1 + place // 31) for place in range(count - 1)]
    return (unpruned_point(32, 576), *pruned)


def cells(points: tuple[GridPoint, ...], first: int, last: int, draw: np.random.Generator) -> UnitOutcome:
    right = draw.random((last - first, len(points))) < 0.7
    made = [
        SampleOutcome(
            point=point.key, sample=f"s{sample}", answer="A", parsed="A", correct=bool(right[sample - first, place]),
            first_token=1, option_logits=(), margin=0.5, tokens_kept=point.rank, kept_mask=b"", decoded_tokens=1,
            prompt_tokens=100, visual_tokens=0 if sample % 10 == 9 else 64,
        )
        for sample in range(first, last)
        for place, point in enumerate(points)
    ]  # fmt: skip
    return UnitOutcome(unit="u", outcomes=tuple(made))


def measure(count: int, seconds: float, samples: int, folder: Path) -> str:
    """Feed a sweep of ``samples`` questions evenly over ``seconds``."""
    points, questions = many_points(count), fake_samples(samples)
    experiment = Experiment.create(folder, fake_manifest(points), questions)
    standing = Standing(points, questions)
    mirror = TuneMirror(experiment)
    draw = np.random.default_rng(0)
    step = max(1, min(16, 4096 // count))
    started = time.monotonic()
    mirror.start(Begun(points=count, there=0, missing=count * samples, reports={}))
    counting = telling = late = 0.0
    for first in range(0, samples, step):
        unit = WorkUnit(samples=tuple(f"s{place}" for place in range(first, min(samples, first + step))), points=points)
        outcome = cells(points, first, min(samples, first + step), draw)
        wait = started + seconds * (first + step) / samples - time.monotonic()
        time.sleep(max(0.0, wait))
        late = max(late, -wait)
        began = time.monotonic()
        standing.add(outcome)
        counted = time.monotonic()
        mirror.outcome(Answered(unit=unit, outcome=outcome, news=standing.news()))
        counting, telling = counting + counted - began, telling + time.monotonic() - counted
    ended = time.monotonic()
    warning = mirror.finish()
    waited = time.monotonic() - ended
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    files = sum(1 for _ in folder.rglob("*"))
    return (
        f"{count} trials, {samples} questions in {ended - started:.0f} s: driver held {telling:.2f} s by telling, "
        f"{counting:.2f} s by counting, at most {late:.2f} s late; mirror {child.ru_utime + child.ru_stime:.1f} s of "
        f"CPU, {child.ru_maxrss / 1024:.0f} MB; the end waited {waited:.1f} s; {files} files; {warning or 'complete'}"
    )


if __name__ == "__main__":
    numbers = [float(text) for text in sys.argv[1:]] + [60.0, 400][len(sys.argv) - 2 :]
    with tempfile.TemporaryDirectory() as place:
        print(measure(int(numbers[0]), numbers[1], int(numbers[2]), Path(place) / "sweep"))
