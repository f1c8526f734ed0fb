"""What every strategy promises: ours keep it, and a rule that breaks a promise is found at that very promise."""

from __future__ import annotations

import pytest

from own_rules import forgotten
from small_clip import make_clip
from small_llava import make_checkpoint
from strategies.catalog import CATALOG, get
from strategies.errors import UsageError
from strategies.own import from_text
from workers.contract import OF_CELLS, OF_CHOICES, laboratory, promises
from workers.engine import Engine

PARAMS = {
    "ablation": {"heads_kept": 2},
    "himap": {"second_layer": 3, "second_rank": 0},
    "pyramiddrop": {"second_layer": 2, "third_layer": 3},
    "vscan": {"second_layer": 3},
    "sparsevlm_plus": {"second_layer": 3, "second_rank": 0, "third_layer": 4, "third_rank": 0},
    "sparsevlm": {"second_layer": 3, "second_rank": 0, "third_layer": 4, "third_rank": 0},
    "fitprune": {"left": "0"},
    "v2drop": {"second_layer": 3, "third_layer": 4},
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory, small_scienceqa) -> Engine:
    """Four layers, so that a method of two stages has room."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("deeper"), seed=5, layers=4)
    return laboratory(checkpoint, small_scienceqa, make_clip(tmp_path_factory.mktemp("clip"), seed=5))


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_ours_keep_every_promise(engine, name):
    found = list(promises(engine, get(name), PARAMS.get(name)))
    assert {promise.text: promise.fault for promise in found if promise.fault} == {}
    assert len(found) == len(OF_CELLS) + (0 if get(name).schedule else len(OF_CHOICES))


def broken(engine: Engine, text: str) -> dict[str, str]:
    with forgotten():
        rule = from_text("my_rule.py", f"import torch\nfrom strategies.catalog import Strategy\n{text}", "rule")
        return {promise.text: promise.fault for promise in promises(engine, rule) if promise.fault}


@pytest.mark.parametrize(
    ("text", "promise", "fault"),
    [
        ("def rule(view): return view.last_HV.mean(dim=0)", "chooses by the evidence", "did not declare"),
        ("def rule(view): return torch.full((view.visual,), float('nan'))", "chooses by the evidence", "score is NaN"),
        ("def rule(view, keep): return torch.arange(max(keep - 1, 0))", "keeps exactly as many tokens", "of 1 asked"),
        ("def rule(view, keep): return torch.arange(keep).flip(0)", "keeps each once", "of 2 asked"),
        ("def rule(view, keep): return torch.arange(keep) + 1", "keeps each once", "of 16 asked"),
        (
            "def add(view): return view.hidden_VD.add_(1).sum(dim=1).float()\n"
            "rule = Strategy(name='x', score=add, needs=frozenset({'hidden'}), source='x')",
            "writes to nothing that it is given",
            "hidden_states_VD is another afterwards",
        ),
        ("def rule(view): return torch.rand(view.visual)", "chooses the same again", "otherwise the second time"),
        (
            "asked = []\ndef rule(view, keep):\n    asked.append(keep)\n"
            "    return torch.arange(keep) + (view.visual - keep) * (len(asked) % 3 == 1)",
            "chooses for a rank the same beside other ranks",
            "otherwise beside other ranks",
        ),
    ],
)  # fmt: skip
def test_a_rule_that_breaks_a_promise_is_found_at_it(engine, text, promise, fault):
    found = broken(engine, text)
    (seen,) = [said for name, said in found.items() if name.startswith(promise)]
    assert fault in seen


def test_a_rule_that_draws_and_does_not_say_so_is_found_where_questions_share_an_image(engine):
    text = (
        "def draw(view): return torch.rand(view.visual, generator=view.generator())\n"
        "rule = Strategy(name='x', score=draw, draws={}, source='x')"
    )
    assert broken(engine, text.format(True)) == {}
    assert broken(engine, text.format(False)).keys() == {
        "draws by the seed only where it says so",
        "questions that share an image are answered as each alone",
    }


def test_what_cannot_be_tried_is_one_line(engine):
    with forgotten(), pytest.raises(UsageError, match=r"my_rule.py:rule: .*needs the parameter 'alpha'"):
        list(promises(engine, from_text("my_rule.py", "def rule(view, *, alpha: float): ...", "rule")))
