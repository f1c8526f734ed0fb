"""The CUDA source of ``workers/singular.cu`` as kernels that run on a CPU, through ``cuda_on_cpu.h``."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from workers.singular import KERNELS, Build

HERE = Path(__file__).parent


@dataclass(frozen=True)
class KernelOnCpu:
    """Launched as ``workers.nvrtc.Kernel`` is."""

    name: str
    function: Any

    def launch(self, grid: tuple[int, int], threads: int, shared: int, *arguments: Tensor | int) -> None:
        passed = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int(a) for a in arguments]
        self.function(grid[0], grid[1], threads, shared, *passed)


def compiler() -> str | None:
    """A C++ compiler of this machine."""
    return shutil.which("g++") or shutil.which("clang++")


def build_on_cpu(build: Build, folder: Path) -> dict[str, KernelOnCpu]:
    """Compile the kernels into ``folder``; takes two seconds."""
    library = folder / f"singular_{build.largest}.so"
    source = HERE / "singular_on_cpu.cpp"
    options = [*build.options, "-std=c++17", "-O2", "-w", "-U_FORTIFY_SOURCE", "-shared", "-fPIC"]
    subprocess.run([compiler(), *options, "-o", library, source], check=True)
    loaded = ctypes.CDLL(str(library))
    return {name: KernelOnCpu(name, getattr(loaded, f"run_{name}")) for name in KERNELS}
