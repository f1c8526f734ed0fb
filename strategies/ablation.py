"""FinePruner's two ablations as one family: a query rule makes one row per head, a head rule picks the rows to average.

Source: EasonAI-5589/LLaVA-FinePruner-Head, modeling_llama_fastv_ablation_a.py (head rules, on the last token's row) and
modeling_llama_fastv_ablation_b.py (query rules, with the head rule ``variance``).
We differ: any query rule goes with any head rule, ``heads_kept`` has no default (the original's, 32, keeps every head
of the 7B model, so that all its head rules are one method), and see queries.py and heads.py.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from strategies.heads import HeadProbability, HeadRule, select_heads
from strategies.limits import AtMostHeads, Range
from strategies.queries import QueryRule, query_rows
from strategies.view import TokenView


def ablation(
    view: TokenView,
    *,
    heads_kept: Annotated[int, Range(1), AtMostHeads()],
    query: QueryRule = "last_token",
    head: HeadRule = "sum",
    head_probability: HeadProbability = "renormalise",
) -> Tensor:
    """Score a visual token by its attention in the chosen heads' rows, averaged.

    Args:
        view: text rows, and the last five rows where the text is shorter.
        heads_kept: heads to average, 1 <= heads_kept <= H.
        query: which queries speak for a head.
        head: how heads are ranked.
        head_probability: how a head's row becomes a distribution, for the head rules that need one.

    Returns:
        (V,) in [0, 1].

    Raises:
        ValueError: ``heads_kept`` is outside 1..H.
    """
    rows_HV = query_rows(view, query)
    chosen_C = select_heads(rows_HV, head, heads_kept, head_probability)
    return rows_HV.index_select(0, chosen_C).mean(dim=0)


def remark(
    heads: int,
    *,
    heads_kept: int,
    query: QueryRule = "last_token",
    head: HeadRule = "sum",
    head_probability: HeadProbability = "renormalise",
) -> str | None:
    """What somebody who plans this should know: settings under which different names mean one method."""
    remarks = []
    if heads_kept >= heads:
        same = "avg_all_heads" if query == "last_token" else f"the mean over all heads of query={query}"
        remarks.append(f"heads_kept={heads_kept} keeps every head, so that every head rule coincides with {same}")
    if query == "system_and_text" and head_probability == "renormalise":
        remarks.append("query=system_and_text keeps the same tokens as text_tokens_only: system rows see no image")
    if query == "adaptive_by_length":
        remarks.append("query=adaptive_by_length is attention_weighted where more than 10 tokens follow the image")
    return "; ".join(remarks) or None
