"""Which Ray cluster this process works with: one that runs, or a private one on this machine that nobody else reaches.

Ray is imported inside functions: some of its settings are read once, when it is imported.
"""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from orchestrator.ending import own_handler
from results.import_path import is_own_folder, protect_children, python_command, safe_environment
from strategies.errors import SaccadeError

CONNECT_S = 5.0  # to the head of a cluster
OBJECT_STORE_BYTES = 200 * 2**20  # units and outcomes are small; Ray would take 30% of the memory
ANSWER_S = 15.0  # for the head's answer
ASKED_S = 30.0  # for that and the import of Ray on a busy machine
ASK = """
import ray
from ray._raylet import GcsClient
from ray.exceptions import RayError
try:
    if sys.argv[1].startswith("ray://"):
        ray.init(sys.argv[1], logging_level="ERROR")
    else:
        GcsClient(address=sys.argv[1])
except (RayError, OSError, RuntimeError, ValueError) as error:
    print(str(error).strip().splitlines()[0])
    sys.exit(1)
"""
SOCKET = "session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"  # as Ray names its longest
SOCKET_BYTES = 103  # 107 on Linux
SHARED_MEMORY = Path("/dev/shm")
HOOK = "RAY_RUNTIME_ENV_HOOK"
UV_HOOK = "ray._private.runtime_env.uv_runtime_env_hook.hook"
SLOW = "timed out during startup"
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in what `ray job submit` runs


class PoolError(SaccadeError):
    """The pool cannot work. The message names the cause and the remedy; exit code 2."""


def join_named(address: str | None) -> None:
    """Join the cluster that an address or RAY_ADDRESS names; without either nothing is started.

    Raises:
        PoolError: There is no cluster at the address.
    """
    if address or os.environ.get("RAY_ADDRESS"):
        start_ray(address)


