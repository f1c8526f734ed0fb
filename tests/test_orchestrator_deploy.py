"""What runs Saccade on a cluster: the launcher's file, the Kubernetes manifest, the SLURM script, a submitted job."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from ray_cluster import ROOT, free_ports, gpus_on_demand, started_head
from results.experiment import Experiment

DEPLOY = ROOT / "deploy"


def test_cluster_yaml_is_what_ray_accepts_and_closed_to_the_world():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    (install,) = [command for command in config["setup_commands"] if command.startswith("pip install")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = {one.name: one for one in map(Requirement, shlex.split(install)[2:])}
    needed = {one.name: one for one in map(Requirement, project["dependencies"])}
    assert installed.keys() == needed.keys()  # the folder of a job brings our sources, and nothing that they import
    for name, wanted in needed.items():
        given = installed[name]
        assert given.extras == wanted.extras
        assert given.specifier == wanted.specifier or name == "ray"
    starts = [c for c in config["head_start_ray_commands"] + config["worker_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["provider"]["use_internal_ips"]
    assert config["file_mounts"]["~/.ray/auth_token"]
    assert config["available_node_types"]["gpu"]["resources"]["GPU"] == 1


def test_the_kuberay_manifest_has_the_fields_of_a_rayjob():
    manifest = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    assert set(spec) == {
        "entrypoint", "runtimeEnvYAML", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "backoffLimit", "rayClusterSpec",
    }  # fmt: skip
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    workers = cluster["workerGroupSpecs"][0]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in group["template"]["spec"]["volumes"]}
    command = spec["entrypoint"].split()
    assert command[:2] == ["saccade", "run"]
    assert Path(command[command.index("--out") + 1]).is_absolute()


ALONE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


def _can_be_alone() -> bool:
    return bool(shutil.which("unshare")) and not subprocess.run([*ALONE, "true"], capture_output=True).returncode


@pytest.mark.ray
@pytest.mark.system
@pytest.mark.skipif(not _can_be_alone(), reason="the script ends all of a node's Ray: it needs process ids of its own")
def test_the_slurm_script_runs_a_sweep(tmp_path):
    """With one node, and stand-ins for SLURM's two commands; in name spaces of its own, where no other Ray is seen."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text('#!/bin/bash\nexec "$@"\n')
    (tools / "scontrol").write_text("#!/bin/bash\necho 127.0.0.1\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    folder = tmp_path / "submitted"
    (folder / ".venv").mkdir(parents=True)
    (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (folder / "sweep.yaml").write_text(
        "model: embedded\ndata: embedded\nsamples: 2\ngrid:\n  - {strategy: cutoff, layer: [4]}\n"
    )
    port, dashboard = free_ports(2)
    env = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_NODELIST": "node-1",
        "SLURM_JOB_NUM_NODES": "1",
        "RAY_PORT": str(port),
        "RAY_DASHBOARD_PORT": str(dashboard),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    env.pop("RAY_ADDRESS", None)
    inside = f"mount -t tmpfs tmpfs /tmp/ray && bash {DEPLOY / 'slurm.sbatch'} sweep.yaml {tmp_path / 'results'}"
    Path("/tmp/ray").mkdir(exist_ok=True)
    result = subprocess.run(
        [*ALONE, "bash", "-c", inside], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(Experiment.open(tmp_path / "results").cells()) == 4, result.stdout


@pytest.mark.ray
@pytest.mark.system
def test_a_submitted_job_runs_a_sweep_and_leaves_results_where_they_last(tmp_path):
    sweep = ("python", "-m", "orchestrator", "run", "layer_cutoff", "--samples", "2", "--workers", "1", "--out")
    with started_head() as head:
        submit = ("ray", "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--")
        done = head.call(*submit, *sweep, f"file://{tmp_path}/results")
        assert done.returncode == 0, done.stdout
        assert len(Experiment.open(tmp_path / "results").cells()) == 24, done.stdout
        refused = head.call(*submit, *sweep, "experiments/x")
        assert refused.returncode != 0
        assert "exit code 2" in refused.stdout
        assert "--out experiments/x: this Ray job's folder is thrown away at its end; give an absolute path" in (
            refused.stdout
        )
        stranger = head.call("env", "RAY_AUTH_TOKEN=wrong", *submit, "true")
        assert "Invalid authentication token" in stranger.stdout


@pytest.mark.ray
@pytest.mark.system
def test_gpus_that_only_an_autoscaler_can_bring_are_asked_for(tmp_path):
    """The head has none, nor does this machine: they decide the dtype all the same, before there is one."""
    (tmp_path / "sweep.yaml").write_text(
        "model: embedded\ndata: embedded\nsamples: 6\ngrid:\n  - {strategy: cutoff, layer: [4]}\n"
    )
    with started_head(cpus=2, autoscaling=gpus_on_demand(2)) as head:
        run = ("python", "-m", "orchestrator", "run", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "x"))
        demand = ("--address", head.address, "--workers", "2", "--gpus-per-worker")
        done = head.call(*run, *demand, "1")
        assert done.returncode == 0, done.stdout
        experiment = Experiment.open(tmp_path / "x")
        assert experiment.manifest.context_parts["dtype"] == "bfloat16"
        assert len(experiment.cells()) == 12
        nodes = head.call("ray", "status", "--address", head.address)
        assert "gpu" in nodes.stdout, nodes.stdout
