"""What is taken away: what we wrote, as we wrote it, below a folder that the user gave; nothing through a link."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_experiment import fake_points, write_fake_experiment
from orchestrator.tune.trial_files import OURS, TrialFiles, remove_trials, trial_config, trial_names
from orchestrator.tune.trials import tell_all
from results.disk import StoreError, make_folder, write_whole
from results.exchange.exports import write_exports
from results.exchange.lmms_samples import write_lmms_samples
from results.experiment import Experiment
from results.removal import digest, remove
from results.written import LIST, Written
from workers.work import GridPoint


def tree(folder: Path) -> dict[str, str]:
    """Every name below a folder, with the content of files and the aim of links."""
    found = {}
    for path in folder.rglob("*"):
        what = f"-> {path.readlink()}" if path.is_symlink() else path.read_text() if path.is_file() else "folder"
        found[path.relative_to(folder).as_posix()] = what
    return found


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the user's, elsewhere."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


class TestRemove:
    def test_a_file_goes_and_the_folders_that_are_empty_then(self, home):
        write_whole_below(home, "a/b/c.txt", "a/kept.txt")
        assert remove(home, "a/b/c.txt")
        assert tree(home) == {"a": "folder", "a/kept.txt": "x"}
        assert remove(home, "a/b/c.txt")  # it is gone

    @pytest.mark.parametrize(
        "prepare",
        [
            lambda home, victim: (home / "a").symlink_to(victim),
            lambda home, victim: ((home / "a").mkdir(), (home / "a/thesis.tex").symlink_to(victim / "thesis.tex")),
            lambda home, victim: (home / "a/thesis.tex").mkdir(parents=True),
            lambda home, victim: (home / "a").write_text("a file"),
        ],
        ids=["behind a link", "a link", "a folder", "behind a file"],
    )
    def test_what_is_no_file_of_the_folder_stays(self, home, victim, prepare: Callable[[Path, Path], object]):
        prepare(home, victim)
        before = tree(home.parent)
        assert not remove(home, "a/thesis.tex")
        assert tree(home.parent) == before

    def test_a_file_that_says_something_else_stays(self, home):
        write_whole_below(home, "a.txt")
        assert not remove(home, "a.txt", digest(b"what we wrote"))
        assert remove(home, "a.txt", digest(b"x"))
        assert tree(home) == {}

    def test_the_folder_that_the_user_gave_may_be_a_link(self, home):
        write_whole_below(home, "a.txt")
        (home.parent / "link").symlink_to(home)
        assert remove(home.parent / "link", "a.txt")


class TestWritten:
    def test_the_next_writer_takes_away_what_it_does_not_write_again(self, home):
        assert write(home, "index.html", "data/a.csv", "data/b.csv") == ()
        write_whole_below(home, "report/data/mine.csv", "report/index.md")
        (home / "report/data/b.csv").write_text("changed by a reader")
        assert write(home, "index.html") == ("data/b.csv",)
        assert set(tree(home / "report")) == {"data", "data/b.csv", "data/mine.csv", "index.md", "index.html", LIST}

    @pytest.mark.parametrize("listed", ["../victim/thesis.tex", "/etc/hostname", "data/thesis.tex", "", "a/../../x", 3])
    def test_a_list_of_somebody_else_reaches_nothing_outside(self, home, victim, listed: object):
        write(home, "index.html")
        (home / "report/data").symlink_to(victim)
        content = digest(b"years of work")
        (home / "report" / LIST).write_text(json.dumps({"files": {str(listed): content, "n": listed}}))
        write(home, "index.html")
        assert tree(victim) == {"thesis.tex": "years of work"}

    @pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": ["index.html"]}'])
    def test_without_a_list_only_names_that_nobody_else_gives_go(self, home, content: str):
        write_whole_below(home, "report/old.html", "report/data/mine.csv", "report/ours.html")
        (home / "report" / LIST).write_text(content)
        assert write(home, "index.html", "data/a.csv") == ("old.html", "data/mine.csv")
        assert not (home / "report/ours.html").exists()

    @pytest.mark.parametrize("link", ["report", "report/data"])
    def test_nothing_is_written_through_a_link(self, home, victim, link: str):
        (home / link).parent.mkdir(exist_ok=True)
        (home / link).symlink_to(victim)
        with pytest.raises(StoreError, match=rf"{link}: is a link to .*victim.*; remove the link"):
            write(home, "data/a.csv")
        assert tree(victim) == {"thesis.tex": "years of work"}

    def test_a_link_in_the_place_of_a_file_is_replaced(self, home, victim):
        (home / "report").mkdir()
        (home / "report/index.html").symlink_to(victim / "thesis.tex")
        write(home, "index.html")
        assert tree(victim) == {"thesis.tex": "years of work"}
        assert not (home / "report/index.html").is_symlink()


def write(home: Path, *names: str) -> tuple[str, ...]:
    writer = Written(home / "report", lambda name: name == "ours.html")
    for name in names:
        writer.add(name, name.encode())
    return writer.finish()


def write_whole_below(folder: Path, *names: str) -> None:
    for name in names:
        make_folder((folder / name).parent)
        write_whole(folder / name, b"x")


@pytest.mark.parametrize("writer", [write_exports, lambda found: write_lmms_samples(found, found.path / "exports/l")])
def test_exports_are_not_written_through_a_link(tmp_path, victim, writer: Callable[[Experiment], object]):
    experiment = write_fake_experiment(tmp_path / "e", samples=10)
    (experiment.path / "exports").symlink_to(victim)
    with pytest.raises(StoreError, match="exports: is a link"):
        writer(experiment)
    assert tree(victim) == {"thesis.tex": "years of work"}


# -- trials of Ray Tune ---------------------------------------------------------------------------------------------


def begin_trials(folder: Path) -> list[str]:
    """Trials of another grid; their names."""
    points = (fake_points()[1], GridPoint(strategy="fastv", layer=2, rank=8, positions="compact"))
    names = trial_names(points)
    for point in points:
        TrialFiles(folder / names[point.key], trial_config(point)).begin()
    return [names[point.key] for point in points]


def test_trials_of_an_earlier_grid_go_unless_they_hold_anything_else(home):
    first, _ = begin_trials(home)
    write_whole_below(home, f"{first}/notes.txt")
    assert remove_trials(home, keep=()) == [first]
    assert set(tree(home)) == {first, f"{first}/notes.txt", f"{first}/params.json"}
    assert remove_trials(home, keep=(first,)) == []


@pytest.mark.parametrize(
    "content", ["{}", "[1]", "", '{"key": "x"}', '{"strategy": 3, "layer": [], "rank": "x", "key": 1}', "[" * 10_000]
)
def test_a_folder_with_params_of_another_program_stays(home, content: str):
    (home / "my_analysis").mkdir()
    (home / "my_analysis/params.json").write_text(content)
    assert remove_trials(home, keep=()) == []
    assert (home / "my_analysis/params.json").exists()


def test_a_copy_of_a_trial_under_another_name_stays_and_so_does_a_link(home, tmp_path):
    first, second = begin_trials(home)
    (home / first).rename(home / "best_run")
    (home / second).rename(tmp_path / second)
    (home / second).symlink_to(tmp_path / second)
    assert remove_trials(home, keep=()) == []
    assert (home / "best_run/params.json").exists()
    assert (tmp_path / second / "params.json").exists()


def test_tune_leaves_everything_of_others_and_writes_through_no_link(tmp_path, victim):
    experiment = write_fake_experiment(tmp_path / "e", samples=10)
    others = ["my_analysis/params.json", "my_analysis/week.csv", "tuner.pkl", "searcher-state-1.pkl", "unpruned/my.txt"]
    write_whole_below(experiment.path, *others)
    assert tell_all(experiment) == ()
    assert tell_all(experiment) == ()
    assert all((experiment.path / name).exists() for name in others)
    for name in OURS[:3]:
        file = experiment.path / "unpruned" / name
        assert remove(experiment.path, f"unpruned/{name}")
        file.symlink_to(victim / "thesis.tex")
        with pytest.raises(StoreError, match=rf"{name}: cannot be written: it is a link"):
            tell_all(experiment)
        file.unlink()
    trial = experiment.path / "unpruned"
    trial.rename(tmp_path / "trial")
    trial.symlink_to(victim)
    with pytest.raises(StoreError, match="unpruned: is a link"):
        tell_all(experiment)
    assert tree(victim) == {"thesis.tex": "years of work"}
