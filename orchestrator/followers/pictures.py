"""Recording what the model saw, beside a running sweep: a thread of the driver, which waits for the engines anyway.

Flipped samples come first, because they are what people look at. Whatever goes wrong here costs pictures, never cells.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from orchestrator.cluster.limits import PICTURE_AT_END_S, PICTURE_S
from orchestrator.followers.base import Answered, Follower
from results.analysis.metrics import answers, flips
from results.experiment import Experiment
from results.pictures import Pictures, write_pictures
from workers.tasks.base import DataError, EmbeddedImage, Sample

DEFAULT_LIMIT = 500  # pictures; about 10 MB of photographs, 0.2 MB of drawings
BATCH = 64  # pictures of a file


class PictureRecorder(Follower):
    """Records the pictures of an experiment up to a limit."""

    what = "pictures"

    def __init__(self, experiment: Experiment, samples: Sequence[Sample], limit: int) -> None:
        """Count the pictures that are there; none is recorded yet.

        Args:
            experiment: That is being run.
            samples: Of the sweep.
            limit: Pictures that the experiment may hold, those already there included; 0: none is recorded.
        """
        self._experiment = experiment
        self._samples = {sample.id: sample for sample in samples if sample.image is not None}
        self._pictures = Pictures(experiment)
        self._left = max(0, limit - len(self._pictures.samples)) if limit else 0
        self._taken = set(self._pictures.samples)
        self._queue: SimpleQueue[list[str] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._problem = ""
        self._at = ("the model", 0)  # whose image was looked at last, and how often any was

    def outcome(self, answered: Answered) -> None:
        """Samples that some grid points answered right and others wrong are worth a picture."""
        right: dict[str, set[bool]] = {}
        for cell in answered.outcome.outcomes:
            right.setdefault(cell.sample, set()).add(cell.correct)
        wanted = self._wanted(name for name, verdicts in right.items() if len(verdicts) == 2)
        if wanted:
            self._ask(wanted)

    def finish(self) -> str | None:
        """Record what is asked for and fill up to the limit: most flips first, then in the order of the file."""
        if self._left and self._samples.keys() - self._taken:
            ranking = flips(answers(self._experiment)).sort_values("flips", ascending=False, kind="stable")
            wanted = self._wanted(ranking["sample"])
            for first in range(0, len(wanted), BATCH):
                self._ask(wanted[first : first + BATCH])
        self._end(PICTURE_S)
        return self._problem or None

    def abandon(self) -> None:
        self._stopped = True  # what waits is dropped
        self._end(PICTURE_AT_END_S)

    def _end(self, limit_s: float) -> None:
        """Wait for the thread, but not for a disk that hangs."""
        self._queue.put(None)
        while self._thread and self._thread.is_alive():
            before = self._at
            self._thread.join(limit_s)
            if self._thread.is_alive() and self._at == before:
                self._problem = f"pictures were not recorded: nothing moved for {limit_s:.0f} s, last at {before[0]}"
                return

    def _ask(self, names: list[str]) -> None:
        self._queue.put(names)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="pictures", daemon=True)
            self._thread.start()

    def _wanted(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that have an image and no picture yet, as many as there is room for."""
        chosen = []
        for name in names:
            if self._left and name in self._samples and name not in self._taken:
                self._taken.add(name)
                self._left -= 1
                chosen.append(name)
        return chosen

    def _work(self) -> None:
        while (names := self._queue.get()) is not None:
            if not self._stopped:
                self._record(names)

    def _record(self, names: Sequence[str]) -> None:
        if self._problem:
            return
        try:
            images = {name: self._samples[name].images for name in names if self._is_there(name)}
            if images:
                write_pictures(self._experiment, self._made(images))
        except Exception as error:  # a model without processor, a full disk: the cells matter, this does not
            self._problem = " ".join(f"pictures were not recorded: {error}".split())

    def _is_there(self, name: str) -> bool:
        self._at = (name, self._at[1] + 1)
        images = self._samples[name].images
        return all((image if isinstance(image, Path) else image.file).is_file() for image in images)

    def _made(self, images: Mapping[str, Sequence[Path | EmbeddedImage]]) -> dict[str, bytes]:
        # Here, because an experiment whose pictures are all there needs no model library.
        from workers.families.catalog import family_of
        from workers.images import column, encoded, load_image

        model = self._experiment.spec.model
        family = family_of(model)
        as_seen = family.picturer(family.open(model), model.image_mode)
        made = {}
        for name, paths in images.items():
            self._at = (name, self._at[1] + 1)
            with suppress(DataError):  # a damaged image is a failed sample, and said so elsewhere
                made[name] = encoded(column([as_seen(load_image(path), len(paths)) for path in paths]))
        return made
