"""The engine: a unit of work in, a cell for every (sample, grid point) out. No Ray, no result files.

For one sample all grid points share the vision tower, the projector, the system part and every decoder layer before
their own, and samples that show the same image all that does not depend on the question; see ``sequences.py``,
``forks.py`` and ``prefill.py``.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from threading import Lock

import torch
from torch import Tensor

from strategies import catalog
from strategies.errors import UsageError
from strategies.evidence import LOADINGS, TOWER_FEATURES
from workers import evidence
from workers.added import AddedRows
from workers.answers import Answers
from workers.encoding import encode_sample
from workers.families.catalog import load_model
from workers.families.config import NO_TEXT_TOWER
from workers.families.model import Model, Pixels, SeenImage, default_device
from workers.filling import Filling, Footprints, PreparedSample, footprints_of, rounds
from workers.forks import Placement, Seeds
from workers.host_memory import cache_bytes
from workers.image_digests import sample_digest
from workers.lanes import Lanes
from workers.memory import (
    Budget,
    RowBytes,
    arrange,
    budget_bytes,
    expandable_segments,
    lane_budget,
)
from workers.mixing import Mixer
from workers.outcomes import Answered
from workers.part import Part, device_is_lost, failure_of
from workers.prefetch import ahead
from workers.prefill import prefill
from workers.recent import Recent
from workers.runnable import Facts, complaint
from workers.seen_images import SeenImages
from workers.sequences import TokenSequence
from workers.shown import Shown, shows_smaller
from workers.singular import piece_bytes
from workers.spectra import SpectraRecorder, check_spectra
from workers.tasks.base import LETTERS, DataError, Sample
from workers.tasks.catalog import load_samples, scorer_of
from workers.tasks.prompts import CHAT_TEMPLATE
from workers.trunks import embed_trunks, input_rows, make_trunks
from workers.user_cache import keep_kernels
from workers.work import (
    UNPRUNED,
    DeviceLostError,
    EngineSpec,
    GridPoint,
    SampleFailure,
    SampleOutcome,
    UnitOutcome,
    WorkUnit,
)

log = logging.getLogger(f"saccade.{__name__}")

PREPARING_THREADS = min(8, os.cpu_count() or 1)
PREPARED_AHEAD = 64  # samples that may wait: a few micro-batches of pixels, 87 MB at 336 x 336
PIXELS_KEPT = 2 * PREPARING_THREADS  # images, for the questions about them that come soon
LESS = 0.75  # of the planned memory, after some was refused
LEAST_SHARE = 0.1  # of it; a device that refuses that has no room for a wave
SOLVED = frozenset({LOADINGS, TOWER_FEATURES})  # evidence of which somebody makes a decomposition


class Engine:
    """One model on one device, and the samples it may be asked about. Several threads may ask at a time."""

    def __init__(self, spec: EngineSpec, model: Model, samples: Sequence[Sample], micro_batch: int | None) -> None:
        self.spec = spec
        self.model = model
        self.samples = {sample.id: sample for sample in samples}
        self.micro_batch = micro_batch
        self._several = any(sample.more for sample in samples)
        self.shares_images = True  # False: as if no two samples showed the same, to measure what that costs
        self.score = scorer_of(spec.task)
        self.letter_tokens = model.letter_tokens(LETTERS)
        with_image = [sample.id for sample in samples if sample.image is not None]
        if spec.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens must be at least 1, got {spec.max_new_tokens}")
        check_spectra(spec.measure.spectra, model.config.layers)
        if spec.task.conversation == CHAT_TEMPLATE:
            model.chat("What is it?", 1)  # a template that cannot be used is refused now, not once a sample
        if spec.measure.spectra and model.device.type == "cuda":
            # The first call loads a library, which two lanes must not do at a time.
            torch.linalg.eigvalsh(torch.eye(2, dtype=torch.float64, device=model.device))
        self.budget: Budget | None = None  # of a wave; None: as the device's memory allows
        self._loading = Lock()
        self._learned = 1.0  # share of the planned memory that has not been refused
        self.row = RowBytes.of(model.config, model.dtype.itemsize, spec.max_new_tokens)
        self._resident, self._host, count = 0, 0, 1
        if model.device.type == "cuda":
            self._resident, self._host = torch.cuda.memory_allocated(model.device), cache_bytes()
            free = budget_bytes(model.device, self._resident)
            count, self.row = arrange(free, self._host, self.row, streamed=model.decoder.layers.away > 0)
        self._lanes = Lanes(model.device, count)
        self._pixels: Recent[str, Pixels] = Recent(PIXELS_KEPT)
        self._seen = SeenImages(model)
        self._mixer = Mixer(self._lanes, self._answer_each, self._filling)
        self._preparing = ThreadPoolExecutor(PREPARING_THREADS, thread_name_prefix="saccade-prepare")
        self.spectra_samples = frozenset(with_image[: spec.measure.spectra_samples] if spec.measure.spectra else ())

    @classmethod
    def load(cls, spec: EngineSpec, device: str | None = None, micro_batch: int | None = None) -> Engine:
        """Load model and benchmark.

        Args:
            spec: what to load, and how to ask.
            device: as torch names it; None takes a GPU if there is one.
            micro_batch: samples that go through the model together; None: as many as fit a GPU and help it, and one on
                a CPU, so that a cell does not depend on other samples to the last bit. Other grid points of the same
                sample share its matrix products, and may change the last bits.

        Raises:
            ModelError, DataError: files are missing or broken.
        """
        expandable_segments()
        keep_kernels()
        device = device or default_device()
        with ThreadPoolExecutor(1) as beside:
            samples = beside.submit(load_samples, spec.task)
            model = load_model(spec.model, device)
        return cls(spec, model, samples.result(), micro_batch or (1 if device == "cpu" else None))

    @torch.inference_mode()
    def run(self, unit: WorkUnit) -> UnitOutcome:
        """Answer every (sample, point) of a unit. A sample that fails becomes a record; the others go on.

        Raises:
            UsageError: a point is none that this model can run: unknown strategy, parameter, layer or rank.
            DeviceLostError: the GPU answers nothing any more; this process has to end.
        """
        self._check(unit.points)
        self._need(evidence.needed(unit.points))
        began = time.perf_counter()
        whole = Part.of([part for points in self._alike(unit.points) for part in self._answered(unit, points)])
        failures: dict[str, SampleFailure] = {}
        for failure in whole.failures:  # of each sample the first
            failures.setdefault(failure.sample, failure)
        on_gpu = self.model.device.type == "cuda"
        return UnitOutcome(
            unit=unit.key,
            outcomes=tuple(outcome for outcome in whole.outcomes if outcome.sample not in failures),
            failures=tuple(failures.values()),
            seconds=time.perf_counter() - began,
            peak_bytes=torch.cuda.max_memory_allocated(self.model.device) if on_gpu else 0,
            notes=whole.notes,
        )

    def _alike(self, points: Sequence[GridPoint]) -> list[tuple[GridPoint, ...]]:
        """Points whose prompts are the same: all, but for each that shows the image with fewer pixels."""
        apart = [point for point in points if shows_smaller(self.model, point)]
        together = tuple(point for point in points if point not in apart)
        return [*([together] if together else []), *((point,) for point in apart)]

    def _answered(self, unit: WorkUnit, points: tuple[GridPoint, ...]) -> list[Part]:
        """What became of a unit's samples at points whose prompts are the same."""
        failures: list[SampleFailure] = []
        prepared = self._prepared(replace(unit, points=points), failures)
        if self.model.device.type == "cpu":  # by the caller, who may be interrupted
            parts = [self._answer_or_split(points, batch) for batch in self._batches(prepared)]
        else:
            parts = self._mixer.run(points, prepared)
        return [Part(failures=tuple(failures)), *parts]

    def turned_to(self, spec: EngineSpec) -> Engine:
        """An engine for other questions to the same model, which takes the place of this one.

        Raises:
            DataError: the benchmark cannot be read; this engine stays as it is.
        """
        assert spec.model == self.spec.model
        other = Engine(spec, self.model, load_samples(spec.task), self.micro_batch)
        self._lanes.close()
        self._preparing.shutdown()
        return other

    def forget_images(self) -> None:
        """Make anew what is kept of the last images, as an engine does that has seen none."""
        self._pixels.clear()
        self._seen.clear()

    def _check(self, points: Sequence[GridPoint]) -> None:
        """The planner checks sweep files; whoever builds points in code learns of a mistake here."""
        layers, visual = self.model.config.layers, self.model.visual_tokens
        facts = Facts.of(self.model.config, self._several)
        for point in points:
            if point.strategy == UNPRUNED:
                continue
            if point.layer > layers or (point.rank > visual and not self._several):
                raise UsageError(f"{point.label}: the model has {layers} layers and {visual} visual tokens")
            strategy, params = catalog.get(point.strategy), dict(point.params)
            if said := complaint(
                strategy, params, facts, layer=point.layer, rank=point.rank, positions=point.positions
            ):
                raise UsageError(f"{point.label}: {said}")

    def _need(self, needs: frozenset[str]) -> None:
        """Load what is no part of the model and some point reads."""
        if needs & SOLVED and self.model.device.type == "cuda":
            with self._loading:  # the first call loads a library, which two lanes must not do at a time
                torch.linalg.eigh(torch.eye(2, dtype=torch.float64, device=self.model.device))
        if not evidence.reads_text_tower(needs) or self.model.text_tower is not None:
            return
        if (name := self.spec.model.text_tower) is None:
            raise UsageError(f"model.text_tower: {NO_TEXT_TOWER}")
        with self._loading:
            if self.model.text_tower is None:
                self._resident += self.model.load_text_tower(name).nbytes

    def _batches(self, prepared: Iterator[PreparedSample]) -> Iterator[list[PreparedSample]]:
        """Micro-batches of one unit."""
        batch: list[PreparedSample] = []
        filling = self._filling()
        for item in prepared:
            if not filling.takes(item):
                yield batch
                batch, filling = [], self._filling()
                filling.takes(item)
            batch.append(item)
        if batch:
            yield batch

    def _filling(self, first: bool = False) -> Filling:
        """A micro-batch that begins: of fixed size, or what the device's memory takes.

        The first of all is half as large where there are two lanes. Else they would go in step: both would choose
        tokens, decode and write answers down at a time, and leave the GPU idle, time and again.
        """
        budget = self._budget()
        return Filling(budget.half() if first and self._lanes.count > 1 else budget, self.micro_batch, self.row.rides)

    def _answer_each(self, points: Sequence[GridPoint], batch: Sequence[PreparedSample]) -> list[Part]:
        """What became of each sample of a micro-batch, which may be of several units; notes go with the first."""
        part = self._answer_or_split(points, batch)
        outcomes: dict[str, list[SampleOutcome]] = {item.sample.id: [] for item in batch}
        failures: dict[str, list[SampleFailure]] = {item.sample.id: [] for item in batch}
        for outcome in part.outcomes:
            outcomes[outcome.sample].append(outcome)
        for failure in part.failures:
            failures[failure.sample].append(failure)
        return [
            Part(tuple(outcomes[item.sample.id]), tuple(failures[item.sample.id]), () if number else part.notes)
            for number, item in enumerate(batch)
        ]

    def _learn(self) -> bool:
        """Plan with less memory for the rest of the run, because some was refused; whether that was still possible."""
        possible = self.model.device.type == "cuda" and self._learned > LEAST_SHARE
        if possible:
            self._learned *= LESS
        return possible

    def _budget(self) -> Budget:
        """Of one wave in one lane."""
        if self.budget is not None:
            return self.budget
        if self.model.device.type != "cuda":
            return Budget()
        kept = SeenImages.planned_bytes(self.model.config, self.model.dtype.itemsize)
        most = budget_bytes(self.model.device, self._resident) - kept
        if self.spectra_samples:
            most -= 2 * piece_bytes(self.model.device) * self._lanes.count
        streamed = self.model.decoder.layers.away > 0
        return lane_budget(most, self._host, self._lanes.count, self.row, streamed, self._learned)

    def _prepared(self, unit: WorkUnit, failures: list[SampleFailure]) -> Iterator[PreparedSample]:
        """Decode and pre-process images ahead of the device, in threads: Pillow lets go of the interpreter's lock.

        On a CPU the model's own threads use all cores, so samples are prepared when they are needed.
        """
        row = self.row.within(self._budget(), entered=evidence.reads_entered(evidence.needed(unit.points)))
        footprints = footprints_of(unit.points, row, self.model.config)
        smaller = next((point for point in unit.points if shows_smaller(self.model, point)), None)
        prepare = partial(self._try_prepare, footprints, evidence.draws_per_image(unit.points), smaller)
        asked = tuple(zip(unit.samples, unit.images or ("",) * len(unit.samples), strict=True))
        if self.model.device.type == "cpu":
            pending: Iterator[PreparedSample | SampleFailure] = map(prepare, asked)
        else:
            pending = ahead(self._preparing, prepare, asked, PREPARED_AHEAD)
        for item in pending:
            if isinstance(item, SampleFailure):
                failures.append(item)
            else:
                yield item

    def _try_prepare(
        self, footprints: Footprints, named: bool, smaller: GridPoint | None, asked: tuple[str, str]
    ) -> PreparedSample | SampleFailure:
        id, image = asked
        try:
            if id not in self.samples:
                raise DataError(f"the benchmark has no sample '{id}'")
            return self._prepare(footprints, named, smaller, self.samples[id], image)
        except Exception as error:  # whatever is wrong with one sample must not cost the others
            return failure_of(id, error)

    def _prepare(
        self, footprints: Footprints, named: bool, smaller: GridPoint | None, sample: Sample, image: str
    ) -> PreparedSample:
        digest = (image or sample_digest(sample)) if named else ""
        # Where nobody has looked at the pixels, images are the same only if they are the same file.
        image = (image or sample.shown) if sample.image is not None and self.shares_images else ""
        image += f" {smaller.key}" if image and smaller is not None else ""
        names = [f"{one}, not alone" for one in sample.images] if sample.more else [image]
        once = (lambda place, look: self._pixels.get(names[place], look)) if image else None
        prompt = encode_sample(self.model, sample, self.spec.task, self.spec.model.image_mode, once, smaller)
        image = image if prompt.visual else ""
        need = footprints(prompt, False)
        further = footprints(prompt, True) if image else need
        return PreparedSample(sample, prompt, image, need, further, Shown.of(self.model, prompt), digest)

    def _answer_or_split(
        self, points: Sequence[GridPoint], batch: Sequence[PreparedSample], alone: bool = False
    ) -> Part:
        """Answer a batch; where that fails, its halves, down to the one sample that is to blame.

        Where memory was too short, waves are smaller from then on. A single sample that it is too short for at their
        smallest is tried once more while no other micro-batch has any.
        """
        try:
            return self._answer(batch, points)
        except Exception as error:  # an unknown fault of one sample, or of the memory, must not cost the others
            if device_is_lost(error):
                raise DeviceLostError(str(error)) from error
            short = isinstance(error, torch.OutOfMemoryError)
            smaller = short and self._learn()
            crowded = short and self._lanes.count > 1 and not alone
            if len(batch) == 1 and not crowded and not smaller:
                return Part(failures=(failure_of(batch[0].sample.id, error),))
            how = "tried again in smaller waves" if smaller else "halved" if len(batch) > 1 else "tried again alone"
            note = f"micro-batch of {len(batch)} {how} after {type(error).__name__}: {str(error)[:200]}"
            log.warning(note)
        # Out here nothing holds the exception, whose traceback holds the tensors that did not fit.
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)  # copies under way have nobody who waits for them now
            torch.cuda.empty_cache()
        if smaller:
            return Part.of([Part(notes=(note,)), self._answer_or_split(points, batch, alone)])
        if len(batch) == 1:
            again = self._lanes.alone(lambda: self._answer_or_split(points, batch, alone=True))
            return Part.of([Part(notes=(note,)), again])
        half = (len(batch) + 1) // 2
        halves = [self._answer_or_split(points, part, alone) for part in (batch[:half], batch[half:])]
        return Part.of([Part(notes=(note,)), *halves])

    def _answer(self, batch: Sequence[PreparedSample], points: Sequence[GridPoint]) -> Part:
        answers = Answers(self.model, self.spec.max_new_tokens, self.letter_tokens, self.row.rides)
        rounds = [self._run(part, points, answers) for part in self._rounds(batch)]
        answers.finish()
        return Part.of([part for one in rounds for part in one.parts(points, answers, self.score)])

    def _rounds(self, batch: Sequence[PreparedSample]) -> Iterator[Sequence[PreparedSample]]:
        """Those whose trunks go through the decoder together; the next decode beside them, where waves ride."""
        one_round = self.micro_batch is not None or not self.row.rides
        ends = accumulate([len(batch)] if one_round else rounds(self._budget(), batch))
        return (batch[start:end] for start, end in pairwise((0, *ends)))

    def _run(self, batch: Sequence[PreparedSample], points: Sequence[GridPoint], answers: Answers) -> Answered:
        prompts = [item.prompt for item in batch]
        needs = evidence.needed(points)
        shown = [item.image for item in batch]
        images = self._seen.see(shown, prompts, evidence.tower_readers(needs))
        features = [image.features_VD if image else None for image in images]
        added = AddedRows([image.added_JVD if image else None for image in images])
        trunks = make_trunks(prompts, shown)
        self._check_window(trunks)
        hidden_RD = embed_trunks(self.model.decoder, trunks, prompts, features)
        measure = self.spec.measure
        if not measure.quality:
            features = []
        questions = [prompt.question if prompt.images else None for prompt in prompts]
        asked = evidence.of_questions(needs, questions, self.model.text_tower)
        of_images = _evidence(needs, images, asked, hidden_RD, trunks)
        del images
        seeds = [Seeds(f"{self.spec.seed}|{item.sample.id}", f"{self.spec.seed}|{item.digest}") for item in batch]
        placement = Placement(trunks, points, seeds, of_images, measure.quality, self.model.project)
        names = {index: item.sample.id for index, item in enumerate(batch)}
        measured = {index: name for index, name in names.items() if name in self.spectra_samples}
        spectra = SpectraRecorder(self.model.decoder, measure.spectra, measured) if measured else None
        budget = self._budget()
        row = self.row.within(budget, max(item.need.evidence_bytes for item in batch), evidence.reads_entered(needs))
        waves = prefill(self.model.decoder, hidden_RD, trunks, placement, row, budget, spectra, answers.reach, added)
        del hidden_RD  # layers let go of what they have read
        for start in waves:
            answers.add(start)
            del start  # and waves of their logits
        placement.forget_images()
        return Answered(batch, trunks, placement, features, spectra)

    def _check_window(self, trunks: Sequence[TokenSequence]) -> None:
        """Mistral's sliding window: attention here is full, which is the same as long as nothing lies outside it."""
        longest = max(trunk.length for trunk in trunks) + self.spec.max_new_tokens
        if self.model.decoder.window is not None and longest > self.model.decoder.window:
            raise DataError(
                f"{longest} tokens, max_new_tokens included, exceed the sliding window {self.model.decoder.window}"
            )


def _evidence(
    needs: frozenset[str],
    images: Sequence[SeenImage | None],
    asked: Sequence[Mapping[str, Tensor]],
    hidden_RD: Tensor,
    trunks: Sequence[TokenSequence],
) -> list[Mapping[str, Tensor]]:
    """What is read of the vision tower, of the question and of the rows that enter the decoder, for each sample."""
    known = [{**image.evidence, **words} if image else {} for image, words in zip(images, asked, strict=True)]
    if not evidence.reads_input(needs):
        return list(known)
    return [
        {**seen, **evidence.of_input(needs, own)} if image else {}
        for image, seen, own in zip(images, known, input_rows(hidden_RD, trunks), strict=True)
    ]
