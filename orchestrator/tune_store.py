"""One Ray Tune trial per grid point, in the experiment's own directory, following the cells.

Tune mirrors and never decides: the pool computes, the driver publishes how each grid point stands at a few rungs of
samples (`rungs.json`), and trials replay that. To let any number of trials advance together with one or two processes,
a trial that has caught up is paused and its process handed to the next one (`FollowScheduler`). What was learnt about
this the hard way is in the comments. When Tune fails, the sweep is none the worse: the cells are the truth.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.rungs import Metrics
from orchestrator.store import Experiment, write_whole
from workers.work import BASELINE, GridPoint, content_key

if TYPE_CHECKING:
    from ray.tune import Trainable
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import TrialScheduler

log = logging.getLogger(f"saccade.{__name__}")

BOARD = "rungs.json"
POLL_S = 0.1
TRIAL_PROCESSES = 1  # one keeps up: a report costs about 6 ms, a change of trial about 50 ms
FINISH_S, FINISH_TRIAL_S = 30.0, 1.0  # how long the end of a sweep waits for Tune, and more for each trial

Reached = Mapping[str, Sequence[Metrics]]  # GridPoint.key -> metrics of the rungs reached, smallest first


@dataclass(frozen=True, slots=True)
class Board:
    """What the driver tells trials and scheduler, through a file that is replaced as a whole."""

    reached: Reached
    rungs: int  # of a complete trial
    closed: bool = False  # nothing more will come

    def write(self, path: Path) -> None:
        value = {"rungs": self.rungs, "closed": self.closed, "reached": self.reached}
        write_whole(path, json.dumps(value).encode())

    @classmethod
    def read(cls, path: Path) -> Board:
        value = json.loads(path.read_text())
        return cls(reached=value["reached"], rungs=value["rungs"], closed=value["closed"])


class BoardReader:
    """Reads a board again only when its file was replaced. Holds nothing that cannot be pickled, as Tune does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = -1
        self._board = Board({}, 0)

    @property
    def board(self) -> Board:
        stamp = self._path.stat().st_mtime_ns
        if stamp != self._stamp:
            self._board, self._stamp = Board.read(self._path), stamp
        return self._board


