"""Each check of `saccade doctor`, with a machine that is sound and one that is broken there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fake_experiment import fake_samples
from orchestrator import doctor
from orchestrator.cluster.joining import PoolError, check_reachable
from orchestrator.doctor import Check, Gpu
from test_orchestrator_cli import call
from workers.host_memory import available_bytes, cache_bytes

GIB = 1 << 30


def stops(check: Check, *words: str) -> None:
    assert check.mark == "stop", check
    for word in words:
        assert word in check.text


def test_python():
    assert doctor.check_python((3, 11, 2)).mark == "ok"
    stops(doctor.check_python((3, 10, 9)), "3.10.9 is too old: install Python 3.11")


def test_packages():
    wanted = {"ray": ">=2.60,<2.61", "torch": ">=2.6"}
    tested = {"ray": "2.60.1", "torch": "2.13.0"}
    found = {"ray": "2.60.1", "torch": "2.13.0+cpu", "pandas": "3"}
    assert doctor.check_packages(found, wanted, tested) == Check(
        "ok", "packages", "torch 2.13.0+cpu, ray 2.60.1, pandas 3"
    )
    stops(doctor.check_packages(found | {"ray": "2.61.0"}, wanted, tested), "ray 2.61.0 (needs", "pip install .")
    stops(doctor.check_packages({"ray": None}, wanted, tested), "ray missing", "pip install .")


def test_packages_newer_than_the_lock():
    tested = doctor.tested_versions()
    assert doctor.check_packages(tested, {}, tested).mark == "ok"
    check = doctor.check_packages({"torch": "99.1+cu150", "numpy": "1.0"}, {}, tested)
    remedy = f"newer than any tested: torch 99.1+cu150; if something breaks, `pip install torch=={tested['torch']}`"
    assert check == Check("note", "packages", remedy)


def test_cuda():
    assert doctor.check_cuda("13.0", available=True, has_driver=True).mark == "ok"
    assert doctor.check_cuda(None, available=False, has_driver=False).mark == "note"
    stops(doctor.check_cuda(None, available=False, has_driver=True), "CPU build", "pytorch.org")
    stops(doctor.check_cuda("13.0", available=False, has_driver=True), "torch (CUDA 13.0) cannot use the driver")


def test_gpus():
    free, taken = (Gpu(name="H200", free_bytes=size * GIB, total_bytes=140 * GIB) for size in (139, 5))
    small = Gpu(name="T4", free_bytes=15 * GIB, total_bytes=16 * GIB)
    assert doctor.check_gpus([free, free], 14 * GIB).mark == "ok"
    stops(
        doctor.check_gpus([free, taken], 14 * GIB), "device 1 has less free than the 14.0 GiB needed", "end what else"
    )
    stops(doctor.check_gpus([small], 17 * GIB), "too large for it", "CUDA_VISIBLE_DEVICES")


def test_memory(tmp_path: Path):
    assert doctor.check_memory(64 * GIB, 14 * GIB, on_gpu=False).mark == "ok"
    stops(doctor.check_memory(16 * GIB, 14 * GIB, on_gpu=False), "29.0 GiB needed", "more")
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   2048 kB\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 2048 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 2000  # what the container has left
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 2048 * 1024


def test_the_engines_of_a_host_share_its_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("workers.host_memory.available_bytes", lambda: 64 * GIB)
    assert cache_bytes(tmp_path) == 32 * GIB
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert cache_bytes(tmp_path) == 16 * GIB


def test_a_cluster_that_is_not_there():
    def refused(address: str) -> None:
        raise PoolError(f"no Ray cluster at {address} (Connection refused); unset RAY_ADDRESS")

    here = Path("/tmp/ray")
    assert doctor.check_ray_address(None, refused, here, None).mark == "ok"
    assert doctor.check_ray_address(None, refused, here, "may not be written").mark == "note"
    assert doctor.check_ray_address("10.0.0.1:6379", lambda address: None, here, None).mark == "ok"
    stops(doctor.check_ray_address("10.0.0.1:6379", refused, here, None), "Connection refused", "unset RAY_ADDRESS")
    stops(doctor.check_ray_address("127.0.0.1:1", check_reachable, here, None), "127.0.0.1:1", "RAY_ADDRESS")


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert doctor.check_ray_token(None, None, None, None).mark == "ok"
    assert doctor.check_ray_token("head:6379", "token", 64, 0o600).mark == "ok"
    stops(doctor.check_ray_token("head:6379", "token", None, None), "no token: copy the cluster's")
    assert doctor.check_ray_token("head:6379", None, None, None).mark == "note"
    readable = doctor.check_ray_token(None, None, 64, 0o644)
    assert (readable.mark, "chmod 600" in readable.text) == ("note", True)
    file = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    assert doctor._token() == (None, None)
    file.write_text("abc")
    file.chmod(0o640)
    assert doctor._token() == (3, 0o640)


def test_disk_and_results(tmp_path: Path):
    assert doctor.check_disk(100 * GIB, GIB, tmp_path).mark == "ok"
    assert doctor.check_disk(2 * GIB, GIB, tmp_path).mark == "note"
    stops(doctor.check_disk(GIB, 2 * GIB, tmp_path), "make room, or give --out another place")
    assert doctor.check_writable(tmp_path / "a/b").mark == "ok"
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    stops(doctor.check_writable(tmp_path / "file"), "cannot be written", "--out")


def test_images(small_scienceqa: Path, tmp_path: Path):
    from workers.tasks.catalog import load_samples
    from workers.work import TaskSpec

    samples = load_samples(TaskSpec(name="scienceqa", data=str(small_scienceqa)))
    assert doctor.check_images(samples).mark == "ok"
    stops(doctor.check_images(fake_samples(3)), "/nowhere/images/0.png: cannot be read", "copy the benchmark again")
    assert doctor.check_images([sample for sample in samples if sample.image is None]).mark == "note"


def test_shared_memory():
    assert doctor.check_shared_memory(GIB).mark == doctor.check_shared_memory(None).mark == "ok"
    assert doctor.check_shared_memory(64 << 20).mark == "note"


def test_a_sound_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, text, _ = call("doctor", "smoke", "--out", tmp_path / "x")
    assert code == 0
    for what in ("python", "packages", "cuda", "ray", "sweep", "model", "data", "images", "results", "disk", "memory"):
        assert any(line.split()[1] == what for line in text.splitlines()), what
    assert not (tmp_path / "x").exists()


@pytest.mark.timing
def test_it_takes_less_than_ten_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    began = time.monotonic()
    assert call("doctor", "smoke", "--out", tmp_path / "x")[0] == 0
    assert time.monotonic() - began < 10


def test_a_sweep_that_cannot_run_is_exit_code_2_with_a_line_for_each_mistake(tmp_path: Path):
    sweep = tmp_path / "wrong.yaml"
    sweep.write_text(
        "model: embedded\ndata: embedded\ngrid:\n  - {strategy: fastv, layer: 2, rank: 999}\n  - {strategy: x}\n"
    )
    code, text, error = call("doctor", sweep)
    assert (code, error) == (2, "")
    wrong = [line for line in text.splitlines() if line.startswith("STOP")]
    assert len(wrong) >= 2
    assert "grid[0].rank" in wrong[0]
    assert call("doctor", "smoke", "--model", tmp_path)[0] == 2
