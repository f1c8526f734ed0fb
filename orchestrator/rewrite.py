"""An experiment's cells under another address, in a new directory: of an older format, or judged again. No model runs.

The original stays as it is. What is damaged in it is left out and reported; `saccade run` computes it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from results.damage import BESIDE, UNREADABLE
from results.description import write_description
from results.disk import StoreError, make_folder, write_whole
from results.experiment import Experiment
from results.inventory import check_new
from results.latencies import LATENCY_FILE
from results.manifest import FORMAT, Manifest
from results.side_files import MAX_BYTES
from results.stops import RACING
from results.tables import CELLS, SCHEMAS, read_whole, write_table
from workers.fingerprint import is_same_data, whole_data_fingerprint
from workers.json_file import UnreadableError, read_json
from workers.rules import NUMERICS, prompt_fingerprint, scorer_fingerprint
from workers.tasks import answers
from workers.tasks.base import DataError, Sample
from workers.tasks.catalog import load_samples, resolved, scorer_of
from workers.work import content_key

# Hashes of strategies/ and workers/ of format 1 whose prompts, scoring and numerics are those of today. None: since
# then options go up to Z, and an instruction that stands in a question is not asked again.
SAME_RULES: frozenset[str] = frozenset()
Change = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """What was written."""

    experiment: Experiment
    cells: int
    changed: int = 0  # cells that are judged otherwise
    notes: tuple[str, ...] = ()  # a line for each file that was left out


def migrate(source: Path, out: Path, assume_current: bool = False) -> Rewritten:
    """Bring an experiment of an older format into today's.

    Its cells do not say by which prompts, scoring rule and engine they were computed. They are taken for those of today
    where its description names a version that had them, or where the user knows it.

    Args:
        source: The experiment.
        out: New directory.
        assume_current: The user knows.

    Raises:
        StoreError: It has today's format already, or names an unknown version, or ``out`` is taken, or its benchmark is
            not on this machine.
    """
    experiment = Experiment.open(source)
    manifest = experiment.manifest
    if manifest.format == FORMAT:
        raise StoreError(f"{source}: has format {FORMAT} already; `saccade run` goes on with it")
    sources = manifest.sources_hash
    if sources not in SAME_RULES and not assume_current:
        raise StoreError(
            f"{source}: was last written by another version (sources {sources or 'unknown'}), which may have asked and "
            "judged otherwise; if you know that it did not, give --assume-current, else run the sweep again with "
            "another --out"
        )
    task = experiment.spec.task
    parts = manifest.context_parts | {
        "data": _whole_data(experiment),
        "prompt": prompt_fingerprint(task),
        "scoring": scorer_fingerprint(scorer_of(task)),
        "numerics": NUMERICS,
    }
    origin = {"format": manifest.format, "sources_hash": sources, "versions": manifest.versions}
    changed = manifest.changed(format=FORMAT, context_parts=parts, migrated_from=origin)
    return _rewrite(experiment, out, changed, "migrate", lambda cells: cells)


def _whole_data(experiment: Experiment) -> str:
    """Today's fingerprint of the benchmark; that of format 1 saw of an image the first KiB alone.

    Raises:
        StoreError: The benchmark is not here, or is another.
    """
    why = f"{experiment.path}: its cells are named anew, by all of the data"
    return whole_data_fingerprint(_asked(experiment, why, "migrate it"))


def _asked(experiment: Experiment, why: str, what: str) -> tuple[Sample, ...]:
    """The benchmark that an experiment asked, from the benchmark's own files.

    Args:
        experiment: Of those questions.
        why: For a message: what they are needed for.
        what: For a message: what is to be done where they are.

    Raises:
        StoreError: It is not here, or is another.
    """
    data = experiment.spec.task.data
    try:
        found = load_samples(experiment.spec.task)
        same = is_same_data(experiment.manifest.context_parts["data"], found)
    except (DataError, OSError) as error:
        raise StoreError(f"{why}, and {data} cannot be read ({error}); {what} where the data are") from error
    if not same:
        raise StoreError(f"{why}, and {data} is not what was asked; {what} where the data are")
    return found


def rescore(source: Path, out: Path, scorer: str | None = None) -> Rewritten:
    """Judge the answers of an experiment again.

    Args:
        source: The experiment.
        out: New directory.
        scorer: Another rule; None: the same one, as it is today.

    Raises:
        StoreError: ``out`` is taken, the experiment has an older format, or lacks what the rule compares with.
        DataError: The rule is unknown, or cannot judge this benchmark.
    """
    experiment = Experiment.open(source)
    if experiment.manifest.format != FORMAT:
        raise StoreError(f"{source}: has format {experiment.manifest.format}; `saccade migrate` it first")
    task = resolved(replace(experiment.spec.task, scorer=scorer or experiment.spec.task.scorer))
    assert task.scorer is not None
    judge = answers.get(task.scorer)
    samples = _samples(experiment, task.scorer)
    changed = 0

    def judged(cells: pa.Table) -> pa.Table:
        nonlocal changed
        told = zip(cells["answer"].to_pylist(), cells["sample"].to_pylist(), strict=True)
        verdicts = [judge(answer, samples[name]) for answer, name in told]
        before = cells["correct"].to_pylist()
        changed += sum(old != verdict.correct for old, verdict in zip(before, verdicts, strict=True))
        columns: dict[str, list[Any]] = {
            "parsed": [verdict.parsed for verdict in verdicts],
            "correct": [verdict.correct for verdict in verdicts],
            "score": [float(verdict.score) for verdict in verdicts],
        }
        for name, values in columns.items():
            place = CELLS.get_field_index(name)
            cells = cells.set_column(place, CELLS.field(name), pa.array(values, CELLS.field(name).type))
        return cells

    parts = experiment.manifest.context_parts | {"scorer": task.scorer, "scoring": scorer_fingerprint(judge)}
    manifest = experiment.manifest.changed(context_parts=parts, engine=replace(experiment.spec, task=task))
    result = _rewrite(experiment, out, manifest, "rescore", judged)
    return replace(result, changed=changed)


def _samples(experiment: Experiment, scorer: str) -> dict[str, Sample]:
    """The samples as far as a scorer looks at them, from the experiment, else from the benchmark's files."""
    rows = experiment.samples_table().to_pylist()
    if scorer in answers.BY_ANNOTATORS and any(row["answers"] is None for row in rows):
        why = f"{experiment.path}: does not hold the annotators' answers that {scorer} compares with"
        return {sample.id: sample for sample in _asked(experiment, why, "rescore")}
    return {
        row["id"]: Sample(
            id=row["id"], question=row["question"], choices=tuple(row["choices"]), label=row["label"],
            answers=tuple(row["answers"] or ()), group=row["group"] or "",
            category=row["category"] or "", image=None,
        )
        for row in rows
    }  # fmt: skip