class TuneMirror:
    """Runs Tune in a thread beside the pool."""

    def __init__(self, experiment: Experiment, sizes: Sequence[int]) -> None:
        """Args:
        experiment: Its directory becomes a Tune experiment.
        sizes: Sample counts of the rungs.
        """
        self._folder = experiment.path.absolute()
        self._points = experiment.points
        self._rungs = len(sizes)
        self._published: Reached | None = None
        self._thread: threading.Thread | None = None
        self._error: str | None = None

    def is_complete(self, reached: Reached) -> bool:
        """Whether the Tune files on disk already tell this story to its end."""
        try:
            return bool(json.loads((self._folder / "tune.json").read_text())["reached"] == content_key(reached))
        except (OSError, ValueError, KeyError):
            return False

    def start(self, reached: Reached) -> None:
        """Begin to follow. Trials of an earlier run are removed and told again: their points may have changed."""
        remove_trials(self._folder)
        self.publish(reached)
        self._thread = threading.Thread(target=self._follow, name="saccade-tune", daemon=True)
        self._thread.start()

    def publish(self, reached: Reached, closed: bool = False) -> None:
        """Tell the trials how their grid points stand."""
        if reached != self._published or closed:
            Board(reached, self._rungs, closed).write(self._folder / BOARD)
            self._published = reached

    def finish(self) -> str | None:
        """Wait until all trials have caught up.

        Returns:
            One line for the user where they have not.
        """
        assert self._thread is not None
        assert self._published is not None
        self.publish(self._published, closed=True)
        self._thread.join(FINISH_S + FINISH_TRIAL_S * len(self._points))
        remedy = "the results are complete without it; the next run of the sweep writes it again"
        if self._thread.is_alive():
            return f"Ray Tune's view of the experiment is behind: {remedy}"
        if self._error:
            return f"Ray Tune's view of the experiment failed ({self._error}): {remedy}"
        write_whole(self._folder / "tune.json", json.dumps({"reached": content_key(self._published)}).encode())
        return None

    def abandon(self) -> None:
        """The sweep is broken off: let trials end where they are."""
        if self._thread is not None and self._thread.is_alive() and self._published is not None:
            self.publish(self._published, closed=True)
            self._thread.join(FINISH_S)

    def _follow(self) -> None:
        try:
            run_trials(self._folder, self._points)
        except Exception as error:  # whatever Tune raises: it only mirrors, and must not end a sweep
            log.debug("Tune failed", exc_info=True)
            self._error = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def run_trials(folder: Path, points: Sequence[GridPoint]) -> None:
    """Run one trial per grid point until the board in ``folder`` is told to its end. Blocks."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer reporter prints boxes, whatever `verbose` says
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(TRIAL_PROCESSES)
    from ray import tune
    from ray.tune.search import BasicVariantGenerator

    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    resources = {"cpu": 0.001, "node:__internal_head__": 0.999 / TRIAL_PROCESSES}  # bounds processes, pins them here
    trainable = tune.with_resources(_trainable(folder / BOARD), resources)
    configs = [trial_config(point) for point in points]
    tuner = tune.Tuner(
        trainable,
        param_space={"point": tune.grid_search(configs)},
        tune_config=tune.TuneConfig(
            scheduler=_scheduler(folder / BOARD),
            search_alg=BasicVariantGenerator(max_concurrent=0),
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=3),
        ),
    )
    result = tuner.fit()
    if result.num_errors:
        raise RuntimeError(f"{result.num_errors} trials failed: {result.errors[0]}")


def trial_config(point: GridPoint) -> dict[str, Any]:
    """What Tune records of a grid point."""
    return {
        "key": point.key,
        "strategy": point.strategy,
        "layer": point.layer,
        "rank": point.rank,
        **dict(point.params),
    }


def trial_name(config: Mapping[str, Any]) -> str:
    """``fastv_2_128``, with any parameters after it: names a directory."""
    if config["strategy"] == BASELINE:
        return "unpruned"
    parameters = [
        f"{name}={value}" for name, value in config.items() if name not in ("key", "strategy", "layer", "rank")
    ]
    name = "_".join([config["strategy"], str(config["layer"]), str(config["rank"]), *parameters])
    return "".join(letter if letter.isalnum() or letter in "._=-" else "-" for letter in name)


def remove_trials(folder: Path) -> None:
    """Remove the files of an earlier Tune run, and nothing else."""
    for pattern in (
        "experiment_state-*.json",
        "basic-variant-state-*.json",
        "searcher-state-*",
        "tuner.pkl",
        "tune.json",
    ):
        for file in folder.glob(pattern):
            file.unlink()
    for result in folder.glob("*/params.json"):
        shutil.rmtree(result.parent)


def _trial_name(trial: Trial) -> str:
    return trial_name(trial.config["point"])


def _trainable(board_path: Path) -> type[Trainable]:
    """The class of trials; made late, because importing Tune takes seconds."""
    from ray import tune

    class Saccade(tune.Trainable):
        """Replays one grid point, rung by rung."""

        def setup(self, config: dict[str, Any]) -> None:
            self._reader = BoardReader(board_path)
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._key = new_config["point"]["key"]
            self._told = 0
            return True

        def step(self) -> dict[str, Any]:
            # Tune starts new trials first in, first out, whatever the scheduler says: this one may have to wait.
            while True:
                board = self._reader.board
                rows = board.reached[self._key]
                if self._told < len(rows) or board.closed:
                    break
                time.sleep(POLL_S)
            self._told = min(self._told + 1, len(rows))
            row = rows[self._told - 1] if rows else {}
            ended = self._told == board.rungs or (board.closed and self._told == len(rows))
            return {**row, "complete": self._told == board.rungs, "done": ended}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            (Path(checkpoint_dir) / "told.json").write_text(json.dumps(self._told))

        def load_checkpoint(self, checkpoint: Any) -> None:
            self._told = json.loads((Path(checkpoint) / "told.json").read_text())

    return Saccade


def _scheduler(board: Path) -> TrialScheduler:
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    class FollowScheduler(FIFOScheduler):
        """Pauses a trial that has caught up with the board, and takes up one that has something to tell."""

        def __init__(self) -> None:
            super().__init__()
            self._reader = BoardReader(board)

        def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
            told = result["training_iteration"]
            now = self._reader.board
            if told < len(now.reached[trial.config["point"]["key"]]) or now.closed:
                return str(TrialScheduler.CONTINUE)
            return str(TrialScheduler.PAUSE)

        def choose_trial_to_run(self, controller: Any) -> Trial | None:
            now = self._reader.board
            for trial in controller.get_trials():
                if trial.status == Trial.PENDING:
                    return trial
            for trial in controller.get_trials():
                if trial.status == Trial.PAUSED:
                    told = (trial.last_result or {}).get("training_iteration", 0)
                    if now.closed or told < len(now.reached[trial.config["point"]["key"]]):
                        return trial
            return None

    return FollowScheduler()
