"""One Ray Tune trial per grid point, in the experiment's own directory, following the cells.

Tune mirrors and never decides: the pool computes, and what each grid point reports at a few rungs of samples is told to
Tune's `Trial` objects and callbacks by a process of its own, at the lowest priority. No trial has a process: there is
nothing to run. So a sweep is not slowed by its mirror, which may lag behind, die or hang, and a user's callback cannot
hurt it. When Tune fails the sweep is none the worse: the cells are the truth, and `saccade tune` tells them again.

The directory is read by ``tune.ExperimentAnalysis`` and `ResultGrid`. It cannot be resumed by ``Tuner.restore``: there
is no trainable to restore, and `saccade run` resumes from the cells.
"""

from __future__ import annotations

import importlib
import json
import logging
import multiprocessing
import os
import platform
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.policy import policy_of
from orchestrator.sweep.document import CallbackSpec, SpecError
from orchestrator.tune.rungs import Metrics, News
from orchestrator.tune.trial_files import (
    METRICS,
    Result,
    TrialFiles,
    agrees,
    remove_trials,
    told,
    trial_config,
    trial_names,
)
from results.disk import check_writable, open_to_write, write_whole
from results.experiment import Experiment
from results.import_path import protect_children
from workers.work import GridPoint, content_key

if TYPE_CHECKING:
    from ray.tune import Callback
    from ray.tune.experiment import Trial

log = logging.getLogger(f"saccade.{__name__}")

STATE = "experiment_state-saccade.json"  # where ExperimentAnalysis looks for the trials
PENDING = '"status": "PENDING"'
OUTPUT = "tune.log"  # what Tune and callbacks print
NICENESS = 10  # while the sweep runs
SAVE_S, SAVE_SHARE = 10.0, 20  # between two writes of the state: so long, and so many times what the last one took
EXIT_S = 5.0  # for a mirror to end that has said all
FINISH_S = 60.0  # how long the end of a sweep waits for Tune
LIVE_TRIALS = 100  # named callbacks hear of more trials one after the other: W&B holds a process for each open one
WRITTEN_ANYHOW = ("ray.tune.logger.json", "ray.tune.logger.csv", "ray.tune.logger.tensorboardx")
SPAWN = multiprocessing.get_context("spawn")  # a fork of this process would hold the pool's connections
HOST = platform.node()


def make_callback(spec: CallbackSpec) -> Callback:
    """Import and build a callback that the user names.

    Raises:
        SpecError: Says what is wrong with it, in one line.
    """
    from ray.tune import Callback

    place = f"tune callback {spec.name}"
    module, _, attribute = spec.name.replace(":", ".").rpartition(".")
    if not module:
        raise SpecError(f"{place}: write package.module.Class, for example ray.tune.logger.CSVLoggerCallback")
    here = str(Path.cwd())
    sys.path.append(here)  # for a class of the user's own; at the end, where it hides nothing
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise SpecError(
            f"{place}: cannot be imported ({error}); install it, correct the name or leave it out"
        ) from error
    except AttributeError as error:
        raise SpecError(f"{place}: {module} has no {attribute}; correct the name") from error
    finally:
        sys.path.remove(here)
    # Asked before anything is called: a sweep file from somebody else may name any class there is.
    if not (isinstance(kind, type) and issubclass(kind, Callback)):
        raise SpecError(f"{place}: is not a subclass of ray.tune.Callback")
    try:
        return kind(**dict(spec.arguments))
    except Exception as error:  # whatever it complains about: a missing package, an unknown argument
        raise SpecError(f"{place}: {_one_line(error)}") from error


def check_callbacks(specs: Sequence[CallbackSpec]) -> None:
    """Find out whether callbacks can be built, before anything is computed.

    In a process of its own: Ray reads its settings when it is imported, and the pool is still to make them.

    Raises:
        SpecError: One of them cannot.
    """
    if not specs:
        return
    said, process = _spawn(_try_callbacks, tuple(specs))
    try:
        complaint = said.recv()
    except EOFError:
        complaint = "tune callbacks: importing them ended the process"
    process.join()
    if complaint:
        raise SpecError(complaint)


