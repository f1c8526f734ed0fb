"""Long greedy answers on forks: equal to the naive forward, which has no cache, and to Hugging Face's generate."""

from __future__ import annotations

import pytest
import torch

import workers.decode
from small_llava import make_checkpoint
from test_workers_engine import assert_equals_naive, make_engine
from test_workers_patch import assert_equals_engine
from workers.decode import FIRST_ROOM, Decoding
from workers.work import GridPoint, WorkUnit, unpruned_point

LONG = 40  # more than three doublings of the room for decoded tokens
LAYERS, VISUAL = 3, 16
POINTS = [
    unpruned_point(LAYERS, VISUAL),
    GridPoint(strategy="cutoff", layer=2, rank=0),
    GridPoint(strategy="fastv", layer=1, rank=4),
    GridPoint(strategy="random", layer=0, rank=6),
    GridPoint(strategy="text_weighted", layer=2, rank=5),
    GridPoint(strategy="l2_norm", layer=0, rank=5),  # positions are renumbered
    GridPoint(strategy="himap", layer=1, rank=6, params=(("second_layer", 2), ("second_rank", 3))),
    # What is decoded has another position in the layers before than after.
    GridPoint(strategy="fastv", layer=1, rank=4, positions="compact"),
    GridPoint(strategy="himap", layer=1, rank=6, params=(("second_layer", 2), ("second_rank", 3)), positions="compact"),
    GridPoint(strategy="divprune", layer=0, rank=5, positions="keep"),
]


@pytest.fixture(scope="module", params=[(4, 2, "llama"), (4, 4, "mistral")], ids=["grouped heads", "sliding window"])
def engine(request, tmp_path_factory, small_scienceqa):
    """Answers that hardly ever end by themselves; the window is wide enough for them."""
    heads, kv_heads, text_model = request.param
    folder = tmp_path_factory.mktemp("long")
    make_checkpoint(folder, seed=3, layers=LAYERS, heads=heads, kv_heads=kv_heads, end_bias=-0.9, text_model=text_model)
    return make_engine(folder, small_scienceqa, max_new_tokens=LONG)


def test_long_answers_equal_naive(engine):
    engine.micro_batch = 2
    assert_equals_naive(engine, ["2", "6"], POINTS)


def test_long_answers_equal_generate_on_the_patched_model(engine):
    untouched = GridPoint(strategy="fastv", layer=LAYERS, rank=VISUAL)
    assert_equals_engine(engine, ["1", "6", "2"], [untouched, *POINTS[1:]])
    cells = engine.run(WorkUnit(samples=("1",), points=tuple(POINTS))).outcomes
    assert max(cell.decoded_tokens for cell in cells) == LONG > 2 * 2 * 2 * FIRST_ROOM


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_who_has_ended_leaves_and_changes_nothing(engine, monkeypatch, share):
    """Ends come one by one; whether the batch is packed anew at once, together or never, answers are the same."""
    own = engine.model.end_tokens
    kept: list[int] = []
    keep = Decoding.keep
    monkeypatch.setattr(Decoding, "keep", lambda self, places: (kept.append(len(places)), keep(self, places))[1])
    monkeypatch.setattr(workers.decode, "LEAVE_TOGETHER", share)
    vocabulary = torch.randperm(len(engine.model.tokenizer), generator=torch.Generator().manual_seed(1))
    engine.model.end_tokens = frozenset(vocabulary[:6].tolist())
    engine.micro_batch = 3
    try:
        unit = WorkUnit(samples=("1", "2", "3"), points=tuple(POINTS))
        lengths = {cell.decoded_tokens for cell in engine.run(unit).outcomes}
        assert len(lengths) > 2
        assert sorted(kept, reverse=True) == kept
        assert bool(kept) == (share < 1)
        assert_equals_naive(engine, ["1", "2", "3"], POINTS)
    finally:
        engine.model.end_tokens = own


def test_a_text_only_question_is_one_sequence_for_all_points(engine, monkeypatch):
    """Nothing is there to prune: it is decoded once, and every grid point has the same cell."""
    sequences: list[int] = []
    begin = Decoding.__init__
    monkeypatch.setattr(
        Decoding,
        "__init__",
        lambda self, llava, start, room: (sequences.append(len(start.sequences)), begin(self, llava, start, room))[1],
    )
    cells = engine.run(WorkUnit(samples=("6",), points=tuple(POINTS))).outcomes
    assert sequences == [1]
    assert len({(cell.answer, cell.margin, cell.decoded_tokens) for cell in cells}) == 1
    assert {(cell.visual_tokens, cell.tokens_kept) for cell in cells} == {(0, 0)}
