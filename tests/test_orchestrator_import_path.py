"""Code in the current folder is never run, however a process is started, and of two packages of a name ours is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dashboards.gallery import Gallery
from fake_experiment import write_fake_experiment
from orchestrator.sweep.document import CallbackSpec
from orchestrator.tune.callbacks import check_callbacks
from ray_cluster import ROOT
from results.import_path import ImportPathError, check_origin, leave_out_current_folder, python_command
from results.import_path import safe_environment as environment

STANDARD = ("random", "queue", "pickle", "socket", "json", "struct", "multiprocessing", "tempfile", "csv")
INSTALLED = ("torch", "numpy", "pandas", "typer", "ray", "workers", "strategies", "orchestrator", "dashboards")
ORIGINS = "".join(f"import {name}; print({name}.__file__)\n" for name in ("random", "queue", "numpy", "workers"))


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; what lies in it leaves a mark when it is imported."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    code = "import os\nopen(os.path.join(os.path.dirname(__file__), 'CODE_RAN'), 'a').write(__name__ + ' ')\n"
    for name in STANDARD:
        (folder / f"{name}.py").write_text(code + "raise ImportError('of the folder')")
    for name in INSTALLED:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code + "raise ImportError('of the folder')")
    monkeypatch.chdir(folder)
    for name in ("PYTHONSAFEPATH", "PYTHONPATH"):
        monkeypatch.setenv(name, "")  # put back afterwards, whatever the test makes of it
    return folder


def run(command: Sequence[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=os.environ | env, text=True, capture_output=True, timeout=200)


def none_ran(folder: Path) -> bool:
    mark = folder / "CODE_RAN"
    assert not mark.exists(), mark.read_text()
    return True


def test_a_process_of_ours_imports_what_this_one_does(hostile, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", str(hostile), *sys.path])
    monkeypatch.setenv("PYTHONPATH", f":{hostile}:.")
    child = subprocess.run(python_command(ORIGINS), env=environment(), text=True, capture_output=True, check=True)
    assert none_ran(hostile)
    assert child.stdout.splitlines()[-1] == str(ROOT / "workers" / "__init__.py")


def test_costs_are_counted(hostile, tmp_path):
    gallery = Gallery([write_fake_experiment(tmp_path / "e", samples=10).path])
    gallery.count_costs()
    assert none_ran(hostile)


def test_callbacks_are_tried(hostile, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":")
    check_callbacks([CallbackSpec("ray.tune.logger.CSVLoggerCallback")])
    assert none_ran(hostile)


@pytest.mark.parametrize("safe", ["", "1"])
def test_the_command_is_given_as_a_module(hostile, tmp_path, safe):
    (hostile / "orchestrator" / "__init__.py").unlink()  # else it is the one that was asked for
    (hostile / "orchestrator").rmdir()
    result = run([sys.executable, "-m", "orchestrator", "status", str(tmp_path)], PYTHONSAFEPATH=safe)
    assert "is not an experiment directory" in result.stderr
    assert result.returncode == 2, result.stderr
    assert none_ran(hostile)


def test_whatever_the_process_starts(hostile, monkeypatch):
    """A library that knows nothing of us, as one that compiles in processes of its own."""
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setenv("PYTHONPATH", f".:{ROOT}")
    leave_out_current_folder()
    assert "" not in sys.path
    result = subprocess.run([sys.executable, "-c", ORIGINS], text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert none_ran(hostile)


USE_RAY = f"""
from orchestrator.cluster.joining import start_ray
start_ray()
import ray

@ray.remote(num_cpus=0)
def origins():
    import io, contextlib
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec({ORIGINS!r})
    return said.getvalue()

print(ray.get(origins.remote()))
ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("with_uv", [False, True])
@pytest.mark.system
def test_ray_starts_workers(hostile, tmp_path, with_uv):
    """Also below `uv run` in a project of the user's own, which Ray notices by the title of a process above."""
    (hostile / "pyproject.toml").write_text("[project]\nname = 'own'\nversion = '1'\n")
    command = python_command(USE_RAY)
    if with_uv:
        (hostile / "run").write_text('"$@"\n')
        command = ["bash", "-c", 'exec -a uv bash run "$@"', "bash", *command]
    result = run(command, **environment())
    assert result.returncode == 0, result.stderr
    assert str(ROOT / "workers" / "__init__.py") in result.stdout.splitlines()
    assert none_ran(hostile)


@pytest.mark.parametrize("form", ["workers/__init__.py", "workers.py", "strategies/__init__.py"])
def test_a_package_of_another_is_one_line(tmp_path, form):
    (tmp_path / form).parent.mkdir(exist_ok=True)
    (tmp_path / form).write_text("raise SystemExit('code of another ran')")
    result = run(
        [sys.executable, "-P", "-c", "from orchestrator.cli import main; main()", "doctor"],
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
    )
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith(str(tmp_path / form.partition("/")[0]))
    assert "take its folder out of PYTHONPATH, or rename it" in line


def test_our_own_packages_are_found(monkeypatch, tmp_path):
    check_origin()
    (tmp_path / "workers").mkdir()  # without __init__.py: what is a package further on wins
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "workers")
    check_origin()
    (tmp_path / "workers" / "__init__.py").touch()
    with pytest.raises(ImportPathError, match="stands on Python's path before Saccade's own `workers`"):
        check_origin()
