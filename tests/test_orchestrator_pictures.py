"""Pictures are what the model saw, found by sample id alone, recorded beside a run and never at its cost."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import stub_engine
from fake_experiment import fake_engine, fake_manifest, fake_outcome, fake_points, fake_samples, write_fake_experiment
from orchestrator.followers import pictures as recorder
from orchestrator.followers.base import Answered
from orchestrator.followers.pictures import PictureRecorder
from orchestrator.run import RunOptions, run_sweep
from orchestrator.sweep.chosen_by import chosen_by
from orchestrator.sweep.prepare import prepare
from orchestrator.sweep.spec import load_sweep
from results.analysis.metrics import answers, flips
from results.experiment import Experiment
from results.pictures import Pictures, write_pictures
from workers.families.catalog import open_checkpoint
from workers.families.llava.anyres import Tiling
from workers.families.llava.loading import load_image_processor
from workers.families.llava.pixel_modes import MODES
from workers.families.llava.pixels import as_seen, to_pixels, to_tiles
from workers.images import encoded
from workers.work import GridPoint, ModelSpec, UnitOutcome, WorkUnit


@pytest.fixture
def processor(small_checkpoint: Path):
    return load_image_processor(open_checkpoint(ModelSpec(path=str(small_checkpoint))))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small image for each fake sample; that of s3 is damaged."""
    folder = tmp_path_factory.mktemp("images")
    for place in range(30):
        Image.new("RGB", (40, 30), (place * 8, 0, 0)).save(folder / f"{place}.png")
    (folder / "3.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_picture_is_what_the_model_saw(processor, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    seen = as_seen(image, mode, processor)
    pixels = torch.as_tensor(np.array(seen), dtype=torch.float32).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    tiling = Tiling(((56, 112), (112, 56)), tile=56, patch=14)
    given = to_tiles(image, tiling, processor)[0] if mode == "anyres" else to_pixels(image, mode, processor)
    torch.testing.assert_close((pixels - mean) / std, given, atol=1e-5, rtol=0)


def test_drawings_are_kept_without_loss_and_photographs_small() -> None:
    drawing = Image.new("RGB", (336, 336), (250, 250, 245))
    drawing.paste((214, 40, 40), (100, 100, 200, 200))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded(drawing))).convert("RGB")), np.asarray(drawing))
    assert len(encoded(drawing)) < 1000
    clouds = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert len(encoded(Image.fromarray(clouds).resize((336, 336)))) < 15_000  # 338,688 as pixels


def test_pictures_are_found_by_sample_id_of_this_experiment(tmp_path: Path) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=10)
    write_pictures(experiment, {"s1": b"one", "s2": b"two", "../s3": b"none of this benchmark"})
    other = Experiment(experiment.path, fake_manifest(experiment.points, seed=1))
    write_pictures(other, {"s4": b"of another sweep"})
    (experiment.path / "pictures" / "broken.parquet").write_bytes(b"PAR1")
    pictures = Pictures(experiment)
    assert pictures.samples == {"s1", "s2"}
    assert pictures.get("s2") == b"two"
    assert pictures.get("s4") is None
    assert pictures.get("../s3") is None
    write_pictures(experiment, {"s5": b"five"})
    assert pictures.get("s5") is None
    pictures.refresh()
    assert pictures.get("s5") == b"five"
    assert pictures.size_bytes > 0


def recorded(path: Path, images: Path, model: Path, limit: int, offered: bool) -> tuple[Experiment, str | None]:
    """An experiment that was run with a recorder."""
    samples = tuple(replace(sample, image=sample.image and images / sample.image.name) for sample in fake_samples(30))
    manifest = fake_manifest(fake_points(), engine=fake_engine(model=ModelSpec(path=str(model))))
    experiment = Experiment.create(path, manifest, samples)
    taker = PictureRecorder(experiment, samples, limit)
    for first in range(0, 30, 10):
        unit = WorkUnit(samples=tuple(f"s{place}" for place in range(first, first + 10)), points=fake_points())
        outcome = fake_outcome(unit)
        experiment.write(unit, outcome)
        if offered:
            taker.outcome(Answered(unit=unit, outcome=outcome))
    return experiment, taker.finish()


@pytest.mark.parametrize("offered", [False, True])
def test_recorder_takes_flipped_samples_up_to_the_limit(tmp_path, images, small_checkpoint, offered: bool) -> None:
    experiment, warning = recorded(tmp_path / "e", images, small_checkpoint, 8, offered)
    assert warning is None
    counts = flips(answers(experiment)).set_index("sample")["flips"]
    taken = Pictures(experiment).samples
    assert 7 <= len(taken) <= 8  # the damaged image may have been one of them
    assert counts[list(taken)].min() > 0
    image = Image.open(io.BytesIO(Pictures(experiment).get(next(iter(taken))) or b""))
    assert image.size == (56, 56)  # of the small checkpoint's vision tower
    if not offered:  # nothing was taken on the way, so these are the ones with most flips
        assert counts[list(taken)].min() >= counts.drop([*taken, "s3"]).max()


def test_recorder_fills_up_on_the_next_run_and_none_means_none(tmp_path, images, small_checkpoint) -> None:
    experiment, _ = recorded(tmp_path / "e", images, small_checkpoint, 5, True)
    before = Pictures(experiment).samples
    recorded(tmp_path / "e", images, small_checkpoint, 500, True)
    after = Pictures(experiment).samples
    assert before < after
    assert len(after) == 26  # 27 with an image, one of them damaged
    experiment, _ = recorded(tmp_path / "none", images, small_checkpoint, 0, True)
    assert not (experiment.path / "pictures").exists()


