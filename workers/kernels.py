"""The element-wise steps of a decoder layer, each as one pass over memory.

Profiled on an H200 (``docs/performance.md``): written with plain PyTorch operators they took a third of a prefill,
since every operator reads and writes all rows. On CUDA in half precision each is one Triton kernel; elsewhere, and as
the reference in the tests, the plain form stays. Values are computed in float32 and rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from strategies.one_program import tl, triton


def uses_triton(rows: Tensor) -> bool:
    return triton is not None and rows.is_cuda and rows.dtype in (torch.float16, torch.bfloat16)


def rms_norm(rows_RD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Llama's norm: x / sqrt(mean(x^2) + eps), rounded to the rows' dtype, times the weight; of (..., D)."""
    if uses_triton(rows_RD):
        rows_RD = rows_RD.contiguous()
        out_RD = torch.empty_like(rows_RD)
        width = rows_RD.shape[-1]
        block = triton.next_power_of_2(width)
        _rms_norm_kernel[(rows_RD.numel() // width,)](rows_RD, weight_D, out_RD, width, eps, block=block, num_warps=8)
        return out_RD
    lifted = rows_RD.float()
    return weight_D * (lifted * torch.rsqrt(lifted.pow(2).mean(-1, keepdim=True) + eps)).to(rows_RD.dtype)


def rotate(rows_RHE: Tensor, cos_R1E: Tensor, sin_R1E: Tensor) -> Tensor:
    """Apply rotary positions; may overwrite ``rows_RHE``, whose last two dimensions must lie together.

    Args:
        rows_RHE: (R, heads, E).
        cos_R1E, sin_R1E: (R, 1, E), second half equal to the first.
    """
    if uses_triton(rows_RHE):
        count, heads, width = rows_RHE.shape
        assert rows_RHE.stride()[1:] == (width, 1)
        grid = (count, triton.cdiv(heads, 8))
        _rotate_kernel[grid](
            rows_RHE,
            cos_R1E.contiguous(),
            sin_R1E.contiguous(),
            rows_RHE.stride(0),
            heads,
            half=width // 2,
            block=triton.next_power_of_2(width // 2),
            block_heads=8,
            num_warps=4,
        )
        return rows_RHE
    first, second = rows_RHE.chunk(2, dim=-1)
    return rows_RHE * cos_R1E + torch.cat((-second, first), dim=-1) * sin_R1E


def gated_silu(gate_up_RF: Tensor) -> Tensor:
    """silu(gate) * up for rows that hold gate and up side by side: (R, 2F) -> (R, F)."""
    if uses_triton(gate_up_RF):
        count, width = gate_up_RF.shape[0], gate_up_RF.shape[1] // 2
        out_RF = torch.empty(count, width, dtype=gate_up_RF.dtype, device=gate_up_RF.device)
        grid = (count, triton.cdiv(width, 2048))
        _gated_silu_kernel[grid](gate_up_RF, out_RF, width, block=2048, num_warps=8)
        return out_RF
    gate_RF, up_RF = gate_up_RF.chunk(2, dim=-1)
    return silu(gate_RF) * up_RF


if triton is not None:

    @triton.jit
    def _rms_norm_kernel(rows, weight, out, width, eps, block: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0).to(tl.int64)
        at = tl.arange(0, block)
        inside = at < width
        x = tl.load(rows + row * width + at, mask=inside, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / width + eps)
        normed = (x * scale).to(out.dtype.element_ty)
        w = tl.load(weight + at, mask=inside, other=0.0)
        tl.store(out + row * width + at, normed * w, mask=inside)

    @triton.jit
    def _rotate_kernel(  # type: ignore[no-untyped-def]
        rows, cos, sin, stride, heads, half: tl.constexpr, block: tl.constexpr, block_heads: tl.constexpr
    ):
        row = tl.program_id(0).to(tl.int64)
        head = tl.program_id(1) * block_heads + tl.arange(0, block_heads)
        at = tl.arange(0, block)
        c = tl.load(cos + row * 2 * half + at, mask=at < half).to(tl.float32)[None, :]
        s = tl.load(sin + row * 2 * half + at, mask=at < half).to(tl.float32)[None, :]
        place = rows + row * stride + head[:, None] * (2 * half) + at[None, :]
        inside = (head < heads)[:, None] & (at < half)[None, :]
        first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
        kind = rows.dtype.element_ty
        tl.store(place, (first * c - second * s).to(kind), mask=inside)
        tl.store(place + half, (second * c + first * s).to(kind), mask=inside)

    @triton.jit
    def _gated_silu_kernel(gate_up, out, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0).to(tl.int64)
        at = tl.program_id(1) * block + tl.arange(0, block)
        inside = at < width
        gate = tl.load(gate_up + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(gate_up + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * width + at, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)
