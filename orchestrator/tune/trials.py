"""One Ray Tune trial per grid point, in the experiment's own directory, following the cells.

The directory is read by ``tune.ExperimentAnalysis`` and `ResultGrid`. It cannot be resumed by ``Tuner.restore``: there
is no trainable to restore, and `saccade run` resumes from the cells.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.policy import policy_of
from orchestrator.sweep.document import CallbackSpec
from orchestrator.tune.callbacks import error_line, make_callback, without_tunes_own
from orchestrator.tune.rungs import Metrics
from orchestrator.tune.trial_files import Result, TrialFiles, agrees, remove_trials, told, trial_config, trial_names
from orchestrator.tune.trial_records import STATE, TrialStates, make_trials
from results.disk import check_writable, write_whole
from results.experiment import Experiment
from workers.work import GridPoint

if TYPE_CHECKING:
    from ray.tune import Callback

log = logging.getLogger(f"saccade.{__name__}")

SAVE_S, SAVE_SHARE = 10.0, 20  # between two writes of the state: so long, and so many times what the last one took
LIVE_TRIALS = 100  # named callbacks hear of more trials one after the other: W&B holds a process for each open one
HOST = platform.node()


class Trials:
    """Tune's trials of an experiment and the callbacks that hear of them."""

    def __init__(self, folder: Path, points: Sequence[GridPoint], context: str, callbacks: Sequence[Callback]) -> None:
        """Make a record for each trial, all of them pending.

        Args:
            folder: The experiment's directory.
            points: The grid.
            context: Of the experiment's cells: with the point it names a trial, so that a run continues its trials.
            callbacks: They hear of every trial; live, if there are at most `LIVE_TRIALS`, else when it has ended.
        """
        self._folder = folder
        self._callbacks = without_tunes_own(callbacks)
        self._names = trial_names(points)
        self._files = {point.key: TrialFiles(folder / self._names[point.key], trial_config(point)) for point in points}
        self._trials = make_trials(folder, self._names, points, context)
        self._said: dict[str, list[Result]] = {key: [] for key in self._trials}
        self._heard: dict[str, int] = dict.fromkeys(self._trials, 0)  # reports that callbacks were told
        self._is_live = len(points) <= LIVE_TRIALS
        self._states = TrialStates(list(self._trials.values()))
        self._saved_at, self._save_took = time.monotonic(), 0.0
        self._started = time.time()
        self.notes: list[str] = []
        self._call("setup", stop=None, num_samples=1, total_num_samples=len(points))

    def take_up(self, reports: Mapping[str, Sequence[Metrics]], anew: bool = False) -> None:
        """Continue the trials that an earlier run has told, begin the others anew, and remove those of neither.

        Args:
            reports: All that the cells say, of every point.
            anew: Begin all of them anew.

        Raises:
            StoreError: A trial cannot be written where it belongs.
        """
        for key, trial in self._trials.items():
            self._files[key].make()
            said = [] if anew else told(self._files[key].folder)
            if said and agrees(said, reports.get(key, ())):
                self._said[key] = said
                self._heard[key] = len(said) if self._is_live or said[-1]["done"] else 0
                for result in said:
                    trial.update_last_result(dict(result))
                trial.set_status("TERMINATED" if said[-1]["done"] else "PAUSED")
            else:
                self._files[key].begin()
        if left := remove_trials(self._folder, keep=set(self._names.values())):
            more = f" and {len(left) - 1} others" if left[1:] else ""
            self.notes.append(
                f"{left[0]}{more}: trials of an earlier grid, kept because they hold other files; move those away"
            )
        for key, rows in reports.items():
            for row in rows[len(self._said[key]) :]:
                self.tell(key, row)
        self.save()

    def tell(self, key: str, row: Metrics) -> None:
        """Add one report to a trial."""
        trial, said = self._trials[key], self._said[key]
        if trial.status != "RUNNING":
            trial.set_status("RUNNING")
        now = time.time()
        last = said[-1]["timestamp"] if said else now
        result: Result = {
            **row,
            "training_iteration": len(said) + 1,
            "trial_id": trial.trial_id,
            "date": datetime.fromtimestamp(now).strftime("%Y-%m-%d_%H-%M-%S"),
            "timestamp": now,
            "time_total_s": (said[-1]["time_total_s"] if said else 0.0) + now - last,
            "time_this_iter_s": now - last,
            "timesteps_total": row["samples"],
            "hostname": HOST,
            "node_ip": "127.0.0.1",
            "pid": os.getpid(),
            "config": trial.config,
        }
        self._files[key].append(result)
        said.append(result)
        trial.update_last_result(dict(result))
        if row["done"]:
            trial.set_status("TERMINATED")
        if self._callbacks and (self._is_live or row["done"]):
            self._let_hear(key)

    def save(self, force: bool = True) -> None:
        """Write the state of all trials, as Tune does now and then."""
        began = time.monotonic()
        if not force and began - self._saved_at < max(SAVE_S, SAVE_SHARE * self._save_took):
            return
        write_whole(self._folder / STATE, self._states.content(self._started))
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - began

    def close(self) -> None:
        """Nothing more will come."""
        for trial in self._trials.values():
            if trial.status == "RUNNING":
                trial.set_status("PAUSED")
        self._call("on_experiment_end", trials=list(self._trials.values()))
        self.save()

    def _let_hear(self, key: str) -> None:
        """Tell the callbacks what they have not heard of a trial."""
        trial, said = self._trials[key], self._said[key]
        where = {"iteration": len(said), "trials": list(self._trials.values()) if self._is_live else [trial]}
        fresh = said[self._heard[key] :]
        if len(fresh) == len(said):
            self._call("on_trial_start", **where, trial=trial)
        for result in fresh:
            self._call("on_trial_result", **where, trial=trial, result=dict(result))
        self._heard[key] = len(said)
        if said[-1]["done"]:
            self._call("on_trial_complete", **where, trial=trial)

    def _call(self, hook: str, **arguments: Any) -> None:
        for callback in tuple(self._callbacks):
            try:
                getattr(callback, hook)(**arguments)
            except Exception as error:  # whatever a user's class raises: the other callbacks and the files go on
                log.exception("a Tune callback failed")
                self._callbacks.remove(callback)
                self.notes.append(
                    f"{type(callback).__name__} failed in {hook} and is told nothing more ({error_line(error)})"
                )


def tell_all(experiment: Experiment, callbacks: Iterable[CallbackSpec] = ()) -> tuple[str, ...]:
    """Write Tune's view of an experiment anew from its cells, in this process.

    Returns:
        What went wrong, one line each.

    Raises:
        SpecError: A callback cannot be built.
        StoreError: The experiment's folder cannot be written, or a trial not where it belongs.
    """
    built = [make_callback(callback) for callback in callbacks]
    folder = experiment.path.absolute()
    check_writable(folder)
    reports = policy_of(experiment).standing.reports()
    trials = Trials(folder, experiment.points, experiment.context, built)
    trials.take_up(reports, anew=True)
    trials.close()
    return tuple(trials.notes)
