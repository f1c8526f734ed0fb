"""A private Ray cluster for tests; it finds the engines of `stub_engine` on its path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.pool import start_ray


@contextmanager
def local_cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv("RAY_worker_niceness", "0")  # Ray's default starves workers beside any other load
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.chdir(Path(__file__).parent.parent)
        assert start_ray()
        import ray

        try:
            yield
        finally:
            ray.shutdown()
