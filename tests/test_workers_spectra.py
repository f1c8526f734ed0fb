"""Spectra of the engine's own forward against float64 SVDs of what a plain eager forward returns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from small_llava import make_checkpoint
from test_workers_engine import make_engine
from workers import spectra
from workers.encoding import encode_sample
from workers.engine import Engine
from workers.singular import singular_values
from workers.spectra import MEASURES
from workers.work import GridPoint, MeasureSpec, SpectrumSpec, WorkUnit, unpruned_point

MATRICES = ("attention_weights", "attention_output", "hidden_states", "hidden_states_prenorm")
SPECTRA = tuple(
    SpectrumSpec(matrix=matrix, layer=layer, threshold=1e-6 if matrix == "attention_weights" else 1e-5, power=power)
    for matrix, power in zip(MATRICES, (2, 2, 1, 2), strict=True)
    for layer in (0, 1)
)


@pytest.fixture(scope="module")
def engine(small_checkpoint, small_scienceqa) -> Engine:
    return make_engine(small_checkpoint, small_scienceqa, measure=MeasureSpec(spectra=SPECTRA, spectra_samples=3))


def reference(matrices: torch.Tensor, spec: SpectrumSpec) -> dict[str, float]:
    """Means by the book: float64 SVD, S2's definitions."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for matrix in matrices.double():
        values = torch.linalg.svdvals(matrix)
        share = values**spec.power / (values**spec.power).sum()
        share = share[share > 1e-12]
        entropy = float(-(share * share.log()).sum())
        found["numerical_rank"].append(float((values > spec.threshold * values.max()).sum()))
        found["effective_rank"].append(math.exp(entropy))
        found["spectral_entropy"].append(entropy)
        found["stable_rank"].append(float((values**2).sum() / values.max() ** 2))
        found["top_8_energy"].append(float((values[:8] ** 2).sum() / (values**2).sum()))
        found["log10_condition"].append(min(8.0, math.log10(values.max() / values.min())))
    return {name: sum(numbers) / len(numbers) for name, numbers in found.items()}


def eager_matrices(engine: Engine, sample_id: str, kept_after_first: list[int]) -> dict[tuple[str, int], torch.Tensor]:
    """The four matrices of both layers of the two-layer model, by transformers' own layers; layer 1 sees ``kept``."""
    sample = engine.samples[sample_id]
    decoder = engine.model.decoder.module
    prompt = encode_sample(engine.model, sample, engine.spec.task, "pad")
    (image,) = engine.model.image_features([prompt])
    embedded = engine.model.decoder.embed(torch.tensor(prompt.ids))
    start = prompt.system
    hidden = torch.cat((embedded[:start], image, embedded[start + prompt.visual :]))[None]
    rows = list(range(hidden.shape[1]))
    visual = list(range(start, start + image.shape[0]))
    positions = torch.arange(len(rows))
    found = {}
    decoder.config._attn_implementation = "eager"
    try:
        for index, layer in enumerate(decoder.layers):
            if index == 1:
                dropped = {start + v for v in range(image.shape[0])} - {start + v for v in kept_after_first}
                alive = [row for row in rows if row not in dropped]
                hidden, positions = hidden[:, alive], positions[alive]
                visual = list(range(start, start + len(kept_after_first)))
            size = hidden.shape[1]
            mask = torch.full((size, size), torch.finfo(torch.float32).min).triu(1)[None, None]
            rotary = decoder.rotary_emb(hidden, positions[None])
            attended, weights = layer.self_attn(
                layer.input_layernorm(hidden), position_embeddings=rotary, attention_mask=mask
            )
            hidden = hidden + attended
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            found["attention_weights", index] = weights[0][:, visual][:, :, visual]
            found["attention_output", index] = attended[:, visual]
            found["hidden_states_prenorm", index] = hidden[:, visual]
            found["hidden_states", index] = (decoder.norm(hidden) if index == 1 else hidden)[:, visual]
    finally:
        decoder.config._attn_implementation = "sdpa"
    return found


