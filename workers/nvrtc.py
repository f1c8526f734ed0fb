"""CUDA C compiled at run time with what a pip-installed PyTorch brings: NVRTC and the driver, no nvcc.

PyTorch's own ``torch.cuda._compile_kernel`` is private, takes one kernel a source and appeared in 2.9; these are the
same few driver calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_SHARED_OPTIN = 97  # CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN


class CudaBuildError(RuntimeError):
    """A kernel cannot be built or loaded here."""


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A function of a loaded module; arguments are CUDA tensors (as pointers), ints (C int) and floats (C double)."""

    name: str
    function: ctypes.c_void_p
    device: torch.device

    def allow_shared(self, size: int) -> None:
        """Let blocks take that many bytes of shared memory; above 48 KiB a kernel has to ask."""
        _check(_driver().cuFuncSetAttribute(self.function, _MAX_DYNAMIC_SHARED, size), self.name)

    def launch(self, grid: tuple[int, int], threads: int, shared: int, *arguments: Tensor | int | float) -> None:
        """Queue the kernel on the current stream."""
        values = [_as_c(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
        with torch.cuda.device(self.device):
            code = _driver().cuLaunchKernel(
                self.function, grid[0], grid[1], 1, threads, 1, 1, shared, stream, pointers, None
            )
        _check(code, self.name)


def compile_kernels(
    source: Path, names: Sequence[str], device: torch.device, options: Sequence[str] = ()
) -> dict[str, Kernel]:
    """Compile a file for a device and load some of its ``extern "C"`` kernels. Takes seconds: keep what it returns.

    Raises:
        CudaBuildError: no NVRTC, or it does not know the device, or the source is wrong; with the compiler's words.
    """
    major, minor = torch.cuda.get_device_capability(device)
    image = _compile(source, [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17", *options])
    module = ctypes.c_void_p()
    with torch.cuda.device(device):
        torch.cuda.current_stream(device).synchronize()  # the device's context exists from here on
        _check(_driver().cuModuleLoadData(ctypes.byref(module), image), source.name)
        kernels = {}
        for name in names:
            function = ctypes.c_void_p()
            _check(_driver().cuModuleGetFunction(ctypes.byref(function), module, name.encode()), name)
            kernels[name] = Kernel(name, function, device)
    return kernels


def most_shared(device: torch.device) -> int:
    """Bytes of shared memory that a block may ask for."""
    found = ctypes.c_int()
    _check(_driver().cuDeviceGetAttribute(ctypes.byref(found), _SHARED_OPTIN, device.index), str(device))
    return found.value


def _compile(source: Path, options: Sequence[str]) -> bytes:
    """Machine code of a source file."""
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
    try:
        flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if nvrtc.nvrtcCompileProgram(program, len(options), flags) != 0:
            size = ctypes.c_size_t()
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            words = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, words)
            raise CudaBuildError(f"{source.name}: {words.value.decode(errors='replace').strip()[:2000]}")
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        image = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, image)
        return image.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def _nvrtc() -> ctypes.CDLL:
    """The NVRTC that PyTorch was built with: loaded already, on the library path, or beside PyTorch."""
    if torch.version.cuda is None:
        raise CudaBuildError("this PyTorch has no CUDA")
    name = f"libnvrtc.so.{torch.version.cuda.split('.')[0]}"
    packages = Path(torch.__file__).parent.parent / "nvidia"
    for beside in packages.glob("*/lib/libnvrtc-builtins.so.*"):  # which NVRTC looks for by its bare name
        ctypes.CDLL(str(beside))
    for candidate in (name, *map(str, packages.glob(f"*/lib/{name}"))):
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise CudaBuildError(f"{name} is neither on the library path nor below {packages}")


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _check(code: int, what: str) -> None:
    if code != 0:
        words = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(words))
        raise CudaBuildError(f"{what}: CUDA error: {(words.value or b'unknown').decode()}")


def _as_c(value: Tensor | int | float) -> ctypes.c_void_p | ctypes.c_int | ctypes.c_double:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int(value) if isinstance(value, int) else ctypes.c_double(value)
