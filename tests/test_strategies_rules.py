"""Query rules, head rules and attention scores against loops over plain numbers, and the identities between them."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import heads, queries
from strategies.catalog import get
from strategies.heads import HeadProbability, HeadRule, head_scores, select_heads
from strategies.queries import QueryRule, query_rows
from strategies.text_weighted import text_weights
from strategies.view import TokenView

TINY = 1e-8


def random_view(system=3, visual=12, text=13, heads=4, seed=0, sharp=3.0, dtype=torch.float64) -> TokenView:
    """A causal softmax over random logits, and all that the engine would lay before a strategy."""
    length = system + visual + text
    logits = sharp * torch.randn(heads, length, length, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    full = logits.masked_fill(future, -torch.inf).softmax(dim=-1)
    end, rows = system + visual, max(text, min(5, length))
    return TokenView(
        visual=visual,
        system=system,
        text=text,
        seed=seed,
        device=torch.device("cpu"),
        attention_HQV=full[:, length - rows :, system:end],
        text_attention_HTT=full[:, end:, end:],
        visual_attention_HVV=full[:, system:end, system:end],
    )


def loop_query_rows(view: TokenView, rule: str) -> list[list[float]]:
    """The definitions of semantics 2.4, row by row; the system's rows are written out as zeros."""
    rows = view.attention_HQV.tolist()
    heads, visual, text, system = len(rows), view.visual, view.text, view.system
    zero = [0.0] * visual

    def row(head, back):  # counted from the end: the last row is 1
        return rows[head][-back] if back <= len(rows[head]) else zero

    def weighted(weights):  # the newest row last
        last = len(weights)
        return [
            [sum(w * row(h, last - i)[v] for i, w in enumerate(weights)) for v in range(visual)] for h in range(heads)
        ]

    def recent(window):
        window = min(window, system + visual + text)
        raw = [0.5 + 0.5 * i / (window - 1) if window > 1 else 0.5 for i in range(window)]
        return weighted([w / sum(raw) for w in raw])

    def mean(count):
        count = min(count, system + visual + text)
        return weighted([1 / count] * count)

    others = [[zero] * heads] * system + [[row(h, text - i) for h in range(heads)] for i in range(text)]
    mass = [sum(map(sum, each)) for each in others]

    def summed(weights):
        return [[sum(w * each[h][v] for w, each in zip(weights, others, strict=True)) for v in range(visual)]
                for h in range(heads)]  # fmt: skip

    def attention_weighted():
        total = sum(map(math.exp, mass))
        return summed([math.exp(u) / total for u in mass])

    if rule == "last_token" or (rule in ("text_tokens_only", "adaptive_by_length") and text == 0):
        return weighted([1.0])
    if rule == "last_n_tokens":
        return mean(3)
    if rule == "last_5_tokens":
        return mean(5)
    if rule == "text_tokens_only" or (rule == "adaptive_by_length" and text <= 3):
        return mean(text)
    if rule == "weighted_recent":
        return recent(5)
    if rule == "adaptive_by_length" and text <= 10:
        return recent(min(5, text))
    if rule in ("attention_weighted", "adaptive_by_length"):
        return attention_weighted()
    if rule == "system_and_text":
        return summed([1 / len(others)] * len(others)) if others else [zero] * heads
    assert rule == "max_attention_token"
    return others[mass.index(max(mass))] if others else [zero] * heads


@pytest.mark.parametrize("rule", get_args(QueryRule))
@pytest.mark.parametrize(
    ("system", "visual", "text"), [(3, 12, 13), (3, 12, 10), (0, 6, 4), (2, 9, 3), (2, 7, 1), (4, 8, 0), (0, 3, 1)]
)
def test_query_rules_against_loops(rule, system, visual, text):
    view = random_view(system, visual, text, seed=text)
    expected = torch.tensor(loop_query_rows(view, rule), dtype=torch.float64)
    torch.testing.assert_close(query_rows(view, rule), expected, rtol=1e-10, atol=1e-12)


