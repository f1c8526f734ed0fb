"""Tune callbacks of a user's own, for tests: named in a sweep, imported by the mirror's process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.tune import Callback


class Recorder(Callback):
    """Writes down what it hears."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def _note(self, *entry: object) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        self._note("setup", total_num_samples)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note("start", str(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._note("result", str(trial), result["samples"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note("complete", str(trial))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._note("end", len(trials))


class Failing(Callback):
    """Raises when it hears a result."""

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        1 / 0  # noqa: B018
