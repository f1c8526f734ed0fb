"""FitPrune's calibration against the authors' steps, one token after the other on transformers' own layers."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from naive import _attend
from small_llava import make_checkpoint
from strategies.budget import average_of_stages
from strategies.catalog import get
from strategies.errors import UsageError
from workers import calibration
from workers.calibration import calibrate
from workers.encoding import encode_sample
from workers.engine import Engine
from workers.families.model import Encoded, Model
from workers.work import EngineSpec, ModelSpec, TaskSpec

IDS = ("1", "2", "3")
LAYERS, VISUAL = 4, 16


@pytest.fixture(scope="module")
def engine(tmp_path_factory, small_scienceqa) -> Engine:
    """Four layers, so that what goes in one changes what goes in the next."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("deeper"), seed=5, layers=LAYERS)
    task = TaskSpec(name="scienceqa", data=str(small_scienceqa))
    return Engine.load(EngineSpec(model=ModelSpec(path=str(checkpoint)), task=task), device="cpu")


@pytest.fixture(scope="module")
def prompts(engine) -> list[Encoded]:
    return [encode_sample(engine.model, engine.samples[id], engine.spec.task, "pad") for id in IDS]


def sums(weights_HSS, alive: list[int], text: list[int]) -> tuple[list[float], list[float]]:
    """What each token receives from those alive and from the text, mean over them, by the head with the most."""
    largest_SS = weights_HSS.amax(dim=0).double()
    return tuple([float(largest_SS[rows, token].sum()) / len(rows) for token in alive] for rows in (alive, text))


@torch.inference_mode()
def entering(model: Model, prompt: Encoded, share: float) -> list[int]:
    """Visual tokens that enter each layer, by the authors' loops; what is dropped is masked."""
    decoder = model.module.model.language_model
    (features,) = model.image_features([prompt])
    hidden = model.module.get_input_embeddings()(torch.tensor(prompt.ids))
    hidden = torch.cat((hidden[: prompt.system], features, hidden[prompt.system + prompt.visual :]))[None]
    alive = list(range(prompt.system, prompt.system + prompt.visual))
    text = list(range(alive[-1] + 1, prompt.length))
    whole, found, mask = hidden, [], torch.ones(prompt.length, prompt.length, dtype=torch.bool).tril()
    everything, decoder.config._attn_implementation = (list(alive), mask.clone()), "eager"
    for layer in decoder.layers:
        states = []
        positions = torch.arange(prompt.length)[None]
        found.append(len(alive))
        for rows, seen in ((whole, everything[1]), (hidden, mask)):
            attended, weights = _attend(decoder, layer, rows, positions, seen)
            after = rows + attended
            states.append((after + layer.mlp(layer.post_attention_layernorm(after)), weights[0]))
        (whole, of_whole), (hidden, of_rows) = states
        least = []
        for total, received in zip(sums(of_whole, everything[0], text), sums(of_rows, alive, text), strict=True):
            order = sorted(range(len(alive)), key=lambda i: received[i])
            gone = list(accumulate(received[i] for i in order))
            allowed = sum(total) - share * sum(total)
            count = next(n for n in range(len(alive)) if n == len(alive) - 1 or sum(received) - gone[n] < allowed)
            least.append({alive[i] for i in order[:count]})
        goes = least[0] & least[1]
        mask[:, sorted(goes)] = False
        alive = [token for token in alive if token not in goes]
    decoder.config._attn_implementation = "sdpa"
    return found


@pytest.mark.parametrize("share", [0.2, 0.55, 0.8])
def test_what_is_alive_is_what_the_authors_steps_leave(engine, prompts, share, monkeypatch):
    """Samples that go through the layers in several matrices, too."""
    monkeypatch.setattr(calibration, "TOGETHER", 2)
    seen = []
    monkeypatch.setattr(calibration, "_fitted", lambda alive, *rest: seen.append(alive(share)))
    calibrate(engine.model, prompts, [9])
    expected = [entering(engine.model, prompt, share) for prompt in prompts]
    assert list(seen[0]) == pytest.approx([sum(column) / len(IDS) for column in zip(*expected, strict=True)])
    assert VISUAL > seen[0][1] > seen[0][2] > seen[0][3]


def test_a_budget_is_met_to_the_token(engine, prompts):
    """What comes out is a grid point; the fewer may stay the more of the attention goes."""
    found = calibrate(engine.model, prompts, [14, 9, 6])
    assert [one.share for one in found] == sorted(one.share for one in found)
    for budget, one in zip((14, 9, 6), found, strict=True):
        assert one.average == pytest.approx(budget, abs=0.5)
        params = {"left": "-".join(map(str, one.left))}
        strategy = get("fitprune")
        assert strategy.check(params, layer=one.layer, rank=one.rank, layers=LAYERS) is None
        stages = [(stage.layer, stage.rank) for stage in strategy.stages(one.layer, one.rank, params)]
        assert average_of_stages(stages, LAYERS, VISUAL) == one.average


@pytest.mark.parametrize("budget", [4, 16])
def test_a_budget_out_of_reach_is_one_line(engine, prompts, budget):
    with pytest.raises(UsageError, match=rf"an average of {budget} visual tokens .* it lies between 4, .* and 16"):
        calibrate(engine.model, prompts, [budget])
