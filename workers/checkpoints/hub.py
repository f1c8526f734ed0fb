"""From a model's name to its folder on this machine: a directory, or a snapshot in the Hugging Face cache.

Nothing is downloaded: a sweep must not fetch 14 GB because a name was mistyped, nor run on whatever `main` is today.
So everything works offline, and what is missing comes with the command that fetches it.
"""

from __future__ import annotations

import re
from pathlib import Path

from strategies.suggestion import near
from workers.families.config import ModelError
from workers.foreign import expanded, readable

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
        raise ModelError(f"model {path.absolute()}: no such directory; {remedy}{near(path.name, ['embedded'])}")
    from huggingface_hub import constants, snapshot_download  # half a second, which a directory does not need
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, revision = match["repo"], match["revision"]
    try:
        # No file is asked for: a checkpoint may lack some of a snapshot's, and says itself what it needs.
        return Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[]))
    except (LocalEntryNotFoundError, ValueError):  # the latter: the hub has no such names, or a reference is no text
        pinned = f" --revision {revision}" if revision else ""
        raise ModelError(
            f"model {name}: no such directory, and not in the Hugging Face cache {constants.HF_HUB_CACHE}"
            f"{_others(repo)}; `hf download {repo}{pinned}` fetches it; or {remedy}"
        ) from None


def _others(repo: str) -> str:
    """What the cache has of a model besides the revision that was looked for."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError):  # no folder
        return ""
    commits = sorted(
        revision.commit_hash
        for cached in repos
        if (cached.repo_type, cached.repo_id) == ("model", repo)
        for revision in cached.revisions
    )
    return f"; of it the cache has {', '.join(f'{repo}@{commit}' for commit in commits[:3])}" if commits else ""