@pytest.mark.parametrize("rank", [16, 9, 3, 1])
@torch.inference_mode()
def test_spectra_equal_float64_svds_of_an_eager_forward(engine, rank):
    """Within 1e-4 (float32 forwards of different shape), the condition within 1e-2; numerical rank equal."""
    point = GridPoint(strategy="evenly_spaced", layer=1, rank=rank)
    (cell,) = engine.run(WorkUnit(samples=("2",), points=(point,))).outcomes
    kept = [i for i in range(16) if cell.kept_mask[i // 8] >> (7 - i % 8) & 1]
    assert len(kept) == rank
    measured = dict(cell.measures)
    assert len(measured) == len(MEASURES) * len(SPECTRA)
    matrices = eager_matrices(engine, "2", kept)
    for spec in SPECTRA:
        expected = reference(matrices[spec.matrix, spec.layer], spec)
        place = f"{spec.matrix}.{spec.layer}"
        assert measured[f"{place}.numerical_rank"] == expected.pop("numerical_rank"), place
        condition = pytest.approx(expected.pop("log10_condition"), abs=1e-2)
        assert measured[f"{place}.log10_condition"] == condition, place
        for name, value in expected.items():
            assert measured[f"{place}.{name}"] == pytest.approx(value, rel=1e-4, abs=1e-6), (place, name)


def test_no_visual_token_has_rank_zero(engine):
    (cell,) = engine.run(WorkUnit(samples=("2",), points=(GridPoint(strategy="cutoff", layer=1, rank=0),))).outcomes
    measured = dict(cell.measures)
    assert measured["attention_weights.1.effective_rank"] == 0
    assert measured["hidden_states.1.numerical_rank"] == 0
    assert "hidden_states.1.spectral_entropy" not in measured  # of nothing
    assert measured["attention_weights.0.effective_rank"] > 1  # before the fork the image is still there


def test_only_the_asked_samples_are_measured(engine):
    cells = engine.run(WorkUnit(samples=("1", "3", "4", "6"), points=(unpruned_point(2, 16),))).outcomes
    assert [bool(cell.measures) for cell in cells] == [True, True, False, False]


def test_the_first_image_questions_are_measured_wherever_text_questions_stand(
    engine, small_checkpoint, small_scienceqa
):
    samples = [engine.samples[id] for id in ("6", "1", "2")]  # the first has no image
    spec = replace(engine.spec, measure=replace(engine.spec.measure, spectra_samples=1))
    assert Engine(spec, engine.model, samples, 1).spectra_samples == {"1"}


def test_a_sample_without_spectrum_is_a_record(small_checkpoint, small_scienceqa, monkeypatch):
    """NaN in one sequence of one sample: that sample fails by its name, its neighbour in the micro-batch does not."""
    engine = make_engine(small_checkpoint, small_scienceqa, measure=MeasureSpec(spectra=SPECTRA[:2]))
    engine.micro_batch = 2
    real = spectra.visual_block

    def broken(query, key, packing, sequence, scale):
        block = real(query, key, packing, sequence, scale)
        return block.fill_(torch.nan) if sequence.sample == 1 and sequence.visual == 4 else block

    monkeypatch.setattr(spectra, "visual_block", broken)
    points = (GridPoint(strategy="fastv", layer=1, rank=9), GridPoint(strategy="fastv", layer=1, rank=4))
    found = engine.run(WorkUnit(samples=("1", "3", "4"), points=points))
    assert [cell.sample for cell in found.outcomes] == ["1", "1", "4", "4"]
    (failure,) = found.failures
    assert failure.sample == "3"
    assert "sample 3: attention_weights of layer 1 (4 visual tokens kept) hold NaN" in failure.message
    assert found.notes == ()  # nothing was computed twice


def test_answers_do_not_depend_on_measuring(engine, small_checkpoint, small_scienceqa):
    points = (unpruned_point(2, 16), GridPoint(strategy="fastv", layer=1, rank=4))
    plain = make_engine(small_checkpoint, small_scienceqa)
    unit = WorkUnit(samples=("1", "2"), points=points)
    for measured, cell in zip(engine.run(unit).outcomes, plain.run(unit).outcomes, strict=True):
        assert cell.option_logits == pytest.approx(measured.option_logits, abs=1e-4)
        assert replace(measured, measures=(), option_logits=(), margin=0) == replace(cell, option_logits=(), margin=0)


def test_quality_measures(small_checkpoint, small_scienceqa):
    engine = make_engine(small_checkpoint, small_scienceqa, measure=MeasureSpec(quality=True))
    points = (GridPoint(strategy="fastv", layer=1, rank=4), GridPoint(strategy="divprune", layer=0, rank=4))
    scored, spread = engine.run(WorkUnit(samples=("1",), points=points)).outcomes
    named = dict(scored.measures)
    assert 0 < named["concentration.normalised_entropy"] <= 1
    assert 4 / 16 <= named["concentration.top_mass"] <= 1
    assert 1 <= named["diversity.effective_rank"] <= 4
    assert not [name for name, _ in spread.measures if name.startswith("concentration")]  # divprune has no scores
    assert dict(spread.measures)["diversity.min_distance"] >= named["diversity.min_distance"]


def test_concentration_is_that_of_the_last_choice(tmp_path, small_scienceqa):
    """A second stage that keeps nothing has no scores; those of the first are not shown in their place."""
    checkpoint = make_checkpoint(tmp_path, layers=3)
    engine = make_engine(checkpoint, small_scienceqa, measure=MeasureSpec(quality=True))
    params = (("second_layer", 2), ("second_rank", 0))
    points = (
        GridPoint(strategy="text_sum", layer=1, rank=8),
        GridPoint(strategy="himap", layer=1, rank=8, params=params),
    )
    first, both = engine.run(WorkUnit(samples=("1",), points=points)).outcomes
    assert "concentration.gini" in dict(first.measures)
    assert both.tokens_kept == 0
    assert "concentration.gini" not in dict(both.measures)


def test_gram_resolves_the_experiments_thresholds():
    """Known spectra down to 1e-6 of the largest: relative error below 1e-3 there, far less above."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(3, 40, 30, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(3, 30, 30, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0, -6, 30, dtype=torch.float64)
    matrices = left * values @ right.mT
    for form in (matrices, matrices.mT):
        found = singular_values((form,))
        torch.testing.assert_close(found, values.expand(3, -1), rtol=1e-3, atol=0)
        torch.testing.assert_close(found[:, :20], values.expand(3, -1)[:, :20], rtol=1e-7, atol=0)