def loop_head_scores(rows: list[list[float]], rule: str, kept: int, probability: str) -> list[float]:
    """The definitions of semantics 2.3, head by head."""
    count, visual = len(rows), len(rows[0])
    if probability == "softmax_again":
        shares = [[math.exp(a) / sum(map(math.exp, row)) for a in row] for row in rows]
    else:
        shares = [[a / sum(row) for a in row] for row in rows]

    def variance(row, correction=1):
        mean = sum(row) / visual
        return sum((a - mean) ** 2 for a in row) / (visual - correction)

    def entropy(row):
        return -sum(q * math.log(q + TINY) for q in row)

    def squares(row):
        return sum(q * q for q in row)

    def cosine(left, right):
        return sum(a * b for a, b in zip(left, right, strict=True)) / math.sqrt(squares(left) * squares(right))

    def scaled(values, tiny=0.0):
        low, high = min(values), max(values)
        return [(value - low) / (high - low + tiny) if high > low else 0.0 for value in values]

    def quality(q):
        limit = 0.01 if probability == "softmax_again" else 1 / visual
        return 0.4 * max(q) + 0.4 * squares(q) + 0.2 / (sum(x > limit for x in q) + TINY)

    def gini(q):
        return sum((2 * (i + 1) - visual - 1) * x for i, x in enumerate(sorted(q))) / (visual * sum(q))

    def multi_objective():
        information = scaled([entropy(q) for q in shares], TINY)
        kurtosis = [sum((x - 1 / visual) ** 4 for x in q) / visual / (variance(q, 0) ** 2 + TINY) for q in shares]
        kurtosis = scaled(kurtosis, TINY)
        unlike = [
            1 / (sum(cosine(q, other) for j, other in enumerate(shares) if j != i) / (count - 1) + TINY)
            for i, q in enumerate(shares)
        ]
        unlike, sparse = scaled(unlike, TINY), scaled([squares(q) for q in shares], TINY)
        return [
            0.4 * (0.7 * information[i] + 0.3 * kurtosis[i]) + 0.3 * unlike[i] + 0.3 * sparse[i] for i in range(count)
        ]

    def graph_based():
        features = [
            [squares(q), entropy(q), max(q), variance(q), sum(x > sum(q) / visual for x in q) / visual] for q in shares
        ]
        for _ in range(2):
            spread = []
            for i, q in enumerate(shares):
                near = [j for j in range(count) if j != i and cosine(q, shares[j]) > 0.1]
                messages = [sum(features[j][f] for j in near) / (len(near) + TINY) for f in range(5)]
                spread.append([max(0.0, own + message) for own, message in zip(features[i], messages, strict=True)])
            features = spread
        return [sum(row) / 5 for row in features]

    def hierarchical():
        if count <= kept or count <= 8:
            return [0.5 * squares(q) + 0.3 * max(q) + 0.2 * variance(q) for q in shares]
        evenness = scaled([entropy(q) for q in shares])
        coarse = [0.6 * squares(q) + 0.4 * (1 - even) for q, even in zip(shares, evenness, strict=True)]
        best = sorted(range(count), key=lambda h: -coarse[h])[: min(count, max(2 * kept, kept + 4))]
        units = {h: [x / math.sqrt(squares(shares[h])) for x in shares[h]] for h in best}
        centre = [sum(units[h][v] for h in best) / len(best) for v in range(visual)]
        parts = [
            scaled([entropy(shares[h]) for h in best]),
            scaled([sum(x * math.log(x / (1 / visual + TINY) + TINY) for x in shares[h]) for h in best]),
            scaled([math.dist(units[h], centre) for h in best]),
            scaled([1 / (math.sqrt(variance(shares[h])) + TINY) for h in best]),
        ]
        fine = [
            sum(w * part[i] for w, part in zip((0.3, 0.25, 0.25, 0.2), parts, strict=True)) for i in range(len(best))
        ]
        return [fine[best.index(h)] if h in best else -math.inf for h in range(count)]

    composite = {"multi_objective": multi_objective, "graph_based": graph_based, "hierarchical": hierarchical}
    if rule in composite:
        return composite[rule]()
    simple = {
        "sum": lambda a, q: sum(a),
        "variance": lambda a, q: variance(a),
        "entropy": lambda a, q: -entropy(q),
        "max_attention": lambda a, q: max(a),
        "attention_range": lambda a, q: max(a) - min(a),
        "sparsity": lambda a, q: squares(q),
        "top_k_sum": lambda a, q: sum(sorted(a)[-10:]),
        "weighted_quality": lambda a, q: quality(q),
        "gini_coefficient": lambda a, q: gini(q),
    }
    return [simple[rule](a, q) for a, q in zip(rows, shares, strict=True)]


@pytest.mark.parametrize("rule", get_args(HeadRule))
@pytest.mark.parametrize("probability", get_args(HeadProbability))
@pytest.mark.parametrize(("count", "visual", "kept"), [(4, 7, 2), (16, 20, 3), (16, 30, 6), (12, 15, 5)])
def test_head_rules_against_loops(rule, probability, count, visual, kept):
    rows = random_view(visual=visual, heads=count, seed=kept).last_HV
    expected = loop_head_scores(rows.tolist(), rule, kept, probability)
    scores = head_scores(rows, rule, kept, probability)
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-12)
    best = sorted(range(count), key=lambda h: (-expected[h], h))[:kept]
    assert select_heads(rows, rule, kept, probability).tolist() == sorted(best)


def test_the_rules_of_the_tables_are_those_of_the_signatures():
    assert tuple(heads.RULES) == get_args(HeadRule)
    assert tuple(queries.RULES) == get_args(QueryRule)


