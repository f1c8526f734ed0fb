"""The live app without a browser: what it serves and to whom, what the URL keeps, and what a refresh does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dash import html

import dashboards.gallery
from answer_matrix import MISSING, write_matrix
from dashboards import theme
from dashboards.app import create_app
from dashboards.gallery import Gallery
from dashboards.live.access import is_loopback, trusted_hosts
from dashboards.live.cards import content
from dashboards.live.details import clicked, drawer
from dashboards.live.refresh import patch
from dashboards.pages.base import Control
from dashboards.pages.catalog import PAGES, page_at
from dashboards.pages.parts import notices
from dashboards.view import State, options, view
from fake_experiment import write_fake_experiment
from measured_experiment import write_measured
from workers.work import GridPoint, unpruned_point

SCAN = (
    unpruned_point(8, 64),
    *(GridPoint(strategy=s, layer=k, rank=4) for s in ("fastv", "random") for k in (2, 3, 4)),
)
EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """Two experiments: one whole, one with partial, missing and failed cells."""
    folder = tmp_path_factory.mktemp("app")
    whole = write_fake_experiment(folder / "a", samples=30)
    right = np.ones((7, 20), dtype=int)
    right[1, ::2] = 0
    right[2, 10:] = MISSING
    right[3] = MISSING
    right[:, 7] = MISSING
    other = write_matrix(folder / "b", SCAN, right, failed=(7,), wrong=EVIL, question=f"Frage {EVIL} 问题")
    return Gallery([whole.path, other.path])


# -- who is answered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("127.0.0.1:8050", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8050", 200),
        ("[0:0::1]", 200),
        ("evil.example", 400),
        ("[::2]", 400),
        ("::1", 400),
        ("localhost@evil.example", 400),
        ("127.0.0.1:x", 400),
    ],
)
def test_only_requests_addressed_to_this_machine_are_answered(gallery: Gallery, name: str, status: int) -> None:
    client = create_app(gallery).server.test_client()
    for path in ("/", "/_dash-layout", "/_dash-dependencies"):
        assert client.get(path, headers={"Host": name}).status_code == status


def test_hosts_and_debugging_are_not_taken_from_the_environment(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("DASH_DEBUG", "true")
    app = create_app(gallery)
    assert app.server.debug is False
    assert app.server.test_client().get("/", headers={"Host": "0.0.0.0"}).status_code == 400


def test_the_browser_is_told_to_load_nothing_from_elsewhere(gallery: Gallery) -> None:
    client = create_app(gallery).server.test_client()
    answer = client.get("/", headers={"Host": "127.0.0.1"})
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self' 'sha256-" in policy
    scripts = policy.split("script-src")[1].split(";")[0]
    assert "unsafe" not in scripts
    assert "http" not in policy
    assert b"http://" not in answer.data
    assert b"https://" not in answer.data
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/assets/../app.py", "/assets/%2e%2e/%2e%2e/app.py", "/assets//etc/passwd",
                                  "/assets/..%2f..%2f..%2fpyproject.toml", "/etc/passwd"])  # fmt: skip
def test_nothing_is_served_by_path(gallery: Gallery, path: str) -> None:
    answer = create_app(gallery).server.test_client().get(path, headers={"Host": "127.0.0.1"})
    assert answer.status_code == 404 or b"_dash-config" in answer.data  # any path is a page of the app
    assert b"import" not in answer.data.replace(b"importmap", b"")


def test_other_addresses_have_to_be_asked_for() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1", "node7")] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip
    assert "0.0.0.0" not in trusted_hosts("0.0.0.0")
    assert {"node7", "gpu.example"} <= set(trusted_hosts("node7", ["gpu.example"]))


# -- the URL ----------------------------------------------------------------------------------------------------------


def test_a_view_comes_back_from_its_url() -> None:
    state = State.parse("?strategy=fastv&strategy=max%20head&layer=2&config=a%3Ab&unknown=x")
    assert state.all("strategy") == ("fastv", "max head")
    assert State.parse(state.search) == state
    assert state.with_("strategy", "random").all("strategy") == ("random",)
    assert state.with_("strategy", None).get("strategy") == ""
    assert State.parse(None).search == ""


def test_filters_let_through_what_they_name_and_the_unpruned_models(gallery: Gallery) -> None:
    shown = view(gallery.snapshot, State.parse("?experiment=matrix&strategy=random&layer=3"))
    assert shown.rows["strategy"].tolist() == ["none", "random"]
    assert view(gallery.snapshot, State.parse("?strategy=nonsense")).rows.equals(gallery.snapshot.rows)
    assert options(gallery.snapshot.rows, "layer") == ["2", "3", "4", "5", "6", "7", "8"]
    assert options(gallery.snapshot.rows, "param.alpha") == ["0.3", "0.5", "0.7"]
    assert options(gallery.snapshot.rows, "state") == ["complete", "running", "missing"]
    missing = view(gallery.snapshot, State.parse("?state=missing"))
    assert missing.pruned["label"].tolist() == ["fastv layer=4 rank=4"]


def test_an_empty_page_says_why(tmp_path: Path) -> None:
    """The filters, the answers, or the grid: each page its own reason."""
    points = (SCAN[0], GridPoint(strategy="fastv", layer=2, rank=4))
    path = write_matrix(tmp_path / "e", points, np.ones((2, 3), dtype=int)).path
    snapshot, said = Gallery([path]).snapshot, []
    for page in PAGES:
        shown = view(snapshot, State())
        parts = content(page, page.panels(shown), shown)
        if len(parts) == 1 and getattr(parts[0], "className", "") == "nothing":
            said.append(str(parts[0].children))
            assert page.empty
            assert page.empty in said[-1]
    assert len(said) == len(set(said)) >= 4
    path = write_matrix(tmp_path / "none", points, np.full((2, 3), MISSING)).path
    waiting = view(Gallery([path]).snapshot, State())
    assert "Nothing is answered yet" in str(content(page_at("/layer"), [], waiting))
    assert "no suite is open here" in str(content(page_at("/benchmarks"), [], waiting))


def test_ids_are_unique_over_experiments(gallery: Gallery, tmp_path: Path) -> None:
    assert gallery.snapshot.rows["id"].is_unique
    paths = [source.experiment.path for source in gallery.snapshot.sources]
    assert len(Gallery(paths * 2).snapshot.sources) == len(paths)  # given twice, shown once
    twice = [tmp_path / "monday" / "fake", tmp_path / "tuesday" / "fake"]
    for path in twice:
        write_fake_experiment(path)
    again = Gallery(twice).snapshot
    assert again.rows["id"].is_unique
    assert [source.name for source in again.sources] == ["monday/fake", "tuesday/fake"]


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize("search", ["", "?experiment=fake", "?experiment=matrix", "?strategy=random", "?state=missing"])
def test_every_page_draws_any_view(gallery: Gallery, page, search: str) -> None:
    shown = view(gallery.snapshot, State.parse(search), theme.DARK)
    names = [panel.name for panel in page.panels(shown)]
    assert len(set(names)) == len(names)
    for control in page.controls(shown):
        assert isinstance(control, Control)
        assert set(control.default) <= set(control.values), control
    for panel in page.panels(shown):
        panel.rows.to_csv()
        if panel.figure is not None:
            assert panel.figure.layout.height > 100
            json.loads(panel.figure.to_json())


def test_every_control_changes_what_its_page_shows(gallery: Gallery) -> None:
    for page in PAGES:
        shown = view(gallery.snapshot, State.parse("?experiment=fake"))
        for control in page.controls(shown):
            other = [value for value in control.values if value not in control.preset]
            if not other:
                continue
            before = [(panel.figure, panel.title) for panel in page.panels(shown)]
            changed = view(gallery.snapshot, State.parse("?experiment=fake").with_(control.name, other[-1]))
            assert [(panel.figure, panel.title) for panel in page.panels(changed)] != before, (page.name, control.name)


def test_notices_say_what_is_unfinished_failed_and_suspicious(tmp_path: Path, gallery: Gallery) -> None:
    said = " ".join(text(part) for part in notices(view(gallery.snapshot, State.parse("?experiment=matrix"))))
    assert "of 6 configurations, 1 running, 1 missing; hollow: partial" in said
    assert "1 sample failed: neither right nor wrong" in said
    flat = np.ones((7, 12), dtype=int)
    flat[4:, ::2] = 0  # random answers half of the questions at each layer
    flat = np.vstack([flat, flat[-1:]])
    points = (*SCAN, GridPoint(strategy="random", layer=5, rank=4))
    broken = Gallery([write_matrix(tmp_path / "flat", points, flat).path])
    said = " ".join(text(part) for part in notices(view(broken.snapshot, State())))
    assert "Impossible or suspicious: the same accuracy to the last digit at 4 settings" in said


def test_the_drawer_shows_answers_as_text(gallery: Gallery) -> None:
    row = gallery.snapshot.rows[gallery.snapshot.rows["label"] == "fastv layer=2 rank=4"].iloc[-1]
    source, found = gallery.snapshot.find(row["id"])
    parts = drawer(source, found, State())
    pres = [part.children for part in walk(parts) if isinstance(part, html.Pre)]
    assert EVIL in pres
    assert "10 right answers lost, 0 gained" in " ".join(text(part) for part in parts)
    assert not any(type(part).__name__ == "Markdown" for part in walk(parts))


def test_a_click_names_its_configuration() -> None:
    assert clicked({"points": [{"customdata": "a:1"}]}) == "a:1"
    assert clicked({"points": [{"customdata": ["a:1", 3]}]}) == "a:1"
    assert clicked({"points": [{"x": 1}]}) is None
    assert clicked({"points": [{"customdata": ""}]}) is None


# -- refreshing -------------------------------------------------------------------------------------------------------


def test_costs_are_the_same_counted_in_a_process_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_measured(tmp_path / "e", SCAN[1:], samples=10).path
    here = Gallery([path]).snapshot.sources[0].costed()  # torch is loaded here
    monkeypatch.setattr(dashboards.gallery, "_counted", dashboards.gallery._counted_elsewhere)
    elsewhere = Gallery([path]).snapshot.sources[0].costed()
    assert here is not None
    assert here["kv_bytes"].nunique() > 1
    pd.testing.assert_frame_equal(here, elsewhere)


def test_a_board_reads_what_is_new_and_nothing_when_nothing_is(tmp_path: Path) -> None:
    path = tmp_path / "e"
    write_fake_experiment(path, samples=40, done=10)
    gallery = Gallery([path])
    first = gallery.snapshot
    assert first.rows["n"].max() == 9  # one in ten has no image
    assert gallery.refresh().version == first.version
    write_fake_experiment(path, samples=40, done=40)
    (path / "cells" / "half.parquet").write_bytes(b"PAR1 half a file")
    second = gallery.refresh()
    assert second.version != first.version
    assert second.rows["n"].max() == 36
    assert any("half.parquet" in note for note in second.sources[0].notes)
    assert first.rows["n"].max() == 9  # a snapshot never changes
    whole = Gallery([path]).snapshot.rows
    assert whole.drop(columns="status").equals(second.rows.drop(columns="status"))


def test_new_data_leave_the_axes_alone_where_the_reader_has_zoomed(gallery: Gallery) -> None:
    shown = view(gallery.snapshot, State.parse("?experiment=fake"))
    figure = next(page for page in PAGES if page.path == "/layer").panels(shown)[0].figure
    for zoomed in (True, False):
        operations = patch(figure, theme.LIGHT, zoomed=zoomed).to_plotly_json()["operations"]
        places = {tuple(operation["location"]) for operation in operations}
        assert ("data",) in places
        assert (("layout", "xaxis") in places) is not zoomed


def walk(part):
    """All components under one, or under a list of them."""
    for one in part if isinstance(part, (list, tuple)) else [part]:
        if hasattr(one, "to_plotly_json"):
            yield one
            yield from walk(getattr(one, "children", None) or [])


def text(part) -> str:
    """What a component says."""
    if isinstance(part, (list, tuple)):
        return "".join(text(one) for one in part)
    return text(part.children or "") if hasattr(part, "children") else "" if part is None else str(part)
