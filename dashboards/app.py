"""The live app: a page for each question, over one or several experiments, while they run.

Nothing is loaded from elsewhere, so it works offline, and nothing is served by path. It listens on this machine only
unless it is told otherwise. Text from data is text: it reaches the page as a text node or in html.Pre.

The URL is the only memory of a view. `live.controls` and `live.details` write it; `live.cards` draws the page that it
names, `live.refresh` brings other filters and new data into what is drawn, and `live.downloads` gives it away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import dash_ag_grid as dag
from dash import Dash, dash_table, dcc

from dashboards.board import Board
from dashboards.live import cards, controls, details, downloads, frame, refresh
from dashboards.live.access import LOOPBACK, guard, trusted_hosts
from dashboards.pages.catalog import PAGES

REFRESH_S = 5
EAGER = ("async-graph", "async-dropdown", "async-slider", "async-community")


def create_app(board: Board, hosts: Sequence[str] = LOOPBACK, refresh_s: float = REFRESH_S) -> Dash:
    """Build the app.

    Args:
        board: What it shows.
        hosts: Names that requests may be addressed to.
        refresh_s: How often the pages ask for new data.
    """
    _load_on_demand()
    app = Dash(
        "saccade",
        title="Saccade",
        update_title="",
        assets_folder=str(files("dashboards") / "assets" / "app"),
        serve_locally=True,
        eager_loading=True,  # plotly.js, 5 MB, while the server draws, and not after
        suppress_callback_exceptions=True,  # panels come and go
        compress=False,
    )
    guard(app, hosts)
    app.layout = lambda: frame.layout(board, refresh_s)
    for part in (frame, controls, cards, refresh, downloads, details):
        part.register(app, board)
    for page in PAGES:
        page.register(app, board)
    return app


def _load_on_demand() -> None:
    """Eager loading would fetch and parse 7 MB that no page uses: formulas, the grid's enterprise edition, tables."""
    for script in (*dcc._js_dist, *dag._js_dist, *dash_table._js_dist):  # type: ignore[attr-defined]
        name = script.get("relative_package_path") or ""
        if script.get("async") and not any(used in name for used in EAGER):
            script["async"] = "lazy"


def serve(paths: Sequence[Path], host: str, port: int, names: Sequence[str] = ()) -> None:
    """Serve until interrupted.

    Args:
        paths: Experiment directories.
        host: Address to listen on.
        port: 0 takes a free one.
        names: Further names that this machine is addressed by.

    Raises:
        StoreError: One of the paths is not an experiment.
        OSError: The port is taken.
    """
    from waitress import create_server

    board = Board(paths)
    app = create_app(board, trusted_hosts(host, names))
    threading.Thread(target=board.count_costs, daemon=True).start()  # takes seconds, and only one page needs it
    server = create_server(app.server, host=host, port=port, threads=8)
    shown = f"[{host}]" if ":" in host else host
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a page asks for several things at once, that is all
    print(f"http://{shown}:{server.effective_port}  (Ctrl-C ends it)", flush=True)
    server.run()
