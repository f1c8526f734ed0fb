"""CUDA C compiled at run time, without nvcc: NVRTC and the driver, through NVIDIA's own `cuda.bindings`.

PyTorch's CUDA builds bring it since 2.10; on older ones `pip install cuda-bindings`, of the same CUDA. `cuda.core`
would be one package more for the same few calls, and `torch.cuda._compile_kernel` is private and takes one kernel a
source. Nothing is imported before a kernel is built, so that a machine without a GPU needs none of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workers.user_cache import kept_bytes

C_TYPES = {int: ctypes.c_int, float: ctypes.c_double}  # of a kernel's arguments that are no tensors


class CudaBuildError(RuntimeError):
    """A kernel cannot be built or loaded here."""


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A function of a loaded module; arguments are CUDA tensors (as pointers), ints (C int) and floats (C double)."""

    name: str
    function: Any  # CUfunction
    device: torch.device

    def allow_shared(self, size: int) -> None:
        """Let blocks take that many bytes of shared memory; above 48 KiB a kernel has to ask."""
        from cuda.bindings import driver

        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _done(driver.cuFuncSetAttribute(self.function, most, size), self.name)

    def launch(self, grid: tuple[int, int], threads: int, shared: int, *arguments: Tensor | int | float) -> None:
        """Queue the kernel on the current stream."""
        from cuda.bindings import driver

        values = tuple(value.data_ptr() if isinstance(value, Tensor) else value for value in arguments)
        types = tuple(C_TYPES.get(type(argument), ctypes.c_void_p) for argument in arguments)
        stream = torch.cuda.current_stream(self.device).cuda_stream
        with torch.cuda.device(self.device):
            _done(
                driver.cuLaunchKernel(self.function, *grid, 1, threads, 1, 1, shared, stream, (values, types), 0),
                self.name,
            )


def compile_kernels(
    source: Path, names: Sequence[str], device: torch.device, options: Sequence[str] = ()
) -> dict[str, Kernel]:
    """Compile a file for a device and load some of its ``extern "C"`` kernels. Takes seconds: keep what it returns.

    Raises:
        CudaBuildError: no NVRTC, or it does not know the device, or the source is wrong; with the compiler's words.
    """
    major, minor = torch.cuda.get_device_capability(device)
    asked = [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17", *options]
    key = "\n".join([torch.__version__, str(torch.version.cuda), *asked]).encode() + b"\n" + source.read_bytes()
    image = kept_bytes(source.name, key, lambda: _compile(source, asked))
    from cuda.bindings import driver

    with torch.cuda.device(device):
        torch.cuda.current_stream(device).synchronize()  # the device's context exists from here on
        module = _done(driver.cuModuleLoadData(image), source.name)
        functions = {name: _done(driver.cuModuleGetFunction(module, name.encode()), name) for name in names}
    return {name: Kernel(name, function, device) for name, function in functions.items()}


def most_shared(device: torch.device) -> int:
    """Bytes of shared memory that a block may ask for."""
    from cuda.bindings import driver

    optin = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    found: int = _done(driver.cuDeviceGetAttribute(optin, device.index), str(device))
    return found


def _compile(source: Path, options: Sequence[str]) -> bytes:
    """Machine code of a source file."""
    try:
        from cuda.bindings import nvrtc

        program = _done(nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], []), source.name)
    except (ImportError, RuntimeError) as error:  # no such package, or no NVRTC that it could load
        raise CudaBuildError(f"{source.name} needs cuda-bindings, which torch brings since 2.10: {error}") from error
    try:
        if nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]:
            log = bytearray(_done(nvrtc.nvrtcGetProgramLogSize(program), source.name))
            nvrtc.nvrtcGetProgramLog(program, log)
            words = log.rstrip(b"\0").decode(errors="replace").strip()
            raise CudaBuildError(f"{source.name}: {words[:2000]}")
        image = bytearray(_done(nvrtc.nvrtcGetCUBINSize(program), source.name))
        _done(nvrtc.nvrtcGetCUBIN(program, image), source.name)
        return bytes(image)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _done(answer: tuple[Any, ...], what: str) -> Any:
    """What a call gave besides its code: nothing, or one value."""
    code, *values = answer
    if code:
        raise CudaBuildError(f"{what}: CUDA error: {code.name}")
    return values[0] if values else None
