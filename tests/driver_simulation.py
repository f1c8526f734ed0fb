"""What the driver of a sweep does for each answer, without a model: how many GPUs it can serve.

    PYTHONPATH=.:tests python tests/driver_simulation.py [WORKERS ...] [--points 31] [--questions 200]

Made-up workers answer at once, so that only the driver's own work is left: handing out units, reading answers as Ray
hands them over (pickled), writing cells and kept tokens, counting for racing and Tune, telling Tune's process. Printed
are CPU seconds of this process by part, and cells by the clock, the disk's waiting included. Ray's own work for a call
is measured with real actors (`--ray`), two of them on this machine.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd

from fake_experiment import fake_engine, fake_manifest, fake_samples
from mirror_overhead import many_points
from orchestrator.cluster.dispatch import Dispatch
from orchestrator.cluster.pool import UNITS_OF_A_GPU, PoolOptions
from orchestrator.cluster.ray_pool import RayPool
from orchestrator.policy import Policy
from orchestrator.storing import stored
from orchestrator.sweep.plan import make_units
from results.experiment import Experiment
from workers.work import GridPoint, SampleOutcome, UnitOutcome, WorkUnit

CELLS_PER_GPU_S = 665.0  # 31 cut-offs of a 7B model: docs/performance.md
MASK = np.packbits(np.arange(576) % 3 == 0).tobytes()


class Clock:
    """Seconds of the driver's own thread, by part."""

    def __init__(self) -> None:
        self.spent_s: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.spent_s[what] += time.thread_time() - began


def outcome_of(unit: WorkUnit, draw: np.random.Generator) -> UnitOutcome:
    """As large as a real one: 576 visual tokens, four options."""
    right = draw.random((len(unit.samples), len(unit.points))) < 0.7
    made = [
        SampleOutcome(
            point=point.key, sample=sample, answer="A", parsed="A", correct=bool(right[row, column]), first_token=1,
            option_logits=(0.5, 0.25, 0.125, 0.0), margin=0.5, tokens_kept=point.rank, kept_mask=MASK, decoded_tokens=2,
            prompt_tokens=650, visual_tokens=576, text_tokens=41,
        )
        for row, sample in enumerate(unit.samples)
        for column, point in enumerate(unit.points)
    ]  # fmt: skip
    return UnitOutcome(unit=unit.key, outcomes=tuple(made), seconds=0.1, worker="fake", made_by=(("saccade", "0"),))


def drive(points: tuple[GridPoint, ...], questions: int, workers: int, folder: Path) -> str:
    """A whole sweep of so many questions; a line of the table."""
    samples = fake_samples(questions)
    experiment = Experiment.create(folder, fake_manifest(points), samples)
    nothing = pd.DataFrame(columns=["point", "sample", "correct", "score", "tokens_kept"])
    policy = Policy(None, points, samples, 0, nothing)
    made_up = {"clock": 0.0, "cpu": 0.0}
    clock, draw = Clock(), np.random.default_rng(0)
    units = make_units(points, [sample.id for sample in samples], {}, workers)
    dispatch: Dispatch[int] = Dispatch(policy.units(units), UNITS_OF_A_GPU, 600.0, ())

    def answers() -> Iterator[tuple[WorkUnit, UnitOutcome]]:
        for worker in cycle(range(workers)):
            if dispatch.finished:
                return
            with clock.part("hand out"):
                job = dispatch.take(worker, time.monotonic())
            if job is None:
                continue
            began_s, thread_s = time.perf_counter(), time.thread_time()
            sent = pickle.dumps(outcome_of(job.unit, draw))
            made_up["clock"] += time.perf_counter() - began_s
            made_up["cpu"] += time.thread_time() - thread_s
            with clock.part("read"):
                outcome = pickle.loads(sent)
            with clock.part("hand out"):
                dispatch.answer(worker, job, time.monotonic())
            yield job.unit, outcome

    began, cpu, cells = time.perf_counter(), time.process_time(), 0
    for unit, outcome in stored(answers(), experiment.write):
        with clock.part("count"):
            policy.add(outcome)
            news = policy.standing.news()
        with clock.part("tell Tune"):
            pickle.dumps(news)
        cells += unit.cells
    total, wall = time.process_time() - cpu - made_up["cpu"], time.perf_counter() - began - made_up["clock"]
    clock.spent_s["write"] = total - sum(clock.spent_s.values())
    parts = ", ".join(f"{what} {1e6 * seconds / cells:.2f}" for what, seconds in clock.spent_s.items())
    return (
        f"{workers} workers, {len(units)} units of {cells / len(units):.0f} cells: {1e6 * total / cells:.1f} us CPU a "
        f"cell ({parts}), {cells / total:,.0f} cells a second of one core, {cells / wall:,.0f} by the clock: as many "
        f"as {cells / max(total, wall) / CELLS_PER_GPU_S:.0f} GPUs give"
    )


def call_ray(points: tuple[GridPoint, ...], questions: int) -> str:
    """CPU of this process for each unit that goes through Ray's actors and comes back."""
    samples = [f"s{place}" for place in range(questions)]
    units = make_units(points, samples, {}, 2)
    options = PoolOptions(engine="stub_engine:BriefEngine", workers=2)
    with RayPool(fake_engine(), options) as pool:
        answers = pool.results(units)
        next(answers)
        cpu = time.process_time()
        count = sum(1 for _ in answers)
        return f"Ray, 2 actors: {1e3 * (time.process_time() - cpu) / count:.2f} ms CPU a unit, with reading"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workers", type=int, nargs="*", default=[8, 64, 1000])
    parser.add_argument("--points", type=int, default=31)
    parser.add_argument("--questions", type=int, default=200, help="for each worker; at least 2,400 in all")
    parser.add_argument("--ray", action="store_true")
    given = parser.parse_args()
    points = many_points(given.points)
    if given.ray:
        print(call_ray(points, 200), flush=True)
    for workers in given.workers:
        with tempfile.TemporaryDirectory(prefix="saccade-driver-") as folder:
            print(drive(points, max(2400, given.questions * workers), workers, Path(folder) / "x"), flush=True)


if __name__ == "__main__":
    main()
