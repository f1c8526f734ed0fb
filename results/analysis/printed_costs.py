"""What papers print beside scores: TFLOP and key-value cache as counted, times and memory as measured.

Times are medians over the measured questions at batch 1, with the 90th percentile beside them. Where several benchmarks
of a suite have been measured, a figure is their mean. Minutes are what the questions with an image take one after the
other, summed over the benchmarks that have been measured: the mean time to the first token, and that of a further one
as often as answers go on; where nothing has been answered, as often as was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from results.analysis.benchmark_table import BenchmarkTable, Spread, costs_of
from results.latencies import LatencyRow, latency_record
from results.suites import Results

COUNTED = {"TFLOP": ("prefill_tflop", 1.0), "KV MB": ("kv_bytes", 1e-6)}  # by title: of a prompt's prefill
MEASURED = {
    "tower ms": "tower_ms", "projector ms": "projector_ms", "selector ms": "selector_ms", "prefill ms": "prefill_ms",
    "first token ms": "first_token_ms", "decode ms": "decode_ms", "tokens/s": "tokens_per_s", "peak GiB": "peak_gib",
}  # fmt: skip
MINUTES = "minutes"


def with_costs(table: BenchmarkTable, found: Sequence[Results]) -> BenchmarkTable:
    """The table with columns of cost, as far as something is known.

    Args:
        table: Of ``found``.
        found: Experiments; those that `saccade latency` has measured have times.
    """
    known: dict[tuple[str, str], dict[str, list[Spread]]] = {}
    notes: dict[str, list[str]] = {}
    for one in found:
        for key, title, spread in (*_counted(one), *_measured(one)):
            known.setdefault((one.model, key), {}).setdefault(title, []).append(spread)
        if (record := latency_record(one.experiment)) is not None:
            how = " ".join(str(record.how.get(name, "")) for name in ("device", "dtype")).strip()
            notes.setdefault(how, []).append(f"{one.model} {one.benchmark}".strip())
    rows = [replace(row, costs=_together(known.get((row.model, row.key), {}))) for row in table.rows]
    titles = [title for title in (*MEASURED, MINUTES, *COUNTED) if any(title in row.costs for row in rows)]
    told = [
        f"times and memory: median (90th percentile) at batch 1 on {', '.join(names)}, {how}; minutes: all questions"
        for how, names in notes.items()
    ] or ["times and memory: measure them with `saccade latency`"]
    return replace(table, rows=tuple(rows), costs=tuple(titles), notes=(*table.notes, *told))


def _counted(one: Results) -> Iterator[tuple[str, str, Spread]]:
    counted = costs_of(one)
    for row in [] if counted is None else counted.to_dict("records"):
        for title, (column, scale) in COUNTED.items():
            yield str(row["key"]), title, Spread(value=scale * float(row[column]))


def _measured(one: Results) -> Iterator[tuple[str, str, Spread]]:
    record = latency_record(one.experiment)
    if record is None:
        return
    images = one.experiment.samples.set_index("id")["image"].notna()
    cells = one.experiment.cells(columns=["point", "sample", "decoded_tokens"])
    answered = cells[cells["sample"].map(images)].groupby("point")["decoded_tokens"].mean().dropna()
    for row in record.rows:
        yield row.key, MINUTES, Spread(value=_question_ms(row, answered.get(row.key)) * int(images.sum()) / 60_000)
        for title, name in MEASURED.items():
            if (spread := _spread(row, name)) is not None:
                yield row.key, title, spread


def _question_ms(row: LatencyRow, tokens: float | None) -> float:
    """Mean time of a question that is answered with so many tokens; None: as many as were measured."""
    if tokens is None or row.first_token_ms is None or row.decode_ms is None:
        return row.total_ms.mean
    return row.first_token_ms.mean + (tokens - 1) * row.decode_ms.mean


def _spread(row: LatencyRow, name: str) -> Spread | None:
    stat = getattr(row, name)
    return None if stat is None or stat.median is None else Spread(value=stat.median, high=stat.p90 or np.nan)


def _together(figures: Mapping[str, Sequence[Spread]]) -> dict[str, Spread]:
    """One figure of those of several benchmarks."""
    made = {}
    for title, spreads in figures.items():
        values = [one.value for one in spreads]
        value = float(np.sum(values) if title == MINUTES else np.mean(values))
        made[title] = Spread(value=value, high=float(np.mean([one.high for one in spreads])))
    return made
