"""The kinds of files that Saccade reads: small valid ones, the damage that knows their form, and who reads them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import checkpoint_forms
import small_benchmarks
from conftest import write_scienceqa
from fake_experiment import into_format_1
from measured_experiment import write_measured
from mutations import ODD, Raw, altered, refitted
from orchestrator.sweep.spec import load_sweep
from orchestrator.tune.trial_files import RESULTS, told
from results.analysis.measured import measure_summary
from results.analysis.metrics import answers, summarise
from results.analysis.racing import RacingRule
from results.exchange.imports import IMPORTED_FILE, import_files, imported_summary
from results.experiment import Experiment
from results.inventory import verify
from results.latencies import LATENCY_FILE, latencies
from results.location import driver_of
from results.lock import LOCK, Holder
from results.pictures import Pictures, write_pictures
from results.provenance import ways_text
from results.seals import sealed
from results.stops import RACING, Stops, read_stops, write_stops
from results.tables import samples_table
from results.written import LIST, Written
from small_llava import make_checkpoint, make_tokenizer
from small_qwen import make_qwen
from workers.checkpoints.settings import processor_settings
from workers.checkpoints.tokenizer import chat_template, rendered
from workers.families.catalog import load_model, open_checkpoint
from workers.fingerprint import model_fingerprint, whole_data_fingerprint
from workers.images import load_image
from workers.tasks.catalog import load_samples, resolved, scorer_of
from workers.tasks.prompts import build_prompt
from workers.work import GridPoint, ModelSpec, SampleFailure, TaskSpec, UnitOutcome, WorkUnit

ORIGINALS = Path(__file__).parent / "originals"
Damage = Callable[[bytes], st.SearchStrategy[bytes]]  # of a valid file


@dataclass(frozen=True, kw_only=True)
class Form:
    """A kind of file: where valid ones are, and who reads them."""

    make: Callable[[Path], object]  # of a new folder with all that belongs to it
    file: str  # in that folder; a pattern stands for its first file
    read: Callable[[Path], object]  # the folder
    parts: Damage | None = None  # besides that of bytes: what knows the form
    examples: int = 50

    @property
    def name(self) -> str:
        return f"{getattr(self.make, '__name__', 'folder').removeprefix('write_').removeprefix('make_')}-{self.file}"


# -- damage that knows the form ----------------------------------------------------------------------------------------


def json_parts(content: bytes) -> st.SearchStrategy[bytes]:
    return altered(json.loads(content)).map(str.encode)


def line_parts(content: bytes) -> st.SearchStrategy[bytes]:
    """Of one of the lines."""
    lines = content.splitlines(keepends=True)
    return st.integers(0, len(lines) - 1).flatmap(
        lambda at: json_parts(lines[at]).map(lambda line: b"".join([*lines[:at], line, b"\n", *lines[at + 1 :]]))
    )


YAML_ODD = (*ODD, *map(Raw, (
    "~", "2026-13-45", "2026-01-01", "!!int ''", "!!binary x", "!!python/object/apply:os.getpid []", "!!set {a, b}",
    "*a", "&a [*a]", "!!timestamp 9", "1:60:60", "0x_", "{? [a]: b}", "{<<: 1}", ".inf", ".nan", "2..L", "3N/0", "L/1e",
    "1..999999999999", "!!float ''", "'\\ud800'", "&a {b: &b [*a, *b]}", "|\n  x", "\t", "embedded", "all", "yes",
    "0..0 step 0",
)))  # fmt: skip


def yaml_parts(content: bytes) -> st.SearchStrategy[bytes]:
    return altered(yaml.safe_load(content), YAML_ODD).map(str.encode)


def header_parts(content: bytes) -> st.SearchStrategy[bytes]:
    """Of a safetensors file."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return json_parts(content[8:end]).map(lambda header: struct.pack("<Q", len(header)) + header + content[end:])


