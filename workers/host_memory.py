"""How much memory of the host a process may take."""

from __future__ import annotations

import os
import re
from pathlib import Path

SHARE = 0.5  # of what is free that caches may take; images, results and other programs need some too
GPU = re.compile(r"nvidia\d+")


def available_bytes(memory: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """What a new process may take: of the machine, and of the container where it has a limit."""
    try:
        fields = dict(line.split(":", 1) for line in memory.read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):  # not Linux
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no such file, or the word "max"
        return available
    return min(available, limit - used)


def cache_bytes(devices: Path = Path("/dev")) -> int:
    """For the caches of one engine: a part of what is free, shared with an engine on each of the host's GPUs."""
    gpus = sum(bool(GPU.fullmatch(one.name)) for one in devices.iterdir())
    return max(0, int(SHARE * available_bytes() / max(1, gpus)))