@pytest.mark.parametrize("rule", get_args(HeadRule))
@pytest.mark.parametrize("probability", get_args(HeadProbability))
@pytest.mark.parametrize("rows", [torch.zeros(12, 6), torch.full((12, 6), 0.1), torch.rand(1, 6), torch.rand(5, 1)])
def test_head_rules_on_rows_without_information(rule, probability, rows):
    kept = min(2, rows.shape[0])
    chosen = select_heads(rows, rule, kept, probability)
    assert len(chosen.unique()) == kept
    if rows.shape == (12, 6):  # all heads tie
        assert chosen.tolist() == [0, 1]


def test_more_heads_than_there_are():
    with pytest.raises(ValueError, match=r"^heads_kept: 5 is outside 1..4, the model's heads$"):
        get("ablation").choose(random_view(), [3], {"heads_kept": 5})


@given(seed=st.integers(0, 10**6), rank=st.integers(1, 11), text=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_names_that_mean_one_method(seed, rank, text):
    """Checks 3, 4 and 5 of semantics section 8."""
    view = random_view(text=text, heads=5, seed=seed, dtype=torch.float32)

    def kept(name, **params):
        return get(name).choose(view, [rank], params)[0].tolist()

    average = kept("avg_all_heads")
    assert kept("fastv") == average
    assert kept("max_head") == kept("weighted_combination", alpha=1.0)
    assert kept("weighted_combination", alpha=1 / 5) == average
    for head in get_args(HeadRule):
        assert kept("ablation", heads_kept=5, head=head) == average
    for head in ("sum", "variance"):
        system = kept("ablation", heads_kept=2, head=head, query="system_and_text")
        assert system == kept("ablation", heads_kept=2, head=head, query="text_tokens_only")
        if text > 10:
            adaptive = kept("ablation", heads_kept=2, head=head, query="adaptive_by_length")
            assert adaptive == kept("ablation", heads_kept=2, head=head, query="attention_weighted")


def test_weighted_combination_is_a_mean_of_the_others_at_alpha_0():
    rows = random_view(heads=3).last_HV
    strongest = int(rows.sum(dim=1).argmax())
    others = [head for head in range(3) if head != strongest]
    score = get("weighted_combination").function(random_view(heads=3), alpha=0.0)
    torch.testing.assert_close(score, rows[others].mean(dim=0))
    single = random_view(heads=1)
    torch.testing.assert_close(get("weighted_combination").function(single, alpha=0.25), 0.25 * single.last_HV[0])


@pytest.mark.parametrize("name", ["text_weighted", "text_weighted_max_head"])
@pytest.mark.parametrize("normalise", [False, True])
def test_text_weighted_against_loops(name, normalise):
    view = random_view(text=6)
    rows, text = view.text_HTV.tolist(), view.text_HTT.tolist()
    count = range(len(rows))
    if name == "text_weighted_max_head":
        count = [max(count, key=lambda h: sum(map(sum, rows[h])))]
    received = [sum(text[h][j][i] for h in count for j in range(6)) / len(count) for i in range(6)]
    if normalise:
        received = [c / (6 - i) for i, c in enumerate(received)]
    weights = [c / sum(received) for c in received]
    expected = [
        sum(w * rows[h][i][v] for h in count for i, w in enumerate(weights)) / len(count) for v in range(view.visual)
    ]
    score = get(name).function(view, normalise_by_visible_queries=normalise)
    torch.testing.assert_close(score, torch.tensor(expected, dtype=torch.float64))


def test_text_weights_where_the_text_attends_to_nothing():
    assert text_weights(torch.zeros(4, 4)).tolist() == [0.25] * 4
    assert text_weights(torch.ones(4, 4).tril(), True).tolist() == [0.25] * 4


def test_himaps_two_scores_against_loops():
    view = random_view(text=6)
    rows, among = view.text_HTV.tolist(), view.visual_HVV.tolist()
    count = len(rows)
    by_text = [sum(rows[h][t][v] for h in range(count) for t in range(6)) / count for v in range(12)]
    by_image = [sum(among[h][w][v] for h in range(count) for w in range(12)) / count for v in range(12)]
    torch.testing.assert_close(get("text_sum").function(view), torch.tensor(by_text, dtype=torch.float64))
    torch.testing.assert_close(get("image_column_sum").function(view), torch.tensor(by_image, dtype=torch.float64))


@pytest.mark.parametrize("name", ["text_weighted", "text_weighted_max_head", "text_sum"])
def test_a_prompt_without_text_after_the_image_is_refused_by_what_reads_it(name):
    with pytest.raises(ValueError, match="this prompt has none"):
        get(name).choose(random_view(text=0), [3], {})


@pytest.mark.parametrize("query", get_args(QueryRule))
def test_the_ablation_works_without_text(query):
    (kept,) = get("ablation").choose(random_view(text=0), [3], {"heads_kept": 2, "query": query})
    assert len(kept) == 3