def table_parts(content: bytes, write: Callable[[pa.Table], bytes] | None = None) -> st.SearchStrategy[bytes]:
    def unsealed(table: pa.Table) -> bytes:
        stream = BytesIO()
        pq.write_table(table, stream)
        return stream.getvalue()

    return refitted(pq.read_table(BytesIO(content))).map(write or unsealed)


sealed_parts = partial(table_parts, write=sealed)

FRAGMENTS = (
    "{{ messages }}", "{% for m in messages %}", "{% endfor %}", "{% if", "{{ x.y.z }}", "{{ 1 // 0 }}", "{{ [][0] }}",
    "{{ raise_exception(3) }}", "{% include 'a' %}", "{{ ''.__class__ }}", "{% set x = range(9999999) %}",
    "{{ 'a' * 9999999 }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{#", "{% break %}", "\n", "{% raw %}",
    "{% for a in range(10 ** 7) %}{% endfor %}", "{{ messages | tojson | length }}",
)  # fmt: skip


def template_parts(content: bytes) -> st.SearchStrategy[bytes]:
    """A fragment of a program, somewhere."""
    places = st.tuples(st.integers(0, len(content)), st.integers(0, 30), st.sampled_from(FRAGMENTS))
    return places.map(lambda place: content[: place[0]] + place[2].encode() + content[place[0] + place[1] :])


# -- valid files -------------------------------------------------------------------------------------------------------

POINTS = (GridPoint(strategy="fastv", layer=2, rank=16), GridPoint(strategy="weighted_combination", layer=2, rank=16,
          params=(("alpha", 0.5),)))  # fmt: skip


def make_experiment(folder: Path) -> None:
    """With every kind of file, and little in each."""
    experiment = write_measured(folder, POINTS, lambda point: (("rank", 2.0),), samples=5)
    unit = WorkUnit(samples=("s4",), points=experiment.points)
    failure = SampleFailure(sample="s4", kind="OSError", message="damaged", traceback="Traceback")
    experiment.write(unit, UnitOutcome(unit=unit.key, outcomes=(), failures=(failure,)))
    write_pictures(experiment, {"s0": b"webp of s0", "s1": b"webp of s1"})
    keys = [point.key for point in experiment.points]
    write_stops(experiment, Stops(rule=RacingRule(), stopped={keys[1]: 4}, cells=15, saved=1))
    rows = [{"key": key, "label": "x", "total_ms": {"mean": 3.5, "std": 0.1}} for key in keys]
    (folder / LATENCY_FILE).write_text(json.dumps({"how": {"device": "cpu"}, "rows": rows}))
    (folder / LOCK).write_bytes(Holder.this_process().to_bytes())
    reports = [{"training_iteration": number, "accuracy": 0.5} for number in (1, 2)]
    (folder / RESULTS).write_text("".join(json.dumps(report) + "\n" for report in reports))


def make_experiment_1(folder: Path) -> None:
    """As before there were digests."""
    make_experiment(folder)
    into_format_1(folder)


def make_sweep(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(
        "name: x\nmodel: {path: embedded, dtype: float32, image_mode: pad}\ndata: embedded\ntask: {name: scienceqa, "
        "split: test, conversation: vicuna_v1, single_prediction: true, scorer: strict_letter}\nsamples: 8\n"
        "max_new_tokens: 4\nseed: 1\nmeasure:\n  quality: true\n  spectra: {matrix: [hidden_states], layer: [first, "
        "last, 1], threshold: 1.0e-6, power: 2, samples: 4}\nracing: {against: best, alpha: 0.05, margin: 0.01}\n"
        "tune: {callbacks: [ray.tune.logger.CSVLoggerCallback, {ray.tune.logger.JsonLoggerCallback: {}}]}\n"
        "grid:\n  - {strategy: cutoff, layer: 2..L}\n"
        "  - {strategy: [fastv, random], layer: [1, 2], rank: 16..4 step -4}\n"
        "  - {strategy: weighted_combination, layer: 2, tokens: [128, N/2], alpha: [0.3, 0.5]}\n"
        "  - {strategy: ablation, layer: 2, rank: 4, head: [sum, variance], heads_kept: H/2, query: last_token}\n"
    )


def make_model(folder: Path) -> None:
    make_checkpoint(folder)
    (folder / "chat_template.jinja").write_text(checkpoint_forms.TEMPLATE)


def make_models(folder: Path) -> None:
    """In all forms: Hugging Face's, LLaVA's own with tower and adapter, any-resolution, and another family's."""
    checkpoint_forms.hugging_face(folder / "hf")
    checkpoint_forms.hugging_face_next(folder / "next")
    make_qwen(folder / "qwen")
    checkpoint_forms.tower(folder / "tower")
    checkpoint_forms.original(folder / "own", str(folder / "tower"))
    (folder / "adapter").mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    width = checkpoint_forms.HIDDEN
    tensors = {f"{name}.lora_A.weight": torch.ones(2, width), f"{name}.lora_B.weight": torch.ones(width, 2)}
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {"q_proj": 8}, "use_rslora": False,
                "base_model_name_or_path": "own"}  # fmt: skip
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))


