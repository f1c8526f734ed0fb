"""The square of tokens made coarser: by hand, and as Pillow resizes images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.sweep.spec import SpecError, load_sweep
from strategies.catalog import CATALOG
from strategies.view import TokenView


def square(side: int) -> TokenView:
    """Three channels of which the first counts the tokens row by row."""
    values_VD = torch.rand(side**2, 3, generator=torch.Generator().manual_seed(side), dtype=torch.float64)
    values_VD[:, 0] = torch.arange(side**2)
    return TokenView(visual=side**2, system=0, text=1, seed=0, device=torch.device("cpu"), hidden_states_VD=values_VD)


def made(name: str, view: TokenView, rank: int) -> tuple[list[int], torch.Tensor]:
    (kept_K,) = CATALOG[name].choose(view, [rank], {})
    return kept_K.tolist(), CATALOG[name].rows([view], kept_K[None])[0]


def test_a_pooled_token_is_the_mean_of_its_block():
    kept, rows = made("pool", square(4), 4)
    assert kept == [5, 7, 13, 15]  # one after the middle of each 2 x 2
    assert rows[:, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    kept, rows = made("pool", square(9), 9)
    assert kept == [10, 13, 16, 37, 40, 43, 64, 67, 70]
    torch.testing.assert_close(rows[:, 0].long(), torch.tensor(kept))  # of 3 x 3 the mean is the middle
    assert made("pool", square(4), 1)[1][0, 0] == 7.5


@pytest.mark.parametrize(("side", "cells"), [(24, 12), (24, 7), (24, 1), (5, 3), (6, 5)])
def test_resampled_tokens_are_those_of_pillow(side, cells):
    view = square(side)
    _, rows_KD = made("downsample_features", view, cells**2)
    for channel in range(3):
        plane = view.hidden_VD[:, channel].reshape(side, side).float().numpy()
        resized = Image.fromarray(plane, mode="F").resize((cells, cells), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(rows_KD[:, channel].reshape(cells, cells).numpy(), np.asarray(resized), rtol=1e-5)


def test_ranks_are_those_that_a_square_gives():
    assert CATALOG["pool"].grids(24) == [1, 4, 9, 16, 36, 64, 144, 576]
    assert CATALOG["downsample_features"].grids(5) == [1, 4, 9, 16, 25]
    for name in ("pool", "downsample_features"):
        for rank in CATALOG[name].grids(24):
            kept, rows = made(name, square(24), rank)
            assert len(set(kept)) == len(rows) == rank
            assert kept == sorted(kept)
            assert {len({place % 24 for place in kept}), len({place // 24 for place in kept})} == {math.isqrt(rank)}


def test_another_rank_is_one_line_with_the_nearest(tmp_path: Path, small_checkpoint, small_scienceqa):
    said = CATALOG["pool"].check({}, layer=0, rank=128, side=24)
    assert said == "rank: pool makes no 128 tokens of 24 x 24; take 64 or 144"
    assert CATALOG["pool"].check({}, layer=0, rank=0, side=24) is None
    sweep = tmp_path / "sweep.yaml"
    grid = "- {strategy: [random, downsample_features], layer: 0, rank: [4, 3]}"
    sweep.write_text(f"model: {small_checkpoint}\ndata: {small_scienceqa}\ngrid:\n{grid}\n")
    with pytest.raises(SpecError, match=r"grid\[0\].rank: downsample_features makes no 3 tokens of 4 x 4; take 1 or 4"):
        load_sweep(sweep)
