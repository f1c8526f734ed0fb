"""Will a sweep run here? One line for each thing that could stop it, with its remedy.

Each check judges what it is given, so that a test can make up a broken machine; `examine` looks at this one.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.cluster.joining import SHARED_MEMORY, check_reachable, private_folder, unfit
from orchestrator.show import size_text
from results.import_path import PACKAGES, ROOT
from strategies.errors import SaccadeError
from workers.host_memory import available_bytes

if TYPE_CHECKING:
    from orchestrator.sweep.plan import Plan
    from orchestrator.sweep.prepare import Prepared
    from workers.tasks.base import Sample

OLDEST_PYTHON = (3, 11)
NEEDED = ("torch", "transformers", "ray", "pandas", "pyarrow")  # named where all is well
LOCKS = resources.files("orchestrator") / "locks"  # the versions that `make test` tests, and `make demo` installs
IMAGES_OPENED = 20
SMALL_SHM = 64 << 20

Mark = Literal["ok", "note", "stop"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line: `stop` keeps a run from working, `note` is worth knowing."""

    mark: Mark
    what: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A CUDA device."""

    name: str
    free_bytes: int
    total_bytes: int


def check_python(found: tuple[int, int, int]) -> Check:
    text = ".".join(map(str, found))
    if found[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Check(
            "stop", "python", f"{text} is too old: install Python {oldest} or newer and make the environment anew"
        )
    return Check("ok", "python", f"{text} on {platform.system()} {platform.machine()}")


def check_code(root: Path, installed: Path | None) -> Check:
    """Whether the code that runs is the one that is installed.

    Args:
        root: Where the Saccade that runs lies.
        installed: Where the installed one does; None where there is none, or it is taken from its sources.
    """
    if installed is not None and installed.resolve() != root:
        return Check(
            "note",
            "code",
            f"runs from {root}, not the one installed in {installed}: to run that one, change to another folder",
        )
    return Check("ok", "code", f"{', '.join(PACKAGES)} of {root}")


def check_packages(found: Mapping[str, str | None], wanted: Mapping[str, str], tested: Mapping[str, str]) -> Check:
    """Whether all packages are there, in versions that are admitted and tested.

    Args:
        found: Version of each package that is needed; None where it is missing.
        wanted: What the distribution asks for, as ``>=2.60,<2.61``; empty where it does not say.
        tested: The newest version of each that was tested.
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    if missing := [name for name, have in found.items() if have is None]:
        return Check("stop", "packages", f"{', '.join(missing)} missing: `pip install .` in Saccade's folder")
    here = {name: Version(have) for name, have in found.items() if have}
    wrong = [
        f"{name} {have} (needs {wanted[name]})"
        for name, have in here.items()
        if wanted.get(name) and not SpecifierSet(wanted[name]).contains(have, prereleases=True)
    ]
    if wrong:
        return Check("stop", "packages", f"{', '.join(wrong)}: `pip install .` in Saccade's folder")
    newer = [name for name, have in here.items() if name in tested and Version(have.public) > Version(tested[name])]
    if newer:
        names = ", ".join(f"{name} {here[name]}" for name in newer)
        pins = " ".join(f"{name}=={tested[name]}" for name in newer)
        return Check("note", "packages", f"newer than any tested: {names}; if something breaks, `pip install {pins}`")
    return Check("ok", "packages", ", ".join(f"{name} {here[name]}" for name in NEEDED if name in here))


def check_cuda(built_for: str | None, available: bool, has_driver: bool) -> Check:
    """Whether torch can use a GPU, where there is one.

    Args:
        built_for: CUDA version that torch was built with; None: a CPU build.
        available: Whether torch can use a device.
        has_driver: Whether this machine has an NVIDIA driver.
    """
    if available:
        return Check("ok", "cuda", f"torch is built for CUDA {built_for} and can use it")
    if not has_driver:
        return Check("note", "cuda", "no NVIDIA driver: the sweep runs on the CPU, fit for the embedded model")
    if built_for is None:
        remedy = "this torch is a CPU build; install the CUDA build that pytorch.org names for this driver"
    else:
        remedy = (
            f"torch (CUDA {built_for}) cannot use the driver: is it older than that, or CUDA_VISIBLE_DEVICES empty?"
        )
    return Check("stop", "cuda", f"there is an NVIDIA driver, but {remedy}")


def check_gpus(gpus: Sequence[Gpu], needed: int) -> Check:
    """Whether every device has the bytes that the sweep needs at least."""
    text = ", ".join(f"{gpu.name} ({_gib(gpu.free_bytes)} of {_gib(gpu.total_bytes)} free)" for gpu in gpus)
    full = [place for place, gpu in enumerate(gpus) if gpu.free_bytes < needed]
    if not full:
        return Check("ok", "gpus", text)
    which = ", ".join(map(str, full))
    remedy = (
        "end what else runs there, or choose others with CUDA_VISIBLE_DEVICES"
        if all(gpus[place].total_bytes >= needed for place in full)
        else "the model is too large for it: choose other devices with CUDA_VISIBLE_DEVICES, or model.dtype=bfloat16"
    )
    return Check("stop", "gpus", f"{text}; device {which} has less free than the {_gib(needed)} needed: {remedy}")


