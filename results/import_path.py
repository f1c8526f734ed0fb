"""Where Python takes code from: never from the current folder, and Saccade's packages from one place.

People work in folders with a queue.py of their own, and look at experiments of others from inside. `python -c`, with
which processes are started, and `python -m` put the current folder before the standard library, and so does an empty
entry of PYTHONPATH. The folder that Saccade itself lies in may be the current one, and stays: a checkout that is not
installed, or the working directory of a Ray job.

Nothing is imported here, and no `Path` used, but what Python has loaded by itself before it looks at that path.
"""

# ruff: noqa: PTH109, PTH118, PTH120
import os
import sys

PACKAGES = ("strategies", "workers", "results", "dashboards", "orchestrator")
ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # where all five lie


class ImportPathError(ValueError):
    """Another's code stands in the way of ours. The message names the place and the remedy; exit code 2."""


def leave_out_current_folder() -> None:
    """Take no code from the current folder from here on, neither in this process nor in those that it starts."""
    sys.path[:] = _without_current(sys.path)
    protect_children()


def protect_children() -> None:
    """Let no Python process that this one starts, whoever starts it, take code from the current folder."""
    environment = safe_environment()
    os.environ.update(environment)
    if "PYTHONPATH" not in environment:
        os.environ.pop("PYTHONPATH", None)


def safe_environment() -> dict[str, str]:
    """The environment for a Python process that takes no code from the current folder."""
    environment = dict(os.environ, PYTHONSAFEPATH="1")
    given = environment.pop("PYTHONPATH", "")
    if given and (path := _without_current(given.split(os.pathsep))):
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path))  # also where a child is elsewhere
    return environment


def python_command(code: str, *arguments: str) -> list[str]:
    """The command for a Python process that imports what this one does; to be run in `safe_environment`."""
    path = _without_current(sys.path)
    return [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {path!a}\n{code}", *arguments]


def is_own_folder() -> bool:
    """Whether the current folder is Saccade's, and this process takes it from there, before what is installed."""
    places = [os.path.realpath(place) for place in sys.path]
    library = os.path.dirname(os.path.realpath(os.__file__))
    first = places[: places.index(library)] if library in places else places
    return _current_folder() == ROOT and ROOT in first


def check_origin() -> None:
    """Look where our packages would be imported from, without importing them.

    Raises:
        ImportPathError: One is found in another place, as a user's own folder `workers/` on PYTHONPATH.
    """
    from importlib.util import find_spec

    for name in PACKAGES:
        spec = find_spec(name)
        found = (
            "nowhere" if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), "nowhere")
        )
        if os.path.realpath(found) not in (os.path.join(ROOT, name), os.path.join(ROOT, name, "__init__.py")):
            raise ImportPathError(
                f"{found}: stands on Python's path before Saccade's own `{name}` in {ROOT}; take its folder out of "
                "PYTHONPATH, or rename it"
            )


def _without_current(path: list[str]) -> list[str]:
    here = _current_folder()
    return [place for place in path if os.path.realpath(place) != here or here == ROOT] if here else path


def _current_folder() -> str | None:
    try:
        return os.path.realpath(os.getcwd())
    except FileNotFoundError:  # removed by somebody
        return None
