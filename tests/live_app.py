"""A live app in a thread of this process, and an installed Chromium to look at it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="no chromium is installed: `apt-get install chromium`, then the pages are tested in it"
)


@contextmanager
def serving(paths: list[Path], refresh_s: float = 0.5, host: str = "127.0.0.1", prefix: str = "/") -> Iterator[str]:
    """The address of an app over some experiments, on a free port of loopback."""
    from dashboards.app import address_of, create_app, listening
    from dashboards.gallery import Gallery

    server = listening(create_app(Gallery(paths), refresh_s=refresh_s, prefix=prefix), host, port=0, threads=4)

    def run() -> None:
        with suppress(OSError):  # its sockets are closed while it waits for them
            server.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield address_of(host, server)
    finally:
        server.close()
        thread.join(timeout=1)  # a daemon: a connection that is kept alive holds it up
