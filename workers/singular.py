"""Singular values of many small matrices at once, as roots of the eigenvalues of their Gram matrices in float64.

The library calls work on one matrix at a time and leave a GPU idle (``docs/performance.md``). On CUDA the kernels of
``singular.cu`` give every matrix its own block of threads, whatever its size; elsewhere, where they cannot be built,
and for matrices too large for them, ``torch.linalg.eigvalsh`` does the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from workers.nvrtc import CudaBuildError, Kernel, compile_kernels, most_shared
from workers.upload import to_device

log = logging.getLogger(f"saccade.{__name__}")

SOURCE = Path(__file__).with_name("singular.cu")
KERNELS = ("to_band", "chase", "bisect")
BAND, BISECT_THREADS, COLUMN, SWEEPS = 8, 128, 19, 64  # as in the source
PIECE_BYTES = 2 << 30  # Gram matrices that wait for the kernels together: 25 sequences of 32 heads at 576 tokens
LEAST = torch.finfo(torch.float64).tiny
PIECE_SHARE = 64  # and at most this part of a device's memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The kernels as they are compiled for a range of sizes. Fastest on an H200 (``docs/performance.md``)."""

    largest: int  # padded size
    threads: int  # that reduce a matrix to a band
    rows: int  # of a panel, held by one thread
    own: int  # columns of 8 x 8 tiles of one warp
    group: int  # rows of tiles whose products are summed together
    blocks: int  # that share a multiprocessor
    chase_warps: int

    def __post_init__(self) -> None:
        assert self.largest <= BAND + min(self.rows * self.threads, self.own * self.threads // 32 * BAND)

    @property
    def options(self) -> tuple[str, ...]:
        return (
            f"-DREDUCE_THREADS={self.threads}",
            f"-DROWS={self.rows}",
            f"-DOWN={self.own}",
            f"-DGROUP={self.group}",
            f"-DBLOCKS={self.blocks}",
            f"-DCHASE_WARPS={self.chase_warps}",
        )

    def shared_bytes(self, size: int) -> dict[str, int]:
        """Shared memory of a block of each kernel for matrices up to that padded size; layouts are in the source."""
        warps = self.threads // 32
        stride = (max(size, 8 * warps) + 15) // 16 * 16 + 4
        return {
            "to_band": 8 * (3 * BAND * stride + 2 * (warps + 1) * BAND + (3 + 2 * self.group * warps) * BAND * BAND),
            "chase": 8 * ((size + 2 * BAND) * COLUMN + SWEEPS * (BAND + 1)),
            "bisect": 8 * (2 * size + BISECT_THREADS + BISECT_THREADS // 2),
        }


BUILDS = (
    Build(largest=136, threads=128, rows=1, own=4, group=4, blocks=4, chase_warps=8),
    Build(largest=328, threads=256, rows=2, own=5, group=2, blocks=2, chase_warps=8),
    Build(largest=648, threads=512, rows=2, own=5, group=2, blocks=1, chase_warps=16),
)


def piece_bytes(device: torch.device) -> int:
    """Gram matrices that are in memory at a time; making them takes as much again."""
    if device.type != "cuda":
        return PIECE_BYTES
    return min(PIECE_BYTES, torch.cuda.get_device_properties(device).total_memory // PIECE_SHARE)


def singular_values(blocks: Iterable[Tensor]) -> Tensor:
    """Singular values of all matrices of all blocks, a piece of them in memory at a time.

    Args:
        blocks: (B, M, N) each, any real floating dtype, on one device, neither M nor N zero; may be made on demand.

    Returns:
        (sum of B, K) float64, largest first; K is the largest ``min(M, N)``, and shorter rows end in zeros. Squares err
        by a few 1e-15 of the largest square: values above 1e-5 of the largest have five digits, those above 1e-6
        three, smaller ones drown. A matrix that holds NaN or infinity has a row of NaN.
    """
    done: list[Tensor] = []
    waiting: list[_Gram] = []
    size = 0

    def flush() -> None:
        nonlocal size
        if waiting:
            done.append(_by_kernels(waiting))
        waiting.clear()
        size = 0

    for block in blocks:
        most = _largest_size(block.device)
        gram = _gram(block, BAND if most else 1)
        if gram.padded_BNN.shape[-1] <= most:
            waiting.append(gram)
            size += gram.padded_BNN.nbytes
            if size >= piece_bytes(block.device):
                flush()
        else:
            flush()
            done.append(_by_library(gram))
    flush()
    if not done:
        return torch.empty(0, 0)
    longest = max(values.shape[-1] for values in done)
    rows = torch.cat([pad(values, (0, longest - values.shape[-1])) for values in done])
    return rows.masked_fill_(rows[:, :1].isnan(), torch.nan)


@dataclass(frozen=True, slots=True, eq=False)
class _Gram:
    """Gram matrices of one block, of matrices scaled to a largest entry of 1."""

    padded_BNN: Tensor  # zeros beyond ``size``
    scale_B: Tensor  # float64: not finite where a matrix is not
    size: int


def _gram(block: Tensor, multiple: int) -> _Gram:
    """Of the smaller side, padded to a multiple. Scaled first: squares must neither overflow nor vanish."""
    scale_B = block.abs().amax(dim=(-2, -1)).double()
    scaled = block.double() / scale_B.clamp(min=LEAST)[:, None, None]
    scaled = scaled.mT if block.shape[-2] > block.shape[-1] else scaled
    size = scaled.shape[-2]
    if size % multiple:
        scaled = pad(scaled, (0, 0, 0, -size % multiple))
    return _Gram(scaled @ scaled.mT, scale_B, size)


def _by_library(gram: _Gram) -> Tensor:
    scale_B1 = _finite(gram.scale_B)[:, None]
    grams = gram.padded_BNN.masked_fill_(scale_B1[..., None].isnan(), 0.0)
    return torch.linalg.eigvalsh(grams).clamp(min=0).sqrt().flip(-1)[:, : gram.size] * scale_B1


def _finite(scale_B: Tensor) -> Tensor:
    """NaN for infinity."""
    return scale_B.where(scale_B.isfinite(), torch.nan)


def _by_kernels(grams: Sequence[_Gram]) -> Tensor:
    """Queue the kernels for all of them, a launch for each range of sizes, large matrices first."""
    base = grams[0].padded_BNN
    jobs = torch.tensor([job for gram in grams for job in _jobs(gram, base)])
    order = jobs[:, 1].argsort(descending=True, stable=True)
    jobs = jobs[order]
    on_device = to_device(jobs, base.device)
    values = base.new_zeros(len(jobs), int(jobs[:, 2].max()))
    start = 0
    for build in reversed(BUILDS):
        stop = start + int((jobs[start:, 1] > _below(build)).sum())
        if stop > start:
            width, longest = int(jobs[start, 1]), int(jobs[start:stop, 2].max())
            _launch(build, base, on_device[start:stop], values[start:stop], width, longest)
        start = stop
    back = to_device(order.argsort(), base.device)
    return values[back] * _finite(torch.cat([gram.scale_B for gram in grams]))[:, None]


def _launch(build: Build, base: Tensor, jobs: Tensor, values: Tensor, width: int, longest: int) -> None:
    """Fill the first ``longest`` columns of ``values`` for jobs of padded sizes up to ``width``."""
    kernels, shared, count = _kernels(build, jobs.device), build.shared_bytes(width), len(jobs)
    bands = values.new_empty(count, BAND + 1, width)
    tridiagonals = values.new_empty(count, 2, width)
    kernels["to_band"].launch((count, 1), build.threads, shared["to_band"], base, jobs, bands, width)
    kernels["chase"].launch((count, 1), 32 * build.chase_warps, shared["chase"], bands, jobs, tridiagonals, width)
    grid, columns = (count, -(-longest // BISECT_THREADS)), values.shape[1]
    kernels["bisect"].launch(grid, BISECT_THREADS, shared["bisect"], tridiagonals, jobs, values, width, columns)


def _below(build: Build) -> int:
    """Largest padded size of the builds for smaller matrices."""
    return max((other.largest for other in BUILDS if other.largest < build.largest), default=0)


def _jobs(gram: _Gram, base: Tensor) -> list[tuple[int, int, int]]:
    """Of each matrix: start in doubles from ``base``, padded size, values wanted."""
    batch, size = gram.padded_BNN.shape[0], gram.padded_BNN.shape[-1]
    first = (gram.padded_BNN.data_ptr() - base.data_ptr()) // 8
    return [(first + place * size * size, size, gram.size) for place in range(batch)]


@cache
def _largest_size(device: torch.device) -> int:
    """Padded size of the largest matrix that the kernels take on a device; 0 where there are none."""
    if device.type != "cuda":
        return 0
    try:
        for build in BUILDS:
            _kernels(build, device)
    except (CudaBuildError, OSError) as error:
        log.warning("singular values are computed by torch.linalg, many times slower: %s", error)
        return 0
    most, largest = most_shared(device), 0
    for build in BUILDS:
        for size in range(largest + BAND, build.largest + 1, BAND):
            if max(build.shared_bytes(size).values()) > most:
                return largest
            largest = size
    return largest


@cache
def _kernels(build: Build, device: torch.device) -> dict[str, Kernel]:
    """Compiled once for a device of a process, in a second.

    Raises:
        CudaBuildError: they cannot be built.
    """
    if torch.cuda.get_device_capability(device) < (8, 0):
        raise CudaBuildError("float64 tensor cores begin with compute capability 8.0")
    kernels = compile_kernels(SOURCE, KERNELS, device, build.options)
    for kernel in kernels.values():
        kernel.allow_shared(most_shared(device))
    return kernels