def make_images(folder: Path) -> None:
    image = Image.radial_gradient("L").resize((24, 32)).convert("RGB")
    for end in ("png", "jpg", "webp", "gif", "bmp", "tiff"):
        image.save(folder / f"x.{end}")


def make_imported(folder: Path) -> None:
    import_files([ORIGINALS / "scienceqa_results_himap.json", ORIGINALS / "scienceqa_results_baseline.json"], folder)


def make_originals(folder: Path) -> None:
    for file in ORIGINALS.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    per_sample = {"accuracy": 0.5, "correct": 1, "total": 2, "config": {"agg_layer": 2, "kept_tokens": 64}}
    row = {
        "benchmark": "MME",
        "metric": "total",
        "value": 1.0,
        "strategy": "sum",
        "heads_kept": 8,
        "visual_token_budget": 4,
    }
    for name, content in {
        "per_sample": per_sample, "finepruner": {"rows": [row], "source": "x"}, "layers": {"2": 0.5, "3": 0.25},
        "mme_scan": {"layers": [2, 3], "total_scores": [1.0, 2.0]},
        "mme": {"perception_score": 1.0, "cognition_score": 2},
    }.items():  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(content))


def make_report(folder: Path) -> None:
    writer = Written(folder / "report", lambda name: name == "index.html")
    writer.add("index.html", b"page")
    writer.finish()


def make_mmbench(folder: Path) -> None:
    small_benchmarks.write_mmbench(folder, small_benchmarks.mmbench_rows())


def make_scienceqa(folder: Path) -> None:
    write_scienceqa(folder, count=3)


# -- who reads ---------------------------------------------------------------------------------------------------------


def assert_one_line(text: str) -> None:
    """Fit to be told, and to be written."""
    assert len(text.splitlines()) == 1, text
    assert len(text) < 2000, text
    text.encode()


def cell_rows(experiment: Experiment) -> set[str]:
    summarise(answers(experiment))
    experiment.unread(), ways_text(experiment)
    return rows(experiment.cells())


def measure_rows(experiment: Experiment) -> set[str]:
    measure_summary(experiment)
    return rows(experiment.measures())


def picture_rows(experiment: Experiment) -> set[str]:
    pictures = Pictures(experiment)
    return {repr((sample, pictures.get(sample))) for sample in pictures.samples}


READERS: dict[str, Callable[[Experiment], set[str]]] = {
    "samples": lambda experiment: rows(experiment.samples),
    "cells": cell_rows,
    "kept": lambda experiment: rows(experiment.kept()),
    "measures": measure_rows,
    "failures": lambda experiment: rows(experiment.failures()),
    "pictures": picture_rows,
}


def read_table(folder: Path, name: str) -> tuple[set[str], tuple[str, ...]]:
    """What tables and pages make of the files of one kind, and what is noted of them."""
    experiment = Experiment.open(folder)
    found = READERS[name](experiment)
    for text in (*experiment.notes, *(finding.text for finding in verify(experiment))):
        assert_one_line(text)
    return found, experiment.notes