def check_card(prepared: Prepared, memory: int) -> tuple[Check, int]:
    """Whether the sweep fits a card of so many bytes, and how; and the bytes that it needs at least, if it fits."""
    from orchestrator.sweep.gpu_memory import memory_forecast, memory_text

    try:
        found = memory_forecast(prepared, memory)
        return Check("ok", "gpu memory", memory_text(found, memory)), found.least
    except SaccadeError as error:
        return Check("stop", "gpu memory", str(error)), 0


def check_memory(available: int, weights_bytes: int, on_gpu: bool) -> Check:
    needed = int(weights_bytes * (1 if on_gpu else 2)) + (1 << 30)  # a process of its own, and weights in a wider type
    text = f"{_gib(available)} available, about {_gib(needed)} needed by one worker"
    if available < needed:
        return Check("stop", "memory", f"{text}: end other programs, or use a machine with more")
    return Check("ok", "memory", text)


def check_ray_address(address: str | None, connect: Callable[[str], None], folder: Path, why: str | None) -> Check:
    """Whether the cluster answers that a run would join, or a private Ray can start.

    Args:
        address: ``RAY_ADDRESS``.
        connect: Raises PoolError where no head answers.
        folder: Of a private Ray's sockets.
        why: What is wrong with the folder.
    """
    if address in (None, "", "local"):
        text = "no cluster named: each run starts a private Ray on loopback"
        return Check("note", "ray", f"{text}, in /tmp: {folder} {why}") if why else Check("ok", "ray", text)
    try:
        connect(str(address))
    except SaccadeError as error:
        return Check("stop", "ray", str(error))
    return Check("ok", "ray", f"RAY_ADDRESS={address}")


def check_ray_token(address: str | None, mode: str | None, token_bytes: int | None, token_mode: int | None) -> Check:
    """Whether the cluster's token is there, and only this user can read it.

    Args:
        address: ``RAY_ADDRESS``.
        mode: ``RAY_AUTH_MODE``.
        token_bytes: Length of the token found; None: there is none.
        token_mode: Permissions of the token's file; None: it is in the environment.
    """
    if token_mode is not None and token_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Check("note", "ray token", "~/.ray/auth_token can be read by others: `chmod 600 ~/.ray/auth_token`")
    if address in (None, "", "local"):
        return Check("ok", "ray token", "a private Ray gets a token of its own for each run")
    if mode == "token" and not token_bytes:
        return Check("stop", "ray token", "RAY_AUTH_MODE=token but no token: copy the cluster's to ~/.ray/auth_token")
    if mode != "token":
        return Check(
            "note", "ray token",
            "the cluster is joined without a token: whoever reaches its ports runs code there; README, On a cluster",
        )  # fmt: skip
    return Check("ok", "ray token", "RAY_AUTH_MODE=token, and there is a token")


def check_disk(free_bytes: int, needed_bytes: int, folder: Path) -> Check:
    text = f"{size_text(free_bytes)} free for {folder}, about {size_text(needed_bytes)} needed"
    if free_bytes < needed_bytes:
        return Check("stop", "disk", f"{text}: make room, or give --out another place")
    if free_bytes < 2 * needed_bytes + (1 << 30):
        return Check("note", "disk", f"{text}: little is left for exports and pages")
    return Check("ok", "disk", text)


def check_writable(folder: Path) -> Check:
    """Whether results can be written; nothing is left behind."""
    place = _nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            return Check("ok", "results", f"{folder} can be written")
    except OSError as error:
        return Check("stop", "results", f"{place}: cannot be written ({error.strerror}); give --out another place")


