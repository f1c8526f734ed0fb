"""What the sample explorer is given: flips, comparisons, kept tokens, failures, and text that stays text."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from answer_matrix import write_matrix
from dashboards import explorer_folder
from dashboards.explorer import MAX_PANELS, groups, index_document, sample_documents
from dashboards.explorer_folder import script_json, write_explorer
from fake_experiment import write_fake_experiment
from results.analysis.metrics import answers, flips, summarise
from results.experiment import Experiment
from results.pictures import Pictures
from seen_experiment import EVIL, IDS, PATCHES, POINTS, SIDE, VISUAL, kept_flags, write_seen
from workers.work import GridPoint, content_key, unpruned_point


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return write_seen(tmp_path_factory.mktemp("explorer") / "seen")


def index_of(experiment: Experiment, **options):
    table = answers(experiment)
    failed = frozenset(experiment.failures()["sample"])
    return index_document(experiment, table, summarise(table), Pictures(experiment).samples, failed, **options)


def test_index_lists_image_questions_with_their_flips(seen: Experiment) -> None:
    index = index_of(seen)
    # Text-only questions have nothing to prune, and what waits has nothing to show.
    assert [sample["id"] for sample in index["samples"]] == [*IDS[:4], "damaged"]
    assert (index["texts"], index["waiting"], index["baseline"]) == (1, 1, 0)
    bits = {
        sample["id"]: np.unpackbits(np.frombuffer(b64decode(sample["flips"]), np.uint8), count=len(POINTS)).tolist()
        for sample in index["samples"]
    }
    assert bits["plain"] == [0, 0, 0, 0, 1, 0]
    assert bits["中文 7"] == [0, 1, 1, 0, 1, 0]
    assert bits["../../etc/passwd"] == [0, 1, 0, 0, 0, 0]  # gained
    assert bits[IDS[3]] == [0, 1, 1, 1, 1, 0]  # the last grid point has not answered
    assert sum(bits["damaged"]) == 0
    assert [sample["failed"] for sample in index["samples"]] == [False] * 4 + [True]
    assert [sample["picture"] for sample in index["samples"]] == [True, True, False, True, False]
    counted = flips(answers(seen)).set_index("sample")
    assert counted.loc[IDS[3]].to_list() == [4, 4, 0]
    assert counted.loc["../../etc/passwd"].to_list() == [1, 0, 1]


def test_configurations_are_compared_along_one_axis_at_a_time(seen: Experiment) -> None:
    found = [(group["axis"], group["name"], group["points"]) for group in index_of(seen)["groups"]]
    assert found == [
        ("all", "5 configurations", [1, 2, 3, 4, 5]),
        ("series", "layer 2, 16 tokens kept", [1, 2, 3]),
        ("layer", "fastv, 16 tokens kept", [1, 5]),
    ]
    only = {POINTS[1].key, POINTS[4].key}
    assert [group["points"] for group in index_of(seen, only=only)["groups"]] == [[1, 4]]


def test_what_no_other_is_like_is_not_lost_and_long_comparisons_are_cut() -> None:
    def point(series: str, layer: int, rank: int) -> dict:
        return {"key": f"{series}{layer}{rank}", "baseline": False, "series": series, "layer": layer, "rank": rank}

    points = [point("a", 2, rank) for rank in range(MAX_PANELS + 5)] + [point("himap", 3, 999)]
    found = groups(points)
    assert [(group["axis"], len(group["points"])) for group in found] == [("rank", MAX_PANELS), ("alone", 6)]
    assert found[0]["name"] == f"a, layer 2 (the first {MAX_PANELS} of {MAX_PANELS + 5})"
    assert found[1]["points"][-1] == MAX_PANELS + 5


def test_document_of_a_sample_holds_the_kept_tokens(seen: Experiment) -> None:
    documents = sample_documents(seen, IDS[:3], seen.failures())
    plain = documents["plain"]
    assert (plain["maps"], plain["patches"], plain["label"], plain["choices"]) == (
        [(0, SIDE, SIDE, 0, 0, 0)],
        list(PATCHES),
        "A",
        ["red", "green"],
    )
    fastv = plain["cells"][1]
    flags = np.unpackbits(np.frombuffer(b64decode(fastv["kept"]), np.uint8), count=VISUAL)
    assert flags.tolist() == kept_flags(POINTS[1], 0).tolist()
    assert (fastv["tokens"], fastv["visual"], fastv["correct"], fastv["parsed"]) == (16, VISUAL, True, "A")
    assert "kept" not in plain["cells"][2]  # not recorded
    assert plain["cells"][4]["tokens"] == 0
    assert documents["中文 7"]["cells"][1]["answer"] == "红色的那个"
    assert documents["中文 7"]["cells"][1]["parsed"] is None
    json.dumps(documents, allow_nan=False)
    assert documents["中文 7"]["patches"] is None


def test_tiles_of_an_enlarged_image_are_counted_and_not_drawn(tmp_path: Path) -> None:
    experiment = write_seen(tmp_path / "e")
    experiment.config = replace(experiment.config, grid=(4, 4))  # of the overview, then 48
    document = sample_documents(experiment, ["plain"], experiment.failures())["plain"]
    assert document["maps"] == [(0, 4, 4, 0, 0, 0)]
    assert document["cells"][1]["visual"] == VISUAL
    experiment.config = replace(experiment.config, grid=(40, 40))
    assert sample_documents(experiment, ["plain"], experiment.failures())["plain"]["maps"] == []


def test_maps_of_an_image_are_those_that_its_cells_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = write_seen(tmp_path / "e")
    kept = experiment.kept(samples=["plain"]).assign(maps="0 6 8 4 0 0;48 4 4 0 0 1")
    monkeypatch.setattr(experiment, "kept", lambda **_: kept.assign(maps="0 4 8 4 0 0;48 4 4 0 0 1"))
    document = sample_documents(experiment, ["plain"], experiment.failures())["plain"]
    assert document["maps"] == [(0, 4, 8, 4, 0, 0), (48, 4, 4, 0, 0, 1)]
    monkeypatch.setattr(experiment, "kept", lambda **_: kept.assign(maps="0 90 8 0 0 0"))  # more than it has
    assert sample_documents(experiment, ["plain"], experiment.failures())["plain"]["maps"] == []


def test_a_cut_off_after_the_last_layer_says_that_every_layer_has_seen_all(tmp_path: Path) -> None:
    points = (unpruned_point(8, 64), *(GridPoint(strategy="cutoff", layer=layer, rank=0) for layer in (7, 8)))
    made = write_matrix(tmp_path / "e", points, np.ones((3, 2), dtype=int))
    said = [point["chosen_by"] for point in index_of(made)["points"]]
    assert ["after the last layer" in text for text in said] == [False, False, True]


def test_document_of_a_failed_sample_says_why(seen: Experiment) -> None:
    document = sample_documents(seen, ["damaged"], seen.failures())["damaged"]
    assert document["cells"] == {}
    assert document["failure"] == {"kind": "DataError", "message": f"cannot be read {EVIL}"}


def test_folder_holds_the_samples_with_most_flips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = write_fake_experiment(tmp_path / "e", samples=40)
    monkeypatch.setattr(explorer_folder, "MAX_SAMPLES", 5)
    table = answers(experiment)
    files: dict[str, bytes] = {}
    index = write_explorer(experiment, table, summarise(table), experiment.failures(), files.__setitem__)
    counts = flips(table).set_index("sample")["flips"]
    chosen = [sample["id"] for sample in index["samples"]]
    assert len(chosen) == 5
    assert counts[chosen].min() >= counts.drop(chosen).max()
    assert index["left_out"] == "of 36 questions the 5 with most flips are here"
    assert set(files) == {f"{content_key(name)}.js" for name in chosen}  # no picture was recorded


def test_scripts_hold_text_that_cannot_end_them(seen: Experiment) -> None:
    table = answers(seen)
    files: dict[str, bytes] = {}
    write_explorer(seen, table, summarise(table), seen.failures(), files.__setitem__)
    assert sorted(name.rpartition(".")[2] for name in files) == ["js"] * 5 + ["webp"] * 3
    assert all(content_key(name.split(".")[0]) and len(name.split(".")[0]) == 16 for name in files)
    scripts = b"".join(content for name, content in files.items() if name.endswith(".js")).decode()
    assert "<" not in scripts
    assert json.loads(script_json({"x": f"{EVIL}\u2028"})) == {"x": f"{EVIL}\u2028"}
    assert "\u2028" not in script_json("\u2028")