def has_gpu() -> bool:
    """Whether engines find a GPU: in the cluster that this process has joined, else on this machine.

    The machine that reads a sweep may be a cluster's head without a GPU, or a laptop.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return resource("GPU") > 0
    import torch

    return torch.cuda.is_available()


def resource(name: str) -> float:
    """How much of a resource the cluster has now. What an autoscaler may add Ray does not tell."""
    import ray

    return float(ray.cluster_resources().get(name, 0.0))


def start_ray(address: str | None = None) -> bool:
    """Join the cluster that is meant, or start a private one on this machine.

    Returns:
        Whether a cluster was started, which then has to be shut down.

    Raises:
        PoolError: There is no cluster at the address, or Ray does not start.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning: CUDA stays visible to the driver
    private = address in (None, "local")
    protect_children()
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of the other workers, when the first one says it all
    # Said twice otherwise: a lost worker is reported by the pool, in one line and with what is done about it.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing")
    if private:
        check_shared_memory()
        if unfit(private_folder()):
            options["_temp_dir"] = _short_folder()
        # Read when ray is imported: every port on 127.0.0.1, where all but the dashboard listen on all addresses.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 starves the engines beside any other load
        if "RAY_AUTH_MODE" not in os.environ:
            # Other users of this machine reach loopback too. A token for this run alone, in the environment, leaves
            # no file behind; Ray's own choice is ~/.ray/auth_token, readable by all.
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    else:
        check_reachable(str(address))
    if private or _may_be_shadowed():
        # What follows `uv run` in a project of the user's own: it would refuse our empty working directory.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        if os.environ.get(HOOK) == UV_HOOK:
            del os.environ[HOOK]
    import ray

    if private:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options |= {
            "include_dashboard": False,
            "num_cpus": cores + 1,  # one more than there are: the engines take all, Tune's mirror a sliver
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        with tempfile.TemporaryDirectory(prefix="saccade-empty-") as empty:  # uploaded by init, then not needed
            if _may_be_shadowed():
                options["runtime_env"] = {"working_dir": empty}
            with own_handler():
                ray.init(address="local" if private else address, **options)
    except (OSError, RuntimeError, ValueError, ModuleNotFoundError) as error:  # the last of a hook of the user
        what = "Ray does not start" if private else f"the Ray cluster at {address} cannot be joined"
        raise PoolError(f"{what}: {textwrap.shorten(str(error), 400)}") from error
    except Exception as error:  # Ray's own word for it has no kind
        if SLOW not in str(error):
            raise
        remedy = "try again, or --local"
        raise PoolError(f"Ray did not start within its 30 s, as happens on a busy host: {remedy}") from error
    return private


def private_folder() -> Path:
    """Where Ray would put its sockets and logs on this machine."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if name in os.environ:
            return Path(os.environ[name], "ray")
    return Path("/tmp/ray")


def unfit(folder: Path) -> str | None:
    """Why a private Ray could not use a folder; None where it can."""
    if len(os.fsencode(folder.absolute() / SOCKET)) > SOCKET_BYTES:
        return "is too long for the names of Ray's sockets"
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return None if os.access(nearest, os.W_OK | os.X_OK) else "may not be written"


def check_shared_memory() -> None:
    """Raises: PoolError: Ray could not keep its objects, nor Python its locks, where both look for memory."""
    if SHARED_MEMORY.is_dir() and not os.access(SHARED_MEMORY, os.W_OK):
        raise PoolError(f"{SHARED_MEMORY}: may not be written, and Ray needs it: mount it writable, or --local")


def _short_folder() -> str:
    """A folder of our own for Ray's sockets, which goes with this process."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="saccade-ray-", dir="/tmp", ignore_cleanup_errors=True)
    except OSError as error:
        found = private_folder()
        raise PoolError(f"{found}: {unfit(found)}: set RAY_TMPDIR to a short folder that may be written") from error
    atexit.register(folder.cleanup)  # before Ray is imported, so that it runs after Ray's
    return folder.name


def check_reachable(address: str) -> None:
    """Whether a Ray head answers at an address, within seconds: Ray itself would try for many minutes.

    Args:
        address: ``HOST:PORT``, ``ray://HOST:PORT``, or ``auto``: what Ray has noted on this machine.

    Raises:
        PoolError: It does not.
    """
    named = _noted() if address == "auto" else address
    host, _, port = named.removeprefix("ray://").rpartition(":")
    host = host.strip("[]")
    if not host or "/" in host or not port.isdecimal():
        raise PoolError(
            f"--address {address}: give HOST:PORT of a Ray cluster's head, or `auto` on one of its machines; "
            "http:// is for `ray job submit`"
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        _check_answers(named)
    except (OSError, OverflowError) as error:
        shown = address if named == address else f"{address} ({named})"
        remedy = "check --address and RAY_ADDRESS, or leave both out to use this machine"
        if address == "auto":
            remedy = "the head has gone: unset RAY_ADDRESS, or `ray stop`"
        raise PoolError(f"no Ray cluster at {shown} ({error}); {remedy}") from error


def _check_answers(address: str) -> None:
    """Let a process of its own ask the head who it is: Ray complains of silence on standard error, and has no end.

    Raises:
        OSError: It does not answer, or not as a head does.
    """
    command = python_command(ASK, address)
    environment = {**safe_environment(), "RAY_py_gcs_connect_timeout_s": f"{ANSWER_S:.0f}"}
    try:
        asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=ASKED_S)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"no answer within {ASKED_S:.0f} s") from error
    if asked.returncode:
        raise ConnectionError(asked.stdout.strip() or asked.stderr.strip().rpartition("\n")[2])


def _noted() -> str:
    """The head that ``auto`` stands for: of a process that runs here, else the one that Ray has noted last.

    Raises:
        PoolError: There is none.
    """
    from ray._private.services import get_ray_address_from_environment

    try:
        found: str = get_ray_address_from_environment("auto", None)
    except ConnectionError as error:
        remedy = "`ray start --head`, or leave the address out"
        raise PoolError(f"no Ray cluster at auto: none runs on this machine, and none is noted; {remedy}") from error
    return found


def _may_be_shadowed() -> bool:
    """Whether actors need an empty working directory, because the current one might hold a `random.py` of the user's.

    Ray puts the driver's folder first on the actors' path, and what lies there would be taken. A submitted job brings
    its own working directory.
    """
    return not is_own_folder() and IN_A_JOB not in os.environ
