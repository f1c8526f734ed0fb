"""The live app: a page for each question, over one or several experiments, while they run.

Nothing is loaded from elsewhere, so it works offline, and nothing is served by path. It listens on this machine only
unless it is told otherwise. Text from data is text: it reaches the page as a text node or in html.Pre.

The URL is the only memory of a view. `live.controls` and `live.details` write it; `live.cards` draws the page that it
names, `live.refresh` brings other filters and new data into what is drawn, and `live.downloads` gives it away.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import dash_ag_grid as dag
from dash import Dash, dash_table, dcc, no_update

from dashboards.gallery import Gallery
from dashboards.live import cards, controls, details, downloads, frame, refresh
from dashboards.live.access import LOOPBACK, Unprefixed, guard, trusted_hosts
from dashboards.live.compression import compress
from dashboards.pages.catalog import PAGES
from results.disk import StoreError

ASSETS = files("dashboards") / "assets"
REFRESH_S = 5
MAX_BODY = 2**20  # bytes; a callback sends what it reads of the page, some kB
MAX_CONNECTIONS = 500  # a reader's browser opens six
SILENT_S = 20  # until a connection without a request is closed
EAGER = ("async-graph", "async-dropdown", "async-slider")


def create_app(
    gallery: Gallery, hosts: Sequence[str] = LOOPBACK, refresh_s: float = REFRESH_S, prefix: str = "/"
) -> Dash:
    """Build the app.

    Args:
        gallery: What it shows.
        hosts: Names that requests may be addressed to.
        refresh_s: How often the pages ask for new data.
        prefix: Path that readers see before ours, "/user/x/proxy/8050/"; a proxy may take it away or leave it.
    """
    _load_on_demand()
    app = Dash(
        "saccade",
        title="Saccade",
        update_title="",
        assets_folder=str(ASSETS / "app"),
        serve_locally=True,
        routes_pathname_prefix="/",
        requests_pathname_prefix=prefix,
        eager_loading=True,  # plotly.js, 5 MB, while the server draws, and not after
        suppress_callback_exceptions=True,  # panels come and go
        on_error=_left,
        index_string=(ASSETS / "live.html").read_text(encoding="utf-8"),
    )
    guard(app, hosts)
    compress(app)
    app.server.wsgi_app = Unprefixed(app.server.wsgi_app, prefix)
    app.layout = lambda: frame.layout(gallery, refresh_s)
    for part in (frame, controls, cards, refresh, downloads, details):
        part.register(app, gallery)
    for page in PAGES:
        page.register(app, gallery)
    return app


def _left(error: Exception) -> Any:
    """Leave the page as it is where the experiment has gone meanwhile: the next look at it says so in a notice."""
    if not isinstance(error, StoreError):
        raise error
    return no_update


def _load_on_demand() -> None:
    """Eager loading would fetch and parse 8 MB that a page does not use: formulas, tables, and the grid.

    A grid's page asks for it, see `saccade.library` in ``assets/app/app.js``.
    """
    for script in (*dcc._js_dist, *dag._js_dist, *dash_table._js_dist):  # type: ignore[attr-defined]
        name = script.get("relative_package_path") or ""
        if script.get("async") and not any(used in name for used in EAGER):
            script["async"] = "lazy"
    for script in dag._js_dist:
        if not script.get("async"):
            script["dynamic"] = True


def listening(app: Dash, host: str, port: int, threads: int = 8) -> Any:
    """The server of an app, which outlives readers that send too much, or connect and say nothing.

    Raises:
        OSError: The port is taken, or the address is none of this machine's.
    """
    from waitress import create_server

    # A socket of our own, for a name such as localhost has two addresses, and each would get a port.
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    return create_server(
        app.server, sockets=[socket.create_server(address, family=family)], threads=threads,
        max_request_body_size=MAX_BODY, connection_limit=MAX_CONNECTIONS, channel_timeout=SILENT_S,
        cleanup_interval=SILENT_S // 4, asyncore_use_poll=True,
    )  # fmt: skip


def address_of(host: str, server: Any) -> str:
    """What to type into a browser."""
    bare = host.strip("[]")
    return f"http://{f'[{bare}]' if ':' in bare else bare}:{server.effective_port}"


def serve(paths: Sequence[Path], host: str, port: int, names: Sequence[str] = (), prefix: str = "/") -> None:
    """Serve until interrupted.

    Args:
        paths: Experiment directories.
        host: Address to listen on.
        port: 0 takes a free one.
        names: Further names that this machine is addressed by.
        prefix: See `create_app`.

    Raises:
        StoreError: One of the paths is not an experiment.
        OSError: See `listening`.
    """
    gallery = Gallery(paths)
    app = create_app(gallery, trusted_hosts(host, names), prefix=prefix)
    threading.Thread(target=gallery.count_costs, daemon=True).start()  # takes seconds, and only one page needs it
    server = listening(app, host, port)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a page asks for several things at once, that is all
    print(f"{address_of(host, server)}  (Ctrl-C ends it)", flush=True)
    server.run()
