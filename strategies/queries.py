"""Query rules: which rows of the attention matrix speak for the image, and how they become one row per head.

Source: EasonAI-5589/LLaVA-FinePruner-Head, llava/model/language_model/modeling_llama_fastv_ablation_b.py.
We differ on one point: everything is per sample (the original reads the batch's first). As there, ``last_n_tokens``
means three.

Rows of the system prompt come before the image and see none of it, so they count only as zeros: ``system_and_text`` is
``text_tokens_only`` times a constant, ``attention_weighted`` loses some weight to them, ``max_attention_token`` never
takes one. They are counted here, not read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from strategies.view import TokenView

QueryRule = Literal[
    "last_token",
    "last_n_tokens",
    "last_5_tokens",
    "text_tokens_only",
    "weighted_recent",
    "system_and_text",
    "attention_weighted",
    "max_attention_token",
    "adaptive_by_length",
]


def query_rows(view: TokenView, rule: QueryRule) -> Tensor:
    """Reduce the query dimension.

    Args:
        view: with the text rows, and the last five rows where the text is shorter.
        rule: a query rule.

    Returns:
        (H, V), one row per head, not necessarily summing to at most 1.
    """
    return RULES[rule](view)


def _last_token(view: TokenView) -> Tensor:
    return view.last_HV


def _last_n_tokens(view: TokenView) -> Tensor:
    return view.last_HQV(3).mean(dim=1)


def _last_5_tokens(view: TokenView) -> Tensor:
    return view.last_HQV(5).mean(dim=1)


def _text_tokens_only(view: TokenView) -> Tensor:
    return view.text_HTV.mean(dim=1) if view.text else view.last_HV


def _weighted_recent(view: TokenView) -> Tensor:
    return _recency_weighted(view.last_HQV(5))


def _recency_weighted(rows_HQV: Tensor) -> Tensor:
    """Weights rise linearly from the oldest row to the newest, which counts twice as much."""
    weight_Q = torch.linspace(0.5, 1.0, rows_HQV.shape[1], dtype=rows_HQV.dtype, device=rows_HQV.device)
    return torch.einsum("q,hqv->hv", weight_Q / weight_Q.sum(), rows_HQV)


def _system_and_text(view: TokenView) -> Tensor:
    if view.text == 0:  # the original's mean over the last system rows, which see no image
        return torch.zeros_like(view.last_HV)
    return view.text_HTV.sum(dim=1) / (view.system + view.text)


def _attention_weighted(view: TokenView) -> Tensor:
    """Softmax over all non-visual rows of the mass they give the image, summed over heads."""
    if view.text == 0:
        return torch.zeros_like(view.last_HV)
    mass_T = view.text_HTV.sum(dim=(0, 2))
    weight_X = torch.cat((mass_T.new_zeros(view.system), mass_T)).softmax(dim=0)
    return torch.einsum("t,htv->hv", weight_X[view.system :], view.text_HTV)


def _max_attention_token(view: TokenView) -> Tensor:
    if view.text == 0:
        return torch.zeros_like(view.last_HV)
    return view.text_HTV.index_select(1, strongest_text_row(view)).squeeze(1)


def strongest_text_row(view: TokenView) -> Tensor:
    """(1,) int64, the text row that gives the image the largest sum over heads; of equal ones the first."""
    return view.text_HTV.sum(dim=(0, 2), dtype=torch.float64).argmax(dim=0, keepdim=True)


def _adaptive_by_length(view: TokenView) -> Tensor:
    if view.text <= 3:
        return _text_tokens_only(view)
    return _recency_weighted(view.last_HQV(min(5, view.text))) if view.text <= 10 else _attention_weighted(view)


RULES: dict[QueryRule, Callable[[TokenView], Tensor]] = {
    "last_token": _last_token,
    "last_n_tokens": _last_n_tokens,
    "last_5_tokens": _last_5_tokens,
    "text_tokens_only": _text_tokens_only,
    "weighted_recent": _weighted_recent,
    "system_and_text": _system_and_text,
    "attention_weighted": _attention_weighted,
    "max_attention_token": _max_attention_token,
    "adaptive_by_length": _adaptive_by_length,
}
