"""How a sweep's speed grows with the number of GPUs: whole sweeps, from files to cells on disk.

    PYTHONPATH=. python tests/scaling.py --gpus 4 2 1 --out scaling.json

makes random weights of a known shape and questions as long as ScienceQA's with images of their own, once, then runs
the same sweep on the first 4, 2 and 1 GPUs, each in a process of its own. Without GPUs (``--shape tiny``) workers on
CPU cores stand in for them, to try the script. Two times are taken: from the first loaded engine to the last cell on
disk, and from the start of the process to its end, loading, Ray and Ray Tune's files included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText, CLIPImageProcessorPil

from small_llava import make_tokenizer
from workers.speed_test.random_llava import SHAPES, _config, text_tokens
from workers.speed_test.samples import QUESTION_LENGTHS
from workers.tasks.prompts import CONVERSATIONS, SINGLE_PREDICTION

MARGIN_S = 45.0  # Ray, loading and the end of a run, when the time left is counted


def make_model(shape: str, folder: Path) -> None:
    """A checkpoint directory as transformers writes it, in bfloat16; drawn on a GPU where there is one."""
    if (folder / "done").exists():
        return
    tokenizer = make_tokenizer()
    config = _config(SHAPES[shape])
    config.image_token_id = config.image_token_index = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = SHAPES[shape].image_size
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        folder
    )
    (folder / "done").touch()


def _place(folder: Path, number: int) -> Path:
    return folder / "images" / "test" / str(number) / "image.png"


def _write_picture(number: int, place: Path) -> None:
    """No two alike: questions about one image would share its rows."""
    if place.exists():
        return
    gradient = Image.linear_gradient("L").resize((640, 480))
    picture = Image.merge("RGB", (gradient, gradient.rotate(5 * number), gradient.rotate(-7 * number)))
    for corner in range(12):
        x, y = (97 * (number + corner)) % 560, (61 * number * (corner + 1)) % 400
        colour = (20 * corner, number % 256, number // 256)
        ImageDraw.Draw(picture).ellipse((x, y, x + 80, y + 60), fill=colour)
    place.parent.mkdir(parents=True, exist_ok=True)
    picture.save(place, compress_level=1)


def make_data(count: int, folder: Path) -> None:
    """Questions with as many tokens as ScienceQA's have, each with an image file of its own of 640 x 480."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda number: _write_picture(number, _place(folder, number)), range(count)))
    tokenizer = make_tokenizer()
    frame = f"\n{SINGLE_PREDICTION}" + CONVERSATIONS["vicuna_v1"].partition("{question}")[2]
    around = len(tokenizer(frame, add_special_tokens=False)["input_ids"])
    items, problems = [], {}
    for number in range(count):
        words = text_tokens(QUESTION_LENGTHS[(7 * number) % len(QUESTION_LENGTHS)]) - around
        text = " ".join("which of these shape is red green blue left right".split()[k % 10] for k in range(words))
        items.append(
            {
                "id": str(number),
                "image": f"{number}/image.png",
                "conversations": [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": "A"}],
            }
        )
        problems[str(number)] = {"choices": ["red", "green", "blue"], "answer": number % 3, "split": "test"}
    (folder / "llava_test_CQM-A.json").write_text(json.dumps(items))
    (folder / "problems.json").write_text(json.dumps(problems))


def run_one(sweep: Path, out: Path, workers: int, samples: int) -> dict[str, Any]:
    """Run the sweep in this process and say when what happened."""
    from rich.console import Console

    import orchestrator.crew
    import orchestrator.run
    import orchestrator.sweep.prepare
    from orchestrator.cluster.ray_pool import RayPool
    from orchestrator.sweep.spec import load_sweep
    from results.experiment import Experiment

    at: dict[str, float] = {}
    counts: dict[int, int] = {}

    class Watched(RayPool):
        def __init__(self, *arguments: Any, on_ready: Any, **options: Any) -> None:
            def ready() -> None:
                at["ready"] = time.time()
                on_ready()

            super().__init__(*arguments, on_ready=ready, **options)
            at["cluster"] = time.time()

        def results(self, *arguments: Any) -> Iterator[Any]:
            for unit, outcome in super().results(*arguments):
                at.setdefault("first", time.time())
                if sum(bool(worker.name) for worker in self._workers) == self.workers:
                    at.setdefault("all_ready", time.time())
                counts[len(unit.samples)] = counts.get(len(unit.samples), 0) + 1
                yield unit, outcome
                at["last"] = time.time()  # its cells are on disk

    orchestrator.crew.RayPool = Watched  # type: ignore[attr-defined]
    began = time.time()
    prepared = orchestrator.sweep.prepare.prepare(load_sweep(sweep, {"samples": samples}))
    options = orchestrator.run.RunOptions(workers=workers)
    result = orchestrator.run.run_sweep(prepared, out, options, Console())
    cells = len(prepared.spec.points) * samples
    assert len(Experiment.open(out).cells(["point"])) == cells, "not all cells are there"
    return {
        "gpus": workers,
        "samples": samples,
        "points": len(prepared.spec.points),
        "cells": cells,
        "failed": result.failed,
        "began": began,
        "ended": time.time(),
        "peak_gib": round(result.peak_bytes / 2**30, 1),
        "units_by_size": dict(sorted(counts.items())),
        **at,
    }


def busy_shares(log: Path, began: float, ended: float) -> list[float]:
    """Of each GPU, the mean of what `nvidia-smi` called its utilisation between two instants, 0 .. 1."""
    shares: dict[int, list[float]] = {}
    for line in log.read_text().splitlines():
        stamp, index, busy = line.split()
        if began <= float(stamp) <= ended:
            shares.setdefault(int(index), []).append(float(busy) / 100)
    return [round(mean(values), 3) for _, values in sorted(shares.items())]


def watch_gpus(log: Path) -> None:
    """Write time, index and utilisation of all GPUs until this process is ended."""
    query = ["nvidia-smi", "--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with log.open("w") as out, subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            index, busy = line.split(",")
            out.write(f"{time.time():.3f} {index.strip()} {busy.strip()}\n")
            out.flush()


def measure(sweep: Path, folder: Path, gpus: int, samples: int, visible: Sequence[str]) -> dict[str, Any]:
    """One run in a process of its own, with the GPUs it may see."""
    out = folder / f"run-{gpus}-{time.time_ns()}"
    env = dict(os.environ)
    log = folder / "utilisation.log"
    watcher = None
    if visible:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(visible[:gpus])
        watcher = subprocess.Popen([sys.executable, __file__, "--watch", str(log)], env=env, start_new_session=True)
    try:
        arguments = ["--one", str(gpus), "--samples", str(samples), "--sweep", str(sweep), "--out", str(out)]
        subprocess.run([sys.executable, __file__, *arguments], env=env, check=True)
    finally:
        if watcher is not None:
            os.killpg(watcher.pid, 15)
            watcher.wait()
    row: dict[str, Any] = json.loads((out / "scaling.json").read_text())
    work, whole = row["last"] - row["ready"], row["ended"] - row["began"]
    row |= {
        "load_s": row["ready"] - row["cluster"],
        "work_s": work,
        "whole_s": whole,
        "cells_per_s": row["cells"] / work,
        "cells_per_s_whole": row["cells"] / whole,
    }
    if visible:
        row["busy"] = busy_shares(log, row["ready"], row["last"])[:gpus]
    return row


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The table; ratios are to as many times the run with fewest GPUs."""
    base = min(rows, key=lambda row: row["gpus"])
    lines = [
        "| GPUs | samples | load s | work s | cells/s | of linear | with load, Ray and Tune | of linear | busy | GiB |"
    ]
    lines.append("|" + "---|" * 10)
    for row in sorted(rows, key=lambda row: row["gpus"]):
        times = row["gpus"] / base["gpus"]
        lines.append(
            f"| {row['gpus']} | {row['samples']} | {row['load_s']:.1f} | {row['work_s']:.1f} "
            f"| {row['cells_per_s']:.1f} "
            f"| {row['cells_per_s'] / base['cells_per_s'] / times:.3f} | {row['cells_per_s_whole']:.1f} "
            f"| {row['cells_per_s_whole'] / base['cells_per_s_whole'] / times:.3f} "
            f"| {' '.join(f'{share:.2f}' for share in row.get('busy', ()))} | {row['peak_gib']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[4, 2, 1], help="in this order")
    parser.add_argument("--shape", default="llava-1.5-7b", choices=SHAPES)
    parser.add_argument("--samples", type=int, default=4800, help="of the sweep")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/saccade-scaling"), help="on a local disk")
    parser.add_argument(
        "--budget", type=float, default=480.0, help="seconds; a run that would exceed it has fewer samples"
    )
    parser.add_argument("--out", type=Path, help="all numbers as JSON")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sweep", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--watch", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.watch:
        watch_gpus(given.watch)
        return
    if given.one:
        row = run_one(given.sweep, given.out, given.one, given.samples)
        (given.out / "scaling.json").write_text(json.dumps(row))
        return
    began = time.monotonic()
    folder = given.folder
    make_model(given.shape, folder / given.shape)
    make_data(given.samples, folder / f"data-{given.samples}")
    print(f"model and data made in {time.monotonic() - began:.0f} s", flush=True)
    sweep = folder / "sweep.yaml"
    sweep.write_text(
        f"model: {{path: {folder / given.shape}, dtype: auto}}\ndata: {folder / f'data-{given.samples}'}\n"
        "max_new_tokens: 2\ngrid:\n  - {strategy: cutoff, layer: 2..L}\n"
    )
    visible: list[str] = []
    if torch.cuda.is_available():
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
        torch.cuda.empty_cache()
    rows: list[dict[str, Any]] = []
    for gpus in given.gpus:
        samples = given.samples
        if rows:
            last = rows[-1]
            left = given.budget - (time.monotonic() - began) - MARGIN_S
            per_sample = last["work_s"] / last["samples"] * last["gpus"] / gpus
            samples = max(64, min(samples, int(left / per_sample)))
        rows.append(measure(sweep, folder, gpus, samples, visible))
        print(json.dumps(rows[-1]), flush=True)
        if given.out:
            given.out.write_text(json.dumps(rows, indent=1))
    print(show(rows), flush=True)


if __name__ == "__main__":
    main()