def read_side_files(folder: Path) -> None:
    experiment = Experiment.open(folder)
    latencies(experiment), read_stops(experiment), driver_of(folder), told(folder)
    for note in experiment.notes:
        assert_one_line(note)


def read_experiment(folder: Path) -> None:
    for name in READERS:
        read_table(folder, name)
    read_side_files(folder)


def rows(frame: Any) -> set[str]:
    return set(map(repr, frame.to_dict("records")))


def read_benchmark(folder: Path, name: str, questions: str | None = None, split: str | None = None) -> None:
    """All that is done with a benchmark, but for asking a model."""
    spec = resolved(TaskSpec(name=name, data=str(folder), questions=questions, split=split))
    samples = load_samples(spec)
    whole_data_fingerprint(samples)
    samples_table(samples)
    for sample in samples:
        build_prompt(sample, spec).encode()
        assert 0 <= scorer_of(spec)(f"{sample.label}.", sample).score <= 1
        if sample.image is not None:
            load_image(sample.image)


def plan(folder: Path, model: str, base: str | None = None) -> None:
    """What is looked at before a model is loaded."""
    spec = ModelSpec(path=str(folder / model), base=None if base is None else str(folder / base))
    checkpoint = open_checkpoint(spec)
    checkpoint.check()
    model_fingerprint(checkpoint)
    chat_template(checkpoint.folder, checkpoint.tokenizer)
    processor_settings(checkpoint.images)


def load(folder: Path) -> None:
    """And asked in its own template."""
    load_model(ModelSpec(path=str(folder)), "cpu").chat("what?", 1)


def load_qwen(folder: Path) -> None:
    load_model(ModelSpec(path=str(folder), image_mode="native"), "cpu")


def read_template(folder: Path) -> None:
    template = chat_template(folder)
    assert template is not None
    assert "what?" in rendered(make_tokenizer(), template, "what?", True)


def read_report(folder: Path) -> None:
    """A later report, that takes away what it has not written."""
    writer = Written(folder / "report", lambda name: name == "index.html")
    writer.add("index.html", b"page")
    writer.finish()


def image_at(name: str) -> Callable[[Path], object]:
    return lambda folder: load_image(folder / name)


def original_at(name: str) -> Callable[[Path], object]:
    return lambda folder: import_files([folder / name], folder / "out")


def benchmark(make: Callable[[Path], object], file: str, parts: Damage | None, *asked: Any, **more: Any) -> Form:
    return Form(make=make, file=file, parts=parts, read=lambda folder: read_benchmark(folder, *asked), **more)


def model_file(file: str, parts: Damage | None, *asked: Any) -> Form:
    return Form(make=make_models, file=file, parts=parts, read=lambda folder: plan(folder, *asked), examples=40)


