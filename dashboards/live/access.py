"""Who is answered, and what the reader's browser is told to refuse."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from dash import Dash
from flask import Response, abort, request

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Unprefixed:
    """An application that answers below a prefix as without it: some proxies take it away, others leave it."""

    inner: Callable[[dict[str, Any], Any], Any]
    prefix: str  # begins and ends with a slash

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        path = environ.get("PATH_INFO", "")
        if path.startswith(self.prefix):
            environ = {**environ, "PATH_INFO": f"/{path.removeprefix(self.prefix)}"}
        return self.inner(environ, start)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def trusted_hosts(host: str, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Names that requests may be addressed to, when listening on ``host``."""
    if is_loopback(host):
        return tuple(dict.fromkeys((*LOOPBACK, host, *names)))
    own = socket.gethostname()
    try:
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(own, None)]
    except OSError:
        addresses = []
    anywhere = [] if host in ("0.0.0.0", "::") else [host]
    return tuple(dict.fromkeys((*LOOPBACK, *anywhere, own, socket.getfqdn(), *addresses, *names)))


def _plain(host: str) -> str:
    """A name or an address in one spelling."""
    bare = host.strip("[]").lower()
    try:
        return str(ip_address(bare))
    except ValueError:
        return bare


def guard(app: Dash, hosts: Sequence[str]) -> None:
    """Answer to these names alone: a web site cannot have its own resolve to us and read the results (DNS rebinding).

    Headers have the browser itself refuse what we do not mean to do: load from elsewhere, be framed.
    """
    trusted = {_plain(host) for host in hosts}

    @app.server.before_request
    def refuse() -> None:  # Flask's own TRUSTED_HOSTS knows no IPv6
        named = HOST.fullmatch(request.headers.get("Host", ""))
        if named is None or _plain(named[1]) not in trusted:
            abort(400)

    @app.server.after_request
    def add(response: Response) -> Response:
        scripts = " ".join(app.csp_hashes())
        response.headers["Content-Security-Policy"] = (
            f"default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; "
            "base-uri 'none'; form-action 'none'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response
