"""From a model's name to its folder on this machine: a directory, or a snapshot in the Hugging Face cache.

Nothing is downloaded: a sweep must not fetch 14 GB because a name was mistyped, nor run on whatever `main` is today.
So everything works offline, and what is missing comes with the command that fetches it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from workers.families.config import ModelError
from workers.foreign import expanded, readable
from workers.json_file import read_text

HUB_NAME = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@readable(ModelError)
def find_folder(name: str, remedy: str, beside: Path | None = None) -> Path:
    """The folder of a model.

    Args:
        name: a directory, or a hub id such as ``llava-hf/llava-1.5-7b-hf``, with ``@REVISION`` to pin it.
        remedy: what else the user can do, for the message.
        beside: a folder that relative directories may also be relative to.

    Raises:
        ModelError: there is neither such a directory nor such a snapshot.
    """
    path = expanded(Path(name))
    if path.is_dir():
        return path.absolute()
    if beside is not None and (beside / path).is_dir():
        return (beside / path).resolve()
    match = HUB_NAME.fullmatch(name)
    if match is None:
        raise ModelError(f"model {path.absolute()}: no such directory; {remedy}")
    repo, revision = match["repo"], match["revision"]
    store = cache_folder() / f"models--{repo.replace('/', '--')}"
    commit = _commit(store, revision or "main")
    if (store / "snapshots" / commit).is_dir():
        return store / "snapshots" / commit
    pinned = f" --revision {revision}" if revision else ""
    there = sorted(folder.name for folder in (store / "snapshots").glob("*"))
    others = f"; of it the cache has {', '.join(f'{repo}@{commit}' for commit in there[:3])}" if there else ""
    raise ModelError(
        f"model {name}: no such directory, and not in the Hugging Face cache {store.parent}{others}; "
        f"`hf download {repo}{pinned}` fetches it; or {remedy}"
    )


def cache_folder() -> Path:
    """Where huggingface_hub keeps models: the same variables, in the same order."""
    if hub := os.environ.get("HF_HUB_CACHE"):
        return Path(hub).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{cache}/huggingface")).expanduser() / "hub"


def _commit(store: Path, revision: str) -> str:
    """What a branch or tag stands for in the cache; a commit stands for itself."""
    reference = store / "refs" / revision
    return read_text(reference).strip() if reference.is_file() else revision
