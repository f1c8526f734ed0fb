"""The engine on a CUDA device: its kernels against their plain form, and the whole against the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch

from small_intern import make_intern
from small_llava import make_checkpoint
from small_onevision import make_onevision
from small_qwen import KINDS, make_qwen, noise
from strategies.catalog import CATALOG
from strategies.greedy import greedy_coverage, greedy_determinant
from strategies.rank import effective_rank
from strategies.thinning import thinned
from test_workers_engine import make_engine
from workers import attention, flash, memory, singular
from workers.engine import Engine
from workers.families.catalog import load_model
from workers.latency import measure_latency, prepare_prompts
from workers.memory import Budget
from workers.runnable import complaint
from workers.singular import singular_values
from workers.spectra import MATRICES
from workers.upload import MOST_BYTES, Download, to_device
from workers.work import (
    EngineSpec,
    GridPoint,
    MeasureSpec,
    ModelSpec,
    SpectrumSpec,
    TaskSpec,
    WorkUnit,
    unpruned_point,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

HERE = torch.device("cuda")

POINTS = (
    unpruned_point(4, 16),
    *(
        GridPoint(strategy=name, layer=layer, rank=rank)
        for name in ("fastv", "text_weighted", "random", "divprune")
        for layer in (0, 1, 2, 4)
        if complaint(CATALOG[name], {}, layer=layer) is None
        for rank in (0, 3, 9, 16)
    ),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("cuda"), seed=5, layers=4, hidden=128, end_bias=-0.9)


def cuda_engine(checkpoint, data, dtype: str) -> Engine:
    cpu = make_engine(checkpoint, data)
    spec = replace(cpu.spec, model=ModelSpec(path=str(checkpoint), dtype=dtype))
    return Engine.load(spec, device="cuda", micro_batch=3)


def logits(engine: Engine) -> dict:
    unit = WorkUnit(samples=("1", "2", "3", "6"), points=POINTS)
    outcome = engine.run(unit)
    assert outcome.failures == ()
    return {(cell.sample, cell.point): cell for cell in outcome.outcomes}


def test_fp32_equals_the_cpu(checkpoint, small_scienceqa):
    """Kept tokens and answers equal; logits within 1e-3, since the weights are scaled up and TF32 is off."""
    slow = logits(make_engine(checkpoint, small_scienceqa))
    fast = logits(cuda_engine(checkpoint, small_scienceqa, "float32"))
    for key, cell in slow.items():
        assert fast[key].kept_mask == cell.kept_mask
        assert fast[key].answer == cell.answer
        assert fast[key].option_logits == pytest.approx(cell.option_logits, abs=1e-3)


FAMILIES = {
    **{kind: (partial(make_qwen, kind=kind), "native") for kind in KINDS},
    "internvl": (make_intern, "tiles"),
    "onevision": (make_onevision, "anyres"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_equal_the_cpu(tmp_path, small_scienceqa, family):
    """Images that differ in their tokens, in windows or tiles, or are several in a prompt; positions of three parts."""
    make, image_mode = FAMILIES[family]
    model = ModelSpec(path=str(make(tmp_path)), image_mode=image_mode)
    task = TaskSpec(name="scienceqa", data=str(small_scienceqa), conversation="chat_template")
    spec, found = EngineSpec(model=model, task=task, max_new_tokens=3), {}
    points = tuple(
        GridPoint(strategy=name, layer=layer, rank=4)
        for name, layer in (("fastv", 1), ("sparsevlm_stage", 1), ("divprune", 0), ("hiprune", 0), ("random", 2))
    )
    for device, micro_batch in (("cpu", 1), ("cuda", 6)):
        engine = Engine.load(spec, device=device, micro_batch=micro_batch)
        one, other = engine.samples["1"], engine.samples["3"].image
        for id, question in (("both", "which is red ?"), ("among", "is <image> or <image> red ?")):
            engine.samples[id] = replace(one, id=id, question=question, more=(other,))
        outcome = engine.run(WorkUnit(samples=tuple(engine.samples), points=points))
        assert outcome.failures == ()
        found[device] = {(cell.sample, cell.point): cell for cell in outcome.outcomes}
    for key, cell in found["cpu"].items():
        assert (found["cuda"][key].kept_mask, found["cuda"][key].answer) == (cell.kept_mask, cell.answer)
        assert found["cuda"][key].option_logits == pytest.approx(cell.option_logits, abs=1e-3)


def test_the_tower_of_qwen_in_half_precision_is_that_in_float32(tmp_path):
    """By the decoder's kernels, its windows together, its feed-forward padded; 8 bits through two layers."""
    path = str(make_qwen(tmp_path, "qwen2_5_vl"))
    seen = {}
    for device, dtype in (("cpu", "float32"), ("cuda", "bfloat16")):
        model = load_model(ModelSpec(path=path, image_mode="native", dtype=dtype), device)
        text = model.chat("what colour is the square ?", 1)
        prompts = [model.encode(text, noise(size), "native", whole=True) for size in ((100, 150), (168, 84))]
        with torch.no_grad():
            seen[device] = torch.cat([rows.float().cpu() for rows in model.image_features(prompts)])
    assert (seen["cuda"] - seen["cpu"]).norm() < 0.02 * seen["cpu"].norm()


