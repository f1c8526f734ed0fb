"""Sample explorer: what the model saw, which patches each configuration kept, and what it answered.

The page is drawn by `assets/app/explorer.js` from three routes: the index of what the filter bar lets through, one
sample's document, and one sample's picture. All are found by experiment name and sample id; no path ever arrives here.
"""

from __future__ import annotations

from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from flask import Response, abort, jsonify, request

from dashboards.explorer import index_document, sample_documents
from dashboards.gallery import Gallery, Source
from dashboards.pages.base import Page
from dashboards.view import State, View, filtered, filters_of
from results.pictures import Pictures


def extra(view: View) -> list[Any]:
    stores = [
        dcc.Store(id="explorer-shown"),
        dcc.Store(id="explorer-filters", data=[*filters_of(view.snapshot.rows), "a", "b"]),
    ]
    return [html.Div([html.Div(id="explorer-root"), *stores], className="wide")]


def register(app: Dash, gallery: Gallery) -> None:
    pictures: dict[str, Pictures] = {}

    def pictures_of(source: Source) -> Pictures:
        known = pictures.get(source.name)
        if known is None or known.context != source.experiment.context:
            known = pictures[source.name] = Pictures(source.experiment)
        return known

    def asked() -> tuple[Source, str]:
        """The experiment and the sample that a request names, or 404."""
        source, sample = gallery.snapshot.source(request.args.get("experiment", "")), request.args.get("sample", "")
        if source is None or sample not in source.answers.samples:
            abort(404)
        return source, sample

    @app.server.get("/explorer/index")
    def explorer_index() -> Response:
        snapshot = gallery.snapshot
        rows = filtered(snapshot.rows, State.parse(request.query_string.decode()))
        source = snapshot.source_of(rows)  # un-pruned rows always pass the filters
        known = pictures_of(source)
        known.refresh()
        pair = request.args.get("a", ""), request.args.get("b", "").rpartition(":")[2]
        document = index_document(
            source.experiment, source.answers, source.summary, known.samples, frozenset(source.failures["sample"]),
            pair=pair if all(pair) else None,
            only=frozenset(rows.loc[rows["experiment"] == source.name, "key"]),
        )  # fmt: skip
        return jsonify({**document, "source": source.name, "sources": [other.name for other in snapshot.sources]})

    @app.server.get("/explorer/sample")
    def explorer_sample() -> Response:
        source, sample = asked()
        return jsonify(sample_documents(source.experiment, [sample], source.failures)[sample])

    @app.server.get("/explorer/picture")
    def explorer_picture() -> Response:
        source, sample = asked()
        content = pictures_of(source).get(sample)
        if content is None:
            abort(404)
        return Response(content, mimetype="image/webp")

    app.clientside_callback(
        ClientsideFunction("saccade", "explore"),
        Output("explorer-shown", "data"),
        Input("url", "search"),
        Input("version", "data"),
        Input("explorer-filters", "data"),
    )


PAGE = Page(name="Sample explorer", path="/samples", extra=extra, register=register)
