"""A start of Ray that nobody waits for any more.

Ray's own hooks end the processes of a start that is complete. Of one under way Linux ends those that this process has
started itself, but not what these have started: an agent would stay for two minutes.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

PROCESSES = Path("/proc")  # where there is none, Ray's agents end by themselves


def end_with_process() -> None:
    """Let none of Ray's processes outlive this one, which ends soon, or goes on and may do so then."""
    atexit.unregister(_end)
    atexit.register(_end)


def _end() -> None:
    for pid in _descendants(os.getpid()):
        if _is_rays(pid):
            with suppress(OSError):  # it has ended
                os.kill(pid, signal.SIGKILL)


def _is_rays(pid: int) -> bool:
    ray = sys.modules.get("ray")
    if ray is None:
        return False
    try:
        said = (PROCESSES / str(pid) / "cmdline").read_text(errors="replace")
    except OSError:
        return False
    return said.startswith("ray::") or str(Path(str(ray.__file__)).parent) in said


def _descendants(pid: int) -> set[int]:
    """All that a process has started, directly or not."""
    parents: dict[int, int] = {}
    for stat in PROCESSES.glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in {pid, *found}} - found:
        found |= more
    return found
