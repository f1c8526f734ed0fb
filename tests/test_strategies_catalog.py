"""The contract of every strategy in the catalog: listed means tested."""

from __future__ import annotations

import pytest
import torch

from strategies import catalog
from strategies.catalog import CATALOG, REQUIRED, Range, UnknownStrategy, get
from strategies.scores import descending_order, top_k
from strategies.view import TokenView

HEADS, TEXT, SYSTEM = 4, 7, 3


def make_view(visual: int, distinct: int | None = None, seed: int = 0, text: int = TEXT) -> TokenView:
    """A view with all evidence; ``distinct`` below ``visual`` repeats tokens, so that scores tie."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.arange(visual) % (distinct or visual)
    attention = torch.rand(HEADS, text, distinct or visual, generator=generator)[:, :, origin] / (2 * visual)
    return TokenView(
        visual=visual,
        system=SYSTEM,
        text=text,
        seed=seed,
        device=torch.device("cpu"),
        attention_HQV=attention,
        text_attention_HTT=(torch.rand(HEADS, text, text, generator=generator) / (2 * text)).tril(),
        hidden_states_VD=torch.randn(distinct or visual, 12, generator=generator)[origin],
    )


def some_params(name: str) -> dict:
    """A value for each parameter that has no default."""
    return {parameter: 2 for parameter, default in get(name).params.items() if default is REQUIRED}


@pytest.mark.parametrize("name", sorted(CATALOG))
@pytest.mark.parametrize(
    ("visual", "distinct", "keep"), [(1, 1, 1), (8, 8, 8), (8, 8, 0), (64, 1, 40), (64, 20, 40), (64, 64, 1)]
)
def test_keeps_exactly_k_distinct_ascending_tokens(name, visual, distinct, keep):
    strategy = get(name)
    keep = keep if strategy.fixed_rank is None else strategy.fixed_rank
    (kept,) = strategy.choose(make_view(visual, distinct), [keep], some_params(name))
    assert kept.dtype == torch.int64
    assert kept.shape == (keep,)
    assert torch.equal(kept, kept.unique())  # unique() sorts
    assert keep == 0 or 0 <= int(kept[0]) <= int(kept[-1]) < visual


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_is_pure_and_repeatable(name):
    strategy, view = get(name), make_view(32)
    tensors = (view.attention_HQV, view.text_attention_HTT, view.hidden_states_VD)
    before = [tensor.clone() for tensor in tensors]
    torch.manual_seed(1)
    first = strategy.choose(view, [5, 9], some_params(name))
    torch.manual_seed(2)
    second = strategy.choose(view, [5, 9], some_params(name))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_reads_only_the_evidence_it_declares(name):
    """Without the rest of the evidence the choice is the same; without the declared evidence it raises."""
    from strategies.view import Evidence

    strategy, full = get(name), make_view(32)
    whole_text = strategy.needs & {Evidence.TEXT_ROWS, Evidence.TEXT_TO_TEXT}
    rows = full.attention_HQV if whole_text else full.attention_HQV[:, -1:]
    lean = TokenView(
        visual=32,
        system=SYSTEM,
        text=TEXT,
        seed=0,
        device=full.device,
        attention_HQV=rows if strategy.reads_attention else None,
        text_attention_HTT=full.text_attention_HTT if Evidence.TEXT_TO_TEXT in strategy.needs else None,
        hidden_states_VD=full.hidden_states_VD if Evidence.HIDDEN in strategy.needs else None,
    )
    (kept,) = strategy.choose(lean, [6], some_params(name))
    assert torch.equal(kept, strategy.choose(full, [6], some_params(name))[0])
    bare = TokenView(visual=32, system=SYSTEM, text=TEXT, seed=0, device=full.device)
    if strategy.needs:
        with pytest.raises(ValueError, match="did not declare"):
            strategy.choose(bare, [6], some_params(name))


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_documents_itself(name):
    strategy = get(name)
    assert strategy.source
    assert strategy.function.__doc__
    assert strategy.positions in ("keep", "compact")
    assert len(strategy.source_hash) == 16
    assert strategy.check(some_params(name)) is None


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UnknownStrategy, match="Did you mean 'fastv'"):
        get("fastvv")
    assert "has no parameter 'alpha'" in get("fastv").check({"alpha": 0.5})


def test_parameter_limits():
    assert Range(0, 1).complaint(0.5) is None
    assert Range(0, 1).complaint(1.5) == "1.5 is outside 0..1"
    assert Range(1).complaint(0) == "0 is outside 1.."
    assert "not a number" in Range(0, 1).complaint("x")


def test_attention_is_replaced_by_a_draw_before_the_first_layer():
    assert catalog.at_layer(get("fastv"), 0).name == "random"
    assert catalog.at_layer(get("fastv"), 1).name == "fastv"
    assert catalog.at_layer(get("random"), 0).name == "random"


def test_ties_go_to_the_lower_index():
    scores = torch.tensor([1.0, 3.0, 3.0, 0.0, 3.0])
    assert descending_order(scores).tolist() == [1, 2, 4, 0, 3]
    assert top_k(scores, 2).tolist() == [1, 2]
    assert top_k(torch.zeros(600), 5).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="NaN"):
        top_k(torch.tensor([0.0, float("nan")]), 1)
    with pytest.raises(ValueError, match="cannot keep 3 of 2"):
        top_k(torch.zeros(2), 3)


def test_fastv_is_the_mean_of_the_last_row():
    view = make_view(16)
    expected = view.attention_HQV[:, -1].mean(dim=0).sort(descending=True).indices[:4].sort().values
    assert torch.equal(get("fastv").choose(view, [4], {})[0], expected)


def test_random_covers_all_tokens_evenly_and_nests():
    counts = torch.zeros(16)
    for seed in range(800):
        small, large = get("random").choose(make_view(16, seed=seed), [4, 8], {})
        assert set(small.tolist()) <= set(large.tolist())
        counts[small] += 1
    assert counts.min() > 150  # 200 expected, standard deviation 12
    assert counts.max() < 250