def _rewrite(experiment: Experiment, out: Path, manifest: Manifest, command: str, change: Change) -> Rewritten:
    """Write an experiment anew: cells after what stands beside them, the description last."""
    check_new(out)
    context = content_key(manifest.context_parts)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for folder in SCHEMAS:
        make_folder(out / folder)
    notes: list[str] = []
    cells = 0
    known = set(experiment.samples["id"])
    for name in [file.name for file in experiment.files("cells")]:
        if wrong := experiment.damage(name):
            notes += [
                f"{path}: left out: {error}; `saccade run` computes its cells again" for path, error in wrong.items()
            ]
            continue
        for folder in (*BESIDE, "cells"):
            if (experiment.path / folder / name).exists():
                table = _moved(experiment, folder, name, context)
                if folder == "cells":
                    table = change(table.filter(pc.is_in(table["sample"], pa.array(sorted(known), pa.string()))))
                    cells += len(table)
                write_table(out / folder / name, table)
    for folder in ("failures", "pictures"):
        for name in [file.name for file in experiment.files(folder)]:
            try:
                write_table(out / folder / name, _moved(experiment, folder, name, context))
            except UNREADABLE as error:
                notes.append(f"{experiment.path / folder / name}: left out: {error}")
    write_table(out / "samples.parquet", experiment.samples_table())
    for name, content in _side_files(experiment, context, command):
        write_whole(out / name, content)
    write_description(out, manifest.changed(context=context, updated=now), command)
    return Rewritten(experiment=Experiment.open(out), cells=cells, notes=tuple(notes))


def _moved(experiment: Experiment, folder: str, name: str, context: str) -> pa.Table:
    """A table's rows of this experiment, under another context."""
    table = read_whole(experiment.path / folder / name, SCHEMAS[folder], experiment.seals)
    table = table.filter(pc.equal(table["context"], experiment.context))
    column = pa.array([context] * len(table), pa.string())
    return table.set_column(table.column_names.index("context"), "context", column)


def _side_files(experiment: Experiment, context: str, command: str) -> Iterator[tuple[str, bytes]]:
    """Latencies, and what racing decided: of the same scores, so not where they are judged again."""
    for name in (LATENCY_FILE, *([RACING] if command == "migrate" else [])):
        try:
            value = read_json(experiment.path / name, MAX_BYTES)
        except UnreadableError:
            continue
        if name == LATENCY_FILE and isinstance(value, dict) and isinstance(value.get("how"), dict):
            value["how"]["context"] = context
        yield name, (json.dumps(value, indent=1) + "\n").encode()
