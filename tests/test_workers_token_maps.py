"""Where an image's tokens lie: as the tower's own rows say, and as tables keep it."""

from __future__ import annotations

import pytest
import torch

import checkpoint_forms as forms
from small_intern import make_intern
from small_qwen import make_qwen, noise
from workers.families.catalog import load_model, open_checkpoint
from workers.token_maps import TokenMap, read_maps, written
from workers.work import ModelSpec

MADE = {"intern": make_intern, "qwen": make_qwen, "next": lambda folder: forms.hugging_face_next(folder / "next")}


@pytest.mark.parametrize("kind", MADE)
def test_a_map_says_what_each_token_shows(tmp_path, kind):
    """Against the number of each row's tile, and its row and column there, that go the way of its features."""
    folder = str(MADE[kind](tmp_path))
    mode = open_checkpoint(ModelSpec(path=folder)).image_mode
    model = load_model(ModelSpec(path=folder, image_mode=mode), "cpu")
    for size in ((61, 300), (100, 150), (200, 20)):
        prompt = model.encode("<image> what ?", noise(size), mode)
        with torch.no_grad():
            (seen,) = model.see([prompt], {"places": lambda tower: tower.places()})
        place_V3 = seen.evidence["places"].long()
        side = int(place_V3[:, 1:].max())
        assert prompt.squares == (len(prompt.pixels[0].values) if kind == "next" else None)
        assert read_maps(written(prompt.maps), prompt.visual) == prompt.maps
        drawn = set()
        for one in prompt.maps:
            across = -(-one.columns // side)  # tiles
            whole = one.overview or kind == "qwen" or prompt.visual == one.rows * one.columns == side * side
            first = {"intern": 1, "next": 2}.get(kind, 1)
            shifts = set()
            for row in range(one.rows):
                for column in range(one.columns):
                    token = one.token(row, column)
                    number, of_row, of_column = place_V3[token].tolist()
                    drawn.add(token)
                    tile = 0 if whole else number - first
                    at = (tile // across * side + of_row - 1, tile % across * side + of_column - 1)
                    shifts.add((at[0] - row, at[1] - column))
            assert len(shifts) == 1, (size, one)  # padding of any-resolution is left out
            assert kind == "next" or shifts == {(0, 0)}
        assert drawn == {token for token in range(prompt.visual) if place_V3[token, 0]}  # all but ends of rows


def test_what_a_table_cannot_mean_is_no_map():
    for text in (None, "", "0", "0 2 3 4 5 6 7", "a 2 3 0 0 0", "0 2 4 0 0 0", "0 0 3 0 0 0", "-1 2 3 0 0 0"):
        assert read_maps(text, 7) == ()
    assert read_maps("0 2 3 0 1 0", 7) == (TokenMap(0, 2, 3, ends=1),)
    assert read_maps("0 2 3 0 0 0;5 1 2 0 0 1", 7) == ()  # a token in two places
    assert read_maps("0 2 3 2 0 0", 7) == ()  # no whole tiles
