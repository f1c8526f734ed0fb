"""A benchmark whose questions have several images, from the sweep file to the explorer."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dashboards.explorer import sample_documents
from dashboards.kept_picture import kept_picture
from orchestrator.recompute import recompute
from orchestrator.run import RunOptions, run_sweep
from orchestrator.show import PlainConsole
from orchestrator.sweep.plan import prompt_lengths
from orchestrator.sweep.prepare import Prepared, prepare
from orchestrator.sweep.spec import load_sweep
from own_tasks import forgotten_tasks
from results.pictures import Pictures
from small_qwen import make_qwen, noise
from strategies.errors import SaccadeError
from workers.image_digests import image_digests

PAIRS = """
from pathlib import Path
from workers.tasks.base import Sample

def load(spec):
    a, b, c = (Path(spec.data) / f"{name}.png" for name in "abc")
    asked = {
        "one": ("what is it ?", a, ()), "two": ("which is red ?", a, (b,)), "again": ("which is blue ?", a, (b,)),
        "placed": ("is <image> or <image> red ?", b, (a,)), "lost": ("is <image> red ?", b, (c, a)),
    }
    return [Sample(id=id, question=question, choices=("red", "blue"), label="A", image=image, more=more)
            for id, (question, image, more) in asked.items()]
"""


@pytest.fixture
def sweep(tmp_path: Path):
    (tmp_path / "pairs.py").write_text(PAIRS)
    for name, size in (("a", (60, 90)), ("b", (84, 56)), ("c", (30, 30))):
        noise(size).save(tmp_path / f"{name}.png")
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"model: {make_qwen(tmp_path / 'model')}\ndata: {tmp_path}\ntask: ./pairs.py:load\nmax_new_tokens: 2\n"
        "grid: [{strategy: [fastv, random_per_image], layer: 1, rank: [4, 50%]}]\n"
    )
    with forgotten_tasks():
        yield path


def asked(sweep: Path) -> Prepared:
    return prepare(load_sweep(sweep, gpu=False))


def test_it_runs_is_shown_and_computed_again(sweep, tmp_path):
    prepared = asked(sweep)
    assert prepared.notes[-1] == "4 of 5 questions have several images: what is kept is of all their tokens together"
    assert prepared.visual.of == {"one": 6, "two": 12, "again": 12, "placed": 12, "lost": 16}
    two = prompt_lengths(prepared.samples[1], prepared.spec.config, prepared.spec.engine.task, prepared.visual.of)
    assert two[1] == 12
    experiment = run_sweep(prepared, tmp_path / "out", RunOptions(local=True), PlainConsole(120)).experiment
    (failure,) = experiment.failures().to_dict("records")
    assert failure["message"] == "the question has 1 places for images (<image>), and there are 3 images"
    cells = experiment.cells().set_index(["point", "sample"])
    for point in experiment.points[1:]:
        kept = [cells.loc[(point.key, id), "tokens_kept"] for id in ("one", "two", "placed")]
        assert kept == ([4, 4, 4] if point.share is None else [3, 6, 6])
    rows = experiment.samples.set_index("id")
    assert rows.loc["two", "image"] == f"{tmp_path}/a.png | {tmp_path}/b.png"
    pixels = rows["pixels"]
    assert pixels["two"] == pixels["again"] != pixels["placed"]
    assert len(set(pixels)) == 4
    assert image_digests(prepared.samples, dict(pixels)) == image_digests(prepared.samples) == tuple(pixels)
    document = sample_documents(experiment, ["placed"], experiment.failures())["placed"]
    assert document["maps"] == [(0, 3, 2, 0, 0, 0), (6, 2, 3, 0, 0, 0, 1)]
    assert Image.open(io.BytesIO(Pictures(experiment).get("placed"))).size == (84, 168)  # one below the other
    drawn = np.asarray(kept_picture(experiment, "placed", experiment.points[1]))
    (mask,) = experiment.kept(points=[experiment.points[1].key], samples=["placed"])["kept_mask"]
    kept = np.unpackbits(np.frombuffer(mask, np.uint8))
    seen = np.asarray(Image.open(io.BytesIO(Pictures(experiment).get("placed"))).convert("RGB"))
    corners = [(28 * row, 42 * column) for row in range(3) for column in range(2)]
    corners += [(84 + 42 * row, 28 * column) for row in range(2) for column in range(3)]  # of the image below
    same = [bool((drawn == seen)[top : top + 28, left : left + 28].all()) for top, left in corners]
    assert same == kept[:12].astype(bool).tolist()
    found = recompute(experiment, 20, seed=0)
    assert (found.drawn, found.wrong, found.other_choices) == (20, (), ())


def test_what_takes_one_image_is_one_line(sweep):
    sweep.write_text(sweep.read_text().replace("[fastv, random_per_image], layer: 1", "downsample, layer: 0"))
    with pytest.raises(SaccadeError, match="downsample makes one image smaller, and there are questions with several"):
        asked(sweep)


def test_a_share_is_of_all_images_of_a_prompt_also_where_each_has_as_many_tokens(sweep, small_checkpoint, tmp_path):
    """LLaVA-1.5: of one image a share is a number, of several it is a share of theirs."""
    entries = "{strategy: fastv, layer: 1, rank: [4, 50%]}, {strategy: random, layer: 0, tokens: 25%}"
    lines = sweep.read_text().splitlines()
    text = "\n".join([f"model: {small_checkpoint}", *lines[1:-1], f"grid: [{entries}]"])
    sweep.write_text(text)
    prepared = asked(sweep)
    assert [(point.share, point.rank) for point in prepared.spec.points[1:]] == [(None, 4), (0.5, 8), (0.25, 4)]
    cells = run_sweep(prepared, tmp_path / "out", RunOptions(local=True), PlainConsole(120)).experiment.cells()
    kept = cells.set_index(["point", "sample"])["tokens_kept"]
    found = [[kept[point.key, id] for id in ("one", "two", "placed")] for point in prepared.spec.points[1:]]
    assert found == [[4, 4, 4], [8, 16, 16], [4, 8, 8]]
    sweep.write_text(text.replace("25%", "4"))
    with pytest.raises(SaccadeError, match=r"tokens: is an average over .*, and some questions have several images"):
        asked(sweep)
    sweep.write_text(text.replace("./pairs.py:load", "scienceqa").replace(f"data: {tmp_path}", "data: embedded"))
    assert [point.share for point in load_sweep(sweep, gpu=False).points] == [None] * 4
