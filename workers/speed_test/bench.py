"""The benchmark: baselines and engine in one process, on the same weights and the same samples.

    python -m workers.speed_test --shape llava-1.5-7b --samples 16 --out bench.json

The model is random, of a known shape, or a checkpoint; the questions have the lengths of ScienceQA's. What is compared
with what is in ``baselines.py``, the grids are in ``workloads.py``.
"""

from __future__ import annotations

import gc
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from strategies.errors import SaccadeError, UsageError
from workers.card_speed import write_speed
from workers.engine import Engine
from workers.families.catalog import load_model, open_checkpoint
from workers.families.model import DTYPES, default_device
from workers.memory import expandable_segments
from workers.speed_test.agreement import eager_against_sdpa, engine_against_huggingface
from workers.speed_test.baselines import attention_of, make_baselines
from workers.speed_test.options import BenchSpec, build_parser
from workers.speed_test.questions import drawn_questions, question_rows
from workers.speed_test.random_llava import random_text_tower
from workers.speed_test.random_models import random_model
from workers.speed_test.report import BaselineRow, EngineRow, Report, describe
from workers.speed_test.samples import drawn_samples, hand_out_pixels, make_cases, read_samples, side_of
from workers.speed_test.spectra import spectrum_rows
from workers.speed_test.timing import Timing, matmul_ceiling, timed
from workers.speed_test.workloads import LinearSizes, Workload, make_workloads, needed, scaled
from workers.work import (
    EngineSpec,
    GridPoint,
    ModelSpec,
    SampleOutcome,
    TaskSpec,
    UnitOutcome,
    WorkUnit,
    unpruned_point,
)


