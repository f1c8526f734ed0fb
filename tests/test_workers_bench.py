"""The benchmark runs through on a tiny model; its arithmetic is checked by hand. Nothing here asserts a speed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from prompt_forms import prompt_form
from strategies import catalog
from workers.card_speed import device_name, fitted, read_speed, speed_file
from workers.families.model import Encoded, ImageSpan, Pixels
from workers.families.qwen.config import model_config, resizing_of, text_section
from workers.families.qwen.described import described
from workers.speed_test import random_qwen
from workers.speed_test.agreement import huggingface_answer
from workers.speed_test.baselines import attention_of, batched, generate, make_case, masked
from workers.speed_test.bench import bench, main
from workers.speed_test.options import BenchSpec
from workers.speed_test.random_llava import SHAPES, random_llava, text_tokens
from workers.speed_test.report import Report
from workers.speed_test.samples import QUESTION_LENGTHS, side_of
from workers.speed_test.timing import Timing, timed
from workers.speed_test.workloads import LinearSizes, make_workloads, needed, scaled
from workers.tasks.base import LETTERS, Sample
from workers.tasks.prompts import build_prompt
from workers.work import GridPoint, ModelSpec, SampleOutcome, unpruned_point

TINY = BenchSpec(shape="tiny", samples=2, batches=(2,), agreement=1, seconds=0.0, device="cpu")


@pytest.fixture(scope="module")
def llava():
    return random_llava("tiny", torch.float32, "cpu", seed=0)


@pytest.fixture(scope="module")
def measured() -> tuple[Report, list[str]]:
    lines: list[str] = []
    return bench(TINY, lambda report, line: lines.append(line)), lines


def test_everything_is_measured(measured):
    report, lines = measured
    assert [row.name for row in report.baselines] == ["seed", "seed_nocache", "stock", "stock_batch2"]
    assert [row.workload for row in report.engine] == ["cutoffs", "ranks", "spectra", "strategies", "one"]
    assert [row.configurations for row in report.engine] == [3, 58, 58, 55, 2]
    assert report.notes == ()
    for row in (*report.baselines, *report.engine):
        assert row.ms_per_cell > 0
        assert row.cells_per_s == pytest.approx(1000 / row.ms_per_cell)
        assert row.ceiling_share > 0
        assert row.peak_gib is None  # not a CUDA device
        assert not row.timing.warm  # no time was allowed: the first run stands, and is marked
    for row in report.engine:
        assert set(row.ratios) == {baseline.name for baseline in report.baselines}
        assert row.prefill_ms_per_cell > 0
        assert 1 < row.sequences_per_sample <= row.configurations
    for row in report.spectra:
        assert min(row.ms, row.eigvalsh_ms, row.svdvals_ms) > 0
        assert row.effective_rank_error < 1e-5
    assert [row.spectra_share is not None for row in report.engine] == [False, False, True, False, False]
    assert [row.matrices for row in report.spectra] == [4, 4, 4, 1]
    assert len(lines) >= 1 + 4 + 5 + 4 + 5


def test_engine_agrees_with_huggingface_in_float32(measured):
    report, _ = measured
    assert [row.point for row in report.agreement] == [
        *("un-pruned", "un-pruned", "cutoff layer=2 rank=0", "random layer=2 rank=32", "fastv layer=2 rank=32")
    ]
    for row in report.agreement:
        assert (row.same_first_token, row.same_answer, row.disagreements) == (row.samples, row.samples, ())


@pytest.mark.parametrize(
    ("tflop_s", "cell_s", "found"),
    [(2.0, 0.5, (2.0, 0.5)), (2.0, 0.0, (2.0, 0.0)), (0.0, 0.25, (0.0, 0.25)), (2.0, -0.01, (1.5, 0.0))],
)
def test_the_speed_of_a_card_is_what_explains_the_runs(tflop_s, cell_s, found):
    tflops, cells = [1.0, 3.0, 0.5], [2, 11, 55]
    seconds = [max(tflop_s * tflop + cell_s * count, 1e-9) for tflop, count in zip(tflops, cells, strict=True)]
    assert fitted(tflops, cells, seconds) == pytest.approx(found, rel=0.3, abs=1e-9)


def test_a_card_is_calibrated_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("workers.speed_test.calibrate.SECONDS", 0.0)
    monkeypatch.setattr("workers.speed_test.calibrate.GRIDS", ("one",))
    threads = torch.get_num_threads()
    assert main(["--calibrate", "--device", "cpu"]) == 0
    torch.set_num_threads(threads)
    speed = read_speed(device_name("cpu"), "float32")
    assert speed is not None
    assert speed.tflop_s + speed.cell_s > 0
    assert speed.model == "the embedded model"
    assert capsys.readouterr().out.endswith(f"kept in {speed_file(device_name('cpu'), 'float32')}\n")


def test_report_survives_json(measured, tmp_path):
    report, _ = measured
    report.write(tmp_path / "bench.json")
    assert Report.from_json(json.loads((tmp_path / "bench.json").read_text())) == report


def test_table_shows_every_row(measured):
    report, _ = measured
    table = report.table()
    for row in (*report.baselines, *report.engine, *report.spectra):
        assert row.what in table
    assert "matmul ceiling" in table
    assert "of the time for spectra" in table


def test_disagreements_are_listed(llava, monkeypatch):
    """A reference that likes best what the model likes least."""

    def wrong(llava, case, point, seed, new_tokens):
        answer = huggingface_answer(llava, case, point, seed, new_tokens)
        return replace(answer, ids=(int(answer.logits_C.argmin()), 7), text="wrong", logits_C=-answer.logits_C)

    monkeypatch.setattr("workers.speed_test.agreement.huggingface_answer", wrong)
    report = bench(replace(TINY, workloads=(), batches=()), lambda report, line: None)
    found = report.agreement[1].disagreements[0]
    assert found.reference_answer == "wrong"
    assert found.margin > 0
    assert found.reference_gap > 0
    assert "first-token margin" in report.table()
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_command_line(tmp_path, capsys):
    file = tmp_path / "lengths.json"
    file.write_text("[80, 300]")
    out = tmp_path / "bench.json"
    words = "--shape tiny --device cpu --samples 2 --batches 2 --agreement 0 --seconds 0 --workloads one --images disk"
    assert main([*words.split(), "--micro-batch", "1,2", "--questions", str(file), "--out", str(out)]) == 0
    report = Report.from_json(json.loads(out.read_text()))
    assert [row.micro_batch for row in report.engine] == [1, 2]
    assert report.mean_text_tokens == (text_tokens(80) + text_tokens(300)) / 2
    assert report.table() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workloads": ("cutoff",)}, "unknown workload"),
        ({"images": "tape"}, "neither memory nor disk"),
        ({"samples": 0}, "below 1"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        BenchSpec(**wrong)


def test_unknown_names_and_files_are_named(capsys):
    with pytest.raises(ValueError, match="unknown shape 'huge'"):
        random_llava("huge", torch.float32, "cpu", seed=0)
    assert main(["--shape", "tiny", "--device", "cpu", "--questions", "/nowhere.json"]) == 2
    assert "/nowhere.json" in capsys.readouterr().err


def test_prompts_have_real_lengths(llava):
    question = "x" * (300 - len("<image>\n"))
    sample = Sample(id="1", question=question, choices=("a",), label="A", image="somewhere")
    text = build_prompt(sample, prompt_form())
    prompt = llava.encode(text, Image.new("RGB", (9, 9)), "pad")
    assert (prompt.system, prompt.visual) == (35, 144)
    assert prompt.length == 35 + 144 + (300 + 90) // 4
    assert prompt.ids == llava.encode(text, Image.new("RGB", (9, 9)), "pad").ids
    assert len(set(llava.letter_tokens(LETTERS))) == len(LETTERS)
    assert sum(map(text_tokens, QUESTION_LENGTHS)) / len(QUESTION_LENGTHS) == pytest.approx(94.7, rel=0.02)


def test_random_model_depends_on_its_seed_only(llava):
    torch.manual_seed(5)
    again = random_llava("tiny", torch.float32, "cpu", seed=0)
    other = random_llava("tiny", torch.float32, "cpu", seed=1)
    assert torch.equal(again.module.lm_head.weight, llava.module.lm_head.weight)
    assert not torch.equal(other.module.lm_head.weight, llava.module.lm_head.weight)
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    random_llava("tiny", torch.float32, "cpu", seed=0)
    assert torch.equal(torch.rand(1), drawn)  # the caller's random state is left alone


def test_shapes_are_those_of_llava():
    sizes = SHAPES["llava-1.5-7b"]
    assert (sizes.layers, sizes.heads, sizes.hidden, sizes.ffn, sizes.vocab) == (32, 32, 4096, 11008, 32064)
    assert (sizes.image_size // sizes.patch_size) ** 2 == 576


def test_layers_in_host_memory_are_timed_without_hugging_face(tmp_path, capsys):
    arguments = ["--shape", "tiny", "--samples", "2", "--workloads", "one", "--seconds", "0.1", "--offload", "3"]
    assert main([*arguments, "--out", str(tmp_path / "b.json")]) == 0
    text = capsys.readouterr().out
    assert "3 decoder layers are in host memory: Hugging Face's forward cannot run" in text
    report = Report.from_json(json.loads((tmp_path / "b.json").read_text()))
    assert report.baselines == report.agreement == ()
    assert report.engine[0].configurations == 2
    assert main([*arguments[:-1], "5"]) == 2
    assert "5 is outside 0..4, the model's decoder layers" in capsys.readouterr().err


def test_workloads_are_those_of_the_goals():
    grids = make_workloads(32, 32, 576)
    assert [(p.layer, p.rank) for p in grids["cutoffs"].points[:-1]] == [(layer, 0) for layer in range(2, 32)]
    assert [p.rank for p in grids["ranks"].points[:-1]] == list(range(576, 15, -10))
    assert sorted({p.rank for p in grids["strategies"].points[:-1]}) == [30, 98, 166]
    assert [p.rank for p in grids["one"].points[:-1]] == [128]
    assert [p.strategy for p in grids["spectra"].points[:-1]] == 57 * ["text_weighted"]
    sizes = {name: len(grid.points) for name, grid in grids.items()}
    assert sizes == {
        "cutoffs": 31,
        "ranks": 58,
        "spectra": 58,
        "strategies": 55,
        "towers": 37,
        "one": 2,
        "grid": 581,
        "grid3000": 3001,
    }
    for grid in grids.values():
        assert grid.points[-1] == unpruned_point(32, 576)
        assert len({point.key for point in grid.points}) == len(grid.points)
        for point in grid.points[:-1]:
            complaint = catalog.get(point.strategy).check(
                dict(point.params), layer=point.layer, rank=point.rank, layers=32, heads=32
            )
            assert complaint is None


def test_methods_before_the_decoder_are_timed():
    """With a random text tower for those that read the question; nothing fails, and every point is answered."""
    report = bench(replace(TINY, workloads=("towers",), batches=(), agreement=0), lambda report, line: None)
    (row,) = report.engine
    assert (row.workload, row.configurations) == ("towers", 37)
    assert not report.notes


def cell(point, *, kept: int, mask: bytes, decoded: int = 2) -> SampleOutcome:
    return SampleOutcome(
        point=point.key,
        sample="1",
        answer="A",
        parsed="A",
        correct=True,
        first_token=3,
        option_logits=(1.0,),
        margin=1.0,
        tokens_kept=kept,
        kept_mask=mask,
        decoded_tokens=decoded,
        prompt_tokens=20,
        visual_tokens=8,
    )


def test_questions_of_an_image_are_timed_with_and_without_sharing(tmp_path, capsys):
    out = tmp_path / "bench.json"
    words = "--shape tiny --device cpu --samples 4 --agreement 0 --seconds 0 --no-baselines --micro-batch 4"
    assert main([*words.split(), "--workloads", "", "--questions-per-image", "1", "4", "--out", str(out)]) == 0
    report = Report.from_json(json.loads(out.read_text()))
    assert [(row.workload, row.questions, row.images) for row in report.questions] == [
        (name, questions, 4 // questions) for questions in (1, 4) for name in ("unpruned", "blind", "fastv", "cutoffs")
    ]
    alone, shared = report.questions[:4], report.questions[4:]
    layers, visual, text = 4, 144, 30
    for row in alone:
        assert (row.limit, row.rows) == (1, row.rows_apart)
    assert [row.rows_apart for row in alone] == [row.rows_apart for row in shared]
    assert [(row.rows, row.rows_apart) for row in shared[:1]] == [
        (layers * (visual + 4 * text), 4 * layers * (visual + text))
    ]
    kept = 48 + 32 + 16
    assert shared[1].rows == shared[0].rows + layers * (kept + 4 * 3 * text)
    assert all(1 < row.limit < 4 and row.limit_share == row.ratio / row.limit for row in shared)
    printed = capsys.readouterr().out
    assert report.table() in printed
    assert "l2_norm at layer 0, ranks 48, 32, 16 + un-pruned" in printed
    with pytest.raises(ValueError, match="questions_per_image: 0 is below 1"):
        BenchSpec(questions_per_image=(0,))
    with pytest.raises(ValueError, match="unknown question workload 'blin'"):
        BenchSpec(question_workloads=("blin",))


def test_needed_work_is_counted_by_hand():
    """5 system tokens, 8 visual, 7 text; four layers; keys and values cost 3 a row and layer, the rest 10."""
    sizes = LinearSizes(layers=4, keys_values=3, others=10)
    grid = make_workloads(4, 4, 8)
    full, fork = unpruned_point(4, 8), grid["cutoffs"].points[0]
    same, other = (replace(fork, strategy="fastv", rank=rank) for rank in (0, 3))
    cells = [
        cell(full, kept=8, mask=b"\xff"),
        cell(fork, kept=0, mask=b"\x00"),
        cell(same, kept=0, mask=b"\x00"),  # the same tokens at the same layer: nothing more to compute
        cell(other, kept=3, mask=b"\x07", decoded=1),
    ]
    work = needed(sizes, (full, fork, same, other), cells, {"1": 5})
    assert work.sequences == 3
    trunk = 3 * 15 * 13 + 15 * 3 + 10  # its system tokens are everybody's
    forks = (1 * 7 * 13 + 7 * 3 + 10) + (1 * 10 * 13 + 10 * 3 + 10)
    assert work.prefill_flop == 2 * (trunk + forks)
    assert work.decode_flop == 2 * (4 * 13) * 2  # the third sequence ended with its first token


def test_linear_sizes_are_those_of_the_modules(llava):
    layer = llava.decoder.module.layers[0]
    sizes = LinearSizes.of(llava.config)
    linears = [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]
    assert sizes.keys_values + sizes.others == sum(module.weight.numel() for module in linears)
    assert sizes.layers == len(llava.decoder.module.layers)


def test_ranks_scale_with_the_image():
    assert [scaled(rank, 576) for rank in (576, 166, 16)] == [576, 166, 16]
    assert [scaled(rank, 144) for rank in (576, 166, 16)] == [144, 41, 4]


def prompt_of(llava, before: list[int], after: list[int], pixels: torch.Tensor) -> Encoded:
    ids = [*before, *[llava.image_token] * 144, *after]
    return Encoded.in_order(ids, (ImageSpan(len(before), 144),), (Pixels(pixels, 144, (168, 168)),))


def test_batches_are_whole_padded_left_and_sorted(llava):
    image = torch.zeros(3, 168, 168)
    cases = [make_case(llava, str(tail), prompt_of(llava, [5], [6] * tail, image)) for tail in (9, 2, 4)]
    groups = batched(llava, cases, 2)
    assert [len(group["input_ids"]) for group in groups] == [2, 2, 2]
    lengths = [row for group in groups for row in group["attention_mask"].sum(dim=1).tolist()]
    assert lengths == sorted(2 * [1 + 144 + tail for tail in (9, 2, 4)])
    for group in groups:
        assert bool(group["attention_mask"][:, -1].all())
        assert bool((group["input_ids"][group["attention_mask"] == 0] == 0).all())


def test_timing_takes_the_median_after_a_warm_up():
    calls: list[None] = []
    timing, peak = timed(lambda: calls.append(None), torch.device("cpu"), seconds=60, repeats=3)
    assert (len(calls), timing.runs, timing.warm, peak) == (4, 3, True, None)
    assert timing.low_s <= timing.median_s <= timing.high_s
    assert isinstance(timing, Timing)


@pytest.mark.parametrize("use_cache", [True, False])
def test_seed_style_masking_equals_dropping(llava, use_cache):
    """Semantics 1.4: a masked token and a dropped one are the same to all others; the first token's logits show it."""
    pixels = torch.randn(3, 168, 168, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(3, 400, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    case = make_case(llava, "1", prompt_of(llava, ids[:35], ids[35:], pixels))
    point = GridPoint(strategy="fastv", layer=2, rank=20)
    with torch.inference_mode(), attention_of(llava, "eager"):
        dropped = huggingface_answer(llava, case, point, seed=0)
        plain = huggingface_answer(llava, case, unpruned_point(4, 144), seed=0)
        with masked(llava, case, layer=2, rank=20):
            made = generate(llava, case, use_cache=use_cache, output_attentions=True, output_logits=True)
    torch.testing.assert_close(made.logits[0][0].float(), dropped.logits_C, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(dropped.logits_C, plain.logits_C, atol=1e-3)
    assert llava.module.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("shape", "tokens"), [("qwen-tiny", 225), ("qwen3-tiny", 196)])
def test_another_family_is_measured_too(shape, tokens):
    """In its own size of images, against its own ``generate``."""
    report = bench(replace(TINY, shape=shape, workloads=("one",), questions_per_image=(2,)), lambda *told: None)
    assert [row.name for row in report.baselines] == ["seed", "seed_nocache", "stock", "stock_batch2"]
    assert [row.workload for row in report.engine] == ["one"]
    assert report.mean_prompt_tokens - report.mean_text_tokens > tokens
    assert {row.same_answer for row in report.agreement} == {1}
    assert report.notes == ()
    assert report.questions


@pytest.mark.parametrize(
    ("shape", "visual", "side", "parameters"),  # of the published sizes, counted once and held
    [("qwen2.5-vl-7b", 1296, 1008, 8_292_166_656), ("qwen3-vl-8b", 2025, 1440, 8_767_123_696)],
)
def test_the_shapes_of_published_models(shape, visual, side, parameters):
    stated = random_qwen.SHAPES[shape]
    spec, patch = ModelSpec(path="", max_pixels=side**2), {"patch_size": stated["vision_config"]["patch_size"]}
    sizes = model_config(stated, resizing_of(stated, Path(), patch, Path(), spec), Path())
    assert (sizes.visual_tokens, side_of(sizes)) == (visual, side) == (visual, random_qwen.SIDES[shape])
    tensors = described(stated["model_type"], text_section(stated, Path()), sizes).values()
    assert sum(map(math.prod, tensors)) == parameters
