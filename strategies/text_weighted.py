"""Text-weighted scores: text tokens vote for visual tokens, each with the attention it receives from later text.

Source: YangXu-03/Himap-based, src/HiMAP/fastv_textweighted_experiment.py.
We differ on three points. The original computes this selection and then never prunes with it; here it prunes. It reads
the attention of layer K where the others read K-1; here K-1. And it takes the first sample's scores for a whole batch.
Kept as published: attention is causal and the diagonal counts, so early text tokens (above all the newline after the
image) weigh most, whatever they say; ``normalise_by_visible_queries`` is our extension against that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.fastv_advanced import strongest_head
from strategies.view import TokenView


def text_weighted(view: TokenView, *, normalise_by_visible_queries: bool = False) -> Tensor:
    """Sum the text rows' attention to a visual token, mean over heads, each row times its weight.

    Args:
        view: text rows on the image and on the text are read.
        normalise_by_visible_queries: divide a text token's received attention by the number of text tokens that can
            see it, which takes the advantage from early ones.

    Returns:
        (V,) in [0, 1].
    """
    weight_T = text_weights(view.text_HTT.mean(dim=0), normalise_by_visible_queries)
    return weight_T @ view.text_HTV.mean(dim=0)


def text_weighted_max_head(view: TokenView, *, normalise_by_visible_queries: bool = False) -> Tensor:
    """The text-weighted score of one head: the head whose text rows together give the image the largest sum.

    Ours, to cross S2's score with S5's choice of head: ``h* = argmax_h sum over text t and visual v of A[h, t, v]``,
    then weights and rows both from head ``h*`` instead of the mean over heads.

    Returns:
        (V,) in [0, 1].
    """
    head = strongest_head(view.text_HTV.sum(dim=1))
    weight_T = text_weights(view.text_HTT.index_select(0, head)[0], normalise_by_visible_queries)
    return weight_T @ view.text_HTV.index_select(0, head)[0]


def text_weights(attention_TT: Tensor, normalise_by_visible_queries: bool = False) -> Tensor:
    """Weight of each text token: the attention it receives from the text, divided by the sum of all.

    Args:
        attention_TT: text queries (rows) on text keys, zero above the diagonal.
        normalise_by_visible_queries: divide column i by the T - i queries that can see it.

    Returns:
        (T,) summing to 1; uniform where no text token attends to the text at all.
    """
    text = attention_TT.shape[0]
    received_T = attention_TT.sum(dim=0)
    if normalise_by_visible_queries:
        received_T = received_T / torch.arange(text, 0, -1, device=received_T.device)
    total = received_T.sum()
    return torch.where(total > 0, received_T / total, 1 / text)
