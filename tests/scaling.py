"""How a sweep's speed grows with the number of GPUs: whole sweeps, from files to cells on disk.

    PYTHONPATH=. python tests/scaling.py --gpus 4 2 1 --out scaling.json

makes random weights of a known shape and questions as long as ScienceQA's with images of their own, once, then runs
the same sweep on the first 4, 2 and 1 GPUs, each in a process of its own, twice: cold, with nothing compiled yet, and
warm. Without GPUs (``--shape tiny``) workers on CPU cores stand in for them, to try the script. Two times are taken:
the work, from the first loaded engine to the last cell on disk, and the whole `saccade run`, from the start of the
process to its end, with Ray, loading, Ray Tune's files, tables and pages. Their difference and its parts stand beside
them. Weights that were just written are read from the page cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText, CLIPImageProcessorPil

from results.experiment import Experiment
from results.timeline import FIRST, LAST, read_timeline
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


def measure(sweep: Path, folder: Path, gpus: int, samples: int, visible: Sequence[str], caches: str) -> dict[str, Any]:
    """One `saccade run` with the GPUs that it may see; ``caches``: cold, nothing is compiled yet, or warm."""
    out = folder / f"run-{gpus}-{time.time_ns()}"
    home = folder / f"caches-{gpus}"
    if caches == "cold":
        shutil.rmtree(home, ignore_errors=True)
    env = os.environ | {"XDG_CACHE_HOME": str(home)}
    log = folder / "utilisation.log"
    watcher = None
    if visible:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(visible[:gpus])
        watcher = subprocess.Popen([sys.executable, __file__, "--watch", str(log)], env=env, start_new_session=True)
    arguments = [str(sweep), "--workers", str(gpus), "--samples", str(samples), "--out", str(out)]
    began = time.time()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "run", *arguments], env=env, stdout=subprocess.PIPE, text=True
        )
    finally:
        whole = time.time() - began
        if watcher is not None:
            os.killpg(watcher.pid, 15)
            watcher.wait()
    print(done.stdout, flush=True)
    if done.returncode:  # its cells are there, and where its time went as far as it came
        print(f"exit code {done.returncode}: not the time of a run that ends well", file=sys.stderr, flush=True)
    experiment = Experiment.open(out)
    cells = len(experiment.points) * samples
    assert len(experiment.cells(["point"])) == cells, "not all cells are there"
    timeline = read_timeline(experiment)
    assert timeline is not None
    (ready,) = (span.to_s for span in timeline.spans if span.what == "model")
    first, last = timeline.moments[FIRST], timeline.moments[LAST]
    start = whole - max(span.to_s for span in timeline.spans)  # Python's own, before and after what the run notes
    peak = re.search(r"at most ([\d.]+) GiB", done.stdout)
    row: dict[str, Any] = {
        "gpus": gpus,
        "caches": caches,
        "exit_code": done.returncode,
        "samples": samples,
        "points": len(experiment.points),
        "cells": cells,
        "failed": len(experiment.failures()),
        "whole_s": whole,
        "work_s": last - ready,
        "first_s": start + first,
        "end_s": whole - start - last,
        "cells_per_s": cells / (last - ready),
        "cells_per_s_whole": cells / whole,
        "peak_gib": float(peak[1]) if peak else 0.0,
        "spans": {"Python": round(start, 1)} | {span.what: round(span.seconds, 1) for span in timeline.spans},
    }
    if visible:
        row["busy"] = busy_shares(log, began + start + ready, began + start + last)[:gpus]
    return row


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The table; ratios are to as many times the run with fewest GPUs and the same caches."""
    names = ("GPUs", "caches", "samples", "whole s", "work s", "difference s", "first cell s", "after the last s",
             "cells/s", "of linear", "whole cells/s", "of linear", "busy", "GiB")  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in sorted(rows, key=lambda row: (row["gpus"], row["caches"])):
        base = min((one for one in rows if one["caches"] == row["caches"]), key=lambda one: one["gpus"])
        times = row["gpus"] / base["gpus"]
        lines.append(
            f"| {row['gpus']} | {row['caches']} | {row['samples']} | {row['whole_s']:.1f} | {row['work_s']:.1f} "
            f"| {row['whole_s'] - row['work_s']:.1f} | {row['first_s']:.1f} | {row['end_s']:.1f} "
            f"| {row['cells_per_s']:.1f} | {row['cells_per_s'] / base['cells_per_s'] / times:.3f} "
            f"| {row['cells_per_s_whole']:.1f} | {row['cells_per_s_whole'] / base['cells_per_s_whole'] / times:.3f} "
            f"| {' '.join(f'{share:.2f}' for share in row.get('busy', ()))} | {row['peak_gib']} |"
        )
    for row in rows:
        spans = ", ".join(f"{what} {seconds} s" for what, seconds in row["spans"].items())
        lines.append(f"{row['gpus']} GPUs, {row['caches']}: {spans}")
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
    parser.add_argument("--caches", nargs="+", default=["cold", "warm"], choices=["cold", "warm"], help="in this order")
    parser.add_argument("--watch", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.watch:
        watch_gpus(given.watch)
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
    for gpus, caches in itertools.product(given.gpus, given.caches):
        samples = given.samples
        if rows:
            last = rows[-1]
            left = given.budget - (time.monotonic() - began) - MARGIN_S
            per_sample = last["work_s"] / last["samples"] * last["gpus"] / gpus
            samples = max(64, min(samples, int(left / per_sample)))
        rows.append(measure(sweep, folder, gpus, samples, visible, caches))
        print(json.dumps(rows[-1]), flush=True)
        if given.out:
            given.out.write_text(json.dumps(rows, indent=1))
    print(show(rows), flush=True)


if __name__ == "__main__":
    main()