def bench(spec: BenchSpec, progress: Callable[[Report, str], None]) -> Report:
    """Measure everything that is asked for.

    Args:
        spec: what is measured.
        progress: called after every step with all that is known so far, and a line for people.

    Raises:
        UsageError, ModelError, DataError: the model or the questions cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="saccade-bench-") as folder, torch.inference_mode():
        return _Bench(spec, Path(folder), progress).run()


class _Bench:
    def __init__(self, spec: BenchSpec, folder: Path, progress: Callable[[Report, str], None]) -> None:
        self.spec = spec
        self.progress = progress
        expandable_segments()
        device = spec.device or default_device()
        dtype = spec.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
        if dtype not in DTYPES:
            raise UsageError(f"dtype '{dtype}' is unknown ({', '.join(DTYPES)})")
        named = ModelSpec(path=spec.model or f"random:{spec.shape}", dtype=dtype, offload=spec.offload)
        if spec.model is None:
            self.model = random_model(spec.shape, DTYPES[dtype], device, spec.seed, spec.offload)
        else:
            named = replace(named, image_mode=open_checkpoint(named).image_mode)
            self.model = load_model(named, device)
        if "towers" in spec.workloads and spec.model is None:
            self.model.text_tower = random_text_tower(spec.shape, DTYPES[dtype], device, spec.seed)
        self.engine_spec = EngineSpec(
            model=replace(named, offload="auto"),
            task=TaskSpec(name="scienceqa", data=spec.data or ""),
            max_new_tokens=spec.new_tokens,
            seed=spec.seed,
        )
        self.folder = folder
        self.samples = (
            read_samples(spec.data, spec.samples)
            if spec.data is not None
            else drawn_samples(spec.questions, spec.samples, side_of(self.model.config), spec.seed, folder)
        )
        self.cases = make_cases(self.model, self.engine_spec, self.samples)
        if spec.images == "memory":
            self.samples = hand_out_pixels(self.model, self.engine_spec, self.samples, folder)
        if spec.gpu_memory and not self.model.device.type == "cuda":
            raise UsageError("gpu_memory: there is no GPU whose memory could be capped")
        self.workloads = make_workloads(
            self.model.config.layers, self.model.config.heads, self.model.config.visual_tokens
        )
        prompts = [len(case.ids_S) for case in self.cases]
        after = [len(case.ids_S) - case.image_at - case.visual for case in self.cases]
        self.report = Report(
            model=self.engine_spec.model.path,
            dtype=dtype,
            device=_device_name(self.model.device),
            versions={"python": platform.python_version(), **{n: version(n) for n in ("torch", "transformers")}},
            samples=len(self.samples),
            mean_text_tokens=statistics.fmean(after),
            mean_prompt_tokens=statistics.fmean(prompts),
            images=spec.images,
            new_tokens=spec.new_tokens,
            ceiling=matmul_ceiling(self.model.device, DTYPES[dtype]),
        )
        gc.freeze()  # as a worker does that has loaded

    def run(self) -> Report:
        self._tell(f"{self.report.model} on {self.report.device}: {self.report.ceiling.tflops:.3g} TFLOP/s ceiling")
        if away := self.model.decoder.layers.away:
            self._note(f"{away} decoder layers are in host memory: Hugging Face's forward cannot run, and is left out")
        elif self.spec.baselines:
            self._baselines()
        for name in self.spec.workloads:
            for micro_batch in self.spec.micro_batches:
                for cap in (None, *self.spec.gpu_memory):
                    with self._capped(cap):
                        self._workload(self.workloads[name], micro_batch, cap)
        if "spectra" in self.spec.workloads:
            self._spectra()
        if self.spec.agreement and not self.model.decoder.layers.away:
            self._agreement()
        for questions in self.spec.questions_per_image:
            self._questions(questions)
        return self.report

    def _tell(self, line: str, **changes: Any) -> None:
        self.report = replace(self.report, **changes)
        self.progress(self.report, line)

    def _note(self, line: str) -> None:
        self._tell(line, notes=(*self.report.notes, line))

    def _baselines(self) -> None:
        config = self.model.config
        sizes = LinearSizes.of(config)
        flop = statistics.fmean(
            sizes.prefill_flop(len(case.ids_S), 0) + sizes.decode_flop(self.spec.new_tokens - 1) for case in self.cases
        )
        rank = scaled(128, config.visual_tokens)
        for baseline in make_baselines(
            self.model, self.cases, min(2, config.layers), rank, self.spec.batches, self.spec.new_tokens
        ):
            try:
                with attention_of(self.model, baseline.attention):
                    timing, peak = self._timed(baseline.run)
                    prefill = None if baseline.prefill is None else self._timed(baseline.prefill)[0]
            except torch.OutOfMemoryError as error:
                self._note(f"{baseline.name}: out of memory: {str(error)[:100]}")
                continue
            row = BaselineRow(
                name=baseline.name,
                what=baseline.what,
                timing=timing,
                ms_per_cell=1e3 * timing.median_s / baseline.cells,
                prefill_ms_per_cell=None if prefill is None else 1e3 * prefill.median_s / baseline.cells,
                cells_per_s=baseline.cells / timing.median_s,
                ceiling_share=self._share(flop * baseline.cells, timing),
                peak_gib=peak,
            )
            self._tell(f"{row.name}: {row.ms_per_cell:.3g} ms a cell", baselines=(*self.report.baselines, row))

    @contextmanager
    def _capped(self, gib: int | None) -> Iterator[None]:
        """Let this process have so much of the GPU's memory; None: all of it."""
        if gib is None:
            yield
            return
        total = torch.cuda.get_device_properties(self.model.device).total_memory
        torch.cuda.empty_cache()  # what is allocated already counts, used or not
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def _workload(self, workload: Workload, micro_batch: int | None, cap: int | None = None) -> None:
        unit = WorkUnit(samples=tuple(sample.id for sample in self.samples), points=workload.points)
        asked = replace(self.engine_spec, measure=workload.measure)
        engine = Engine(asked, self.model, self.samples, micro_batch)
        forward = Engine(replace(asked, max_new_tokens=1), self.model, self.samples, micro_batch)
        answered: list[UnitOutcome] = []

        def answer() -> None:
            engine.forget_images()
            answered[:] = [engine.run(unit)]

        timing, peak = self._timed(answer)
        (outcome,) = answered
        if outcome.failures:
            failure = outcome.failures[0]
            memory = "" if cap is None else f" in {cap} GiB"
            self._note(
                f"{workload.name}{memory}: {len(outcome.failures)} of {len(self.samples)} samples failed, nothing is "
                "reported; "
                f"first: {failure.kind}: {failure.message[:200]}"
            )
            return
        prefill, _ = timed(lambda: forward.run(unit), self.model.device, self.spec.seconds, repeats=0)  # warm by now
        spectra_share = None
        if workload.measure.spectra:
            plain = Engine(self.engine_spec, self.model, self.samples, micro_batch)
            spectra_share = 1 - self._timed(lambda: plain.run(unit))[0].median_s / timing.median_s
        system = {case.id: case.image_at for case in self.cases}
        work = needed(LinearSizes.of(self.model.config), unit.points, outcome.outcomes, system)
        ms_per_cell = 1e3 * timing.median_s / unit.cells
        row = EngineRow(
            workload=workload.name,
            what=workload.what,
            micro_batch=micro_batch,
            gpu_memory_gib=cap,
            configurations=len(unit.points),
            sequences_per_sample=work.sequences / len(unit.samples),
            timing=timing,
            ms_per_cell=ms_per_cell,
            prefill_ms_per_cell=1e3 * prefill.median_s / unit.cells,
            cells_per_s=unit.cells / timing.median_s,
            needed_tflop=(work.prefill_flop + work.decode_flop) / 1e12,
            ceiling_share=self._share(work.prefill_flop + work.decode_flop, timing),
            prefill_ceiling_share=self._share(work.prefill_flop, prefill),
            peak_gib=peak,
            ratios={baseline.name: baseline.ms_per_cell / ms_per_cell for baseline in self.report.baselines},
            notes=outcome.notes,
            spectra_share=spectra_share,
        )
        against = "; ".join(f"x{ratio:.3g} {name}" for name, ratio in row.ratios.items())
        self._tell(
            f"{row.workload}, micro-batch {micro_batch or 'auto'}, {'all' if cap is None else f'{cap} GiB of'} memory: "
            f"{row.ms_per_cell:.3g} ms a cell, "
            f"{row.ceiling_share:.3f} of the ceiling; {against}",
            engine=(*self.report.engine, row),
        )

    def _spectra(self) -> None:
        for row in spectrum_rows(self.model.config, self.model.device, self.spec.seconds, self.spec.seed):
            self._tell(
                f"{row.what}: {row.ms:.3g} ms; Gram + eigvalsh {row.eigvalsh_ms:.3g}, svdvals {row.svdvals_ms:.3g}",
                spectra=(*self.report.spectra, row),
            )

    def _questions(self, questions: int) -> None:
        """Last of all: the images of the other workloads are no longer handed out."""
        folder = self.folder / f"{questions}-questions"
        folder.mkdir()
        in_memory = self.spec.images == "memory"
        asked = (self.model, self.engine_spec)
        vars(self.model).pop("look", None)
        samples = drawn_questions(*asked, self.spec.samples, questions, self.spec.seed, folder, in_memory)
        for micro_batch in self.spec.micro_batches:
            names = self.spec.question_workloads
            for row in question_rows(*asked, samples, names, lambda run: self._timed(run)[0], micro_batch):
                if isinstance(row, str):
                    self._note(row)
                else:
                    self._tell(row.line, questions=(*self.report.questions, row))

    def _agreement(self) -> None:
        config = self.model.config
        baseline = unpruned_point(config.layers, config.visual_tokens)
        layer, rank = min(2, config.layers), scaled(128, config.visual_tokens)
        points = [baseline, GridPoint(strategy="cutoff", layer=layer, rank=0)]
        points += [GridPoint(strategy=name, layer=layer, rank=rank) for name in ("random", "fastv")]
        cases = self.cases[: self.spec.agreement]
        engine = Engine(self.engine_spec, self.model, self.samples, self.spec.micro_batches[0])
        outcome = engine.run(WorkUnit(samples=tuple(case.id for case in cases), points=tuple(points)))
        if outcome.failures:
            failure = outcome.failures[0]
            self._note(f"agreement: the engine failed on {failure.sample}: {failure.kind}: {failure.message[:200]}")
            return
        cells: dict[tuple[str, str], SampleOutcome] = {(cell.sample, cell.point): cell for cell in outcome.outcomes}
        seed, tokens = self.spec.seed, self.spec.new_tokens
        comparisons = [partial(eager_against_sdpa, self.model, cases, baseline, seed, tokens)]
        comparisons += [
            partial(engine_against_huggingface, self.model, cases, cells, point, seed, tokens) for point in points
        ]
        for compare in comparisons:
            found = compare()
            self._tell(
                f"{found.what}, {found.point}: first token {found.same_first_token}/{found.samples}, "
                f"answer {found.same_answer}/{found.samples}",
                agreement=(*self.report.agreement, found),
            )
            for one in found.disagreements:
                self._tell(f"  {describe(one)}")

    def _timed(self, run: Callable[[], object]) -> tuple[Timing, float | None]:
        return timed(run, self.model.device, self.spec.seconds)

    def _share(self, flop: float, timing: Timing) -> float:
        return flop / timing.median_s / 1e12 / self.report.ceiling.tflops


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type


def _keep_speed(spec: BenchSpec, progress: Callable[[Report, str], None]) -> None:
    from workers.speed_test.calibrate import calibrate  # which calls `bench`

    speed = calibrate(spec, progress)
    file = write_speed(speed)
    rate = f"{1 / speed.tflop_s:.3g} TFLOP/s and " if speed.tflop_s else ""
    print(f"{speed.device}, {speed.dtype}: {rate}{1e3 * speed.cell_s:.3g} ms a cell; kept in {file}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    args = vars(build_parser().parse_args(argv))
    only_speed: bool = args.pop("calibrate")
    out: Path | None = args.pop("out")
    micro_batches = args.pop("micro_batch") or (None,)
    began = time.perf_counter()

    def progress(report: Report, line: str) -> None:
        print(f"[{time.perf_counter() - began:6.1f} s] {line}", flush=True)
        if out is not None:
            report.write(out)

    try:
        questions = tuple(args.pop("questions_per_image"))
        spec = BenchSpec(**args, questions_per_image=questions, micro_batches=micro_batches)
        if only_speed:
            _keep_speed(spec, progress)
            return 0
        report = bench(spec, progress)
    except SaccadeError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"\n{report.table()}", flush=True)
    return 0
