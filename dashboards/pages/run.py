"""Run: how far, how fast, how long still, and what failed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pandas as pd
from dash import Dash, html
from flask import Response, abort, request

from dashboards.charts import phase_figure, rate_figure, state_figure
from dashboards.figures import Figure
from dashboards.gallery import LIVE_S, Gallery, Source
from dashboards.pages.base import Page, Panel
from dashboards.pages.parts import scrolling, tiles
from dashboards.progress import phase_rows, progress, rate_rows, state_rows, worker_rows
from dashboards.rows import failure_groups
from dashboards.view import View
from results.durations import duration, since
from results.location import driver_of
from results.run_log import NAME as LOG
from results.run_log import end_of_log
from results.timeline import read_timeline
from results.wording import MISSING, count, number, percent, plural, shortened

MAX_FAILURES = 30
LOG_PATH = "/run/log"


def panels(view: View) -> list[Panel]:
    states = pd.concat([state_rows(source.summary) for source in view.sources], ignore_index=True)
    found = [
        Panel(name="tiles", figure=None, rows=_table(view), below=html.Div([*map(_state, view.sources)])),
        Panel(name="progress", figure=state_figure(states), rows=states),
    ]
    several = len(view.sources) > 1
    for place, source in enumerate(view.sources):
        rates = rate_rows(source.units, len(source.experiment.points))
        if len(rates):
            found.append(_own(source, place, "speed", rates, rate_figure(rates), several))
        if record := read_timeline(source.experiment):
            phases = phase_rows(record)
            found.append(_own(source, place, "time", phases, phase_figure(phases, record.began), several))
    workers = pd.concat([worker_rows(source.units).assign(experiment=source.name) for source in view.sources])
    if len(workers):
        body = _workers(workers, several)
        found.append(Panel(name="workers", figure=None, title="Workers", rows=workers, below=body))
    failures = pd.concat([source.failures.assign(experiment=source.name) for source in view.sources], ignore_index=True)
    text = "" if len(failures) else "No sample has failed."
    found.append(
        Panel(
            name="failures", figure=None, title="Failed samples", note=text, rows=failures,
            below=_failures(failures) if len(failures) else None,
        )
    )  # fmt: skip
    return found


def _own(source: Source, place: int, name: str, rows: pd.DataFrame, figure: Figure, several: bool) -> Panel:
    """A panel of one experiment; of several its title says whose."""
    own = name if place == 0 else f"{name}-{place + 1}"
    return Panel(
        name=own, alone=name, figure=figure, rows=rows, title=source.name if several else "", experiments=(source.name,)
    )


def _table(view: View) -> pd.DataFrame:
    rows = []
    for source in view.sources:
        done = progress(source.answers, source.units)
        rows.append(
            {
                "experiment": source.name, "cells": done.cells, "answered": done.answered, "failed": done.failed,
                "missing": done.missing, "samples_per_s": done.per_s, "left_s": done.left_s,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _state(source: Source) -> Any:
    done = progress(source.answers, source.units)
    workers = {unit.worker for unit in source.units[-50:] if unit.worker}
    newest = source.units[-1].written if source.units else None
    driver = driver_of(source.experiment.path) if done.missing else None
    state = "complete" if not done.missing else "running" if source.running else "silent" if driver else "stopped"
    if done.missing == 0:
        left = "nothing left"
    elif state == "silent":
        left = f"{driver}, and no answer came for {duration(LIVE_S)} or longer: its log may say why"
    elif state == "stopped":
        left = "give the same `saccade run` again to go on"
    else:
        left = f"about {duration(done.left_s)} left" if done.left_s == done.left_s else "speed not known yet"
    speed = f"{number(done.per_s, 2)} samples/s" if done.per_s == done.per_s else MISSING
    each = f"{number(done.per_s / len(workers), 2)} each of {plural(len(workers), 'worker')}" if workers else ""
    found = [
        (state, percent(1 - done.missing / max(done.cells, 1)), left),
        ("cells", count(done.answered), f"of {count(done.cells)}; {count(done.missing)} missing"),
        ("speed", speed, each or "over the last fifth of the files"),
        ("failed samples", count(len(source.failures)), "listed below" if len(source.failures) else "none"),
        ("last answer", MISSING if newest is None else _moment(newest), str(source.experiment.path)),
    ]
    log = [html.P(html.A("log of its runs", href=log_address(source.name)), className="note")]
    has_log = (source.experiment.path / LOG).is_file()
    return html.Div([html.H2(source.name, dir="auto"), tiles(found), *(log if has_log else ())])


def log_address(name: str) -> str:
    """Where the live app gives the log of an experiment."""
    return f".{LOG_PATH}?{urlencode({'experiment': name})}"


def _workers(rows: pd.DataFrame, several: bool) -> Any:
    names = [*["experiment"] * several, "worker", "cells", "last answer", "GPU memory at most", "GPU busy"]
    body = []
    for row in rows.to_dict("records"):
        memory = (
            MISSING if pd.isna(row["peak_gib"]) else f"{number(row['peak_gib'])} of {number(row['device_gib'])} GiB"
        )
        texts = (count(row["cells"]), _moment(row["written"]), memory, percent(row["busy"], 0))
        cells = [html.Td(text, dir="auto") for text in (*[row["experiment"]] * several, row["worker"])]
        body.append(html.Tr([*cells, *(html.Td(text, className="number") for text in texts)]))
    first = 1 + several
    head = [html.Th(name, className="number" if place >= first else "") for place, name in enumerate(names)]
    return scrolling(html.Table([html.Thead(html.Tr(head)), html.Tbody(body)]))


def register(app: Dash, gallery: Gallery) -> None:
    @app.server.get(LOG_PATH)
    def log() -> Response:
        source = gallery.snapshot.source(request.args.get("experiment", ""))
        text = None if source is None else end_of_log(source.experiment.path)
        if text is None:
            abort(404)
        return Response(text, mimetype="text/plain")


def _moment(seconds: float) -> Any:
    """A time of the epoch that stays true in a report; the live app says beside it how long ago that was."""
    moment = datetime.fromtimestamp(int(seconds), UTC)
    ahead = f", {since(seconds)}" if seconds > time.time() + 1 else ""
    return html.Time(f"{moment:%Y-%m-%d %H:%M:%S} UTC{ahead}", dateTime=moment.isoformat())


def _failures(failures: pd.DataFrame) -> Any:
    groups = failure_groups(failures)
    body = [
        html.Tr(
            [
                html.Td(group["kind"]),
                html.Td(html.Pre(shortened(group["message"], 300), dir="auto")),
                html.Td(count(len(group["samples"])), className="number"),
                html.Td(", ".join(group["samples"][:6]) + (" …" if len(group["samples"]) > 6 else ""), dir="auto"),
                html.Td(_traceback(failures, group)),
            ]
        )
        for group in groups.head(MAX_FAILURES).to_dict("records")
    ]
    head = [html.Th(name) for name in ("kind", "message", "samples", "which", "where")]
    more = len(groups) - MAX_FAILURES
    note = [html.P(f"and {plural(more, 'more kind')}; the CSV has all", className="note")] if more > 0 else []
    return [scrolling(html.Table([html.Thead(html.Tr(head)), html.Tbody(body)])), *note]


def _traceback(failures: pd.DataFrame, group: Any) -> Any:
    first = failures[(failures["kind"] == group["kind"]) & (failures["message"] == group["message"])].iloc[0]
    worker = f"worker {first['worker']}\n" if first["worker"] else ""
    return html.Details([html.Summary("traceback"), html.Pre(worker + str(first["traceback"]))])


PAGE = Page(name="Run", path="/run", panels=panels, register=register)
