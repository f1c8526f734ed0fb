"""What the benchmark found: records that go to JSON and back, and a plain table for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.speed_test.agreement import Agreement, Disagreement
from workers.speed_test.questions import QuestionsRow
from workers.speed_test.spectra import SpectrumRow
from workers.speed_test.timing import Ceiling, Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRow:
    """A Hugging Face code path."""

    name: str
    what: str
    timing: Timing
    ms_per_cell: float  # per configuration and sample
    prefill_ms_per_cell: float | None  # without decoding; None: not measured
    cells_per_s: float
    ceiling_share: float  # fraction
    peak_gib: float | None  # None: not a CUDA device


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRow:
    """The engine on one workload."""

    workload: str
    what: str
    micro_batch: int | None  # None: the engine plans it from free memory
    gpu_memory_gib: int | None = None  # that it was allowed; None: all there is
    configurations: int
    sequences_per_sample: float  # configurations that really keep different tokens
    timing: Timing  # of one ``Engine.run`` over all samples
    ms_per_cell: float
    prefill_ms_per_cell: float | None
    cells_per_s: float
    needed_tflop: float  # the decoder's linear maps, for the rows really needed, decoding included
    ceiling_share: float
    prefill_ceiling_share: float | None
    peak_gib: float | None
    ratios: dict[str, float]  # baseline -> how many times longer it takes for a cell
    notes: tuple[str, ...]
    spectra_share: float | None = None  # of the time, against a run that measures none; None: none are measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run of the benchmark."""

    model: str
    dtype: str
    device: str
    versions: dict[str, str]
    samples: int
    mean_text_tokens: float  # after the image
    mean_prompt_tokens: float
    images: str
    new_tokens: int
    ceiling: Ceiling
    baselines: tuple[BaselineRow, ...] = ()
    engine: tuple[EngineRow, ...] = ()
    spectra: tuple[SpectrumRow, ...] = ()
    questions: tuple[QuestionsRow, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    notes: tuple[str, ...] = ()  # what was left out or failed, and why

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Report:
        return cls(
            **{
                **value,
                "ceiling": Ceiling(**value["ceiling"]),
                "baselines": tuple(
                    BaselineRow(**{**row, "timing": Timing(**row["timing"])}) for row in value["baselines"]
                ),
                "engine": tuple(
                    EngineRow(**{**row, "timing": Timing(**row["timing"]), "notes": tuple(row["notes"])})
                    for row in value["engine"]
                ),
                "spectra": tuple(
                    SpectrumRow(**{**row, "timing": Timing(**row["timing"])}) for row in value.get("spectra", ())
                ),
                "questions": tuple(_questions(row) for row in value.get("questions", ())),
                "agreement": tuple(_agreement(row) for row in value["agreement"]),
                "notes": tuple(value["notes"]),
            }
        )

    def write(self, file: Path) -> None:
        """Replace the file in one step."""
        draft = file.with_suffix(f"{file.suffix}.part")
        draft.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        draft.replace(file)

    def table(self) -> str:
        """Everything but the disagreements beyond the first ten of each comparison."""
        parts = (self._head, self._baseline_lines, self._engine_lines, self._spectra_lines, self._question_lines)
        return "\n".join(line for part in (*parts, self._agreement_lines) for line in part())

    def _head(self) -> Iterable[str]:
        yield f"{self.model}, {self.dtype}, {self.device}; " + ", ".join(f"{k} {v}" for k, v in self.versions.items())
        yield (
            f"{self.samples} samples, {self.mean_prompt_tokens:.0f} prompt tokens on average, "
            f"{self.mean_text_tokens:.0f} after the image; {self.new_tokens} tokens decoded; images {self.images}"
        )
        ceiling = self.ceiling
        yield (
            f"matmul ceiling {ceiling.tflops:.3g} TFLOP/s for a moment, {ceiling.sustained_tflops:.3g} sustained "
            f"({ceiling.size} cubed, {ceiling.dtype}); shares are of the first"
        )
        yield from (f"note: {note}" for note in self.notes)

    def _baseline_lines(self) -> Iterable[str]:
        if not self.baselines:
            return
        yield ""
        yield from _grid(
            ("baseline", "ms/cell", "spread", "prefill", "cells/s", "ceiling", "GiB"),
            [
                (
                    row.name,
                    f"{row.ms_per_cell:.3g}",
                    _spread(row.timing),
                    _number(row.prefill_ms_per_cell),
                    f"{row.cells_per_s:.3g}",
                    f"{row.ceiling_share:.3f}",
                    _number(row.peak_gib),
                )
                for row in self.baselines
            ],
        )
        yield from (f"  {row.name}: {row.what}" for row in self.baselines)
        yield "  A cell is one configuration of one sample. Masking saves no work: one configuration stands for all."

    def _engine_lines(self) -> Iterable[str]:
        if not self.engine:
            return
        names = [row.name for row in self.baselines]
        yield ""
        yield from _grid(
            (
                *(
                    "workload",
                    "memory",
                    "batch",
                    "configs",
                    "distinct",
                    "ms/cell",
                    "spread",
                    "prefill",
                    "cells/s",
                    "ceiling",
                ),
                *("its prefill", "GiB"),
                *(f"x {name}" for name in names),
            ),
            [
                (
                    row.workload,
                    "all" if row.gpu_memory_gib is None else f"{row.gpu_memory_gib} GiB",
                    "auto" if row.micro_batch is None else str(row.micro_batch),
                    str(row.configurations),
                    f"{row.sequences_per_sample:.1f}",
                    f"{row.ms_per_cell:.3g}",
                    _spread(row.timing),
                    _number(row.prefill_ms_per_cell),
                    f"{row.cells_per_s:.4g}",
                    f"{row.ceiling_share:.3f}",
                    _number(row.prefill_ceiling_share),
                    _number(row.peak_gib),
                    *(_number(row.ratios.get(name)) for name in names),
                )
                for row in self.engine
            ],
        )
        yield from dict.fromkeys(f"  {row.workload}: {row.what}" for row in self.engine)
        yield from (f"  {row.workload}: {note}" for row in self.engine for note in row.notes)
        yield "  'x NAME': how many times longer that baseline takes for a cell. Shares of the ceiling count the"
        yield "  decoder's linear maps for rows really needed; all else takes time but does not count."

    def _spectra_lines(self) -> Iterable[str]:
        if not self.spectra:
            return
        yield ""
        yield from _grid(
            (
                "singular values, ms a block",
                "ours",
                "spread",
                "blocks at once",
                "Gram + eigvalsh",
                "svdvals",
                "rank off by",
            ),
            [
                (
                    row.what,
                    f"{row.ms:.3g}",
                    _spread(row.timing),
                    str(row.batch),
                    f"{row.eigvalsh_ms:.3g}",
                    f"{row.svdvals_ms:.3g}",
                    f"{row.effective_rank_error:.0e}",
                )
                for row in self.spectra
            ],
        )
        yield from (
            f"  {row.workload}: {row.spectra_share:.1%} of the time for spectra"
            for row in self.engine
            if row.spectra_share is not None
        )

    def _question_lines(self) -> Iterable[str]:
        if not self.questions:
            return
        yield ""
        yield from _grid(
            (
                "questions an image",
                "workload",
                "images",
                "ms/cell",
                "spread",
                "x apart",
                "limit",
                "reached",
                "rows",
                "apart",
            ),
            [
                (
                    str(row.questions),
                    row.workload,
                    str(row.images),
                    f"{row.ms_per_cell:.3g}",
                    _spread(row.timing),
                    f"{row.ratio:.3g}",
                    f"{row.limit:.3g}",
                    f"{row.limit_share:.2f}",
                    f"{row.rows:,}",
                    f"{row.rows_apart:,}",
                )
                for row in self.questions
            ],
        )
        yield from dict.fromkeys(f"  {row.workload}: {row.what}" for row in self.questions)
        yield from (f"  {row.workload}: {note}" for row in self.questions for note in row.notes)
        yield "  'x apart': how many times longer the engine takes for a cell without sharing; 'limit': by the linear"
        yield "  maps of the decoder. Rows are summed over its layers and all samples."

    def _agreement_lines(self) -> Iterable[str]:
        if not self.agreement:
            return
        yield ""
        yield from _grid(
            ("agreement", "point", "samples", "first token", "answer", "kept set", "least margin"),
            [
                (
                    row.what,
                    row.point,
                    str(row.samples),
                    str(row.same_first_token),
                    str(row.same_answer),
                    "" if row.same_kept is None else str(row.same_kept),
                    f"{row.smallest_margin:.3g}",
                )
                for row in self.agreement
            ],
        )
        for row in self.agreement:
            for found in row.disagreements[:10]:
                yield f"  {row.what.split(',')[0]}: {describe(found)}"
            if len(row.disagreements) > 10:
                yield f"  {row.what.split(',')[0]}, {row.point}: {len(row.disagreements) - 10} more in the JSON file"


def describe(found: Disagreement) -> str:
    """One line for one disagreement."""
    kept = {None: "", True: "; same tokens kept", False: "; other tokens kept"}[found.same_kept]
    return (
        f"{found.point}, sample {found.sample}: {found.answer!r} where the reference says {found.reference_answer!r}; "
        f"first-token margin {found.margin:.3g}, reference {found.reference_margin:.3g}, "
        f"gap there {found.reference_gap:.3g}{kept}"
    )


def _questions(row: dict[str, Any]) -> QuestionsRow:
    timings = {name: Timing(**row[name]) for name in ("timing", "apart")}
    return QuestionsRow(**{**row, **timings, "notes": tuple(row["notes"])})


def _agreement(row: dict[str, Any]) -> Agreement:
    found = tuple(
        Disagreement(**{**one, "tokens": tuple(one["tokens"]), "reference_tokens": tuple(one["reference_tokens"])})
        for one in row["disagreements"]
    )
    return Agreement(**{**row, "disagreements": found})


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(line[place]) for line in (header, *rows)) for place in range(len(header))]
    for line in (header, *rows):
        cells = (
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _spread(timing: Timing) -> str:
    """Half the range of the runs as a share of their median."""
    if not timing.warm:
        return "cold"
    return f"{(timing.high_s - timing.low_s) / (2 * timing.median_s):.1%}"
