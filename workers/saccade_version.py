"""Which Saccade this is; light to import."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def saccade_version() -> str:
    """Of the installed package; that it is run from its sources only, where there is none."""
    try:
        return version("saccade")
    except PackageNotFoundError:
        return "from its sources"
