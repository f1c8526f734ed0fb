"""Answers as gzip, for readers at the other end of a tunnel: plotly.js alone is 5 MB, and 1.5 MB so."""

from __future__ import annotations

import gzip

from dash import Dash
from flask import Response, request

LEAST = 1000  # bytes; less is not worth it
KINDS = ("text/", "application/json", "application/javascript", "image/svg+xml")
LIBRARIES = "/_dash-component-suites/"  # the same for as long as we run: compressed once


def compress(app: Dash) -> None:
    """Compress what is text, where the reader's browser says that it can read that."""
    kept: dict[str, bytes] = {}

    @app.server.after_request
    def shrink(response: Response) -> Response:
        if response.status_code != 200 or not str(response.mimetype).startswith(KINDS):
            return response
        response.vary.add("Accept-Encoding")
        if "gzip" not in request.accept_encodings or response.headers.get("Content-Encoding"):
            return response
        response.direct_passthrough = False  # of a file, which is read here
        content = response.get_data()
        if len(content) < LEAST:
            return response
        name = request.path if LIBRARIES in request.path else ""
        small = kept.get(name) or gzip.compress(content, compresslevel=6 if name else 1)
        if name:
            kept[name] = small
        response.set_data(small)
        response.headers["Content-Encoding"] = "gzip"
        return response