small = small_benchmarks
PARQUET = {name: "samples.parquet" if name == "samples" else f"{name}/*.parquet" for name in READERS}
SEALED = {
    name: Form(make=make_experiment, file=file, read=partial(read_table, name=name), parts=sealed_parts, examples=15)
    for name, file in PARQUET.items()
}
UNSEALED = [
    Form(make=make_experiment_1, file=file, read=partial(read_table, name=name), parts=table_parts, examples=15)
    for name, file in PARQUET.items()
]
FORMS = [
    Form(make=make_sweep, file="sweep.yaml", read=lambda folder: load_sweep(folder / "sweep.yaml", gpu=False),
         parts=yaml_parts, examples=150),
    *SEALED.values(),
    *UNSEALED,
    Form(make=make_experiment, file="sweep.yaml", read=read_experiment, parts=yaml_parts, examples=25),
    *(Form(make=make_experiment, file=name, read=read_side_files, parts=json_parts)
      for name in (LATENCY_FILE, RACING, LOCK)),
    Form(make=make_experiment, file=RESULTS, read=read_side_files, parts=line_parts),
    Form(make=make_report, file=f"report/{LIST}", read=read_report, parts=json_parts),
    *(Form(make=make_originals, file=name, read=original_at(name), parts=json_parts)
      for name in ("per_sample.json", "finepruner.json", "layers.json", "mme_scan.json", "mme.json",
                   *(file.name for file in sorted(ORIGINALS.glob("*.json"))))),
    Form(make=make_imported, file=IMPORTED_FILE, read=imported_summary, parts=json_parts),
    *(Form(make=make_images, file=f"x.{end}", read=image_at(f"x.{end}")) for end in
      ("png", "jpg", "webp", "gif", "bmp", "tiff")),
    benchmark(make_scienceqa, "llava_test_CQM-A.json", json_parts, "scienceqa", examples=100),
    benchmark(make_scienceqa, "problems.json", json_parts, "scienceqa", examples=100),
    benchmark(make_scienceqa, "pid_splits.json", json_parts, "scienceqa"),
    benchmark(small.write_scienceqa_parquet, "data/test-00000-of-00002-ab.parquet", table_parts, "scienceqa",
              examples=100),
    benchmark(make_mmbench, "MMBench_DEV_EN.tsv", None, "mmbench", None, "dev", examples=100),
    benchmark(partial(small.write_tsv, name="mmmu"), "MMMU_DEV_VAL.tsv", None, "mmmu"),
    benchmark(small.write_vqav2, "v2_OpenEnded_mscoco_val2014_questions.json", json_parts, "vqav2"),
    benchmark(small.write_vqav2, "v2_mscoco_val2014_annotations.json", json_parts, "vqav2"),
    benchmark(small.write_textvqa, "TextVQA_0.5.1_val.json", json_parts, "textvqa"),
    benchmark(small.write_textvqa, "llava_textvqa_val_v051_ocr.jsonl", line_parts, "textvqa",
              "llava_textvqa_val_v051_ocr.jsonl"),
    benchmark(small.write_gqa, "testdev_balanced_questions.json", json_parts, "gqa"),
    benchmark(small.write_mme, "MME_Benchmark_release_version/existence/000.txt", None, "mme"),
    benchmark(small.write_mme_parquet, "data/test-00000-of-00001-ab.parquet", table_parts, "mme", examples=100),
    benchmark(small.write_pope, "coco/coco_pope_random.json", line_parts, "pope"),
    model_file("hf/config.json", json_parts, "hf"),
    model_file("hf/preprocessor_config.json", json_parts, "hf"),
    model_file("hf/chat_template.json", json_parts, "hf"),
    model_file("hf/model.safetensors.index.json", json_parts, "hf"),
    model_file("hf/model-00001-of-00002.safetensors", header_parts, "hf"),
    model_file("next/config.json", json_parts, "next"),
    model_file("qwen/config.json", json_parts, "qwen"),
    model_file("qwen/preprocessor_config.json", json_parts, "qwen"),
    model_file("own/config.json", json_parts, "own"),
    model_file("own/pytorch_model.bin.index.json", json_parts, "own"),
    model_file("own/pytorch_model-00001-of-00002.bin", None, "own"),
    model_file("tower/config.json", json_parts, "own"),
    model_file("tower/pytorch_model.bin", None, "own"),
    model_file("adapter/adapter_config.json", json_parts, "adapter", "own"),
    model_file("adapter/adapter_model.safetensors", header_parts, "adapter", "own"),
    *(Form(make=make_model, file=name, read=load, parts=parts, examples=25) for name, parts in (
        ("config.json", json_parts), ("preprocessor_config.json", json_parts),
        ("tokenizer_config.json", json_parts), ("tokenizer.json", json_parts), ("generation_config.json", json_parts),
        ("model.safetensors", header_parts))),
    Form(make=make_qwen, file="config.json", read=load_qwen, parts=json_parts, examples=15),
    Form(make=make_model, file="chat_template.jinja", read=read_template, parts=template_parts),
]  # fmt: skip
