"""Who may import whom, read from the syntax trees.

strategies < workers < results < dashboards < orchestrator < saccade.
"""

from __future__ import annotations

import ast
import functools
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("strategies", "workers", "results", "dashboards", "orchestrator", "saccade")
BELOW = {package: set(PACKAGES[: place + 1]) for place, package in enumerate(PACKAGES)}
# A heavy library lives in the files that need it; every other file must do without.
HOMES = {
    "ray": {
        "orchestrator/cluster/joining.py",
        "orchestrator/cluster/ray_pool.py",
        "orchestrator/tune/callbacks.py",
        "orchestrator/tune/trial_records.py",
        "orchestrator/tune/trials.py",
    },
    "transformers": {
        "workers/families/building.py",
        "workers/families/llava/model.py",
        "workers/families/llava/loading.py",
        "workers/families/one_folder_loading.py",
        "workers/families/intern/loading.py",
        "workers/families/qwen/loading.py",
        "workers/speed_test/random_llava.py",
        "workers/speed_test/random_qwen.py",
        "workers/actor.py",
        "workers/text_tower.py",
    },
    "huggingface_hub": {"workers/checkpoints/hub.py"},
    "cuda": {"workers/nvrtc.py"},
    "plotly": {
        "dashboards/figures.py",
        "dashboards/charts.py",
        "dashboards/rescued.py",
        "dashboards/benchmark_means.py",
        "dashboards/report.py",
    },
    "matplotlib": {"dashboards/plots.py", "dashboards/model_plot.py", "dashboards/paper.py", "dashboards/paper_tex.py"},
}
# The speed test makes models, as a user's own code may.
KNOW_A_FAMILY = {"workers/families/catalog.py"}
FAMILIES = tuple(f"workers.families.{folder.parent.name}" for folder in ROOT.glob("workers/families/*/__init__.py"))
MADE_OF_A_FAMILY = {("workers", "speed_test")}
STARTERS = {"results/import_path.py"}  # of Python processes, which import nothing from the current folder
STDLIB_ONLY = ("workers/work.py", "workers/families/config.py", "workers/cost.py")
NOT_INSTALLED = {path.stem for path in (ROOT / "tests").iterdir()}
FILES = sorted(file.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


@functools.cache
def imports(file: Path) -> list[tuple[str, bool]]:
    """(module or name in one, whether at the top of the file) for every import of a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    at_top, found = set(tree.body), []
    for node in ast.walk(tree):
        top = node in at_top
        if isinstance(node, ast.Import):
            found += [(alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            found += [(module, top), *((f"{module}.{alias.name}", top) for alias in node.names)]
    return found


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_one_way(file):
    package = file.parts[0]
    for module, _ in imports(file):
        root = module.split(".")[0]
        assert root not in PACKAGES or root in BELOW[package], f"{file} imports {module}"
        assert root not in NOT_INSTALLED, f"{file} imports {module}, of which the wheel has nothing"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_nobody_learns_the_name_of_a_model_family(file):
    if file.as_posix() not in KNOW_A_FAMILY and file.parts[:2] not in MADE_OF_A_FAMILY:
        for module, _ in imports(file):
            inside = file.parts[:3] == tuple(module.split(".")[:3])
            assert inside or not module.startswith(FAMILIES), f"{file} imports {module}"


def test_no_file_comes_back_to_itself_by_imports():
    graph = {".".join(file.with_suffix("").parts): {name for name, top in imports(file) if top} for file in FILES}
    TopologicalSorter(graph).prepare()  # its CycleError names the files


@pytest.mark.parametrize("file", FILES, ids=str)
def test_heavy_libraries_live_where_they_are_needed(file):
    for module, _ in imports(file):
        homes = HOMES.get(module.split(".")[0])
        assert homes is None or file.as_posix() in homes, f"{file} imports {module}"


@pytest.mark.parametrize("name", STDLIB_ONLY)
def test_planning_needs_no_model_library(name):
    for module, _ in imports(Path(name)):
        root = module.split(".")[0]
        assert root in sys.stdlib_module_names or root in PACKAGES, f"{name} imports {module}"


def test_every_package_has_an_init_that_only_describes_it():
    folders = {file.parent for file in FILES} - {Path("saccade")}  # what it has is what others import by its name
    for folder in folders:
        init = ROOT / folder / "__init__.py"
        assert init.is_file(), f"{folder} has no __init__.py: a folder of that name in site-packages would win"
        body = ast.parse(init.read_text(encoding="utf-8")).body
        assert len(body) == 1, f"{init}: re-exports nothing"
        assert isinstance(body[0], ast.Expr)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_one_file_says_how_python_is_started(file):
    if file.as_posix() not in STARTERS:
        names = {
            node.attr for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.Attribute)
        }
        assert "executable" not in names, f"{file}: use results.import_path.python_command"


REMOVERS = {"unlink", "rmdir", "removedirs", "rmtree"}  # and `os.remove`, told from a list's by its owner


@pytest.mark.parametrize("file", FILES, ids=str)
def test_one_file_removes_files(file):
    if file == Path("results/removal.py"):
        return
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            of_os = node.attr == "remove" and isinstance(node.value, ast.Name) and node.value.id == "os"
            assert node.attr not in REMOVERS, f"{file}:{node.lineno}: use results.removal.remove"
            assert not of_os, f"{file}:{node.lineno}: use results.removal.remove"
        elif isinstance(node, ast.ImportFrom):
            assert not REMOVERS & {alias.name for alias in node.names}, f"{file}:{node.lineno}"


def test_no_module_at_the_root_and_no_test_package_shadows_the_code():
    assert not list(ROOT.glob("*.py"))  # on Ray's workers the root precedes the standard library
    assert not [folder for folder in (ROOT / "tests").rglob("*") if folder.is_dir() and folder.name in PACKAGES]
