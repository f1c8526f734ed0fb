"""What a person can mend is one line, whatever it quotes."""

from __future__ import annotations

import ast
import pickle
import re

import pytest

import strategies.errors
from orchestrator.cluster.faults import SweepError
from orchestrator.cluster.joining import PoolError
from orchestrator.sweep.document import SpecError
from results.disk import StoreError
from strategies.errors import LONGEST, SaccadeError, UsageError
from test_architecture import FILES, ROOT
from workers.families.config import ModelError
from workers.tasks.base import DataError

KINDS = (DataError, ModelError, PoolError, StoreError, SweepError, UsageError)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quotation_breaks_no_line(kind: type[SaccadeError]) -> None:
    error = kind("x.json: 'a\nb\r\x1b[31m\x85\u2028\ud800' is not known")
    assert str(error) == r"x.json: 'a\nb\r\x1b[31m\x85\u2028\ud800' is not known"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(kind("C:\\new  café 東京")) == "C:\\new  café 東京"


def test_a_long_quotation_leaves_place_and_remedy() -> None:
    line = str(DataError(f"x.json: {'y' * 10**6}; copy it again"))
    assert len(line) < LONGEST + 10
    assert line.startswith("x.json: yyy")
    assert line.endswith("yyy; copy it again")


def test_a_sweep_file_has_a_line_for_each_mistake() -> None:
    error = SpecError("x.yaml: a\nb", "x.yaml: c")
    assert str(error) == "x.yaml: a\\nb\nx.yaml: c"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def drawn_tree() -> dict[str, tuple[str, str]]:
    """Of each class that the file draws its base and the file it is said to lie in."""
    found, way = {}, ["ValueError"]
    for depth, name, file in re.findall(r"^    ( *)(\w+Error|Unknown\w+) +(\S+\.py)", strategies.errors.__doc__, re.M):
        way[len(depth) // 4 + 1 :] = [name]
        found[name] = (way[-2], file)
    return found


def test_the_tree_is_drawn_as_it_is() -> None:
    tree, there = drawn_tree(), {}
    for file in FILES:
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.bases and isinstance(node.bases[0], ast.Name):
                base = node.bases[0].id
                if base in tree or base == "ValueError":
                    there[node.name] = (base, file.as_posix())
    assert there.pop("ImportPathError") == ("ValueError", "results/import_path.py")  # before our packages are imported
    assert there == tree


# Their plain ValueErrors have no place: one caller catches them all, and says it.
CAUGHT_BY_THE_CALLER = {
    "orchestrator/sweep/source.py",
    "orchestrator/sweep/kept.py",
    "orchestrator/sweep/ranges.py",
    "results/exchange/imports.py",
    "results/manifest.py",
    "workers/families/llava/anyres.py",
    "workers/shares.py",
    "workers/tasks/tables.py",
}


def test_what_reaches_people_is_in_the_tree() -> None:
    plain = {
        file.as_posix()
        for file in FILES
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id == "ValueError"
        and file.parts[0] != "strategies"
    }
    assert plain == CAUGHT_BY_THE_CALLER
