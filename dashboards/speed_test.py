"""How fast is the live app on a large sweep? `python -m dashboards.speed_test` makes one, opens it and prints a table.

It makes an experiment of 3,000 configurations x 2,000 samples in a temporary directory, serves it in a process of its
own, and drives an installed Chromium over it. Needs playwright (extra ``dev``).

What is timed: from the request of a page to its first plot on the screen, in a new browser; from a change of a filter
to the last plot drawn again; and the server's memory, now and at its peak.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from results.experiment import Experiment
from results.import_path import python_command, safe_environment
from results.manifest import Manifest
from results.tables import CELLS, write_table
from workers.tasks.base import Sample
from workers.work import EngineSpec, GridPoint, ModelSpec, TaskSpec, unpruned_point

LAYERS, VISUAL = 32, 576
STRATEGIES = ("fastv", "text_weighted", "max_head", "avg_all_heads", "divprune", "l2_norm", "random")
RANKS = (0, 8, 16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 448, 512)
SIZES = {
    "layers": LAYERS, "heads": 32, "kv_heads": 32, "head_dim": 128, "hidden": 4096, "ffn": 11008, "vocab": 32064,
    "image_size": 336, "patch_size": 14, "visual_tokens": VISUAL, "parameters": 7_063_427_072,
}  # fmt: skip
SHARD = 10  # samples per file
QUESTIONS = 4  # about an image
PATHS = ("/", "/layer", "/tokens", "/heat", "/pareto", "/run")
FIRST_PLOT_S, FILTER_S, RSS_MB = 3.0, 0.5, 600.0  # what is promised
DRAWN = "() => document.querySelector('.js-plotly-plot .scatterlayer, .js-plotly-plot .heatmaplayer image, .bars path')"
CHANGE = """async (search) => {
  const plots = [...document.querySelectorAll('.js-plotly-plot')];
  const start = performance.now();
  const drawn = plots.map((plot) => new Promise((done) => plot.once('plotly_afterplot', done)));
  window.dash_clientside.set_props('url', { search });
  await Promise.race([Promise.all(drawn), new Promise((done) => setTimeout(done, 20000))]);
  return (performance.now() - start) / 1000;
}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One measurement beside what is promised."""

    what: str
    value: float
    limit: float
    unit: str

    @property
    def kept(self) -> bool:
        return self.value <= self.limit


def make_store(path: Path, configurations: int, samples: int, seed: int = 0) -> Experiment:
    """Write a finished sweep with plausible answers.

    Args:
        path: Directory to make.
        configurations: Grid points besides the un-pruned model, up to strategies x layers x ranks.
        samples: Questions, each with an image.
        seed: Of the answers.
    """
    pruned = [
        GridPoint(strategy=strategy, layer=layer, rank=rank)
        for strategy in STRATEGIES
        for layer in range(1, LAYERS)
        for rank in RANKS
    ][:configurations]
    points = (unpruned_point(LAYERS, VISUAL), *pruned)
    manifest = Manifest.of(
        name="benchmark",
        engine=EngineSpec(model=ModelSpec(path="made up"), task=TaskSpec(name="scienceqa", data="made up")),
        points=points,
        sources=tuple("made up" for _ in points),
        model_fingerprint="made up",
        data_fingerprint="made up",
        prompt_fingerprint="made up",
        scorer_fingerprint="made up",
        config=SIZES,
    )
    experiment = Experiment.create(path, manifest, _samples(samples))
    rng = np.random.default_rng(seed)
    keys = pa.array([point.key for point in points])
    share_P = np.array([0.73, *(_share(point) for point in pruned)])
    ease_S = rng.random(samples)
    for first in range(0, samples, SHARD):
        ids = [f"s{place}" for place in range(first, min(first + SHARD, samples))]
        noise_SP = rng.normal(0, 0.1, (len(ids), len(points)))
        noise_SP[:, 0] = 0
        right_SP = ease_S[first : first + len(ids), None] + noise_SP < share_P
        _write(experiment, keys, ids, right_SP, rng.integers(620, 800, len(ids)), f"{first:06d}")
    return experiment


def _share(point: GridPoint) -> float:
    """Accuracy falls with early layers and few tokens, and a little with the strategy."""
    loss = 0.24 * np.exp(-point.layer / 6) * np.exp(-point.rank / 150)
    return float(0.73 - loss - 0.004 * STRATEGIES.index(point.strategy))


def _samples(count: int) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            id=f"s{place}",
            question=f"Question {place}?",
            choices=("red", "green"),
            label="A",
            image=Path(f"made up {place // QUESTIONS}"),
        )
        for place in range(count)
    )


def _write(
    experiment: Experiment, keys: pa.Array, ids: list[str], right_SP: np.ndarray, lengths_S: np.ndarray, name: str
) -> None:
    rows, points = right_SP.size, len(keys)
    right = right_SP.ravel()
    answer = pa.array(np.where(right, "A", "B"))
    constant = {"context": experiment.context, "source": "made up"}
    columns: dict[str, Any] = {name: pa.array([value] * rows) for name, value in constant.items()}
    columns |= {
        "point": pa.concat_arrays([keys] * len(ids)),
        "sample": pa.array(np.repeat(ids, points)),
        "answer": answer,
        "parsed": answer,
        "correct": pa.array(right),
        "prompt_tokens": pa.array(np.repeat(lengths_S, points)),
        "visual_tokens": pa.array(np.full(rows, VISUAL)),
    }
    full = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(rows, field.type) for field in CELLS
    ]
    table = pa.Table.from_arrays(full, schema=CELLS).replace_schema_metadata({"worker": f"gpu{int(name) % 4}"})
    write_table(experiment.path / "cells" / f"{name}.parquet", table)


def measure(path: Path, chromium: str) -> list[Timing]:
    """Serve the experiment in a process of its own and time it in a browser."""
    from playwright.sync_api import sync_playwright

    code = "import pathlib, dashboards.app as app; app.serve([pathlib.Path(sys.argv[1])], '127.0.0.1', 0)"
    started = time.monotonic()
    command = python_command(code, str(path))
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=safe_environment())
    try:
        assert server.stdout is not None
        found = re.match(r"http://\S+", server.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        timings = [Timing(what="server ready", value=time.monotonic() - started, limit=np.inf, unit="s")]
        with sync_playwright() as playwright:
            for place in PATHS:
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
                )
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                begun = time.monotonic()
                page.goto(found[0] + place, wait_until="commit")
                page.wait_for_function(DRAWN, timeout=60_000)
                value = time.monotonic() - begun
                timings.append(Timing(what=f"first plot of {place}", value=value, limit=FIRST_PLOT_S, unit="s"))
                page.wait_for_timeout(1500)
                if place != "/run":
                    pairs = (("fastv", "random"), (), ("fastv", "divprune"), ("l2_norm", "random"))
                    searches = ["?" + "&".join(f"strategy={name}" for name in pair) for pair in pairs]
                    changes = [page.evaluate(CHANGE, search) for search in searches]
                    timings.append(
                        Timing(what=f"filter change on {place} (median of 4)", value=float(np.median(changes)),
                               limit=FILTER_S, unit="s")
                    )  # fmt: skip
                browser.close()
        status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
        for field, what in (("VmRSS", "memory of the server"), ("VmHWM", "memory of the server, peak")):
            match = re.search(rf"{field}:\s+(\d+) kB", status)
            assert match is not None
            timings.append(Timing(what=what, value=int(match[1]) / 1000, limit=RSS_MB, unit="MB"))
        return timings
    finally:
        server.terminate()
        server.wait()


def main() -> int:
    """Make, measure, print; exit code 1 where a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.speed_test", description=__doc__)
    parser.add_argument("--configurations", type=int, default=3000)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--store", type=Path, help="make the experiment here and keep it; used again if it is there")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "/usr/bin/chromium")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.store or Path(folder) / "benchmark"
        if not (path / "sweep.yaml").exists():
            begun = time.monotonic()
            make_store(path, args.configurations, args.samples)
            print(f"made {args.configurations} x {args.samples} cells in {time.monotonic() - begun:.0f} s", flush=True)
        timings = measure(path, args.chromium)
    for timing in timings:
        limit = "" if np.isinf(timing.limit) else f"  of {timing.limit:g} {timing.unit}"
        late = "" if timing.kept else "  TOO MUCH"
        print(f"{timing.what:<42} {timing.value:8.2f} {timing.unit}{limit}{late}")
    return 0 if all(timing.kept for timing in timings) else 1


if __name__ == "__main__":
    sys.exit(main())
