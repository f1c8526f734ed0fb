"""What the site has that docs/ does not hold: the notebook as it ran when the pages were made, and plotly's script."""

from __future__ import annotations

import base64
import html
import importlib.util
import os
import re
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOK = "notebook.md"
SCRIPT = "assets/plotly.min.js"
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def on_files(files: Any, config: Any) -> Any:
    """Add what is made now."""
    from mkdocs.structure.files import File
    from plotly.offline import get_plotlyjs

    files.append(File.generated(config, NOTEBOOK, content=notebook_page()))
    files.append(File.generated(config, SCRIPT, content=get_plotlyjs()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Files of the project outside docs/ are not on the site: their links become names."""
    return OUTSIDE.sub(r"`\1`", markdown)


def notebook_page() -> str:
    """The notebook with what each of its cells shows, run in a folder that is thrown away."""
    spec = importlib.util.spec_from_file_location("notebook", Path(__file__).with_name("notebook.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parts = []
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="saccade-site-") as folder:
        os.chdir(folder)
        try:
            for cell in module.run(ROOT / "docs" / "notebook.ipynb"):
                parts.append(cell.source if cell.kind == "markdown" else _code(cell))
        finally:
            os.chdir(before)
    return "\n\n".join(parts) + "\n"


def _code(cell: Any) -> str:
    return f"```python\n{cell.source}\n```\n\n{_shown(cell.shown)}"


def _shown(value: Any) -> str:
    """A value as a notebook would show it, as one block of HTML."""
    if hasattr(value, "to_plotly_json"):
        figure = value.to_html(full_html=False, include_plotlyjs=SCRIPT, config={"displaylogo": False})
        return f"<div>{figure}</div>"
    if hasattr(value, "_repr_html_"):
        return f"<div>{value.to_html()}</div>".replace("\n", "")
    if hasattr(value, "save"):
        png = BytesIO()
        value.save(png, format="PNG")
        data = base64.b64encode(png.getvalue()).decode()
        return f'<img alt="the picture that this cell shows" src="data:image/png;base64,{data}">'
    return f"<pre>{html.escape(repr(value))}</pre>"
