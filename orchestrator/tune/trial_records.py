"""Ray Tune's own records of trials, made without running one. What is not documented there stands here alone.

Tune pickles much of a trial whenever its state is asked for. Of thousands of trials that go on computing nowhere, it is
left out or asked for once: what Tune reads back is the same (`tests/test_upstream.py`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.tune.trial_files import trial_config
from workers.work import GridPoint, content_key

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

STATE = "experiment_state-saccade.json"  # where ExperimentAnalysis looks for the trials
PENDING = '"status": "PENDING"'


def make_trials(folder: Path, names: Mapping[str, str], points: Sequence[GridPoint], context: str) -> dict[str, Trial]:
    """A trial of each grid point, by its key.

    Args:
        folder: Of the experiment.
        names: Of the trials, by the key of their point; also of their folders.
        points: The grid.
        context: Of the experiment's cells: with the point it names a trial, so that a run continues its trials.
    """
    from ray import tune
    from ray.tune.experiment import Trial

    class Mirrored(Trial):
        """Keeps its files in the experiment itself: Tune stages them below /tmp and copies them."""

        @property
        def local_experiment_path(self) -> str:
            return str(folder)

        @property
        def local_path(self) -> str:
            return str(folder / str(self.relative_logdir))

    storage = tune.Experiment(folder.name, tune.Trainable, storage_path=str(folder.parent)).storage
    trials: dict[str, Trial] = {}
    for point in points:
        config, name = trial_config(point), names[point.key]
        trial: Any = Mirrored(
            "saccade",
            config=config,
            evaluated_params=config,
            trial_id=content_key([context, point.key]),
            experiment_tag=name,
            storage=storage,
            trial_name_creator=_named,
            trial_dirname_creator=_named,
            stub=True,  # there is no trainable
        )
        trial.create_placement_group_factory()
        trial.relative_logdir = trial.storage.trial_dir_name = name  # Tune would look for a name that is free
        trials[point.key] = trial
    return trials


class TrialStates:
    """The state of trials, as Tune writes it into one file now and then."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        """Ask each trial once what it says while it is pending.

        Args:
            trials: Of which none has begun.
        """
        self._trials = trials
        # Of what they say while pending only the status changes; to ask again would pickle five things of each.
        self._pending = [trial.get_json_state()[0] for trial in trials]
        assert all(PENDING in state for state in self._pending)
        self._reported: list[tuple[Any, str]] = [(None, "")] * len(trials)  # last report, all that is said

    def content(self, started: float) -> bytes:
        """The file named `STATE`.

        Args:
            started: Seconds since the epoch, of the sweep.
        """
        for place, trial in enumerate(self._trials):
            if self._reported[place][0] is not trial.last_result:
                self._reported[place] = (trial.last_result, _metadata(trial))
        trials = [
            (state.replace(PENDING, PENDING.replace("PENDING", trial.status), 1), said)
            for state, trial, (_, said) in zip(self._pending, self._trials, self._reported, strict=True)
        ]
        state = {"trial_data": trials, "runner_data": {}, "stats": {"start_time": started}}
        return json.dumps(state).encode()


def _metadata(trial: Trial) -> str:
    """What a trial has reported, without the last ten values of each number, which only one that goes on would need."""
    shown = copy.copy(trial.run_metadata)
    shown.metric_n_steps = {}
    return shown.get_json_state()


def _named(trial: Trial) -> str:
    return str(trial.experiment_tag)
