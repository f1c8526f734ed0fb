"""Singular values of many matrices at once, by the library and by the CUDA source on a CPU, against float64 SVDs."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

import kernels_on_cpu
from strategies.rank import effective_rank, numerical_rank
from workers import singular
from workers.nvrtc import CudaBuildError, _compile
from workers.singular import Build, singular_values

needs_compiler = pytest.mark.skipif(kernels_on_cpu.compiler() is None, reason="needs a C++ compiler")


# As the product's own, at sizes that a CPU can emulate: all three builds are met by small matrices.
BUILDS = (
    Build(largest=16, threads=128, rows=1, own=4, group=4, blocks=4, chase_warps=8),
    Build(largest=40, threads=256, rows=2, own=5, group=3, blocks=2, chase_warps=8),
    Build(largest=776, threads=512, rows=2, own=6, group=2, blocks=1, chase_warps=16),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    return {build: kernels_on_cpu.build_on_cpu(build, folder) for build in BUILDS}


@pytest.fixture
def kernels(built, monkeypatch):
    monkeypatch.setattr(singular, "BUILDS", BUILDS)
    monkeypatch.setattr(singular, "_kernels", lambda build, device: built[build])
    monkeypatch.setattr(singular, "_largest_size", lambda device: BUILDS[-1].largest)


@pytest.fixture(params=["library", pytest.param("kernels", marks=needs_compiler)])
def way(request):
    if request.param == "kernels":
        request.getfixturevalue("kernels")
    return request.param


def attention(batch: int, size: int, seed: int) -> torch.Tensor:
    """Causal softmax blocks, as the recorder makes them."""
    scores = 2 * torch.randn(batch, size, size, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(size, size).triu(1).bool(), -torch.inf).softmax(dim=-1)


def rows_of(blocks: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.linalg.svdvals(matrix.double()) for block in blocks for matrix in block]


def check(found_NK: torch.Tensor, expected: list[torch.Tensor]) -> None:
    """Squares within a few rounding errors of the largest; ranks as promised."""
    assert len(found_NK) == len(expected)
    for found, values in zip(found_NK, expected, strict=True):
        assert (found[len(values) :] == 0).all()
        own = found[: len(values)]
        assert (own.diff() <= 0).all()
        torch.testing.assert_close(own**2, values**2, rtol=1e-10, atol=1e-14 * float(values[0]) ** 2)
        for power in (1, 2):
            assert effective_rank(own, power) == pytest.approx(float(effective_rank(values, power)), rel=1e-5)
        for threshold in (1e-2, 1e-5, 1e-6):
            near = ((values / values[0] / threshold).log().abs() < 1e-3).any()
            assert near or numerical_rank(own, threshold) == numerical_rank(values, threshold)


def test_blocks_of_many_sizes_together(way):
    sizes = (1, 2, 7, 8, 9, 16, 17, 31, 40, 65, 90)
    blocks = [attention(2, size, seed=size) for size in sizes]
    check(singular_values(blocks), rows_of(blocks))


@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (5, 1), (24, 200), (200, 24), (33, 70)])
def test_tall_and_wide(way, rows, columns):
    blocks = [torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(0)).bfloat16()]
    check(singular_values(blocks), rows_of(blocks))


@needs_compiler
def test_a_panel_longer_than_its_threads(kernels, built, monkeypatch):
    """Beyond 264 rows a thread of the second build holds two; a second or two."""
    longer = replace(BUILDS[1], largest=328)
    built[longer] = built[BUILDS[1]]
    monkeypatch.setattr(singular, "BUILDS", (longer,))
    blocks = [attention(1, 301, seed=0)]
    check(singular_values(blocks), rows_of(blocks))


def test_matrices_of_every_kind(way):
    """Zero, rank one, identical rows, tiny, huge, diagonal, orthogonal, spectra down to 1e-8 and just above 1e-6."""
    generator = torch.Generator().manual_seed(1)
    random = torch.randn(24, 24, generator=generator, dtype=torch.float64)
    orthogonal = torch.linalg.qr(random).Q
    matrices = {
        "zero": torch.zeros(24, 24).double(),
        "rank one": random[:, :1] @ random[:1],
        "identical rows": random[:1].expand(24, -1),
        "tiny": random * 1e-200,
        "huge": random * 1e200,
        "diagonal": torch.diag(torch.arange(24).double()),
        "orthogonal": orthogonal,
        "graded": orthogonal * torch.logspace(0, -8, 24).double() @ random.svd().V.mT,
        "plateau": orthogonal * torch.tensor(12 * [1.0] + 12 * [1.2e-6]).double() @ random.svd().V.mT,
        "one entry": torch.zeros(24, 24)
        .double()
        .index_put((torch.tensor(5), torch.tensor(3)), torch.tensor(3.0).double()),
    }
    found = dict(zip(matrices, singular_values([matrix[None] for matrix in matrices.values()]), strict=True))
    assert (found.pop("zero") == 0).all()
    huge, tiny = found.pop("huge"), found.pop("tiny")
    check(torch.stack((huge * 1e-200, tiny * 1e200)), 2 * [torch.linalg.svdvals(random)])
    check(torch.stack(list(found.values())), [torch.linalg.svdvals(matrices[name]) for name in found])
    for name in ("rank one", "identical rows", "one entry"):
        assert numerical_rank(found[name], 1e-6) == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_only_the_broken_matrix_is_missing(way, bad):
    block = attention(3, 20, seed=2)
    block[1, 7, 3] = bad
    others = attention(1, 9, seed=3), attention(1, 31, seed=4)
    found = singular_values([block, *others])
    assert found[1].isnan().all()
    check(found[[0, 2, 3, 4]], rows_of([block[[0, 2]], *others]))


def test_pieces_give_the_same(way, monkeypatch):
    blocks = [attention(2, size, seed=size) for size in (9, 30, 4, 17)]
    whole = singular_values(blocks)
    monkeypatch.setattr(singular, "PIECE_BYTES", 10_000)
    assert torch.equal(singular_values(blocks), whole)


@needs_compiler
def test_matrices_too_large_for_the_kernels_go_to_the_library(kernels, monkeypatch):
    monkeypatch.setattr(singular, "_largest_size", lambda device: 24)
    blocks = [attention(1, size, seed=size) for size in (9, 30, 17)]
    check(singular_values(blocks), rows_of(blocks))


def test_nothing(way):
    assert singular_values([]).shape == (0, 0)


def test_the_sizes_here_are_those_of_the_source():
    source = singular.SOURCE.read_text(encoding="utf-8")
    for name in ("BAND", "BISECT_THREADS", "COLUMN", "SWEEPS"):
        assert f"#define {name} {getattr(singular, name)}" in source


def test_an_older_torch_is_told_what_the_kernels_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)  # as if it were not installed
    with pytest.raises(CudaBuildError, match="needs cuda-bindings, which torch brings since"):
        _compile(singular.SOURCE, [])