class TuneMirror:
    """The driver's end: hands news to the process that tells Tune. Nothing here waits, except `finish`."""

    def __init__(self, experiment: Experiment, callbacks: Sequence[CallbackSpec] = ()) -> None:
        """Say of which experiment; no process is started yet.

        Args:
            experiment: Its directory becomes a Tune experiment.
            callbacks: That the user names; see `check_callbacks`.
        """
        self._folder = experiment.path.absolute()
        self._points = experiment.points
        self._context = experiment.context
        self._callbacks = tuple(callbacks)

    def is_complete(self, reports: Mapping[str, Sequence[Metrics]]) -> bool:
        """Whether the Tune files on disk already say all this."""
        names = trial_names(self._points)
        said = {key: told(self._folder / name) for key, name in names.items()}
        return (self._folder / STATE).is_file() and all(
            len(said[key]) == len(rows) and agrees(said[key], rows) for key, rows in reports.items()
        )

    def start(self, news: News) -> None:
        """Begin to follow; ``news`` is all that the cells on disk say."""
        protect_children()
        self._news: queue.SimpleQueue[News | None] = queue.SimpleQueue()
        told, tell = SPAWN.Pipe(duplex=False)
        self._answer, self._process = _spawn(
            _follow, self._folder, self._points, self._context, self._callbacks, _ray_address(), told
        )
        told.close()  # from here on the mirror's process holds the one reading end: without it `tell` fails
        # A thread writes: the sweep never waits for a mirror that lags. (A multiprocessing.Queue would do the same,
        # but its semaphores may be called leaked, after the last line, when a signal ends the command.)
        threading.Thread(target=_hand_over, args=(self._news, tell), name="saccade-tune", daemon=True).start()
        self._news.put(news)  # also where there is none: it is what the trials are compared with

    def publish(self, news: News) -> None:
        """Tell what is new."""
        if news:
            self._news.put(news)

    def finish(self) -> str | None:
        """Wait, up to `FINISH_S`, until all trials have caught up.

        Returns:
            One line for the user where something went wrong.
        """
        with suppress(OSError):  # the sweep is over and waits; only some users may take a priority back
            os.setpriority(os.PRIO_PROCESS, self._process.pid, 0)
        self._news.put(None)
        said = self._wait(FINISH_S)
        remedy = f"the results are complete without it; `saccade tune {self._folder}` tells it again"
        if said is None:
            return f"Ray Tune's view of the experiment is behind: {remedy}"
        return f"Ray Tune's view of the experiment: {said}; {remedy}" if said else None

    def abandon(self) -> None:
        """The sweep is broken off: let trials end where they are."""
        self._news.put(None)
        self._wait(FINISH_S / 6)

    def _wait(self, seconds: float) -> str | None:
        try:
            said: str | None = self._answer.recv() if self._answer.poll(seconds) else None
        except EOFError:
            said = f"its process ended unexpectedly; see {self._folder / OUTPUT}"
        self._process.join(EXIT_S if said is not None else 0)
        self._process.kill()
        self._process.join()
        return said


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
        # Tune's own three are there already, see trial_files.
        self._callbacks = [callback for callback in callbacks if type(callback).__module__ not in WRITTEN_ANYHOW]
        self._names = trial_names(points)
        self._files = {point.key: TrialFiles(folder / self._names[point.key], trial_config(point)) for point in points}
        self._trials = _make_trials(folder, self._names, points, context)
        self._said: dict[str, list[Result]] = {key: [] for key in self._trials}
        self._heard: dict[str, int] = dict.fromkeys(self._trials, 0)  # reports that callbacks were told
        self._is_live = len(points) <= LIVE_TRIALS
        self._states: dict[str, str] = {}  # trial id -> its JSON as it was PENDING; only the status changes
        for trial in self._trials.values():
            self._state(trial)
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
                    _report(trial, result)
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
        _report(trial, result)
        if row["done"]:
            trial.set_status("TERMINATED")
        if self._callbacks and (self._is_live or row["done"]):
            self._let_hear(key)

    def save(self, force: bool = True) -> None:
        """Write the state of all trials, as Tune does now and then."""
        began = time.monotonic()
        if not force and began - self._saved_at < max(SAVE_S, SAVE_SHARE * self._save_took):
            return
        trials = [(self._state(trial), _metadata(trial)) for trial in self._trials.values()]
        state = {"trial_data": trials, "runner_data": {}, "stats": {"start_time": self._started}}
        write_whole(self._folder / STATE, json.dumps(state).encode())
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - began

    def _state(self, trial: Trial) -> str:
        """As `Trial.get_json_state`, which pickles five things of each trial whose status has changed."""
        if (state := self._states.get(trial.trial_id)) is None:
            state = trial.get_json_state()[0]
            assert PENDING in state
            self._states[trial.trial_id] = state
        return state.replace(PENDING, PENDING.replace("PENDING", trial.status), 1)

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
                    f"{type(callback).__name__} failed in {hook} and is told nothing more ({_one_line(error)})"
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


