"""Saccade from Python: run a sweep, open an experiment, read its tables, masks and figures.

    import saccade

    experiment = saccade.run("smoke", samples=20)
    experiment.table()
    experiment.figure("layer")

What is read stays as small as it can be: nothing of PyTorch is imported before something is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saccade.experiment import Experiment, open
from saccade.listing import strategies
from saccade.running import run

if TYPE_CHECKING:
    from workers.patch import pruned

__all__ = ["Experiment", "open", "pruned", "run", "strategies"]


def __getattr__(name: str) -> Any:
    """``pruned`` when it is asked for: it brings PyTorch along."""
    if name != "pruned":
        raise AttributeError(f"module 'saccade' has no attribute '{name}' (it has: {', '.join(__all__)})")
    from workers.patch import pruned

    return pruned


def __dir__() -> list[str]:
    return list(__all__)
