"""Kill whatever takes part in a sweep, again and again at random, and compare what comes out with an undisturbed run.

    PYTHONPATH=. python tests/soak.py --kills 100

Victims are workers, the driver, Ray's raylet and its head, all by SIGKILL, and files of finished cells and of their
masks, which are cut in half or taken away. A driver that has ended is started again, as a user would. In the end every
cell must be there once, equal to the last bit to that of a run that nobody disturbed. A cell here is drawn from its own
address (`fake_outcome`): what is tried is who answers what, and what is written; that engines answer alike is tried
elsewhere.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
from rich.console import Console

from fake_experiment import fake_samples
from orchestrator.run import RunOptions, run_sweep
from orchestrator.sweep.prepare import Prepared, prepare
from orchestrator.sweep.spec import load_sweep
from processes import descendants, title
from results.experiment import Experiment

HERE = Path(__file__).parent
SWEEP = """
model: embedded
data: embedded
grid:
  - {strategy: cutoff, layer: 2..4}
  - {strategy: fastv, layer: 2, rank: 9}
"""
KILLS = ("worker", "driver", "raylet", "gcs_server")
PLAGUES = ("worker",) * 30 + ("driver",) * 2 + ("raylet", "gcs_server") + ("cut", "take")
PAUSE_S = (0.1, 1.5)
STUCK_S = 300.0  # without a new file


def make_prepared(folder: Path, samples: int) -> Prepared:
    (folder / "sweep.yaml").write_text(SWEEP)
    return replace(prepare(load_sweep(folder / "sweep.yaml")), samples=fake_samples(samples))


def drive(folder: Path, samples: int) -> None:
    """What a user starts: computes what is missing."""
    prepared = make_prepared(folder, samples)
    run_sweep(prepared, folder / "x", RunOptions(workers=3, engine="stub_engine:BriefEngine"), Console())


def soak(folder: Path, kills: int, samples: int, seed: int) -> Counter[str]:
    """Disturb a sweep until that many of its processes were killed, then let it end, and compare.

    Returns:
        How often each plague came, how often the driver was started, and what was seen on the way.
    """
    draw = random.Random(seed)
    seen: Counter[str] = Counter()
    prepared = make_prepared(folder, samples)
    total = samples * len(prepared.spec.points)
    log = (folder / "log").open("w")
    driver: subprocess.Popen[bytes] | None = None
    last_change, last_files = time.monotonic(), -1
    try:
        while True:
            if driver is None or driver.poll() is not None:
                if driver is not None and driver.returncode == 0:
                    experiment = Experiment.open(folder / "x")
                    if len(experiment.whole()) == total and sum(seen[kill] for kill in KILLS) >= kills:
                        break
                    seen["runs that ended with samples given up"] += bool(len(experiment.failures()))
                    if len(experiment.whole()) == total:  # too early: there is more to come
                        for file in draw.sample(sorted((folder / "x/cells").iterdir()), 20):
                            file.unlink()
                seen["starts of the driver"] += 1
                driver = start(folder, samples, log)
                last_change = time.monotonic()
            time.sleep(draw.uniform(*PAUSE_S))
            if sum(seen[kill] for kill in KILLS) < kills and any((folder / "x").glob("cells/*.parquet")):
                plague = draw.choice(PLAGUES)
                seen[plague] += strike(plague, folder / "x", driver.pid, draw)
            files = sum(1 for _ in folder.glob("x/cells/*.parquet"))
            if files != last_files:
                last_change, last_files = time.monotonic(), files
            assert time.monotonic() - last_change < STUCK_S, "nothing happens any more"
    finally:
        if driver is not None and driver.poll() is None:
            driver.kill()
        log.close()
    compare(folder, prepared)
    return seen


def start(folder: Path, samples: int, log: object) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1"}
    env["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # Ray's 60 s would only make this last longer
    command = [sys.executable, __file__, "--drive", str(folder), "--samples", str(samples)]
    return subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=HERE.parent)  # type: ignore[call-overload,no-any-return]


def strike(plague: str, out: Path, driver: int, draw: random.Random) -> bool:
    """Whether there was somebody to strike."""
    if plague in ("cut", "take"):
        file = draw.choice(sorted(out.glob(f"{draw.choice(['cells', 'kept'])}/*.parquet")))
        if plague == "take":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        return True
    if plague == "driver":
        victims = [driver]
    else:
        mark = {"worker": "ray::Seat", "raylet": "/raylet/raylet", "gcs_server": "/gcs/gcs_server"}[plague]
        victims = [pid for pid in sorted(descendants(driver)) if mark in title(pid).partition(" ")[0]]
    if not victims:
        return False
    with suppress(ProcessLookupError):
        os.kill(draw.choice(victims), signal.SIGKILL)
    return True


def compare(folder: Path, prepared: Prepared) -> None:
    """The cells, read and raw: as an undisturbed run has them, and each once."""
    options = RunOptions(local=True, engine="stub_engine:StubEngine")
    expected = run_sweep(prepared, folder / "undisturbed", options, Console(file=StringIO())).experiment
    got = Experiment.open(folder / "x")
    pd.testing.assert_frame_equal(got.cells(), expected.cells(), check_exact=True)
    pd.testing.assert_frame_equal(got.kept(), expected.kept(), check_exact=True)
    assert not len(got.failures())
    raw: Counter[tuple[str, str]] = Counter()
    for file in (folder / "x/cells").glob("*.parquet"):
        with suppress(OSError, ValueError):  # it or its masks were cut or taken, and answered again under another name
            pd.read_parquet(folder / "x/kept" / file.name, columns=["point"])
            raw.update(pd.read_parquet(file, columns=["point", "sample"]).itertuples(index=False, name=None))
    assert set(raw.values()) == {1}, "a cell lies on disk twice"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        drive(given.drive, given.samples)
        return
    with tempfile.TemporaryDirectory(prefix="saccade-soak-") as folder:
        began = time.monotonic()
        try:
            seen = soak(Path(folder), given.kills, given.samples, given.seed)
        except BaseException:
            print((Path(folder) / "log").read_text()[-3000:])
            raise
        print(f"all cells there once, equal to the last bit, after {time.monotonic() - began:.0f} s")
        for what, count in seen.most_common():
            print(f"  {count:4d}  {what}")


if __name__ == "__main__":
    main()