def _make_trials(folder: Path, names: Mapping[str, str], points: Sequence[GridPoint], context: str) -> dict[str, Trial]:
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Trial

    class Mirrored(Trial):
        """Keeps its files in the experiment itself: Tune stages them below /tmp and copies them."""

        @property
        def local_experiment_path(self) -> str:
            return str(folder)

        @property
        def local_path(self) -> str:
            return str(folder / str(self.relative_logdir))

    storage = StorageContext(storage_path=str(folder.parent), experiment_dir_name=folder.name)
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


def _report(trial: Trial, result: Result) -> None:
    """As `Trial.update_last_result`, for the numbers that matter: Tune keeps statistics of each it is given."""
    data = trial.run_metadata
    data.last_result, data.last_result_time = dict(result), result["timestamp"]
    for name in METRICS:
        if (value := result[name]) is not None:
            data.update_metric(name, value, step=result["training_iteration"])


def _metadata(trial: Trial) -> str:
    """As `_TrainingRunMetadata.get_json_state`, without what only a trial that goes on computing would need."""
    from ray.tune.utils.serialization import TuneFunctionEncoder

    data = {**vars(trial.run_metadata), "metric_n_steps": {}}
    data.pop("_cached_json", None)
    return json.dumps(data, cls=TuneFunctionEncoder)


def _named(trial: Trial) -> str:
    return str(trial.experiment_tag)


def _spawn(target: Callable[..., None], *arguments: Any) -> tuple[Any, Any]:
    """Start a process.

    Returns:
        Where it answers, and the process.
    """
    protect_children()
    said, answer = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=target, args=(*arguments, answer), name="saccade-tune", daemon=True)
    process.start()
    answer.close()
    return said, process


def _try_callbacks(specs: Sequence[CallbackSpec], answer: Any) -> None:
    try:
        for spec in specs:
            make_callback(spec)
        answer.send("")
    except SpecError as error:
        answer.send(str(error))


def _ray_address() -> str | None:
    """Of the cluster that the pool has joined, for callbacks with actors (W&B's); None without one."""
    ray = sys.modules.get("ray")
    return str(ray.get_runtime_context().gcs_address) if ray is not None and ray.is_initialized() else None


def _follow(
    folder: Path,
    points: Sequence[GridPoint],
    context: str,
    callbacks: Sequence[CallbackSpec],
    ray_address: str | None,
    news: Any,
    answer: Any,
) -> None:
    """The mirror's process: tell what comes until None comes, then answer what went wrong, or nothing."""
    os.nice(NICENESS)
    if ray_address is not None:
        os.environ["RAY_ADDRESS"] = ray_address
    try:
        with open_to_write(folder / OUTPUT, os.O_TRUNC) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
    except OSError as error:
        answer.send(f"{folder / OUTPUT}: cannot be written: {error.strerror}")
        return
    try:
        trials = Trials(folder, points, context, [make_callback(callback) for callback in callbacks])
        first = True
        while (rows := _next(news)) is not None:
            if first:
                trials.take_up(_by_point(rows))
                first = False
                continue
            for key, row in rows:
                trials.tell(key, row)
            trials.save(force=False)
        trials.close()
        answer.send("; ".join(trials.notes))
    except Exception as error:  # whatever Tune raises: it only mirrors, and must not end a sweep
        log.exception("Tune failed")
        answer.send(_one_line(error))


def _hand_over(news: queue.SimpleQueue[News | None], tell: Any) -> None:
    """Send all that is put into a queue, up to None."""
    with tell, suppress(BrokenPipeError):  # the mirror's process is gone; `finish` says so
        while (rows := news.get()) is not None:
            tell.send(rows)
        tell.send(None)


def _next(news: Any) -> News | None:
    """What comes next; nothing more, where the sweep's process is gone."""
    try:
        rows: News | None = news.recv()
        return rows
    except EOFError:
        return None


def _by_point(news: News) -> dict[str, list[Metrics]]:
    reports: dict[str, list[Metrics]] = {}
    for key, row in news:
        reports.setdefault(key, []).append(row)
    return reports


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
