"""The notebook of the documentation runs from top to bottom, and claims nothing that it did not compute."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
from PIL.Image import Image
from plotly.graph_objects import Figure
from rich.console import Console

from orchestrator.followers.base import Begun
from orchestrator.followers.progress import SweepProgress

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def runner() -> ModuleType:
    """What runs it when the pages of the documentation are made."""
    spec = importlib.util.spec_from_file_location("notebook", ROOT / ".ci" / "site" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_runs_and_shows_something_in_every_cell(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = [cell.shown for cell in runner().run(NOTEBOOK) if cell.kind == "code"]
    assert all(value is not None for value in shown)
    kinds = [next(kind for kind in (pd.DataFrame, Image, Figure, object) if isinstance(one, kind)) for one in shown]
    assert [kinds.count(kind) for kind in (pd.DataFrame, Image, Figure)] == [5, 1, 1]
    assert (tmp_path / "experiments" / "notebook" / "sweep.yaml").is_file()


def test_no_output_is_checked_in() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_in_a_notebook_is_one_bar_that_moves(monkeypatch, quiet) -> None:
    shown: list[str] = []
    handle = SimpleNamespace(update=shown.append)

    def display(html: str, display_id: bool) -> SimpleNamespace:
        assert display_id
        shown.append(html)
        return handle

    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display, HTML=str))
    progress = SweepProgress(Console(quiet=quiet))
    progress.start(Begun(points=3, there=4, missing=6, reports={}))
    progress.ready()
    progress.abandon()
    states = ["loading the model", "working on the first samples", "4 of 10 cells"]
    bars = [f'<progress value="4" max="10"></progress> {state}' for state in states]
    assert shown == ([] if quiet else bars)
