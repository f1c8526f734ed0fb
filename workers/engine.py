"""The engine: a unit of work in, a cell for every (sample, grid point) out. No Ray, no result files.

For one sample all grid points share the vision tower, the projector, the system part and every decoder layer before
their own; see ``sequences.py``, ``forks.py`` and ``prefill.py``.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from strategies import catalog
from strategies.errors import UsageError
from strategies.quality import diversity
from workers import evidence
from workers.decode import greedy
from workers.encoding import encode_sample
from workers.families.catalog import load_model
from workers.families.model import Encoded, Model, default_device
from workers.forks import Placement, packed_mask
from workers.lanes import Lanes
from workers.memory import DECODED_ALLOWANCE, ENOUGH_ROWS, budget_bytes, footprint
from workers.nvrtc import CudaBuildError
from workers.prefetch import ahead
from workers.prefill import Prefill, embed_trunks, input_rows, make_trunks, prefill
from workers.sequences import TokenSequence
from workers.singular import piece_bytes
from workers.spectra import NoSpectrumError, SpectraRecorder, check_spectra
from workers.tasks.base import LETTERS, DataError, Sample
from workers.tasks.catalog import load_samples, scorer_of
from workers.tasks.prompts import CHAT_TEMPLATE
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
Measures = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedSample:
    """A sample ready for the model."""

    sample: Sample
    prompt: Encoded


class Engine:
    """One model on one device, and the samples it may be asked about. Several threads may ask at a time."""

    def __init__(self, spec: EngineSpec, model: Model, samples: Sequence[Sample], micro_batch: int | None) -> None:
        self.spec = spec
        self.model = model
        self.samples = {sample.id: sample for sample in samples}
        self.micro_batch = micro_batch
        self.score = scorer_of(spec.task)
        self.letter_tokens = model.letter_tokens(LETTERS)
        with_image = [sample.id for sample in samples if sample.image is not None]
        if spec.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens must be at least 1, got {spec.max_new_tokens}")
        check_spectra(spec.measure.spectra, model.config.layers)
        if spec.task.conversation == CHAT_TEMPLATE:
            model.chat("What is it?", image=True)  # a template that cannot be used is refused now, not once a sample
        if spec.measure.spectra and model.device.type == "cuda":
            # The first call loads a library, which two lanes must not do at a time.
            torch.linalg.eigvalsh(torch.eye(2, dtype=torch.float64, device=model.device))
        self._lanes = Lanes(model.device)
        self._preparing = ThreadPoolExecutor(PREPARING_THREADS, thread_name_prefix="saccade-prepare")
        self._resident = torch.cuda.memory_allocated(model.device) if model.device.type == "cuda" else 0
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
        samples = load_samples(spec.task)
        device = device or default_device()
        return cls(spec, load_model(spec.model, device), samples, micro_batch or (1 if device == "cpu" else None))

    @torch.inference_mode()
    def run(self, unit: WorkUnit) -> UnitOutcome:
        """Answer every (sample, point) of a unit. A sample that fails becomes a record; the others go on.

        Raises:
            UsageError: a point is none that this model can run: unknown strategy, parameter, layer or rank.
            DeviceLostError: the GPU answers nothing any more; this process has to end.
        """
        self._check(unit.points)
        began = time.perf_counter()
        unprepared: list[SampleFailure] = []
        batches = self._batches(unit, unprepared)
        parts = list(self._lanes.map(partial(self._answer_or_split, unit.points), batches))
        whole = _Part.of(parts)
        on_gpu = self.model.device.type == "cuda"
        return UnitOutcome(
            unit=unit.key,
            outcomes=whole.outcomes,
            failures=(*unprepared, *whole.failures),
            seconds=time.perf_counter() - began,
            peak_bytes=torch.cuda.max_memory_allocated(self.model.device) if on_gpu else 0,
            notes=whole.notes,
        )

    def _check(self, points: Sequence[GridPoint]) -> None:
        """The planner checks sweep files; whoever builds points in code learns of a mistake here."""
        layers, visual = self.model.config.layers, self.model.visual_tokens
        for point in points:
            if point.strategy == UNPRUNED:
                continue
            if point.layer > layers or point.rank > visual:
                raise UsageError(f"{point.label}: the model has {layers} layers and {visual} visual tokens")
            strategy, params = catalog.get(point.strategy), dict(point.params)
            complaint = evidence.complaint(
                strategy, params, layer=point.layer, rank=point.rank, layers=layers, heads=self.model.config.heads
            )
            if complaint:
                raise UsageError(f"{point.label}: {complaint}")

    def _batches(self, unit: WorkUnit, failures: list[SampleFailure]) -> Iterator[list[PreparedSample]]:
        """Micro-batches of prepared samples: of fixed size, or as many as the device's memory takes."""
        batch: list[PreparedSample] = []
        rows = used = 0
        budget = budget_bytes(self.model.device, self._resident) // self._lanes.count
        if self.spectra_samples:
            budget -= 2 * piece_bytes(self.model.device)
        for item in self._prepared(unit.samples, failures):
            value_bytes = self.model.dtype.itemsize
            need = footprint(
                self.model.config,
                unit.points,
                prompt=item.prompt.length,
                visual=item.prompt.visual,
                decoded=min(self.spec.max_new_tokens, DECODED_ALLOWANCE),
                value_bytes=value_bytes,
            )
            if self.micro_batch is not None:
                full = len(batch) == self.micro_batch
            else:
                full = bool(batch) and (rows + need.rows > ENOUGH_ROWS or used + need.bytes > budget)
            if full:
                yield batch
                batch, rows, used = [], 0, 0
            batch.append(item)
            rows, used = rows + need.rows, used + need.bytes
        if batch:
            yield batch

    def _prepared(self, ids: Sequence[str], failures: list[SampleFailure]) -> Iterator[PreparedSample]:
        """Decode and pre-process images ahead of the device, in threads: Pillow lets go of the interpreter's lock.

        On a CPU the model's own threads use all cores, so samples are prepared when they are needed.
        """
        if self.model.device.type == "cpu":
            pending: Iterator[PreparedSample | SampleFailure] = map(self._try_prepare, ids)
        else:
            pending = ahead(self._preparing, self._try_prepare, ids, PREPARED_AHEAD)
        for item in pending:
            if isinstance(item, SampleFailure):
                failures.append(item)
            else:
                yield item

    def _try_prepare(self, id: str) -> PreparedSample | SampleFailure:
        try:
            if id not in self.samples:
                raise DataError(f"the benchmark has no sample '{id}'")
            return self._prepare(self.samples[id])
        except Exception as error:  # whatever is wrong with one sample must not cost the others
            return _failure(id, error)

    def _prepare(self, sample: Sample) -> PreparedSample:
        return PreparedSample(sample, encode_sample(self.model, sample, self.spec.task, self.spec.model.image_mode))

    def _answer_or_split(
        self, points: Sequence[GridPoint], batch: Sequence[PreparedSample], alone: bool = False
    ) -> _Part:
        """Answer a batch; where that fails, its halves, down to the one sample that is to blame.

        A single sample that memory was too short for is tried once more while no other micro-batch has any.
        """
        try:
            return self._answer(batch, points)
        except Exception as error:  # an unknown fault of one sample, or of the memory, must not cost the others
            if _device_is_lost(error):
                raise DeviceLostError(str(error)) from error
            crowded = isinstance(error, torch.OutOfMemoryError) and self._lanes.count > 1 and not alone
            if len(batch) == 1 and not crowded:
                return _Part(failures=(_failure(batch[0].sample.id, error),))
            what = f"micro-batch of {len(batch)} {'halved' if len(batch) > 1 else 'tried again alone'}"
            note = f"{what} after {type(error).__name__}: {str(error)[:200]}"
            log.warning(note)
        # Out here nothing holds the exception, whose traceback holds the tensors that did not fit.
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            again = self._lanes.alone(lambda: self._answer_or_split(points, batch, alone=True))
            return _Part.of([_Part(notes=(note,)), again])
        half = (len(batch) + 1) // 2
        halves = [self._answer_or_split(points, part, alone) for part in (batch[:half], batch[half:])]
        return _Part.of([_Part(notes=(note,)), *halves])

    def _answer(self, batch: Sequence[PreparedSample], points: Sequence[GridPoint]) -> _Part:
        prompts = [item.prompt for item in batch]
        needs = evidence.needed(points)
        images = self.model.see(prompts, evidence.tower_readers(needs))
        features = [image.features_VD if image else None for image in images]
        trunks = make_trunks(prompts)
        self._check_window(trunks)
        hidden_RD = embed_trunks(self.model.decoder, trunks, prompts, features)
        of_images = [image.evidence if image else {} for image in images]
        if evidence.reads_input(needs):
            rows = input_rows(hidden_RD, trunks)
            of_images = [
                {**image.evidence, **evidence.of_input(needs, own)} if image else {}
                for image, own in zip(images, rows, strict=True)
            ]
        seeds = [f"{self.spec.seed}|{item.sample.id}" for item in batch]
        measure = self.spec.measure
        placement = Placement(trunks, points, seeds, of_images, measure.quality)
        names = {index: item.sample.id for index, item in enumerate(batch)}
        measured = {index: name for index, name in names.items() if name in self.spectra_samples}
        spectra = SpectraRecorder(self.model.decoder, measure.spectra, measured) if measured else None
        start = prefill(self.model.decoder, hidden_RD, trunks, placement, spectra)
        answered = self._answers(start, trunks)
        keys = [point.key for point in points]
        parts = []
        for item, trunk in zip(batch, trunks, strict=True):
            outcomes = []
            try:
                for index, key in enumerate(keys):
                    sequence = placement.sequence_of[trunk.sample, index]
                    measures = spectra.measures(sequence) if spectra else ()
                    if measure.quality:
                        measures += self._quality(placement, trunk, index, sequence, features[trunk.sample])
                    outcomes.append(self._outcome(item, trunk, key, sequence, answered[sequence], measures))
                parts.append(_Part(outcomes=tuple(outcomes)))
            except NoSpectrumError as error:
                parts.append(_Part(failures=(_failure(item.sample.id, error),)))
        return _Part.of(parts)

    def _answers(self, start: Prefill, trunks: Sequence[TokenSequence]) -> dict[TokenSequence, _Answer]:
        """Decode all sequences. What is kept of their logits is taken on the device: a vocabulary is long."""
        highest_N2 = start.logits_NC.topk(2, dim=-1).values
        margins = highest_N2[:, 0] - highest_N2[:, 1]
        letters = start.logits_NC[:, self.letter_tokens]
        decoded = greedy(self.model.decoder, start, self.spec.max_new_tokens, self.model.end_tokens)
        texts = {
            ids: self.model.text(ids) for ids in set(map(tuple, decoded))
        }  # most sequences of a sample say the same
        return {
            sequence: _Answer(
                ids=ids,
                text=texts[tuple(ids)],
                letter_logits=tuple(letter_logits),
                margin=margin,
                kept_mask=packed_mask(sequence.visual_K, trunks[sequence.sample].visual),
            )
            for sequence, ids, letter_logits, margin in zip(
                start.sequences, decoded, letters.tolist(), margins.tolist(), strict=True
            )
        }

    def _quality(
        self,
        placement: Placement,
        trunk: TokenSequence,
        index: int,
        sequence: TokenSequence,
        features_VD: Tensor | None,
    ) -> Measures:
        """Concentration of the scores that chose, and diversity of the projector's features that were kept."""
        named: list[tuple[str, float]] = []
        scores = placement.concentration.get((trunk.sample, index))
        if scores is not None:
            named += [(f"concentration.{name}", value) for name, value in asdict(scores).items()]
        if features_VD is not None and sequence.visual > 1:
            kept = diversity(features_VD[sequence.visual_K.to(features_VD.device)])
            named += [(f"diversity.{name}", value) for name, value in asdict(kept).items()]
        return tuple(named)

    def _check_window(self, trunks: Sequence[TokenSequence]) -> None:
        """Mistral's sliding window: attention here is full, which is the same as long as nothing lies outside it."""
        longest = max(trunk.length for trunk in trunks) + self.spec.max_new_tokens
        if self.model.decoder.window is not None and longest > self.model.decoder.window:
            raise DataError(
                f"{longest} tokens, max_new_tokens included, exceed the sliding window {self.model.decoder.window}"
            )

    def _outcome(
        self,
        item: PreparedSample,
        trunk: TokenSequence,
        point: str,
        sequence: TokenSequence,
        answer: _Answer,
        measures: Measures,
    ) -> SampleOutcome:
        sample = item.sample
        verdict = self.score(answer.text, sample)
        return SampleOutcome(
            point=point,
            sample=sample.id,
            answer=answer.text,
            parsed=verdict.parsed,
            correct=verdict.correct,
            score=float(verdict.score),
            first_token=answer.ids[0],
            option_logits=answer.letter_logits[: len(sample.choices)],
            margin=answer.margin,
            tokens_kept=sequence.visual,
            kept_mask=answer.kept_mask,
            decoded_tokens=len(answer.ids),
            prompt_tokens=item.prompt.length,
            visual_tokens=trunk.visual,
            measures=measures,
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """What became of some of a unit's samples."""

    outcomes: tuple[SampleOutcome, ...] = ()
    failures: tuple[SampleFailure, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[_Part]) -> _Part:
        return cls(
            outcomes=tuple(outcome for part in parts for outcome in part.outcomes),
            failures=tuple(failure for part in parts for failure in part.failures),
            notes=tuple(note for part in parts for note in part.notes),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    ids: list[int]
    text: str
    letter_logits: tuple[float, ...]  # of the first token: A, B, ...
    margin: float
    kept_mask: bytes


def _device_is_lost(error: Exception) -> bool:
    """After an illegal access or a failed assertion every later CUDA call of the process fails.

    Not so where memory is short, which cuBLAS words in its own way, or where a kernel cannot be built.
    """
    text = str(error)
    short = "out of memory" in text or "_STATUS_ALLOC_FAILED" in text or "_STATUS_NOT_INITIALIZED" in text
    built = not isinstance(error, CudaBuildError)
    return isinstance(error, RuntimeError) and "CUDA error" in text and built and not short


def _failure(id: str, error: Exception) -> SampleFailure:
    return SampleFailure(
        sample=id,
        kind=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
    )
