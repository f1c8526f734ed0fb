"""The sample explorer as files beside a page: a script and an image per sample, so that it opens from a disk.

A page that is opened from file:// may load scripts and images that lie beside it, but no data; so each sample's document
is a script that hands it over. Files are named by a hash of the sample's id, never by the id.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from dashboards.explorer import index_document, sample_documents
from orchestrator.metrics import Answers, flips
from orchestrator.pictures import Pictures
from orchestrator.store import Experiment, write_whole
from workers.work import content_key

MAX_SAMPLES = 200
MAX_CELLS = 200_000  # of all samples together: about 30 MB
OURS = re.compile(r"[0-9a-f]{16}\.(js|webp)")


def write_explorer(experiment: Experiment, table: Answers, summary: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Write the samples with most flips, then others, up to the limits; files of an earlier report are removed.

    Returns:
        The index to be put into the page, with ``left_out`` where not every sample is there.
    """
    pictures = Pictures(experiment)
    failures = experiment.failures()
    index = index_document(experiment, table, summary, pictures.samples, frozenset(failures["sample"]))
    ranking = flips(table).sort_values("flips", ascending=False, kind="stable")["sample"]
    listed = {sample["id"] for sample in index["samples"]}
    room = max(1, min(MAX_SAMPLES, MAX_CELLS // len(experiment.points)))
    chosen = frozenset([name for name in ranking if name in listed][:room])
    if len(chosen) < len(listed):
        index["left_out"] = f"the {len(chosen)} with most flips of {len(listed)} are on this page"
    index["samples"] = [sample for sample in index["samples"] if sample["id"] in chosen]
    folder.mkdir(exist_ok=True)
    written = set()
    for name, document in sample_documents(experiment, [sample["id"] for sample in index["samples"]], failures).items():
        key = content_key(name)
        script = f"SaccadeExplorer.receive({json.dumps(key)}, {script_json(document)});\n"
        written.add(_write(folder / f"{key}.js", script.encode()))
        if picture := pictures.get(name):
            written.add(_write(folder / f"{key}.webp", picture))
    for file in folder.iterdir():
        if OURS.fullmatch(file.name) and file not in written:
            file.unlink()
    return index


def script_json(value: Any) -> str:
    """JSON that may stand in a script: no text in it can end the script or begin a comment."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _write(path: Path, content: bytes) -> Path:
    if not path.is_file() or path.read_bytes() != content:
        write_whole(path, content)
    return path
