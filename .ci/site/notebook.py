"""Run a notebook without a kernel: its cells one after the other, each with what its last line shows."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A cell that was read or run."""

    kind: str  # markdown or code
    source: str
    shown: Any = None  # the value of a code cell's last line


def cells(notebook: Path) -> list[Cell]:
    """Its cells, none run."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [Cell(cell["cell_type"], "".join(cell["source"])) for cell in content["cells"]]


def run(notebook: Path) -> Iterator[Cell]:
    """Its cells, run in the current folder."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for place, cell in enumerate(cells(notebook)):
        if cell.kind != "code":
            yield cell
            continue
        lines = ast.parse(cell.source).body
        where = f"{notebook.name}, cell {place}"
        last = lines.pop() if isinstance(lines[-1], ast.Expr) else None
        exec(compile(ast.Module(lines, type_ignores=[]), where, "exec"), names)
        shown = None
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), where, "eval"), names)
        yield cell._replace(shown=shown)
