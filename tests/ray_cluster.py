"""Ray clusters for tests: private ones, none of them reachable from outside; they find `stub_engine` on their path."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from orchestrator.cluster.joining import start_ray
from waiting import wait_for

TESTS = Path(__file__).parent
ROOT = TESTS.parent
FAKE_HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"  # as Ray's made-up provider calls its head


@contextmanager
def environment() -> Iterator[pytest.MonkeyPatch]:
    """What Ray in this process and its workers are told, for as long as it lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setenv("RAY_worker_niceness", "0")  # Ray's default starves workers beside any other load
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # every port on 127.0.0.1
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.chdir(ROOT)
        yield patch


@contextmanager
def local_cluster() -> Iterator[None]:
    """The cluster that a run without an address has."""
    with environment():
        assert start_ray()
        import ray

        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def machines(*gpus: int) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster`: a head without GPUs and one raylet for each number of (made-up) GPUs."""
    with environment() as patch:
        # Ray takes ten missed heartbeats of a second each for the death of a machine.
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "4")
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        try:
            for count in gpus:
                cluster.add_node(num_cpus=4, num_gpus=count)
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@dataclass(frozen=True)
class Head:
    """`ray start --head`, as a user has it: with a token, and a job server."""

    address: str
    dashboard: str
    pid: int
    env: dict[str, str]  # for its clients

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )


@contextmanager
def started_head(cpus: int = 3, autoscaling: dict[str, Any] | None = None) -> Iterator[Head]:
    """A head in processes of its own.

    Args:
        cpus: of the head.
        autoscaling: a cluster configuration for Ray's made-up provider, whose machines are processes here.
    """
    port, dashboard, agent = free_ports(3)
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(TESTS),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    env.pop("RAY_ADDRESS", None)
    with TemporaryDirectory(prefix="sr-", dir="/tmp") as folder:  # short: Unix sockets have names of 107 bytes
        options = ["--port", port, "--dashboard-port", dashboard, "--dashboard-agent-listen-port", agent]
        options += ["--num-cpus", cpus, "--object-store-memory", 100_000_000, "--temp-dir", folder]
        head_env = dict(env)
        if autoscaling is not None:
            config = Path(folder) / "autoscaling.json"
            provider = autoscaling["provider"] | {"gcs_address": f"127.0.0.1:{port}"}
            config.write_text(json.dumps(autoscaling | {"provider": provider}))
            options += ["--autoscaling-config", config]
            head_id = provider["head_node_id"]
            head_env |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1"}
            head_env |= {"RAY_CLOUD_INSTANCE_ID": head_id, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head_id}
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                ["ray", "start", "--head", "--block", "--node-ip-address", "127.0.0.1", *map(str, options)],
                env=head_env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            wait_for(lambda: process.poll() is not None or is_open(dashboard))
            assert process.poll() is None, "Ray's head ended"
            yield Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", process.pid, env)
        finally:
            process.send_signal(signal.SIGTERM)  # it ends what it has started
            try:
                process.wait(20)
            finally:
                kill_group(process.pid)


def gpus_on_demand(machines: int) -> dict[str, Any]:
    """A cluster configuration as of `ray up`, whose machines of one GPU are processes on this host."""
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "made-up",
        "max_workers": machines,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "external",  # by its own name Ray looks for a file that its wheel lacks
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": machines},
        },
        "head_node_type": "ray.head.default",
        **{f"{name}_commands": [] for name in commands},
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
    }


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def is_open(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
