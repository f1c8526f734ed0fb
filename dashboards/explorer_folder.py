"""The sample explorer as files beside a page: a script and an image per sample, so that it opens from a disk.

A page that is opened from file:// may load scripts and images that lie beside it, but no data; so each sample's
document is a script that hands it over. Files are named by a hash of the sample's id, never by the id itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd

from dashboards.explorer import index_document, sample_documents
from results.analysis.matrix import Answers
from results.analysis.metrics import flips
from results.experiment import Experiment
from results.pictures import Pictures
from workers.work import content_key

MAX_SAMPLES = 200
MAX_CELLS = 200_000  # of all samples together: about 30 MB


def write_explorer(
    experiment: Experiment,
    table: Answers,
    summary: pd.DataFrame,
    failures: pd.DataFrame,
    write: Callable[[str, bytes], None],
) -> dict[str, Any]:
    """Hand over the files of the samples with most flips, then of others, up to the limits.

    Args:
        experiment: That the rest was read from.
        table, summary, failures: Of the experiment.
        write: Takes a file's name and content.

    Returns:
        The index to be put into the page, with ``left_out`` where not every sample is there.
    """
    pictures = Pictures(experiment)
    index = index_document(experiment, table, summary, pictures.samples, frozenset(failures["sample"]))
    listed = {sample["id"] for sample in index["samples"]}
    ranking = flips(table).sort_values("flips", ascending=False, kind="stable")["sample"]
    room = max(1, min(MAX_SAMPLES, MAX_CELLS // len(experiment.points)))
    chosen = frozenset([name for name in ranking if name in listed][:room])
    if len(chosen) < len(listed):
        index["left_out"] = f"of {len(listed)} questions the {len(chosen)} with most flips are here"
    index["samples"] = [sample for sample in index["samples"] if sample["id"] in chosen]
    names = [sample["id"] for sample in index["samples"]]
    for name, document in sample_documents(experiment, names, failures).items():
        key = content_key(name)
        write(f"{key}.js", f"SaccadeExplorer.receive({json.dumps(key)}, {script_json(document)});\n".encode())
        if picture := pictures.get(name):
            write(f"{key}.webp", picture)
    return index


def script_json(value: Any) -> str:
    """JSON that may stand in a script of a page: no text in it can end the script."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character in "<\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