def test_kernels_equal_their_plain_form():
    """One rounding to bfloat16 instead of several: 2 units in the last place of 8 bits."""
    from workers.kernels import gated_silu, rms_norm, rotate

    generator = torch.Generator().manual_seed(0)
    for rows, width, heads in ((1, 64, 1), (37, 160, 5), (37, 240, 3), (301, 4096, 32)):
        x = torch.randn(rows, width, generator=generator)
        w = torch.randn(width, generator=generator)
        angle = torch.rand(rows, 1, width // heads // 2, generator=generator) * 6
        cos, sin = (f(angle).repeat(1, 1, 2) for f in (torch.cos, torch.sin))
        x, w, cos, sin = (t.bfloat16() for t in (x, w, cos, sin))
        on = [t.cuda() for t in (x, w, cos, sin)]
        pairs = (
            (rms_norm(on[0], on[1], 1e-5), rms_norm(x.float(), w.float(), 1e-5)),
            (
                rms_norm(on[0].view(rows, heads, -1), on[1][: width // heads], 1e-5),  # of each head
                rms_norm(x.float().view(rows, heads, -1), w.float()[: width // heads], 1e-5),
            ),
            (gated_silu(on[0]), gated_silu(x.float())),
            (
                rotate(on[0].clone().view(rows, heads, -1), on[2], on[3]),
                rotate(x.float().view(rows, heads, -1), cos.float(), sin.float()),
            ),
        )
        for fast, plain in pairs:
            torch.testing.assert_close(fast.cpu().float(), plain, rtol=0.016, atol=0.01)
    strided = torch.randn(50, 12, 32, generator=generator).bfloat16().cuda()
    turn = torch.rand(50, 1, 32, generator=generator).bfloat16().cuda()
    expected = rotate(strided[:, :4].contiguous().clone(), turn, turn)
    untouched = strided[:, 4:].clone()
    assert torch.equal(rotate(strided[:, :4], turn, turn), expected)
    assert torch.equal(strided[:, 4:], untouched)


# What each attends to before rows of its own, as (whose first rows, how many), and how many are its own.
TWO_RUNS = (
    ((), 70),
    ((), 150),
    (((0, 5),), 65),
    (((1, 35),), 94),
    (((1, 35),), 1),
    (((0, 64),), 64),
    ((), 1),
)
THREE_RUNS = (
    *TWO_RUNS,
    (((0, 5), (1, 150)), 30),
    (((1, 35), (3, 94)), 94),
    (((1, 35), (2, 1)), 1),
    (((0, 64), (5, 64)), 70),
)


def packed(sequences, heads: int, groups: int, width: int, dtype: torch.dtype = torch.bfloat16):
    """Rows of some sequences, and where their keys lie."""
    starts = [sum(own for _, own in sequences[:place]) for place in range(len(sequences))]
    own = [slice(start, start + rows) for start, (_, rows) in zip(starts, sequences, strict=True)]
    runs = [
        (*(slice(starts[whose], starts[whose] + count) for whose, count in shared), rows)
        for rows, (shared, _) in zip(own, sequences, strict=True)
    ]
    query = torch.randn(own[-1].stop, heads, width, device="cuda", dtype=dtype)
    keys_values = torch.randn(own[-1].stop, 2 * groups, width, device="cuda", dtype=dtype)
    return query, keys_values[:, :groups], keys_values[:, groups:], own, runs


@pytest.mark.parametrize(("heads", "groups", "width"), [(2, 2, 16), (4, 2, 32), (32, 32, 128), (28, 4, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sequences", [TWO_RUNS, THREE_RUNS])
def test_flash_prefill_equals_sdpa(heads, groups, width, dtype, sequences):
    """Weights are rounded to 8 (11) bits before the second product, as in any flash kernel: 0.02 for values near 1."""
    torch.manual_seed(0)
    query, key, value, own, runs = packed(sequences, heads, groups, width, dtype)
    table = flash.tiles([flash.block(*one) for one in zip(own, runs, strict=True)], flash.PREFILL_TILE).cuda()
    out = flash.flash_prefill(query, key, value, table, width**-0.5)
    for rows, keys in zip(own, runs, strict=True):
        parts = [torch.cat([source[run] for run in keys]).float() for source in (key, value)]
        expected = attention.attend_one(query[rows].float(), *parts, width**-0.5)
        torch.testing.assert_close(out[rows].float(), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize(("tokens", "keep"), [(40, 12), (576, 192), (1100, 30)])
def test_greedy_choices_in_one_program_equal_the_plain_form(tokens, keep):
    """Sums in another order: the same rows here, since random ones are far from ties."""
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(3, tokens, 256, generator=generator, dtype=torch.float64), dim=-1)
    likeness, weight = (unit @ unit.mT).float(), torch.rand(3, tokens, generator=generator)
    for choose in (greedy_determinant, greedy_coverage):
        plain, fast = choose(likeness.clone(), weight, keep), choose(likeness.cuda(), weight.cuda(), keep)
        assert torch.equal(fast.cpu(), plain)


@pytest.mark.parametrize(("tokens", "keep"), [(9, 2), (41, 1), (576, 32), (576, 96), (1101, 160)])
@pytest.mark.parametrize("ties", [False, True])
def test_a_list_thinned_in_one_program_is_that_of_the_plain_form(tokens, keep, ties):
    """To the last token, among equal likenesses too: nothing is summed. Lists are as long as each image has patches."""
    generator = torch.Generator().manual_seed(tokens)
    unit = torch.nn.functional.normalize(torch.randn(3, tokens, 64, generator=generator), dim=-1)
    likeness = (unit @ unit.mT).mul(8).round() if ties else unit @ unit.mT
    order = torch.stack([torch.randperm(tokens, generator=generator) for _ in range(3)])[:, 2:]
    length = torch.tensor([tokens - 2, tokens - 5, keep])
    plain = thinned(likeness, order, length, keep, 8)
    assert thinned(likeness.cuda(), order.cuda(), length.cuda(), keep, 8).tolist() == plain.tolist()


@pytest.mark.parametrize("decoded", [0, 1, 5])
@pytest.mark.parametrize("sequences", [TWO_RUNS, THREE_RUNS])
def test_flash_decode_equals_sdpa(decoded, sequences):
    torch.manual_seed(0)
    heads, groups, width = 8, 4, 64
    _, key, value, _, runs = packed(sequences, heads, groups, width)
    counts = [7 * place % 37 + 1 for place in range(len(runs))]
    total = sum(counts)
    order = torch.randperm(total)
    query = torch.randn(total, heads, width, device="cuda", dtype=torch.bfloat16)
    tails = torch.randn(2, total, decoded, groups, width, device="cuda", dtype=torch.bfloat16)
    places = [slice(sum(counts[:place]), sum(counts[: place + 1])) for place in range(len(counts))]
    table = flash.tiles(
        [flash.block(*one) for one in zip(places, runs, strict=True)], flash.DECODE_TILE, causal=False
    ).cuda()
    own = (tails[0], tails[1]) if decoded else None
    out = torch.empty_like(query)
    flash.flash_decode(query, order.cuda(), key, value, table, own, width**-0.5, out)
    for place, keys in zip(places, runs, strict=True):
        for n in order[place].tolist():
            sources = ((key, tails[0, n]), (value, tails[1, n]))
            parts = [torch.cat([*(rows[run] for run in keys), tail]).float() for rows, tail in sources]
            expected = attention.attend_one(query[n : n + 1].float(), *parts, width**-0.5)
            torch.testing.assert_close(out[n : n + 1].float(), expected, atol=0.02, rtol=0)


def test_flash_equals_one_call_a_stream(checkpoint, small_scienceqa, monkeypatch):
    """In bfloat16 both round attention outputs to 8 bits: kept tokens may differ where scores nearly tie."""
    engine = cuda_engine(checkpoint, small_scienceqa, "bfloat16")
    engine.micro_batch = None  # planned
    assert flash.uses_flash(torch.zeros(1, engine.model.decoder.head_dim, device="cuda", dtype=torch.bfloat16))
    fast = logits(engine)
    monkeypatch.setattr(attention, "uses_flash", lambda rows: False)
    plain = logits(engine)
    same = [key for key in plain if plain[key].kept_mask == fast[key].kept_mask]
    assert len(same) >= 0.95 * len(plain)
    for key in same:
        scale = max(map(abs, plain[key].option_logits))
        assert fast[key].option_logits == pytest.approx(plain[key].option_logits, abs=0.04 * scale + 0.05)


def test_lanes_change_nothing(checkpoint, small_scienceqa, monkeypatch):
    """The same micro-batches, side by side or one after another: equal to the last bit."""
    monkeypatch.setattr(memory, "LANES", 1)
    alone = logits(cuda_engine(checkpoint, small_scienceqa, "bfloat16"))
    monkeypatch.setattr(memory, "LANES", 2)
    assert logits(cuda_engine(checkpoint, small_scienceqa, "bfloat16")) == alone


def test_units_that_share_micro_batches_answer_as_alone(checkpoint, small_scienceqa):
    """Two of one sample at a time share none, others do: float32, so nothing but the last bits may differ."""
    engine = cuda_engine(checkpoint, small_scienceqa, "float32")
    alone = logits(engine)
    units = [WorkUnit(samples=samples, points=POINTS) for samples in (("1", "2"), ("3", "6"), ("2", "1"), ("6",))]
    with ThreadPoolExecutor(4) as callers:
        for unit, outcome in zip(units, callers.map(engine.run, units), strict=True):
            assert list(dict.fromkeys(cell.sample for cell in outcome.outcomes)) == list(unit.samples)
            assert len(outcome.outcomes) == len(unit.samples) * len(POINTS)
            for cell in outcome.outcomes:
                same = alone[cell.sample, cell.point]
                assert (cell.kept_mask, cell.answer) == (same.kept_mask, same.answer)
                assert cell.option_logits == pytest.approx(same.option_logits, abs=1e-3)


@pytest.mark.parametrize("rows", [1, 150, 400])
def test_waves_equal_one_wave(checkpoint, small_scienceqa, rows):
    """Given prefixes, forks that enter later, and caches of several waves, by the kernels of half precision."""
    engine = cuda_engine(checkpoint, small_scienceqa, "bfloat16")
    whole = logits(engine)
    engine.budget = Budget(rows, 10**12)
    waves = logits(engine)
    same = [key for key in whole if whole[key].kept_mask == waves[key].kept_mask]
    assert len(same) >= 0.95 * len(whole)
    for key in same:
        scale = max(map(abs, whole[key].option_logits))
        assert waves[key].option_logits == pytest.approx(whole[key].option_logits, abs=0.04 * scale + 0.05)
    engine = cuda_engine(checkpoint, small_scienceqa, "float32")
    whole = logits(engine)
    engine.budget = Budget(rows, 10**12)
    for key, cell in logits(engine).items():
        assert (cell.kept_mask, cell.answer) == (whole[key].kept_mask, whole[key].answer)
        assert cell.option_logits == pytest.approx(whole[key].option_logits, abs=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 200, None])
def test_questions_about_an_image_answer_as_if_each_showed_its_own(checkpoint, small_scienceqa, dtype, rows):
    """In one wave and in many, by the kernels of half precision too; images go through the tower in either lane."""
    engine = cuda_engine(checkpoint, small_scienceqa, dtype)
    of_image = engine.samples
    engine.samples = {
        f"{id}{number}": replace(of_image[id], id=f"{id}{number}", question=of_image[id].question + " square" * number)
        for id in ("1", "2", "6")
        for number in range(4)
    }
    engine.micro_batch, engine.budget = 5, None if rows is None else Budget(rows, 10**12)
    unit, found = WorkUnit(samples=tuple(engine.samples), points=POINTS), []
    for engine.shares_images in (False, True):
        outcome = engine.run(unit)
        assert outcome.failures == ()
        found.append({(cell.sample, cell.point): cell for cell in outcome.outcomes})
    apart, shared = found
    same = [key for key in apart if apart[key].kept_mask == shared[key].kept_mask]
    assert len(same) >= (1 if dtype == "float32" else 0.95) * len(apart)
    for key in same:
        scale = max(map(abs, apart[key].option_logits)) if dtype == "bfloat16" else 0
        tolerance = 1e-3 if dtype == "float32" else 0.04 * scale + 0.05
        assert shared[key].option_logits == pytest.approx(apart[key].option_logits, abs=tolerance)
        assert dtype == "bfloat16" or shared[key].answer == apart[key].answer


def test_spectra_equal_float64_svds():
    """Every size of the experiments, together: squares within a few rounding errors of the largest, none left over."""
    sizes = (576, 1, 7, 8, 64, 65, 288, 289, 300, 566, 575, 600, 729)
    blocks = [attention_blocks(2, size, seed=size).cuda() for size in sizes]
    blocks.append(torch.randn(3, 576, 4096, device="cuda").bfloat16())
    blocks[4][1, 3, 2] = torch.nan
    assert singular._largest_size(blocks[0].device) >= 576
    found = singular_values(blocks).cpu()
    rows = [matrix for block in blocks for matrix in block.double().cpu()]
    for row, matrix in zip(found, rows, strict=True):
        if not matrix.isfinite().all():
            assert row.isnan().all()
            continue
        values = torch.linalg.svdvals(matrix)
        own = row[: len(values)]
        assert (row[len(values) :] == 0).all()
        torch.testing.assert_close(own**2, values**2, rtol=1e-10, atol=5e-14 * float(values[0]) ** 2)
        assert effective_rank(own, 2) == pytest.approx(float(effective_rank(values, 2)), rel=1e-5)
    assert torch.equal(singular_values(blocks).cpu().nan_to_num(), found.nan_to_num())  # nothing depends on timing


def test_spectra_of_the_engine_equal_the_cpu(checkpoint, small_scienceqa):
    """Float32 forwards of different kernels; the spectra are computed beside the next micro-batch."""
    spectra = tuple(
        SpectrumSpec(matrix=matrix, layer=layer, threshold=1e-5, power=2) for matrix in MATRICES for layer in (0, 3)
    )
    measure = MeasureSpec(spectra=spectra)
    slow_engine = make_engine(checkpoint, small_scienceqa, measure=measure)
    fast_engine = Engine.load(
        replace(slow_engine.spec, model=ModelSpec(path=str(checkpoint), dtype="float32")), device="cuda", micro_batch=2
    )
    slow, fast = logits(slow_engine), logits(fast_engine)
    for key, cell in slow.items():
        expected, found = dict(cell.measures), dict(fast[key].measures)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            if name.endswith(("effective_rank", "stable_rank")):
                assert found[name] == pytest.approx(value, rel=1e-3), name


def attention_blocks(batch: int, size: int, seed: int) -> torch.Tensor:
    scores = 2 * torch.randn(batch, size, size, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(size, size).triu(1).bool(), -torch.inf).softmax(dim=-1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("rows", [150, 400, 10**6])
def test_caches_in_host_memory_equal_those_on_the_device(checkpoint, small_scienceqa, dtype, rows):
    """Copied both ways beside what is computed; each wave but the last decodes beside the next one's prefill.

    One wave is the same to the last bit; several are cut by sample, so products have other numbers of rows.
    """
    engine = cuda_engine(checkpoint, small_scienceqa, dtype)
    engine.budget = Budget(rows, 10**12, 10**12)
    here, own = logits(engine), engine.row
    for away in (False, True, True):  # the second time in host memory that has been used
        engine.row = own.riding(away)
        found = logits(engine)
        if not away or rows == 10**6:
            assert found == here
        for key, cell in found.items():
            assert (cell.kept_mask, cell.answer) == (here[key].kept_mask, here[key].answer)
            assert cell.option_logits == pytest.approx(here[key].option_logits, abs=1e-3 if dtype == "float32" else 0.1)


@pytest.mark.parametrize("away", [1, 3, 4])
def test_layers_in_host_memory_change_no_bit(checkpoint, small_scienceqa, away):
    """Copies run on a sequence of their own, beside the layers that are computed."""
    cpu = make_engine(checkpoint, small_scienceqa)
    specs = [replace(cpu.spec, model=ModelSpec(path=str(checkpoint), offload=count)) for count in (0, away)]
    here, there = (Engine.load(spec, device="cuda", micro_batch=3) for spec in specs)
    assert there.model.decoder.layers.away == away
    for budget in (None, Budget(150, 10**12)):
        here.budget = there.budget = budget
        assert logits(there) == logits(here)


def test_parts_of_the_time_to_the_first_token_are_told_apart(checkpoint, small_scienceqa):
    """By events in the stream: each part is there, and together they are no more than the host's clock says."""
    engine = cuda_engine(checkpoint, small_scienceqa, "bfloat16")
    point = GridPoint(strategy="fastv", layer=1, rank=4)
    prompts = prepare_prompts(engine.model, [engine.samples["1"]], engine.spec.task, "pad", [point])
    for one in measure_latency(engine.model, prompts, [point], repeats=2, warmup=1, decode_tokens=2):
        parts = [one.tower_ms.mean, one.projector_ms.mean, one.selector_ms.mean, one.prefill_ms.mean]
        assert [part > 0 for part in parts] == [True, True, one.point == point, True]
        assert sum(parts) == pytest.approx(one.first_token_ms.mean)
        assert one.peak_gib is not None


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float64, torch.float32, torch.bool, torch.uint8])
def test_bookkeeping_arrives_whatever_its_kind_and_size(dtype):
    for shape in ((0,), (), (1,), (3, 7), (1025,), (MOST_BYTES // 4 + 3,)):
        host = torch.randint(0, 100, shape).to(dtype)
        there = to_device(host.T if host.dim() == 2 else host, HERE)
        assert there.device.type == "cuda"
        assert there.dtype == dtype
        assert torch.equal(there.cpu(), host.T if host.dim() == 2 else host)
    rows = torch.arange(5).expand(3, -1)  # rows that are one
    first, second = Download(to_device(rows, HERE), to_device(torch.tensor(True), HERE)).read()
    assert first == rows.tolist()
    assert second is True


def test_bookkeeping_that_waits_to_be_read_is_not_written_over():
    """More of it than the pinned memory holds, by three threads with a stream each, while the device is busy."""
    busy = torch.randn(4096, 4096, device=HERE)

    def send(thread: int) -> bool:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                busy @ busy
            tables = [torch.arange(250_000) * (thread + 1) + number for number in range(12)]
            there = [to_device(table, HERE) for table in tables]
            return all(torch.equal(one.cpu(), table) for one, table in zip(there, tables, strict=True))

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(send, range(3)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotations_from_the_table_are_those_of_transformers(checkpoint, dtype):
    decoder = load_model(ModelSpec(path=str(checkpoint), dtype=dtype), "cuda").decoder
    positions = torch.randint(5000, (1, 700), device=HERE)
    for here, there in zip(decoder.rotary(positions, 5000), decoder.rotary(positions), strict=True):
        assert torch.equal(here, there)


def test_bookkeeping_does_not_wait_for_copies_that_are_on_their_way():
    """A gigabyte takes 20 ms or more; what comes after it by the copy engine comes after all of it."""
    to_device(torch.arange(9), HERE)  # compiled
    large, room = (
        torch.empty(2**30, dtype=torch.uint8, pin_memory=True),
        torch.empty(2**30, dtype=torch.uint8, device=HERE),
    )
    copying = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(copying):
        room.copy_(large, non_blocking=True)
        copied = copying.record_event()
    there = to_device(torch.arange(1000), HERE)
    torch.cuda.current_stream().synchronize()
    assert not copied.query()
    assert torch.equal(there.cpu(), torch.arange(1000))
