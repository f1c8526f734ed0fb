"""Which Ray cluster this process works with: one that runs, or a private one on this machine that nobody else reaches.

Ray is imported inside functions: some of its settings are read once, when it is imported.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
from typing import Any

from orchestrator.ending import own_handler
from orchestrator.import_path import is_own_folder, protect_children

CONNECT_S = 5.0  # to the head of a cluster
OBJECT_STORE_BYTES = 200 * 2**20  # units and outcomes are small; Ray would take 30% of the memory
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in what `ray job submit` runs


class PoolError(ValueError):
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
        PoolError: There is no cluster at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning: CUDA stays visible to the driver
    private = address in (None, "local")
    protect_children()
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of the other workers, when the first one says it all
    # Said twice otherwise: a lost worker is reported by the pool, in one line and with what is done about it.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing")
    if private:
        # Read when ray is imported: every port on 127.0.0.1, where all but the dashboard listen on all addresses.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # What follows `uv run` in a project of the user's own: it would refuse our empty working directory.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 starves the engines beside any other load
        if "RAY_AUTH_MODE" not in os.environ:
            # Other users of this machine reach loopback too. A token for this run alone, in the environment, leaves
            # no file behind; Ray's own choice is ~/.ray/auth_token, readable by all.
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    elif address != "auto":
        _check_reachable(str(address))
    import ray

    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if private:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options |= {
            "include_dashboard": False,
            "num_cpus": cores + 1,  # one more than there are: the engines take all, Tune's mirror a sliver
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    with tempfile.TemporaryDirectory(prefix="saccade-empty-") as empty:  # uploaded by init, then not needed
        if _may_be_shadowed():
            options["runtime_env"] = {"working_dir": empty}
        try:
            with own_handler():
                ray.init(address="local" if private else address, **options)
        except (ConnectionError, ValueError) as error:
            raise PoolError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from error
    return private


def _check_reachable(address: str) -> None:
    """Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise PoolError(
            f"--address {address}: give HOST:PORT of a Ray cluster's head, or `auto` on one of its machines; "
            "http:// is for `ray job submit`"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise PoolError(
            f"no Ray cluster at {address} ({error}); check --address and RAY_ADDRESS, or leave both out to use this "
            "machine"
        ) from error


def _may_be_shadowed() -> bool:
    """Whether actors need an empty working directory, because the current one might hold a `random.py` of the user's.

    Ray puts the driver's folder first on the actors' path, and what lies there would be taken. A submitted job brings
    its own working directory.
    """
    return not is_own_folder() and IN_A_JOB not in os.environ