def check_images(samples: Sequence[Sample], opened: int = IMAGES_OPENED) -> Check:
    """All images are there (reading the benchmark said so): can some, evenly spaced, be opened?"""
    from workers.images import load_image
    from workers.tasks.base import DataError

    images = [image for sample in samples for image in sample.images]
    if not images:
        return Check("note", "images", "no question has an image: there is nothing to prune")
    for path in images[:: max(1, len(images) // opened)]:
        try:
            load_image(path)
        except (DataError, OSError) as error:
            return Check("stop", "images", f"{_one_line(error)}; copy the benchmark again, or leave the question out")
    return Check("ok", "images", f"{len(images)} are there, {min(opened, len(images))} of them opened")


def check_shared_memory(free_bytes: int | None, writable: bool = True) -> Check:
    """Ray keeps its objects in /dev/shm; in a container it has 64 MB unless told otherwise."""
    if not writable:
        return Check("stop", "shared memory", "/dev/shm may not be written: mount it writable, or give run --local")
    if free_bytes is not None and free_bytes <= SMALL_SHM:
        return Check(
            "note", "shared memory",
            f"/dev/shm has {size_text(free_bytes)}: Ray uses the disk instead; start the container with --shm-size=1g",
        )  # fmt: skip
    return Check("ok", "shared memory", "no limit known" if free_bytes is None else f"{size_text(free_bytes)} free")


def examine(load: Callable[[], Prepared] | None, out: Path | None, gpu_memory: float | None = None) -> Iterator[Check]:
    """All checks, the machine's first.

    Args:
        load: Reads and checks the sweep, its model and its data, or raises SaccadeError. None: no sweep.
        out: Where results would go; by default experiments/NAME.
        gpu_memory: GiB of the card that the sweep is for; None: the one here, if there is one.
    """
    yield check_python((sys.version_info.major, sys.version_info.minor, sys.version_info.micro))
    yield check_code(Path(ROOT), _installed())
    wanted = _wanted()
    packages = check_packages(_versions(wanted), wanted, tested_versions())
    yield packages
    if packages.mark == "stop":
        return
    import torch

    from orchestrator.sweep.gpu_memory import card_bytes

    cuda = torch.cuda.is_available()
    yield check_cuda(torch.version.cuda, cuda, Path("/proc/driver/nvidia/version").exists())
    address = os.environ.get("RAY_ADDRESS")
    yield check_ray_address(address, check_reachable, private_folder(), unfit(private_folder()))
    yield check_ray_token(address, os.environ.get("RAY_AUTH_MODE"), *_token())
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None
    yield check_shared_memory(free, free is None or os.access(SHARED_MEMORY, os.W_OK))
    weights = least = 0
    if load is not None:
        try:
            prepared = load()
        except SaccadeError as error:
            for line in str(error).splitlines():
                yield Check("stop", "sweep", line)
        else:
            weights = _weights(prepared)
            if (card := card_bytes(gpu_memory)) is not None:
                check, least = check_card(prepared, card)
                yield check
            yield from _sweep(prepared, out or prepared.default_out)
    if cuda:
        yield check_gpus([_gpu(index) for index in range(torch.cuda.device_count())], least)
    yield check_memory(available_bytes(), weights, cuda)


def _sweep(prepared: Prepared, out: Path) -> Iterator[Check]:
    from orchestrator.run import plan_and_stops
    from results.disk import StoreError
    from results.location import bucket_at, located

    spec = prepared.spec
    yield Check("ok", "sweep", f"{spec.name}: {len(spec.points)} grid points x {len(prepared.samples)} samples")
    yield Check(
        "ok", "model", f"{spec.engine.model.path} is whole ({spec.config.layers} layers, {spec.engine.model.dtype})"
    )
    yield Check("ok", "data", f"{prepared.available} questions of {spec.engine.task.name} in {spec.engine.task.data}")
    yield check_images(prepared.samples)
    try:
        if bucket := bucket_at(out):
            bucket.check_writable()
            yield Check("ok", "results", f"{bucket.uri} can be written")
        with located(out) as folder:
            plan: Plan = plan_and_stops(prepared, folder, 1)[0]
    except StoreError as error:
        yield Check("stop", "results", str(error))
        return
    writable = check_writable(folder)
    yield writable
    if writable.mark == "stop":
        return
    yield check_disk(shutil.disk_usage(_nearest(folder)).free, plan.bytes_on_disk, folder)


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _weights(prepared: Prepared) -> int:
    from workers.families.catalog import open_checkpoint

    return sum(file.stat().st_size for file in open_checkpoint(prepared.spec.engine.model).files)


def _gpu(index: int) -> Gpu:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return Gpu(name=torch.cuda.get_device_name(index), free_bytes=free, total_bytes=total)


def tested_versions() -> dict[str, str]:
    """The newest version of each package in the lock, under its canonical name; of torch, for all its builds."""
    from packaging.version import Version

    newest: dict[str, str] = {}
    for file in LOCKS.iterdir():
        for name, text in re.findall(r"^(\S+)==([^\s+]+)", file.read_text(encoding="utf-8"), re.M):
            newest[name] = max(newest.get(name, text), text, key=Version)
    return newest


def _installed() -> Path | None:
    try:
        home = Path(str(distribution("saccade").locate_file("orchestrator")))
    except PackageNotFoundError:
        return None
    return home.parent if home.is_dir() else None  # of an editable install: the sources themselves


def _versions(names: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _wanted() -> dict[str, str]:
    from packaging.requirements import Requirement

    try:
        lines = requires("saccade") or []
    except PackageNotFoundError:
        return dict.fromkeys(NEEDED, "")  # run from its sources
    return {one.name: str(one.specifier) for one in map(Requirement, lines) if one.marker is None}


def _token() -> tuple[int | None, int | None]:
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return len(token), None
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    try:
        return file.stat().st_size, stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return None, None


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _one_line(error: Any) -> str:
    return " ".join(str(error).split())[:120]