def test_a_model_without_processor_costs_pictures_and_nothing_else(tmp_path, images) -> None:
    experiment, warning = recorded(tmp_path / "e", images, tmp_path, 5, True)
    assert warning is not None
    assert warning.startswith("pictures were not recorded: ")
    assert "config.json" in warning
    assert len(experiment.cells()) == 30 * len(fake_points())


def test_a_disk_that_hangs_costs_pictures_and_nothing_else(tmp_path, images, small_checkpoint, monkeypatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(recorder, "PICTURE_S", 0.2)
    monkeypatch.setattr(PictureRecorder, "_is_there", lambda self, name: ended.wait(60))
    experiment, warning = recorded(tmp_path / "e", images, small_checkpoint, 5, offered=True)
    ended.set()
    assert "pictures were not recorded: nothing moved for" in (warning or "")
    assert len(experiment.cells())


def test_a_run_that_breaks_off_leaves_whole_pictures(tmp_path, images, small_checkpoint) -> None:
    samples = tuple(replace(sample, image=images / "1.png") for sample in fake_samples(10))
    experiment = Experiment.create(tmp_path / "e", fake_manifest(fake_points()), samples)
    recorder = PictureRecorder(experiment, samples, 5)
    unit = WorkUnit(samples=("s0",), points=fake_points())
    recorder.outcome(Answered(unit=unit, outcome=UnitOutcome(unit="x", outcomes=())))
    recorder.abandon()
    assert Pictures(experiment).samples == frozenset()


def test_run_says_what_a_choice_goes_by(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("model: embedded\ndata: embedded\ngrid:\n  - {strategy: fastv, layer: 2, rank: 16}\n")
    prepared = replace(prepare(load_sweep(sweep)), samples=fake_samples(4))
    options = RunOptions(local=True, engine=stub_engine.StubEngine)
    experiment = run_sweep(prepared, tmp_path / "e", options, Console(file=io.StringIO())).experiment
    said = [entry.chosen_by for entry in Experiment.open(experiment.path).manifest.points]
    assert said == ["", "chosen by the attention of the prompt's last token"]


@pytest.mark.parametrize(
    ("point", "words"),
    [
        (GridPoint(strategy="none", layer=8, rank=64), ""),
        (GridPoint(strategy="random", layer=2, rank=8), "drawn at random"),
        (GridPoint(strategy="random_per_image", layer=2, rank=8), "drawn at random, once for each image"),
        (
            GridPoint(strategy="fps", layer=2, rank=8, params=(("start", "drawn"),)),
            "chosen by the tokens' features and a draw",
        ),
        (GridPoint(strategy="first_k", layer=2, rank=8), "chosen by a fixed pattern of places"),
        (
            GridPoint(strategy="pool", layer=0, rank=64),
            "nothing is chosen: each place is the middle of what a row is made of; "
            "position ids are renumbered without gaps",
        ),
        (
            GridPoint(strategy="downsample", layer=0, rank=64),
            "the image was shown with fewer pixels; each place is the middle of what a token covers",
        ),
        (
            GridPoint(strategy="v2drop", layer=3, rank=288),
            "in stages: from layer 3 on 288, from layer 17 on 86 by the tokens' features and how a layer changes the "
            "image's tokens, from layer 22 on none; the picture shows what reached the last layer",
        ),
        (
            GridPoint(strategy="fitprune", layer=1, rank=99, params=(("left", "80-70-60-50"),)),
            "in stages: 5 from layer 1 to 5, 99 to 50 left, by the attention of the question's words and the attention "
            "of the image's tokens; the picture shows what reached the last layer",
        ),
        (GridPoint(strategy="cutoff", layer=2, rank=0), "every visual token is removed"),
        (GridPoint(strategy="vtw", layer=2, rank=0), "every visual token is removed"),
        (GridPoint(strategy="text_sum", layer=2, rank=8), "chosen by the attention of the question's words"),
        (GridPoint(strategy="fastv", layer=0, rank=8), "drawn at random: there is no attention before the first layer"),
        (
            GridPoint(strategy="tome_merged", layer=2, rank=8),
            "chosen by the tokens' features; each kept place also holds a weighted mean of all the others",
        ),
        (
            GridPoint(strategy="l2_norm", layer=0, rank=8),
            "chosen by the tokens' features; position ids are renumbered without gaps",
        ),
        (
            GridPoint(strategy="l2_norm", layer=0, rank=8, positions="keep"),
            "chosen by the tokens' features; position ids stay those of the whole image",
        ),
        (
            GridPoint(strategy="text_sum", layer=2, rank=8, positions="compact"),
            "chosen by the attention of the question's words; position ids are renumbered without gaps",
        ),
        (
            GridPoint(strategy="himap", layer=2, rank=288, params=(("cutoff_layer", 20),)),
            "in stages: from layer 2 on 288 by the attention of the question's words, from layer 8 on 72 by the "
            "attention of the image's tokens, from layer 20 on none; the picture shows what reached the last layer",
        ),
    ],
    ids=lambda value: value.strategy if isinstance(value, GridPoint) else "",
)
def test_what_a_choice_goes_by(point: GridPoint, words: str) -> None:
    assert chosen_by(point) == words
